"""Comparison of an imported program with the file in ONNX Runtime, on the same samples."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx.reference import ReferenceEvaluator

from ...core.backends.ort import exact_settings, start_session
from ...core.errors import ArtifactError, CaptureError
from ...core.faults import first_line
from ...core.metrics.relative_error import error_by_largest
from ...core.tensors import BATCH, Array
from ..graph.devices import as_array
from ..program import Program
from .batch_layout import Layout
from .reader import Graph

TOLERANCE = 1e-3
"""Largest error of an output against ONNX Runtime, as a share of its largest value."""
_REMEDY = "capture the PyTorch model instead, and please report the operators of the file"
Run = Callable[[dict[str, Array]], dict[str, Array]]


def require_agreement(
    path: Path, graph: Graph, layout: Layout, program: Program, feeds: Mapping[str, Array]
) -> list[str]:
    """Compare the program with the file on the samples, one by one if the file runs with one only.

    Returns:
        Remarks for the user.

    Raises:
        CaptureError: an output has another shape or other values.
        ArtifactError: the file itself cannot be run.
    """
    run = _runner(path)
    count = max((np.shape(feeds[name])[axis] for name, axis in layout.axes.items() if axis is not None), default=1)
    size = layout.fixed or count
    with torch.no_grad():
        found = program.module(*(torch.as_tensor(feeds[spec.name]) for spec in program.signature.inputs))
    parts, notes = _parts(run, [{**graph.fixed, **part} for part in _batches(feeds, layout, size, count)]), []
    if isinstance(parts, ArtifactError):
        refused = parts
        parts = _parts(run, [{**graph.fixed, **part} for part in _batches(feeds, layout, 1, count)])
        if size == 1 or isinstance(parts, ArtifactError):
            raise refused
        notes = [f"the file runs with one sample only, and the program with any number: {refused.message}"]
    for spec, name, value in zip(program.signature.outputs, graph.outputs, found, strict=True):
        axis = spec.shape.index(BATCH) if BATCH in spec.shape else None
        actual = as_array(value)
        expected = [part[name] for part in parts]
        if axis is None or len(parts) == 1 or expected[0].ndim != actual.ndim:
            _compare(
                graph, name, expected[0], actual[: len(expected[0])] if _is_longer(actual, expected[0]) else actual
            )
        else:
            joined = np.concatenate(expected, axis)
            _compare(graph, name, joined, np.take(actual, np.arange(joined.shape[axis]), axis))
    return notes


def _parts(run: Run, feeds: list[dict[str, Array]]) -> list[dict[str, Array]] | ArtifactError:
    """The outputs of the file for each of the feeds, or the error with which it does not run."""
    try:
        return [run(part) for part in feeds]
    except ArtifactError as error:
        return error


def _is_longer(actual: Array, expected: Array) -> bool:
    return bool(actual.ndim and expected.ndim and actual.shape[1:] == expected.shape[1:]) and len(actual) > len(
        expected
    )


def _compare(graph: Graph, name: str, expected: Array, actual: Array) -> None:
    if actual.shape != expected.shape:
        raise CaptureError(
            f"the imported model differs from ONNX Runtime: output '{name}' has the shape {list(actual.shape)} "
            f"instead of {list(expected.shape)}",
            _REMEDY,
        )
    error = error_by_largest(
        expected.astype(np.float64), actual.astype(np.float64), _least(graph, name), equal_nan=True
    )
    if not error <= TOLERANCE:
        raise CaptureError(
            f"the imported model differs from ONNX Runtime: the error of output '{name}' is {error:.1e} of its "
            f"largest value, allowed {TOLERANCE:.0e}",
            _REMEDY,
        )


def _least(graph: Graph, name: str) -> float:
    """The smallest scale of an output; a probability is rounded like 1, however small all of them are."""
    makers = {output: node for node in graph.nodes for output in node.outputs}
    while name in makers and makers[name].operator in _MOVES:
        name = makers[name].inputs[0]
    return 1e-3 if name in makers and makers[name].operator in _BOUNDED else 1e-6


_MOVES = ("Identity", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Cast", "Slice")
_BOUNDED = ("Sigmoid", "Softmax", "HardSigmoid", "Tanh")


def _batches(feeds: Mapping[str, Array], layout: Layout, size: int, count: int) -> list[dict[str, Array]]:
    """The feeds in batches of ``size`` rows, for all complete batches, at least one."""
    found = []
    for start in range(0, max(count - size, 0) + 1, size):
        rows = np.arange(start, start + size) % count
        found.append(
            {
                name: np.asarray(value) if (axis := layout.axes[name]) is None else np.take(value, rows, axis)
                for name, value in feeds.items()
            }
        )
    return found


def _runner(path: Path) -> Run:
    """The file in ONNX Runtime, or in ONNX's own evaluator if ONNX Runtime has no kernel for an operator."""
    runtime = import_module("onnxruntime")
    try:
        session = start_session(runtime, str(path), exact_settings(runtime), ["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions share no narrower base class
        if _lacks_kernel(str(error)) or _is_valid(path):
            return _evaluated(path)
        raise ArtifactError(f"ONNX Runtime does not load {path.name}: {_short(error)}", _BROKEN) from error
    kinds = {item.name: "float16" in item.type for item in session.get_inputs()}
    names = [item.name for item in session.get_outputs()]

    def _run(feeds: dict[str, Array]) -> dict[str, Array]:
        given = {name: _as_half(value) if kinds[name] else value for name, value in feeds.items() if name in kinds}
        try:
            return dict(zip(names, session.run(None, given), strict=True))
        except Exception as error:  # onnxruntime's exceptions share no narrower base class
            if _lacks_kernel(str(error)):
                return _evaluated(path)(feeds)
            raise ArtifactError(f"ONNX Runtime does not run {path.name}: {_short(error)}", _BROKEN) from error

    return _run


def _as_half(value: Array) -> Array:
    return value.astype(np.float16)


def _is_valid(path: Path) -> bool:
    """Whether a file that ONNX Runtime does not load is right by ONNX, so that it is newer than the runtime."""
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError):
        return False
    return True


def _lacks_kernel(text: str) -> bool:
    return any(part in text for part in ("NOT_IMPLEMENTED", "Could not find an implementation", "is not supported yet"))


_BROKEN = "check the file with `onnx.checker.check_model`, and export it again"


def _short(error: Exception) -> str:
    """The message without codes and addresses of ONNX Runtime's source."""
    text = re.sub(r"\[ONNXRuntimeError\] : \d+ : \w+ : |/\S+\.(cc|h):\d+ \S+ ?", "", str(error))
    return re.sub(r"\s+", " ", text)[:300].strip()


def _evaluated(path: Path) -> Run:
    evaluator = ReferenceEvaluator(onnx.load(path))

    def _run(feeds: dict[str, Array]) -> dict[str, Array]:
        try:
            with np.errstate(all="ignore"):
                found: Any = evaluator.run(None, {name: np.asarray(value) for name, value in feeds.items()})
        except (NotImplementedError, RuntimeError, TypeError, ValueError, IndexError) as error:
            raise ArtifactError(f"{path.name} cannot be run for comparison: {first_line(error)}", _BROKEN) from error
        return dict(zip(evaluator.output_names, map(np.asarray, found), strict=True))

    return _run
