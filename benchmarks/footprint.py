"""Footprint of a model: bytes of its files, parameters, and memory to load and run it in a new process.

``python -m retort.benchmarks.footprint model.onnx`` is that new process and prints one line of JSON.
"""

from __future__ import annotations

import argparse
import gc
import json
import re
import subprocess
import sys
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from ..core import errors
from ..core.errors import ArtifactError, MachineError, MissingFileError, RetortError
from ..core.formats.onnx_graphs import nested
from ..core.formats.weights_beside import files_beside
from ..core.session import SessionOptions, open_session
from ..core.signature import Signature
from ..core.tensors import BATCH, Array

UNKNOWN_AXIS = 8
QDQ = {"QuantizeLinear", "DequantizeLinear"}
RUNS = 3
CHILD_TIMEOUT_S = 600


PRECISIONS = {
    "FLOAT": "FP32",
    "FLOAT16": "FP16",
    "BFLOAT16": "BF16",
    "DOUBLE": "FP64",
    "INT8": "INT8",
    "UINT8": "INT8",
    "INT4": "INT4",
    "UINT4": "INT4",
}
"""The precision of weights by ONNX's name of their type."""


@dataclass(frozen=True)
class Memory:
    """Memory of one process that loads a model and runs it.

    Attributes:
        peak_bytes: largest resident memory of the whole process, including interpreter and runtime.
        baseline_bytes: resident memory of the same process after the import of the runtime, before the model is opened.
        model_bytes: the difference, which is the memory of the model.
        batch: rows per run.
    """

    peak_bytes: int
    baseline_bytes: int
    model_bytes: int
    batch: int


@dataclass(frozen=True)
class FileSize:
    """Bytes of a model on disk, including external weights; ``gzip_bytes`` is None if it was not requested."""

    size_bytes: int
    gzip_bytes: int | None = None


def file_size(model: Path, compressed: bool = False) -> FileSize:
    """Bytes of a model's files, and of the compressed files (deflate, level 6).

    Raises:
        MissingFileError: the file or its file of weights does not exist.
    """
    files = [model, *files_beside(model)]
    for file in files:
        if not file.is_file():
            raise MissingFileError(
                f"no such model file: {file}", "check the path; files of weights belong in the folder of the model"
            )
    squeezed = sum(_deflated(file) for file in files) if compressed else None
    return FileSize(sum(file.stat().st_size for file in files), squeezed)


def parameters_in_file(model: Path) -> int | None:
    """Number of weights in an ONNX file, of any type; None for other kinds of files.

    Scales and zero points of Q/DQ nodes and integer constants (shapes, axes) are not counted.

    Raises:
        ArtifactError: the file is truncated.
    """
    if model.suffix != ".onnx":
        return None
    proto, onnx = _onnx_model(model)
    weights = {getattr(onnx.TensorProto, name) for name in onnx.TensorProto.DataType.keys() if _is_weight_type(name)}  # noqa: SIM118
    total = 0
    for graph in nested(proto.graph):
        scales = {name for node in graph.node if node.op_type in QDQ for name in node.input[1:]}
        for tensor in graph.initializer:
            if tensor.data_type in weights and tensor.name not in scales:
                total += int(np.prod(tensor.dims, dtype=np.int64))
    return total


def precision_in_file(model: Path) -> str:
    """``FP32``, ``FP16``, ``INT8`` or another type: what most weights of a file of ONNX or OpenVINO are; else empty.

    Raises:
        ArtifactError: the file is truncated.
    """
    if model.suffix == ".xml":
        return _precision_in_xml(model)
    if model.suffix != ".onnx":
        return ""
    proto, onnx = _onnx_model(model)
    kinds = {name: getattr(onnx.TensorProto, name) for name in onnx.TensorProto.DataType.keys()}  # noqa: SIM118
    names = {number: PRECISIONS[name] for name, number in kinds.items() if name in PRECISIONS}
    counts: dict[str, int] = {}
    for graph in nested(proto.graph):
        for tensor in graph.initializer:
            if tensor.data_type in names:
                kind = names[tensor.data_type]
                counts[kind] = counts.get(kind, 0) + int(np.prod(tensor.dims, dtype=np.int64))
    return max(counts, key=counts.__getitem__) if counts else "FP32"


def _precision_in_xml(model: Path) -> str:
    """The precision of the most weights of a file of OpenVINO, which says the type and the bytes of each constant."""
    types = {"f32": "FP32", "f16": "FP16", "bf16": "BF16", "i8": "INT8", "u8": "INT8", "i4": "INT4", "u4": "INT4"}
    counts: dict[str, int] = {}
    try:
        for layer in ElementTree.parse(model).iter("layer"):
            data = layer.find("data")
            if layer.get("type") == "Const" and data is not None and (kind := types.get(str(data.get("element_type")))):
                values = int(data.get("size") or 0) * 8 // int(re.sub(r"\D", "", str(data.get("element_type"))))
                counts[kind] = counts.get(kind, 0) + values
    except (ElementTree.ParseError, ValueError) as error:
        raise ArtifactError(f"{model.name} is not a file of OpenVINO: {error}", "convert the model again") from error
    return max(counts, key=counts.__getitem__) if counts else "FP32"


def measure_memory(model: Path, batch: int = 1, threads: int = 1) -> Memory:
    """Open and run a model in a new process and measure the increase of its memory.

    Args:
        batch: rows per run; inputs are zeros, unnamed axes have size 8.

    Raises:
        ArtifactError: the file is damaged.
        MachineError: the runtime is missing, or the process was killed.
    """
    if not model.exists():
        raise MissingFileError(f"no such model: {model}", "check the path")
    command = [sys.executable, "-m", __name__, str(model), "--batch", str(batch), "--threads", str(threads)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=CHILD_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise MachineError(f"{model.name} did not run within {CHILD_TIMEOUT_S} s", "try a smaller batch") from error
    lines = done.stdout.strip().splitlines()
    if not lines:
        last = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
        raise MachineError(
            f"the process that runs {model.name} ended unexpectedly: {last[0]}", "free some memory, or try batch 1"
        )
    found = json.loads(lines[-1])
    if "error" in found:
        raise getattr(errors, found["error"]["code"])(found["error"]["message"], found["error"]["remedy"])
    return Memory(**found)


def zero_feeds(signature: Signature, batch: int) -> dict[str, Array]:
    """Zeros that fit a signature: ``batch`` rows, size 8 on other dynamic axes."""
    sizes: dict[int | str, int] = {BATCH: batch}
    shapes = {
        spec.name: [axis if isinstance(axis, int) else sizes.get(axis, UNKNOWN_AXIS) for axis in spec.shape]
        for spec in signature.inputs
    }
    return {spec.name: np.zeros(shapes[spec.name], spec.dtype) for spec in signature.inputs}


def _in_this_process(model: Path, batch: int, threads: int) -> Memory:
    # The runtime's libraries are not part of the model's memory, so they are loaded before the baseline is read.
    __import__({".onnx": "onnxruntime", ".pt2": "torch"}.get(model.suffix, "numpy"))
    gc.collect()
    baseline = resident_bytes()
    forget_peak()
    session = open_session(model, SessionOptions(threads=threads))
    feeds = zero_feeds(session.signature, batch)
    for _ in range(RUNS):
        session.run(feeds)
    peak = max(peak_bytes(), resident_bytes())
    return Memory(peak, baseline, max(0, peak - baseline), batch)


def forget_peak() -> None:
    """Reset the kernel's peak memory, because imports may have used more memory than they keep."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def resident_bytes() -> int:
    """Current resident memory of this process."""
    return _status_bytes("VmRSS") or _rusage_bytes()


def peak_bytes() -> int:
    """Peak resident memory of this process since its start, or since :func:`forget_peak`."""
    # ru_maxrss survives exec: on Linux a child starts with its parent's peak. VmHWM belongs only to the new program.
    return _status_bytes("VmHWM") or _rusage_bytes()


def _status_bytes(field: str) -> int:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":")), 0)


def _rusage_bytes() -> int:
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _onnx_model(model: Path) -> tuple[Any, Any]:
    import onnx

    try:
        return onnx.load(str(model), load_external_data=False), onnx
    except FileNotFoundError as error:
        raise MissingFileError(f"no such model: {model}", "check the path") from error
    except Exception as error:  # protobuf's decode error cannot be imported from every build
        raise ArtifactError(
            f"{model.name} cannot be read: {error}", "the file is damaged; export the model again"
        ) from error


def _is_weight_type(name: str) -> bool:
    return name.startswith(("FLOAT", "DOUBLE", "BFLOAT", "INT8", "UINT8", "INT4", "UINT4", "INT2", "UINT2"))


def _deflated(file: Path) -> int:
    squeezer, total = zlib.compressobj(6), 0
    with file.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            total += len(squeezer.compress(chunk))
    return total + len(squeezer.flush())


def main() -> None:
    """The new process: measure and print one line of JSON."""
    parser = argparse.ArgumentParser(description="Print the memory that loading and running a model takes.")
    parser.add_argument("model", type=Path)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    try:
        found: dict[str, Any] = asdict(_in_this_process(given.model, given.batch, given.threads))
    except RetortError as error:
        found = {"error": {"code": type(error).__name__, "message": error.message, "remedy": error.remedy}}
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
