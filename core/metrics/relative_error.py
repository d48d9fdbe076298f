"""Errors of numbers relative to a reference; the name of each function has the denominator.

The largest value is that of the reference; ratios of energies are in decibels. The proof of a cut has the same measure
for tensors on their device (:mod:`retort.compress.pruning.proof.prove`). An archive contains no metrics, so serving
compares golden outputs with its own code.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..tensors import Array

Floats = NDArray[np.float64]


def error_by_largest(reference: Array, found: Array, least: float = 0.0, equal_nan: bool = False) -> float:
    """The largest difference, divided by the largest finite magnitude of the reference.

    Args:
        reference: the expected values, of any shape.
        found: the actual values.
        least: the smallest denominator; if it is 0 and the reference is all zeros, the denominator is 1.
        equal_nan: treat NaN in both, and equal infinities, as equal; otherwise they make the error NaN.

    Returns:
        The error; infinite for different shapes and, with ``equal_nan``, for a value that is NaN only on one side.
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
        error = np.asarray(two - one)
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
