"""Import of an ONNX file as a program, which is compared with ONNX Runtime on the same samples."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from ...core.errors import CaptureError, InputError
from ...core.metrics.relative_error import error_by_largest
from ...core.session import SessionOptions, open_session
from ...core.tensors import BATCH, Array
from ..capture.capture_program import capture
from ..program import Program
from .module import Imported
from .reader import Graph, read_graph

TOLERANCE = 1e-3
"""Largest error of an output against ONNX Runtime, as a share of its largest value."""


def import_onnx(path: Path, samples: Mapping[str, Array]) -> Program:
    """The program of an ONNX file.

    A fixed batch size of the file becomes dynamic if its reshapes allow it.

    Args:
        samples: one array per input of the file, rows first.

    Raises:
        MissingFileError: the file does not exist.
        ArtifactError: the file is not a complete ONNX model.
        ModelError: the model is quantized, or an operator cannot be imported; the message names it.
        CaptureError: the imported model does not agree with ONNX Runtime on the samples.
    """
    graph = read_graph(path)
    feeds = _fitted(graph, samples)
    module = Imported(graph, _fixed_batch(path))
    dynamic = {
        spec.name: {axis: size for axis, size in enumerate(spec.shape) if isinstance(size, str) and size != BATCH}
        for spec in graph.inputs
    }
    program = capture(module, feeds, dynamic={name: axes for name, axes in dynamic.items() if axes})
    _require_agreement(path, graph, program, feeds)
    return program


def _fitted(graph: Graph, samples: Mapping[str, Array]) -> dict[str, Array]:
    names = [spec.name for spec in graph.inputs]
    if set(names) <= set(samples):
        chosen = {name: samples[name] for name in names}
    elif len(names) == len(samples):
        chosen = dict(zip(names, samples.values(), strict=True))
    else:
        raise InputError(
            f"the data have the inputs {', '.join(samples)}; the model takes {', '.join(names)}",
            "give the inputs of the data the names of the model's inputs",
        )
    return {spec.name: spec.cast(chosen[spec.name]) for spec in graph.inputs}


def _fixed_batch(path: Path) -> int | None:
    """The fixed batch size of the file, if all its inputs have the same one."""
    graph = onnx.load(path, load_external_data=False).graph
    constants = {item.name for item in graph.initializer}
    inputs = [item.type.tensor_type.shape.dim for item in graph.input if item.name not in constants]
    sizes = {size[0].dim_value for size in inputs}
    return sizes.pop() if len(sizes) == 1 and 0 not in sizes else None


def _require_agreement(path: Path, graph: Graph, program: Program, feeds: dict[str, Array]) -> None:
    session = open_session(path, SessionOptions(threads=1))
    count = len(next(iter(feeds.values())))
    size = _fixed_batch(path) or count
    with torch.no_grad():
        given = [torch.as_tensor(feeds[spec.name]) for spec in program.signature.inputs]
        found = program.module(*given)
    for name, value in zip(graph.outputs, found, strict=True):
        expected = _in_batches(session, feeds, size, count, name)
        actual: Any = value.numpy().astype(np.float64)
        actual = actual[: len(expected)] if actual.ndim else actual
        if actual.shape != expected.shape:
            raise CaptureError(
                f"the imported model differs from ONNX Runtime: output '{name}' has the shape {list(actual.shape)} "
                f"instead of {list(expected.shape)}",
                "capture the PyTorch model instead, and please report the operators of the file",
            )
        error = error_by_largest(expected, actual, least=1e-6, equal_nan=True)
        if not error <= TOLERANCE:
            raise CaptureError(
                f"the imported model differs from ONNX Runtime: the error of output '{name}' is {error:.1e} of its "
                f"largest value, allowed {TOLERANCE:.0e}",
                "capture the PyTorch model instead, and please report the operators of the file",
            )


def _in_batches(session: Any, feeds: dict[str, Array], size: int, count: int, name: str) -> Any:
    """Outputs of the runtime in batches of ``size`` rows, for all complete batches."""
    parts = []
    for start in range(0, max(count - size, 0) + 1, size):
        part = {key: np.resize(value[start : start + size], (size, *value.shape[1:])) for key, value in feeds.items()}
        parts.append(session.run(part)[name])
    return np.concatenate(parts).astype(np.float64)[:count]
