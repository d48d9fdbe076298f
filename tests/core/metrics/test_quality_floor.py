"""The floor of quality: every output counts, undefined values count, and classes count where labels prove them."""

from __future__ import annotations

import numpy as np
import pytest

from retort.core.metrics.quality_floor import QualityFloor
from retort.core.tensors import Array

FLOOR = QualityFloor()
RNG = np.random.default_rng(0)
N = 200


def noisy(values: Array, noise_db: float) -> Array:
    """The values with noise of this centred ratio."""
    signal = np.sqrt(np.mean((values - values.mean(0)) ** 2))
    return (values + signal * 10 ** (-noise_db / 20) * RNG.normal(size=values.shape)).astype(np.float32)


def test_one_ruined_output_among_many_is_named() -> None:
    """Twenty sound outputs do not hide a ruined one, whatever its scale."""
    wanted = [scale * RNG.normal(size=(N, 8)).astype(np.float32) for scale in np.logspace(3, -3, 21)]
    found = [noisy(one, 40) for one in wanted]
    names = [f"output{index}" for index in range(21)]
    assert FLOOR.passes(wanted, found, None)
    found[-1] = noisy(wanted[-1], 3)
    assert "of output 'output20' is 2.7 dB" in FLOOR.shortfall(wanted, found, None, names)


def test_undefined_values_in_other_places_are_below_the_floor() -> None:
    """NaN that FP32 does not have is never acceptable; NaN and infinities in the same places are."""
    wanted = RNG.normal(size=(N, 4)).astype(np.float32)
    wanted[:, 1] = -np.inf
    found = noisy(np.where(np.isfinite(wanted), wanted, 0), 40)
    found[:, 1] = -np.inf
    assert FLOOR.passes([wanted], [found], None)
    found[3, 2] = np.nan
    assert "NaN" in FLOOR.shortfall([wanted], [found], None)
    assert "NaN" in FLOOR.shortfall([wanted], [found], None, noisy=True)


@pytest.mark.parametrize("rows", [4 * np.eye(10)[np.arange(N) % 10], np.zeros((N, 10))])
def test_classes_count_where_labels_prove_a_loss(rows: Array) -> None:
    """A classifier that loses accuracy is below the floor; equal noise on a model without accuracy, or without labels,
    is not."""
    labels = np.arange(N) % 10
    wanted = (rows + RNG.normal(size=(N, 10))).astype(np.float32)
    found = (wanted + 1.4 * RNG.normal(size=(N, 10))).astype(np.float32)
    loose = QualityFloor(sqnr_db=-20, column_db=-20)
    trained = bool(rows.any())
    assert loose.passes([wanted], [found], labels) is not trained
    assert loose.passes([wanted], [found], None)
    assert loose.passes([wanted], [found], labels + 5), "labels of other outputs are no classes of this one"
