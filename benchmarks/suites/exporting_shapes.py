"""Shapes of the export suite: possible dynamic axes, inputs of other sizes, and the difference of two files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...core.context import Context
from ...core.metrics.task_metrics import sqnr_db
from ...core.session import SessionOptions, open_session
from ...core.signature import Signature
from ...core.tensors import BATCH, Array, multiple

TOLERANCE = 1e-3
_WAVE = 64
_SAME = 1e-5

Axes = dict[str, dict[int, str]]
Row = dict[str, Any]


def lengths(inputs: Mapping[str, Array]) -> list[Axes]:
    """Possible dynamic axes of texts, state sequences and audio, the most likely first."""
    ranks = {key: value.ndim for key, value in inputs.items()}
    if all(value.ndim == 2 and (value.dtype.kind == "i" or value.shape[1] > _WAVE) for value in inputs.values()):
        return [{key: {1: "sequence"} for key in ranks}]
    if all(rank == 3 for rank in ranks.values()):
        return [{key: {axis: "sequence"} for key in ranks} for axis in (1, 2)]
    return []


def sides(inputs: Mapping[str, Array]) -> list[Axes]:
    """Height and width of images."""
    pictures = [key for key, value in inputs.items() if value.ndim == 4]
    return [{key: {2: "height", 3: "width"} for key in pictures}] if pictures else []


def free(signature: Signature) -> list[str]:
    """Names of the dynamic axes except the batch."""
    return sorted({size for spec in signature.inputs for size in spec.shape if isinstance(size, str) and size != BATCH})


def other_shapes(signature: Signature, context: Context) -> list[dict[str, Array]]:
    """Inputs of three rows; with dynamic axes, also one longer row and three shorter rows."""
    inputs = context.data.train.read(range(3))[0]
    feeds = {spec.name: spec.cast(inputs[spec.name]) for spec in signature.inputs}
    if not free(signature):
        return [feeds]
    return [feeds, _resized(signature, feeds, 1, 1.5), _resized(signature, feeds, 3, 0.67)]


def _resized(signature: Signature, feeds: Mapping[str, Array], rows: int, factor: float) -> dict[str, Array]:
    found = {}
    for spec in signature.inputs:
        value = feeds[spec.name]
        for axis, size in enumerate(spec.shape):
            if isinstance(size, str):
                step, _ = multiple(size)
                count = rows if size == BATCH else max(1, round(value.shape[axis] * factor / step)) * step
                value = np.take(value, np.arange(count) % value.shape[axis], axis)
        found[spec.name] = value
    return found


def compare(program: Path, graph: Path, cases: Sequence[dict[str, Array]]) -> list[Row]:
    """Compare program and file on the same inputs: the shape of the first input, and the largest relative error.

    Raises:
        AssertionError: they differ at a shape that the program supports.
    """
    eager, runtime = open_session(program), open_session(graph, SessionOptions(threads=1))
    found: list[Row] = []
    for feeds in cases:
        shape = [int(size) for size in next(iter(feeds.values())).shape]
        try:
            wanted = eager.run(feeds)
        except Exception as error:  # a model can raise any error at a size that it does not support
            found.append({"shape": shape, "refused": str(error).splitlines()[0][:120] if str(error) else "yes"})
            continue
        outputs = zip(wanted.values(), runtime.run(feeds).values(), strict=True)
        worst = max(_deviation(one, two) for one, two in outputs)
        found.append({"shape": shape, "error": worst})
        assert worst <= TOLERANCE, f"off by {worst:.1e} at {shape}"
    return found


def _deviation(wanted: Array, found: Array) -> float:
    if wanted.shape != found.shape:
        return float("inf")
    one, two = np.asarray(wanted, np.float64), np.asarray(found, np.float64)
    scale = max(float(np.abs(one[np.isfinite(one)]).max(initial=0.0)), 1e-6)
    same = (one == two) | (np.isnan(one) & np.isnan(two))
    return float(np.where(same, 0.0, np.abs(one - two)).max(initial=0.0)) / scale


def decibels(program: Path, graph: Path, context: Context) -> float | None:
    """Centred SQNR of the file's first floating-point output against the FP32 program.

    Returns:
        None if there is no such output, or if it is the same for all samples, which happens with random weights.
    """
    eager, runtime = open_session(program), open_session(graph, SessionOptions(threads=1))
    feeds = eager.signature.validate(context.data.validation.read(range(len(context.data.validation)))[0])
    found, wanted = runtime.run(feeds), eager.run(feeds)
    name = next((name for name, value in wanted.items() if np.asarray(value).dtype.kind == "f"), None)
    if name is None:
        return None
    value = np.asarray(wanted[name])
    if float(np.ptp(value, axis=0).max(initial=0.0)) <= _SAME * float(np.abs(value).max(initial=0.0)):
        return None
    return min(300.0, sqnr_db(value, np.asarray(found[name])))


PARTS = ("export", "sizes", "import", "int8", "int8-tensorrt", "engine")


DEFAULT_PARTS = PARTS[:5]
