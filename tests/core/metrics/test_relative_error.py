"""Relative errors compared with values by hand, also if values are zero, undefined or missing."""

from __future__ import annotations

import math

import numpy as np
import pytest

from retort.core.metrics.relative_error import (
    decibels,
    differences,
    error_by_largest,
    largest_magnitude,
    root_mean_square,
    share_that_differs,
)
from retort.core.metrics.task_metrics import sqnr_db

ONE = np.array([[1.0, -4.0], [0.0, 2.0]], np.float32)


def test_the_largest_difference_is_divided_by_the_largest_magnitude() -> None:
    """The denominator is that of the reference, and integers are treated as numbers."""
    assert error_by_largest(ONE, ONE + np.array([0.0, 1.0], np.float32)) == pytest.approx(0.25)
    assert error_by_largest(ONE, 3 * ONE) == pytest.approx(2.0)
    assert error_by_largest(np.array([True, False]), np.array([True, True])) == 1.0
    assert error_by_largest(np.zeros(0), np.zeros(0)) == 0.0


def test_small_references_have_a_smallest_denominator() -> None:
    """Without a smallest denominator, a reference of zeros has the denominator 1."""
    zeros, found = np.zeros(3), np.full(3, 1e-3)
    assert error_by_largest(zeros, found) == pytest.approx(1e-3)
    assert error_by_largest(zeros, found, least=1e-6) == pytest.approx(1e3)
    assert error_by_largest(ONE, ONE + 1, least=1e-6) == pytest.approx(0.25)


def test_undefined_values_are_never_a_small_error() -> None:
    """NaN is always an error, except with NaN if ``equal_nan``; equal infinities are equal."""
    odd = np.array([2.0, np.nan, np.inf])
    assert math.isnan(error_by_largest(odd, odd))
    assert error_by_largest(odd, odd, equal_nan=True) == 0.0
    assert error_by_largest(odd, np.array([3.0, np.nan, np.inf]), equal_nan=True) == 0.5
    for other in (np.array([2.0, 0.0, np.inf]), np.array([2.0, np.nan, -np.inf]), np.array([2.0, np.nan, 0.0])):
        assert error_by_largest(odd, other, equal_nan=True) == math.inf
    assert math.isnan(error_by_largest(np.ones(1), np.array([np.nan])))
    assert error_by_largest(np.ones(1), np.array([np.inf])) == math.inf


def test_another_shape_is_an_infinite_error() -> None:
    """Shapes are not broadcast."""
    assert error_by_largest(ONE, ONE[0]) == error_by_largest(ONE, ONE[:1], equal_nan=True) == math.inf
    assert share_that_differs(ONE, ONE[0]) == math.inf


def test_half_precision_is_compared_in_double_precision() -> None:
    """Differences of large FP16 values do not overflow."""
    one, two = np.array([60000.0], np.float16), np.array([-60000.0], np.float16)
    assert differences(one, two)[0] == pytest.approx(-120000, rel=1e-3)
    assert error_by_largest(one, two) == pytest.approx(2.0)


def test_the_parts_of_a_measure_follow_their_formulas() -> None:
    """Shares, magnitudes, root mean squares and decibels of small arrays."""
    assert share_that_differs(np.array([1, 2, 3, 4]), np.array([1, 2, 3, 5])) == 0.25
    assert share_that_differs(np.zeros(0), np.zeros(0)) == 0.0
    assert largest_magnitude(ONE) == 4.0
    assert math.isnan(largest_magnitude(np.array([1.0, np.nan])))
    assert root_mean_square(np.array([3.0, -4.0])) == pytest.approx(math.sqrt(12.5))
    assert root_mean_square(np.zeros(0)) == 0.0
    np.testing.assert_allclose(decibels(np.array([100.0, 1.0]), np.array([1.0, 0.0])), [20.0, np.inf])


def test_sqnr_is_made_of_the_same_parts() -> None:
    """The raw SQNR is in decibels of the mean squares; the centred one subtracts the signal's mean over samples."""
    found = ONE + 0.1
    noise = root_mean_square(differences(ONE, found)) ** 2
    assert sqnr_db(ONE, found, centred=False) == pytest.approx(float(decibels(root_mean_square(ONE) ** 2, noise)))
    centred = root_mean_square(ONE - ONE.mean(axis=0)) ** 2
    assert sqnr_db(ONE, found) == pytest.approx(float(decibels(centred, noise)))
