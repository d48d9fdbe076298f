"""How similar all floating-point outputs of a model are to those of its reference, each at its own scale.

A model with several outputs is as good as all of them: boxes count as much as scores, whatever their units and their
order. The noise of an output is divided by the energy of its own signal; the mean of these shares over the outputs is
the share of the model. For one output this is the centred SQNR (compress.md 3).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..tensors import Array
from .relative_error import decibels
from .task_metrics import evaluate

Outputs = Sequence[Array]
CONSTANT = 1e-12
"""Share of an output's energy that differs between samples, below which the output counts as the same for all."""
_IMAGES, _NOTHING = 4, 0.1
_MOST_COLUMNS, _FEWEST_VALUES = 4096, 8
"""Largest number of columns of an axis, and smallest number of values in each, with which columns are compared."""


def floating(outputs: Mapping[str, Array] | Sequence[Array]) -> list[Array]:
    """The floating-point outputs, in order."""
    values = outputs.values() if isinstance(outputs, Mapping) else outputs
    return [value for value in values if value.dtype.kind == "f"]


def undefined_alike(wanted: Outputs, found: Outputs) -> bool:
    """Whether all shapes are equal, and values are NaN or infinite at the same places (masks, log-probabilities)."""
    if len(wanted) != len(found) or any(one.shape != two.shape for one, two in zip(wanted, found, strict=True)):
        return False
    return all(bool(np.all(_same_undefined(one, two))) for one, two in zip(wanted, found, strict=True))


def sqnr_of_all_db(wanted: Outputs, found: Outputs, centred: bool = True) -> float:
    """Signal-to-quantization-noise ratio over all outputs, in dB.

    Args:
        wanted: outputs of the reference, ``[N, …]`` each.
        found: the same outputs of the quantized model.
        centred: use only the differences between samples as signal; an output that is the same for all samples counts
            with its whole energy.

    Returns:
        Infinite for equal outputs; minus infinity where shapes or undefined values differ.
    """
    if not wanted:
        return float("inf")
    if not undefined_alike(wanted, found):
        return float("-inf")
    shares = [_noise_share(one, two, centred) for one, two in zip(wanted, found, strict=True)]
    return float(decibels(1.0, float(np.mean(shares))))


def sqnr_per_output_db(wanted: Mapping[str, Array], found: Mapping[str, Array]) -> dict[str, float]:
    """The centred ratio of every floating-point output by itself, in dB."""
    names = [name for name, value in wanted.items() if value.dtype.kind == "f"]
    return {name: sqnr_of_all_db([wanted[name]], [found[name]]) for name in names}


@dataclass(frozen=True)
class Column:
    """One index of an axis of an output, with its own signal-to-noise ratio.

    Attributes:
        axis: the axis, from 1.
        index: the place on it.
        db: centred ratio in dB.
    """

    axis: int
    index: int
    db: float


def worst_column(wanted: Array, found: Array) -> Column | None:
    """The index of axis 1 or of the last axis whose values are most unlike those of the reference, at their own scale.

    A detector's tensor has boxes in pixels beside scores below 1: scores that are all zero change its total energy by
    next to nothing. Probabilities that add up to 1 along an axis have one scale, so they are no columns of their own.
    Numbers from 0 to 1 that stay below 0.1 in all samples are no columns either: as probabilities, they say that
    nothing is there. In images ``[N, C, H, W]`` only the channels are columns.

    Args:
        wanted: output of the reference, ``[N, …]``.
        found: the same output of another model.

    Returns:
        None where no axis has columns that differ between samples.
    """
    if wanted.ndim < 2 or wanted.shape != found.shape or len(wanted) < 2:
        return None
    truth, given = (np.where(np.isfinite(wanted), value, 0.0).astype(np.float64) for value in (wanted, found))
    columns = [
        column
        for axis in ((1,) if wanted.ndim in (2, _IMAGES) else (1, wanted.ndim - 1))
        if (column := _worst_on(truth, given, axis)) is not None
    ]
    return min(columns, key=lambda column: column.db, default=None)


def _worst_on(truth: Array, given: Array, axis: int) -> Column | None:
    size = truth.shape[axis]
    if not 2 <= size <= _MOST_COLUMNS or truth.size // size < _FEWEST_VALUES or _is_simplex(truth, axis):
        return None
    others = tuple(other for other in range(truth.ndim) if other != axis)
    energy = np.sum(truth**2, axis=others)
    signal = np.sum((truth - truth.mean(axis=0)) ** 2, axis=others)
    noise = np.sum((given - truth) ** 2, axis=others)
    low, high = truth.min(axis=others), truth.max(axis=others)
    varies = (signal > CONSTANT * energy) & ~((low >= 0) & (high < _NOTHING))
    if not varies.any():
        return None
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.where(varies & (noise > 0), signal / np.where(noise > 0, noise, 1.0), np.inf)
    index = int(np.argmin(ratios))
    return Column(axis, index, float(decibels(float(ratios[index]), 1.0)))


def _is_simplex(values: Array, axis: int) -> bool:
    return bool((values >= 0).all()) and bool(np.allclose(values.sum(axis=axis), 1.0, atol=1e-3))


def agreement_of_all(wanted: Outputs, found: Outputs) -> float | None:
    """The smallest share of samples with the same class, over the outputs ``[N, C]`` with at least two columns.

    Returns:
        None if no output contains classes, or if undefined values differ.
    """
    pairs = [
        (one, two) for one, two in zip(wanted, found, strict=True) if one.ndim == 2 and one.shape[1] > 1 and one.size
    ]
    if not pairs or not undefined_alike(wanted, found):
        return None
    return min(float(evaluate("agreement", defined(two), defined(one))) for one, two in pairs)


def equal_share(wanted: Mapping[str, Array], found: Mapping[str, Array]) -> float | None:
    """The smallest share of equal values, over the outputs of integers and truth values; None if there are none."""
    shares = [
        float(np.mean(value == found[name])) if value.shape == found[name].shape else 0.0
        for name, value in wanted.items()
        if value.dtype.kind != "f" and value.size
    ]
    return min(shares, default=None)


def smallest(*shares: float | None) -> float | None:
    """The smallest share that is known; None if none is."""
    return min((share for share in shares if share is not None), default=None)


def _same_undefined(one: Array, two: Array) -> Array:
    both = np.isfinite(one) & np.isfinite(two)
    return np.asarray(both | (one == two) | (np.isnan(one) & np.isnan(two)))


def _noise_share(wanted: Array, found: Array, centred: bool) -> float:
    truth, given = (_rows(np.where(np.isfinite(wanted), value, 0.0)) for value in (wanted, found))
    energy, noise = float(np.sum(truth**2)), float(np.sum((given - truth) ** 2))
    if noise == 0:
        return 0.0
    signal = float(np.sum((truth - truth.mean(axis=0)) ** 2)) if centred else energy
    if signal <= CONSTANT * energy:
        signal = energy
    return noise / signal if signal > 0 else float("inf")


def defined(values: Array) -> Array:
    """Values of which the largest can be found: a mask's minus infinity is the lowest number."""
    return np.nan_to_num(values, nan=0.0, posinf=np.finfo(values.dtype).max, neginf=np.finfo(values.dtype).min)


def _rows(values: Array) -> Array:
    return values.reshape(len(values), -1).astype(np.float64) if values.ndim else values.reshape(1, 1).astype(float)
