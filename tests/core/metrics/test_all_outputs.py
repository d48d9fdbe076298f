"""Several outputs: each counts at its own scale, whatever its place; equal infinities are no difference."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from retort.core.metrics.all_outputs import (
    agreement_of_all,
    floating,
    sqnr_of_all_db,
    sqnr_per_output_db,
    undefined_alike,
)
from retort.core.metrics.task_metrics import sqnr_db

RANDOM = np.random.default_rng(0)
BOXES = (1000 * RANDOM.standard_normal((40, 3, 4))).astype(np.float32)
SCORES = RANDOM.standard_normal((40, 5)).astype(np.float32)


def noisy(values: NDArray[np.float32], share: float) -> NDArray[np.float32]:
    """The values with noise of a share of their own size."""
    noise = np.random.default_rng(1).standard_normal(values.shape)
    return (values + share * values.std() * noise).astype(np.float32)


def test_one_output_is_the_centred_ratio() -> None:
    """With one output nothing changes: it is the centred SQNR."""
    found = noisy(SCORES, 0.1)
    assert sqnr_of_all_db([SCORES], [found]) == pytest.approx(sqnr_db(SCORES, found))
    assert sqnr_of_all_db([SCORES], [found], centred=False) == pytest.approx(sqnr_db(SCORES, found, centred=False))
    assert sqnr_of_all_db([SCORES], [SCORES]) == float("inf")
    assert sqnr_of_all_db([], []) == float("inf")


def test_order_and_units_change_nothing() -> None:
    """Swapped outputs, and outputs in other units, give the same ratio and the same agreement."""
    wanted, found = [BOXES, SCORES], [noisy(BOXES, 0.01), noisy(SCORES, 0.3)]
    ratio = sqnr_of_all_db(wanted, found)
    assert sqnr_of_all_db(wanted[::-1], found[::-1]) == pytest.approx(ratio)
    assert sqnr_of_all_db([BOXES / 1e6, SCORES], [found[0] / 1e6, found[1]]) == pytest.approx(ratio, abs=1e-3)
    assert agreement_of_all(wanted, found) == agreement_of_all(wanted[::-1], found[::-1])
    alone = [sqnr_of_all_db([one], [two]) for one, two in zip(wanted, found, strict=True)]
    assert min(alone) < ratio < max(alone)


def test_a_broken_output_is_not_hidden_by_a_good_one() -> None:
    """Where one of two outputs is lost, the whole is at most 3 dB better than that output."""
    found = [BOXES, -SCORES]
    assert sqnr_of_all_db([BOXES, SCORES], found) < 0
    assert sqnr_of_all_db([SCORES, BOXES], found[::-1]) < 0


def test_the_smallest_agreement_counts() -> None:
    """Of two outputs with classes the one that agrees less decides; images are no classes."""
    other = SCORES[::-1].copy()
    assert agreement_of_all([SCORES, SCORES], [SCORES, other]) == agreement_of_all([SCORES], [other])
    assert agreement_of_all([BOXES], [BOXES]) is None


def test_equal_infinities_are_no_difference() -> None:
    """Masked logits are equal where both are minus infinity, and lost where only one is."""
    masked = SCORES.copy()
    masked[:, 2] = -np.inf
    found = noisy(SCORES, 0.1)
    wrong = found.copy()
    found[:, 2] = -np.inf
    assert undefined_alike([masked], [found])
    assert not undefined_alike([masked], [wrong])
    assert 10 < sqnr_of_all_db([masked], [found]) < 40
    assert sqnr_of_all_db([masked], [wrong]) == float("-inf")
    allowed = [0, 1, 3, 4]
    same = masked[:, allowed].argmax(1) == found[:, allowed].argmax(1)
    assert 0.5 < same.mean() < 1
    assert agreement_of_all([masked], [found]) == pytest.approx(same.mean())
    assert agreement_of_all([masked], [masked]) == 1
    assert agreement_of_all([masked], [wrong]) is None


def test_an_output_that_is_always_the_same_counts_whole() -> None:
    """A constant output has no differences between samples; its noise is held against its size."""
    constant = np.ones((40, 3), np.float32)
    assert sqnr_of_all_db([constant], [constant * 1.01]) == pytest.approx(40, abs=0.1)
    assert sqnr_of_all_db([0 * constant], [constant]) == float("-inf")


def test_every_output_has_its_own_ratio() -> None:
    """Integers are left out; each floating-point output is named with its ratio."""
    wanted = {"boxes": BOXES, "classes": SCORES.argmax(1), "scores": SCORES}
    found = {**wanted, "scores": noisy(SCORES, 0.1)}
    ratios = sqnr_per_output_db(wanted, found)
    assert ratios["boxes"] == float("inf")
    assert ratios["scores"] == pytest.approx(sqnr_db(SCORES, found["scores"]))
    assert list(ratios) == ["boxes", "scores"]
    assert len(floating(wanted)) == 2
