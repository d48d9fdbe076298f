"""Makes one INT8 file with another tool, in a separate Python environment; it uses nothing of Retort.

    PEER/bin/python quantization_peer.py JOB.json

The job names the FP32 ONNX file, an ``.npz`` of calibration samples, the tool and the file to write.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

BATCH = 32


def main(job: Path) -> None:
    """Run a job; its result and its duration are written next to it."""
    asked = json.loads(job.read_text())
    os.chdir(job.resolve().parent)  # the tool leaves files in the current folder when it fails
    samples = dict(np.load(asked["samples"]))
    tool: Callable[[dict[str, Any], dict[str, Any]], None] = TOOLS[asked["tool"].split("-")[0]]
    started = time.perf_counter()
    try:
        tool(asked, samples)
        found: dict[str, Any] = {"ok": True}
    except Exception as error:  # any error of the peer is its result
        found = {"ok": False, "error": f"{type(error).__name__}: {(str(error) or '?').splitlines()[0][:200]}"}
    found["seconds"] = time.perf_counter() - started
    Path(job.with_suffix(".result").name).write_text(json.dumps(found))


def batches(samples: dict[str, Any], size: int = BATCH, axes: dict[str, int] | None = None) -> Iterator[dict[str, Any]]:
    """The samples in batches; ``axes`` are the batch axes that are not the first."""
    places = {name: (axes or {}).get(name, 0) for name in samples}
    count = min(values.shape[places[name]] for name, values in samples.items())
    for start in range(0, count, size):
        rows = range(start, min(start + size, count))
        yield {name: values.take(rows, places[name]) for name, values in samples.items()}


def onnxruntime(asked: dict[str, Any], samples: dict[str, Any]) -> None:
    """``quantize_dynamic`` or ``quantize_static``, by the name of the tool."""
    (onnxruntime_dynamic if asked["tool"].endswith("-dynamic") else onnxruntime_static)(asked, samples)


def onnxruntime_dynamic(asked: dict[str, Any], samples: dict[str, Any]) -> None:
    """``quantize_dynamic`` with its defaults; UINT8 weights if there are convolutions, which have no other kernel."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    ready = _prepared(asked)
    convolutions = any(node.op_type == "Conv" for node in onnx.load(ready).graph.node)
    quantize_dynamic(ready, asked["out"], weight_type=QuantType.QUInt8 if convolutions else QuantType.QInt8)


def _prepared(asked: dict[str, Any]) -> str:
    """The file after the tool's preprocessing, in an opset that has scales per channel.

    Shapes stay unknown where the tool cannot infer them.
    """
    import onnx
    from onnx.version_converter import convert_version
    from onnxruntime.quantization.shape_inference import quant_pre_process

    source, ready = asked["model"], str(Path(asked["out"]).with_suffix(".ready.onnx"))
    model = onnx.load(source)
    if max(item.version for item in model.opset_import if item.domain in ("", "ai.onnx")) < 13:
        source = str(Path(asked["out"]).with_suffix(".opset.onnx"))
        onnx.save(convert_version(model, 13), source)
    try:
        quant_pre_process(source, ready)
    except Exception:  # its symbolic shape inference does not know every model; the tool says to leave it out
        quant_pre_process(source, ready, skip_symbolic_shape=True)
    return ready


def onnxruntime_static(asked: dict[str, Any], samples: dict[str, Any]) -> None:
    """``quantize_static`` in its fastest form: UINT8 activations, INT8 weights per channel, preprocessed."""
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    class Reader(CalibrationDataReader):  # type: ignore[misc, unused-ignore]
        """Returns the samples in batches."""

        def __init__(self) -> None:
            self.left = batches(samples, asked.get("batch", BATCH), asked.get("axes"))

        def get_next(self) -> dict[str, Any] | None:
            """The next batch, or None."""
            return next(self.left, None)

    method = {
        "minmax": CalibrationMethod.MinMax,
        "entropy": CalibrationMethod.Entropy,
        "percentile": CalibrationMethod.Percentile,
    }[asked["tool"].split("-")[1]]
    quantize_static(
        _prepared(asked),
        asked["out"],
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=method,
    )


def nncf(asked: dict[str, Any], samples: dict[str, Any]) -> None:
    """``nncf.quantize`` as in its documentation, with the model type of Transformers."""
    import nncf as tool  # type: ignore[import-not-found, unused-ignore]
    import onnx

    kind = tool.ModelType.TRANSFORMER if asked["transformer"] else None
    model = onnx.load(asked["model"])
    done = tool.quantize(model, tool.Dataset(list(batches(samples))), model_type=kind)
    onnx.save(done, asked["out"])


def modelopt(asked: dict[str, Any], samples: dict[str, Any]) -> None:
    """``modelopt.onnx.quantization.quantize`` with entropy calibration on the CPU."""
    from modelopt.onnx.quantization import quantize  # type: ignore[import-not-found, unused-ignore]

    quantize(
        asked["model"],
        quantize_mode="int8",
        calibration_data=samples,
        calibration_method="entropy",
        calibration_eps=["cpu"],
        output_path=asked["out"],
    )


TOOLS: dict[str, Callable[[dict[str, Any], dict[str, Any]], None]] = {
    "onnxruntime": onnxruntime,
    "nncf": nncf,
    "modelopt": modelopt,
}

if __name__ == "__main__":
    main(Path(sys.argv[1]))
