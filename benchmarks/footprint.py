"""What a model takes: bytes of its files, parameters, and the memory of loading and running it in a fresh process.

As a program, ``python -m retort.benchmarks.footprint model.onnx``, it is that fresh process and prints one JSON line.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..core import errors
from ..core.errors import ArtifactError, MachineError, MissingFileError, RetortError
from ..core.session import SessionOptions, open_session
from ..core.tensors import BATCH, Array, Signature

UNKNOWN_AXIS = 8
QDQ = {"QuantizeLinear", "DequantizeLinear"}
RUNS = 3
CHILD_TIMEOUT_S = 600


@dataclass(frozen=True)
class Memory:
    """Memory of one process that loads a model and runs it.

    Attributes:
        peak_bytes: highest resident memory of the whole process, interpreter and runtime included.
        baseline_bytes: resident memory of the same process before the model was opened, runtime imported.
        model_bytes: the difference: what this model costs.
        batch: rows per run.
    """

    peak_bytes: int
    baseline_bytes: int
    model_bytes: int
    batch: int


@dataclass(frozen=True)
class FileSize:
    """Bytes of a model on disk, side files with weights included; ``gzip_bytes`` is None when not asked for."""

    size_bytes: int
    gzip_bytes: int | None = None


def file_size(model: Path, compressed: bool = False) -> FileSize:
    """Bytes of a model's files, and of the same compressed as a download would be (deflate, level 6).

    Raises:
        MissingFileError: the file, or a side file it names, is not there.
    """
    files = [model, *_side_files(model)]
    for file in files:
        if not file.is_file():
            raise MissingFileError(f"no such model file: {file}", "check the path; side files lie beside the model")
    squeezed = sum(_deflated(file) for file in files) if compressed else None
    return FileSize(sum(file.stat().st_size for file in files), squeezed)


def parameters_in_file(model: Path) -> int | None:
    """Weights stored in an ONNX file, whatever their type; None for other kinds.

    Scales and zero points of Q/DQ nodes and integer constants (shapes, axes) are no weights.

    Raises:
        ArtifactError: the file is truncated.
    """
    if model.suffix != ".onnx":
        return None
    proto, onnx = _onnx_model(model)
    weights = {getattr(onnx.TensorProto, name) for name in onnx.TensorProto.DataType.keys() if _is_weight_type(name)}  # noqa: SIM118
    total = 0
    for graph in _graphs(proto.graph):
        scales = {name for node in graph.node if node.op_type in QDQ for name in node.input[1:]}
        for tensor in graph.initializer:
            if tensor.data_type in weights and tensor.name not in scales:
                total += int(np.prod(tensor.dims, dtype=np.int64))
    return total


def measure_memory(model: Path, batch: int = 1, threads: int = 1) -> Memory:
    """Open and run a model in a fresh process and read how far its memory rose.

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
        raise MachineError(f"the process that runs {model.name} died: {last[0]}", "free some memory, or try batch 1")
    told = json.loads(lines[-1])
    if "error" in told:
        raise getattr(errors, told["error"]["code"])(told["error"]["message"], told["error"]["remedy"])
    return Memory(**told)


def zero_feeds(signature: Signature, batch: int) -> dict[str, Array]:
    """Zeros that fit a signature: ``batch`` rows, size 8 on other dynamic axes."""
    sizes: dict[int | str, int] = {BATCH: batch}
    shapes = {
        spec.name: [axis if isinstance(axis, int) else sizes.get(axis, UNKNOWN_AXIS) for axis in spec.shape]
        for spec in signature.inputs
    }
    return {spec.name: np.zeros(shapes[spec.name], spec.dtype) for spec in signature.inputs}


def _in_this_process(model: Path, batch: int, threads: int) -> Memory:
    # The runtime's libraries are no cost of this model, so they come in before the baseline is read.
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
    """Start the kernel's high-water mark anew; imports may have reached higher than they left."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def resident_bytes() -> int:
    """Memory of this process that is in RAM now."""
    return _status_bytes("VmRSS") or _rusage_bytes()


def peak_bytes() -> int:
    """The most that this process had in RAM since it started, or since :func:`forget_peak`."""
    # ru_maxrss outlives exec: on Linux a child starts with its parent's peak. VmHWM belongs to the new image alone.
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


def _side_files(model: Path) -> list[Path]:
    if model.suffix != ".onnx":
        return []
    proto, _ = _onnx_model(model)
    names = {
        entry.value
        for graph in _graphs(proto.graph)
        for tensor in graph.initializer
        for entry in tensor.external_data
        if entry.key == "location"
    }
    return [model.parent / name for name in sorted(names)]


def _onnx_model(model: Path) -> tuple[Any, Any]:
    import onnx

    try:
        return onnx.load(str(model), load_external_data=False), onnx
    except FileNotFoundError as error:
        raise MissingFileError(f"no such model: {model}", "check the path") from error
    except Exception as error:  # protobuf's decode error is not importable from every build
        raise ArtifactError(f"{model.name} cannot be read: {error}", "the file is damaged: export it again") from error


def _graphs(graph: Any) -> Iterator[Any]:
    """A graph and the graphs inside its control-flow nodes."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in [attribute.g] if attribute.HasField("g") else attribute.graphs:
                yield from _graphs(inner)


def _is_weight_type(name: str) -> bool:
    return name.startswith(("FLOAT", "DOUBLE", "BFLOAT", "INT8", "UINT8", "INT4", "UINT4", "INT2", "UINT2"))


def _deflated(file: Path) -> int:
    squeezer, total = zlib.compressobj(6), 0
    with file.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            total += len(squeezer.compress(chunk))
    return total + len(squeezer.flush())


def main() -> None:
    """The fresh process: measure and print one JSON line."""
    parser = argparse.ArgumentParser(description="Print the memory that loading and running a model takes.")
    parser.add_argument("model", type=Path)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    try:
        told: dict[str, Any] = asdict(_in_this_process(given.model, given.batch, given.threads))
    except RetortError as error:
        told = {"error": {"code": type(error).__name__, "message": error.message, "remedy": error.remedy}}
    sys.stdout.write(json.dumps(told) + "\n")


if __name__ == "__main__":
    main()
