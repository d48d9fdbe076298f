"""Comparison of the ONNX file of a program with known outputs: the second half of a pruning proof."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx_ir as ir

from ...core.backends.ort import CPU, exact_settings, start_session
from ...core.errors import ArtifactError, CaptureError, VerificationError
from ...core.faults import first_line, raise_if_defect
from ...core.metrics.relative_error import error_by_largest
from ...core.session import Session, SessionOptions, open_session
from ...core.signature import Signature
from ...core.tensors import Array
from ..qdq.retarget import is_quantized, retarget
from ..translate import build
from .torch_values import node_values

if TYPE_CHECKING:
    from torch.export import ExportedProgram

Case = tuple[Mapping[str, Array], Sequence[Array]]
TOLERANCE = 1e-3
"""Largest accepted error of an FP32 output, relative to its largest magnitude; equal to ``export.tolerance``."""
_ROUNDINGS = 64


def check_outputs(program: ExportedProgram, signature: Signature, cases: Sequence[Case]) -> float | None:
    """Write a program as ONNX, run it in ONNX Runtime and compare.

    Args:
        program: in evaluation form.
        cases: feeds and the expected outputs, in signature order.

    Returns:
        The largest error of an output relative to its largest magnitude; None for a quantized program, because
        integer kernels may round differently.

    Raises:
        CaptureError: the program has no ONNX form.
        VerificationError: the file does not run, or an output differs; the message names the first such operator.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = _written(program, signature, Path(folder))
        if is_quantized(program):
            return None
        session = _open(path, signature)
        worst = 0.0
        try:
            for feeds, wanted in cases:
                for name, found, output in _outputs(session, feeds, wanted):
                    error, tolerance = deviation(output, found), tolerance_of(output)
                    worst = max(worst, error)
                    if not error <= tolerance:
                        raise _refused(program, path, feeds, name, error, tolerance)
        finally:
            session.close()
    return worst


def _written(program: ExportedProgram, signature: Signature, folder: Path) -> Path:
    """Write an ONNX file with a separate file of weights, which ONNX Runtime maps from disk to save memory."""
    path = folder / "model.onnx"
    ir.save(build(retarget(program, "cpu"), signature, "cpu"), path, external_data="weights.bin")
    return path


def _open(path: Path, signature: Signature) -> Session:
    try:
        return open_session(path, SessionOptions(threads=1), signature)
    except ArtifactError as error:
        raise CaptureError(f"ONNX Runtime has no kernels for it: {error.message}", "convert it to FP32") from error


def tolerance_of(output: Array) -> float:
    """The accepted error of an output of this type: larger in half precision, 0 for integers."""
    if output.dtype.kind != "f":
        return 0.0
    return max(TOLERANCE, _ROUNDINGS * float(np.spacing(np.ones((), output.dtype))))


def deviation(expected: Array, found: Array) -> float:
    """Largest difference relative to the largest magnitude; infinite for other shapes or a NaN on one side."""
    if expected.dtype.kind != "f":
        return 0.0 if np.array_equal(expected, found) else math.inf
    return error_by_largest(expected, found, float(np.finfo(np.float32).tiny), equal_nan=True)


def _outputs(session: Session, feeds: Mapping[str, Array], wanted: Sequence[Array]) -> Iterator[tuple[str, Any, Any]]:
    try:
        found = session.run(feeds)
    except Exception as error:  # onnxruntime's exceptions share no narrower base class
        raise_if_defect(error)
        text = first_line(error, 300)
        raise VerificationError(
            f"the cut is rejected: its ONNX file does not run at batch size {_rows(feeds)}: {text}",
            "the original program is unchanged; exclude the layer that the message names, and please report it",
        ) from error
    yield from ((name, found[name], output) for name, output in zip(found, wanted, strict=True))


def _rows(feeds: Mapping[str, Array]) -> int:
    return next((len(value) for value in feeds.values() if value.ndim), 1)


def _refused(
    program: ExportedProgram,
    path: Path,
    feeds: Mapping[str, Array],
    output: str,
    error: float,
    tolerance: float,
) -> VerificationError:
    first = first_off(program, onnx.load(path), feeds, tolerance)
    where = f", first at {first}" if first else "; no operator differs when the runtime's graph optimizations are off"
    return VerificationError(
        f"the cut is rejected: at batch size {_rows(feeds)}, ONNX Runtime's output '{output}' differs from the masked "
        f"program by {error:.2g} of its scale, where at most {tolerance:g} is accepted{where}",
        "the original program is unchanged; exclude this layer, and please report the operator",
        output=output,
        error=error,
        first=first,
    )


def first_off(program: ExportedProgram, model: onnx.ModelProto, feeds: Mapping[str, Array], tolerance: float) -> str:
    """The first operator whose value in ONNX Runtime differs from PyTorch's; empty if no value has the same name."""
    expected = {name: (value, where) for name, value, where in node_values(program, feeds.values())}
    opened = onnx.ModelProto()
    opened.CopyFrom(model)
    have = {item.name for item in opened.graph.output}
    made = [name for node in opened.graph.node for name in node.output if name in expected and name not in have]
    opened.graph.output.extend(onnx.ValueInfoProto(name=name) for name in made)
    found = dict(zip(made, _open_all(opened).run(made, dict(feeds)), strict=True))
    off = (
        where
        for name, (value, where) in expected.items()
        if name in found and deviation(value, found[name]) > tolerance
    )
    return next(off, "")


def _open_all(model: onnx.ModelProto) -> Any:
    import onnxruntime

    options = exact_settings(onnxruntime)
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return start_session(onnxruntime, model.SerializeToString(), options, [CPU])
