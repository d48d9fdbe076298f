"""What runs a model on a device: the package, and what the program there is told to give it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...core.artifact import Artifact
from ...core.backends.cuda import Device
from ...core.backends.openvino import DEFAULTS
from ...core.backends.trt_plan import Plan, misfit
from ...core.backends.trt_versions import Flavor
from ...core.errors import UserError
from ...core.options.edge_options import EdgeRuntime
from ...core.session import PROVIDERS
from ...core.signature import Signature
from ...core.tensors import BATCH, Feeds

WORDS = {
    "ort": "ONNX Runtime on the CPU",
    "cuda": "ONNX Runtime on the GPU, CUDA",
    "tensorrt": "ONNX Runtime on the GPU, TensorRT",
    "openvino": "OpenVINO on the CPU",
    "trt": "TensorRT on the GPU",
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
    """The part of a candidate's entry that says what runs an ONNX file."""
    return {"runtime": runtime, **_GIVEN[runtime]}


def in_each(entry: Mapping[str, Any], runtimes: Sequence[EdgeRuntime]) -> list[dict[str, Any]]:
    """A candidate for each runtime that runs a model; with only one, it has the name of the model.

    A file of OpenVINO and a plan have only one, whatever is asked for.
    """
    if "module" in entry:
        return [dict(entry)]
    if str(entry["file"]).endswith(".xml"):
        return [{**entry, **run_by("openvino")}]
    several = len(runtimes) > 1
    return [
        {**entry, "name": f"{entry['name']} ({one})" if several else entry["name"], **run_by(one)} for one in runtimes
    ]


def packages_of(candidates: Sequence[Mapping[str, Any]]) -> list[str]:
    """What has to be installed on the device to run candidates."""
    return ["numpy", *sorted({str(one["module"]) for one in candidates})]


def packages_for(models: Sequence[Artifact], runtimes: Sequence[EdgeRuntime]) -> list[str]:
    """As :func:`packages_of`, for models of which no bundle was written yet, and of those of which there are wheels."""
    found = [one for one in runtimes if any(model.kind == "graph" for model in models)]
    found += ["openvino" for model in models if model.kind == "openvino"]
    return packages_of([run_by(one) for one in found])


def run_by_tensorrt(plan: Plan, signature: Signature, rows: Sequence[int], feeds: Feeds) -> dict[str, Any]:
    """The part of a candidate's entry that says how TensorRT runs a plan, and where the plan can run.

    Args:
        rows: the batch sizes that are wanted.
        feeds: samples, whose first axis is that of the batch where the plan has a free one.

    Raises:
        UserError: the plan does not take these samples at one of the batch sizes, or has inputs or outputs that the
            program on the device does not give.
    """
    if shaping := plan.built.get("shape_inputs"):
        raise UserError(
            f"the values of '{shaping[0]}' are a shape for {plan.path.name}, which cannot be measured on a device",
            "build the plan with this shape fixed",
        )
    known = {axis for spec in signature.inputs for axis in spec.shape}
    for spec in signature.outputs:
        if unknown := [axis for axis in spec.shape if isinstance(axis, str) and axis not in known]:
            raise UserError(
                f"the size of '{unknown[0]}' of {spec.describe()} is known only after a run of {plan.path.name}",
                "build the plan without such outputs; an ONNX file with them can be measured",
            )
    numbers = {size: _profile(plan, signature, size, feeds) for size in sorted(set(rows))}
    if none := [size for size, number in numbers.items() if number is None]:
        raise UserError(f"{plan.path.name} does not take these samples at a batch of {none[0]}", plan.served())
    return {
        "runtime": "trt",
        "module": plan.runtime,
        "gpu": True,
        "version_compatible": plan.version_compatible,
        "inputs": {spec.name: spec.dtype for spec in signature.inputs},
        "outputs": {spec.name: spec.dtype for spec in signature.outputs},
        "profiles": [[size, size, number] for size, number in numbers.items()],
        "plan": {"built": plan.built, "types": sorted(plan.types)},
    }


def _profile(plan: Plan, signature: Signature, rows: int, feeds: Feeds) -> int | None:
    """The number of the profile for a batch size; None if there is none, 0 for a plan of fixed shapes."""
    shapes = {
        spec.name: tuple(rows if axis == BATCH else size for axis, size in zip(spec.shape, found.shape, strict=True))
        for spec in signature.inputs
        if len((found := feeds[spec.name]).shape) == len(spec.shape)
    }
    return plan.nearest_profile(shapes) if any(plan.profiles) else 0


def precision_of_plan(plan: Plan) -> str:
    """The smallest type in which layers of a plan compute."""
    return next((kind for kind in ("FP4", "INT4", "FP8", "INT8", "BF16", "FP16") if kind in plan.types), "FP32")


def misfits_of_plan(entry: Mapping[str, Any], answers: Mapping[str, Any]) -> list[str]:
    """Why a plan cannot run on the device that answered :mod:`.questions.readiness`; empty if it can."""
    built, gpu, version = entry["plan"]["built"], answers.get("gpu") or {}, answers.get(str(entry["module"]))
    name = str(entry["original"])
    if not version:
        return []  # told as a package that is missing
    if not gpu.get("name"):
        return [f"{name} needs an NVIDIA GPU, and {gpu.get('why', 'none answered')}: use a board that has one"]
    plan = Plan(Path(name), b"", Signature((), ()), dict(built), frozenset(entry["plan"]["types"]))
    device = Device(0, str(gpu["name"]), str(gpu["compute_capability"]), "", 0)
    told = misfit(plan, Flavor(plan.runtime, str(version), None), device, "the device's")  # type: ignore[arg-type]
    return [f"{name} {told}: build it there, {built['rebuild']}"] if told else []
