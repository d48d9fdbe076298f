"""What runs a model on a device: the package, and what the program there is told to give it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...core.backends.openvino import DEFAULTS
from ...core.options.edge_options import EdgeRuntime
from ...core.session import PROVIDERS

WORDS = {
    "ort": "ONNX Runtime on the CPU",
    "cuda": "ONNX Runtime on the GPU, CUDA",
    "tensorrt": "ONNX Runtime on the GPU, TensorRT",
    "openvino": "OpenVINO on the CPU",
}
"""Each runtime as users read it."""
_ON_CPU = "CPUExecutionProvider"
_GIVEN: Mapping[str, Mapping[str, Any]] = {
    "ort": {"module": "onnxruntime", "providers": [_ON_CPU]},
    "cuda": {"module": "onnxruntime", "providers": list(PROVIDERS["cuda"]), "gpu": True},
    "tensorrt": {"module": "onnxruntime", "providers": list(PROVIDERS["tensorrt"]), "gpu": True},
    "openvino": {"module": "openvino", "options": dict(DEFAULTS)},
}


def run_by(runtime: EdgeRuntime) -> dict[str, Any]:
    """The part of a candidate's entry that says what runs it."""
    return {"runtime": runtime, **_GIVEN[runtime]}


def in_each(entry: Mapping[str, Any], runtimes: Sequence[EdgeRuntime]) -> list[dict[str, Any]]:
    """A candidate for each runtime that runs a model; with only one, it has the name of the model."""
    several = len(runtimes) > 1
    return [
        {**entry, "name": f"{entry['name']} ({one})" if several else entry["name"], **run_by(one)} for one in runtimes
    ]


def packages_of(candidates: Sequence[Mapping[str, Any]]) -> list[str]:
    """What has to be installed on the device to run candidates."""
    return ["numpy", *sorted({str(one["module"]) for one in candidates})]
