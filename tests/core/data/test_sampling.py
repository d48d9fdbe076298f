"""The order of an epoch: a pure function of seed and epoch, with the asked proportions of classes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from retort.core.data.augmentation.draws import view_seeds
from retort.core.data.sampling import repeats, sampler_of
from retort.core.data.splits import ArraySplit, SequenceSplit
from retort.core.errors import DataError, UserError


def _split(counts: list[int]) -> ArraySplit:
    targets = np.repeat(np.arange(len(counts)), counts)
    return ArraySplit({"x": np.zeros((len(targets), 1), np.float32)}, targets)


def test_a_natural_epoch_has_every_sample_once() -> None:
    """A permutation of all samples, the one that trainings of earlier versions had, and another in each epoch."""
    sampler = sampler_of(_split([30, 70]), "natural", 5)
    first = sampler.order(0)
    assert sorted(first.indices) == list(range(100))
    np.testing.assert_array_equal(first.indices, np.random.default_rng([5, 0]).permutation(100))
    np.testing.assert_array_equal(first.seeds, view_seeds(5, 0, first.indices))
    assert not np.array_equal(first.indices, sampler.order(1).indices)


@pytest.mark.parametrize(
    ("sampling", "wanted"),
    [("balanced", [1 / 3] * 3), ((1.0, 0.0, 3.0), [0.25, 0, 0.75]), ((0.0, 0.0, 1.0), [0, 0, 1])],
)
def test_classes_are_drawn_in_the_asked_proportions(sampling: Any, wanted: list[float]) -> None:
    """An epoch is as long as the split, and rare classes are drawn as often as the weights say."""
    split = _split([2700, 270, 30])
    order = sampler_of(split, sampling, 0).order(0)
    assert len(order.indices) == 3000
    assert split.targets is not None
    shares = np.bincount(split.targets[order.indices], minlength=3) / 3000
    assert shares.tolist() == pytest.approx(wanted, abs=0.03)


def test_a_sample_that_is_drawn_again_has_another_view() -> None:
    """All seeds of an epoch are different, and its order is the same in every call."""
    sampler = sampler_of(_split([90, 10]), "balanced", 1)
    order, again = sampler.order(3), sampler.order(3)
    assert len(np.unique(order.indices)) < 100
    assert len(np.unique(order.seeds)) == 100
    np.testing.assert_array_equal(order.indices, again.indices)
    np.testing.assert_array_equal(order.seeds, again.seeds)
    assert repeats(np.array([4, 2, 4, 4, 2])).tolist() == [0, 0, 1, 2, 1]


def test_classes_of_a_dataset_that_is_read_sample_by_sample() -> None:
    """Targets are read where they are not in memory."""
    samples = [(np.zeros(2, np.float32), np.int64(number % 5 == 0)) for number in range(50)]
    split = SequenceSplit(samples, "x", "here")
    order = sampler_of(split, "balanced", 0).order(0)
    assert 0.25 < np.mean([int(samples[index][1]) for index in order.indices]) < 0.75


def test_what_cannot_be_sampled_is_one_message() -> None:
    """No targets, values, too few weights, and a weight for a class without samples."""
    x = {"x": np.zeros((4, 1), np.float32)}
    for targets, text in ((None, "have no targets"), (np.zeros((4, 2), np.float32), r"the targets are float32\[2\]")):
        with pytest.raises(DataError, match=f"`sampling` draws samples by their class, and .*{text}"):
            sampler_of(ArraySplit(x, targets), "balanced", 0)
    with pytest.raises(UserError, match="`sampling` has 1 weight, but the training split has the class 1"):
        sampler_of(_split([2, 2]), (1.0,), 0)
    with pytest.raises(DataError, match="`sampling` gives class 2 the weight 5, and it has no training sample"):
        sampler_of(_split([2, 2]), (1.0, 1.0, 5.0), 0)
    with pytest.raises(UserError, match="no weight above 0"):
        sampler_of(_split([2, 2]), (0.0, 0.0), 0)
