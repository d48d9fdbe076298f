"""How far numbers are from what they should be, relative to a denominator that the function's name tells.

The largest value is that of the reference; ratios of energies are in decibels. The proof of a cut compares values of a
program one by one while they are on their device, and has the same measure for tensors
(:mod:`retort.compress.pruning.proof.prove`); a served archive carries no metrics: it compares golden outputs itself.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..tensors import Array

Floats = NDArray[np.float64]


def error_by_largest(reference: Array, found: Array, least: float = 0.0, equal_nan: bool = False) -> float:
    """The largest difference, by the largest finite magnitude of the reference.

    Args:
        reference: what the values should be, any shape.
        found: what they are.
        least: the smallest denominator; where it is 0, a reference of zeros alone is taken as 1.
        equal_nan: NaN beside NaN, and equal infinities, do not differ; else they make the error NaN.

    Returns:
        Infinite for other shapes and, with ``equal_nan``, for a value that is undefined on one side.
    """
    if reference.shape != found.shape:
        return math.inf
    finite = np.asarray(reference, np.float64)
    scale = max(largest_magnitude(finite[np.isfinite(finite)]), least) or 1.0
    error = largest_magnitude(differences(reference, found, equal_nan)) / scale
    return math.inf if equal_nan and math.isnan(error) else error


def differences(reference: Array, found: Array, equal_nan: bool = False) -> Floats:
    """``found - reference`` in double precision; ``equal_nan`` as in :func:`error_by_largest`."""
    one, two = np.asarray(reference, np.float64), np.asarray(found, np.float64)
    with np.errstate(invalid="ignore"):
        error = two - one
    if equal_nan:
        error[(one == two) | (np.isnan(one) & np.isnan(two))] = 0.0
    return error


def share_that_differs(reference: Array, found: Array) -> float:
    """The share of values that are not equal, as for integers and classes; infinite for other shapes."""
    if reference.shape != found.shape:
        return math.inf
    return float(np.mean(reference != found)) if reference.size else 0.0


def largest_magnitude(values: Array) -> float:
    """The largest magnitude; 0 of no values, NaN where one is."""
    return float(np.abs(values).max(initial=0.0))


def root_mean_square(values: Array) -> float:
    """The root of the mean square; 0 of no values."""
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64)))) if values.size else 0.0


def decibels(signal: Any, noise: Any) -> Floats:
    """``10 log10(signal / noise)`` of two energies or arrays of them; infinite without noise."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(noise == 0, np.inf, 10 * np.log10(np.divide(signal, noise))), np.float64)
