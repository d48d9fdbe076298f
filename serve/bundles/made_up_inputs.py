"""Golden inputs for an ONNX file that brings none: random numbers that the model can compute."""

from __future__ import annotations

import numpy as np

from ...core.errors import UserError
from ...core.session import Session
from ...core.tensors import BATCH, Array, TensorSpec

_FREE_SIZES = (8, 16, 32, 1, 64, 224)
_INTEGERS = (1000, 100, 10)
"""Bounds of whole numbers, the largest first. Few different numbers hide that a sum depends on its order."""


def made_up(session: Session, rows: int = 4) -> dict[str, Array]:
    """Inputs ``in.<name>`` and outputs ``out.<name>`` of a session, the same for equal models.

    Floats are normal. Whole numbers are below the largest bound with which the model runs and gives finite outputs,
    such as the size of a table; those of a mask are 0 and 1.

    Args:
        rows: size of the batch axis.

    Raises:
        UserError: the model computes no inputs of these kinds.
    """
    generator = np.random.default_rng(0)
    failure: Exception | None = None
    for size in _FREE_SIZES:
        feeds = {spec.name: _random(spec, rows, size, generator) for spec in session.signature.inputs}
        try:
            outputs = session.run(feeds)
        except Exception as error:  # the next size may suit the model
            failure = error
            continue
        for spec in session.signature.inputs:
            if np.dtype(spec.dtype).kind in "iu" and "mask" not in spec.name.lower():
                feeds, outputs = _with_more(session, spec, feeds, outputs, generator)
        return {f"in.{k}": v for k, v in feeds.items()} | {f"out.{k}": v for k, v in outputs.items()}
    message = f"no golden inputs can be generated for this ONNX file: {str(failure).splitlines()[0][:200]}"
    raise UserError(message, "pack a graph written by `retort export`, which stores real inputs")


def _with_more(
    session: Session,
    spec: TensorSpec,
    feeds: dict[str, Array],
    outputs: dict[str, Array],
    generator: np.random.Generator,
) -> tuple[dict[str, Array], dict[str, Array]]:
    """The feeds with larger numbers in one input, and their outputs; the given ones if the model takes no larger."""
    for bound in _INTEGERS:
        high = min(bound, int(np.iinfo(spec.dtype).max))
        values = generator.integers(0, high, feeds[spec.name].shape).astype(spec.dtype)
        tried = {**feeds, spec.name: values}
        try:
            found = session.run(tried)
        except Exception:  # an index outside of a table, which the runtime refuses
            continue
        alike = all(found[name].shape == array.shape for name, array in outputs.items())
        if alike and all(np.isfinite(array).all() for array in found.values() if array.dtype.kind == "f"):
            return tried, found
    return feeds, outputs


def _random(spec: TensorSpec, rows: int, size: int, generator: np.random.Generator) -> Array:
    shape = [axis if isinstance(axis, int) else rows if axis == BATCH else size for axis in spec.shape]
    if np.dtype(spec.dtype).kind == "f":
        return generator.standard_normal(shape).astype(spec.dtype)
    return generator.integers(0, 2, shape).astype(spec.dtype)  # 0 and 1 are valid indices of nearly every table
