"""A view depends on nothing but the seed of its run, its epoch and its sample."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from augmented_views import read, view, views

from retort.core.data.augmentation.draws import Draws, view_seeds
from retort.core.data.augmentation.mixing import View
from retort.core.data.augmentation.views import Views
from retort.core.options.augment_options import TRANSFORMS
from retort.core.preprocessing.specs import SoundInput, TextInput

PINNED = ["0x3479ab7ff135c0fe", "0x8f0e121ddd99c741"]
"""Seeds that a cache of a teacher's outputs may hold."""
OWN: dict[str, Any] = {
    "mask": {"mask": {"token": 3, "share": 0.5}},
    "color": {"color": {"hue": 0.3}},
    "erase": {"erase": {"fill": "noise"}},
}
"""Steps whose defaults would leave something out."""


def _source(name: str) -> Views:
    """40 samples of an input for which a transform is made."""
    rng, step = np.random.default_rng(0), OWN.get(name, name)
    kinds = TRANSFORMS[name].kinds
    if "image" in kinds:
        return views(rng.random((40, 3, 13, 11)).astype(np.float32), step, targets=np.arange(40) % 7)
    if "series" in kinds:
        return views(rng.random((40, 12, 6)).astype(np.float32), step)
    if "recording" in kinds:
        return views(rng.random((40, 50)).astype(np.float32), step, preprocessing=[SoundInput("x", 100)])
    ids = rng.integers(4, 99, (40, 12))
    return views(ids, step, preprocessing=[TextInput((("input_ids", "x"),), "bytes", 12)])


def _equal(one: View, other: View, rows: slice | list[int] = slice(None)) -> bool:
    """Whether some rows of a batch are another batch, bit for bit."""
    parts = [(one.targets, other.targets), (one.partners, other.partners), (one.shares, other.shares)]
    parts += [(one.inputs[name], other.inputs[name]) for name in one.inputs]
    return all(a is None or (b is not None and np.array_equal(a[rows], b)) for a, b in parts)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_view_is_the_same_in_any_batch_and_order(name: str) -> None:
    """Alone, in a batch of another size, in another order and read again: the same bits."""
    source = _source(name)
    whole = view(source, 40)
    assert _equal(whole, view(source, 40))
    for rows in ([7], [3, 2, 39], list(range(39, -1, -1)), [5, 5]):
        assert _equal(whole, read(source, rows), rows)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_views_differ_between_epochs_seeds_and_samples(name: str) -> None:
    """Another epoch or another seed changes views, and the inputs themselves are not changed."""
    source = _source(name)
    (key,) = source.split.read([0])[0]
    before = source.split.read(range(40))[0][key].copy()
    first = view(source, 40).inputs[key]
    for other in (view(source, 40, epoch=1), view(source, 40, seed=2)):
        assert not np.array_equal(other.inputs[key], first)
    np.testing.assert_array_equal(source.split.read(range(40))[0][key], before)


def test_large_images_are_changed_as_small_batches() -> None:
    """Images that are changed a few at a time, so that they fit into a cache, are the same as alone."""
    images = np.random.default_rng(0).random((9, 3, 200, 200)).astype(np.float32)
    source = views(images, {"rotate": 10}, "color", targets=images[:, 0].copy())
    whole = view(source, 9)
    for row in range(9):
        assert _equal(whole, read(source, [row]), [row])


def test_a_probability_of_zero_changes_nothing_and_half_changes_half() -> None:
    """`probability` is the share of the samples that are changed."""
    images = np.random.default_rng(0).random((400, 1, 5, 5)).astype(np.float32)
    for share, low, high in ((0.0, 0, 0), (0.5, 160, 240), (1.0, 400, 400)):
        made = view(views(images, {"noise": {"probability": share, "std": 0.1}}), 400).inputs["x"]
        assert low <= int((made != images).any(axis=(1, 2, 3)).sum()) <= high


def test_seeds_of_views_are_all_different_and_stay_what_they_are() -> None:
    """No two of 200,000 samples and epochs share a seed; a stored seed gives the same view in later versions."""
    indices = np.arange(100_000)
    seeds = np.concatenate([view_seeds(0, epoch, indices) for epoch in (0, 1)])
    assert len(np.unique(seeds)) == 200_000
    assert len(np.unique(view_seeds(0, 0, np.zeros(50, np.int64), np.arange(50)))) == 50
    assert [hex(int(seed)) for seed in view_seeds(1, 2, np.array([3, 4]))] == PINNED


def test_draws_are_even_and_independent() -> None:
    """Numbers of one transform fill the range evenly and do not follow those of the next number or transform."""
    seeds = view_seeds(0, 0, np.arange(20_000))
    draws, other = Draws(seeds, 0), Draws(seeds, 1)
    first, second, third = draws.uniform(), draws.uniform(), other.uniform()
    counts = np.histogram(first, bins=20, range=(0, 1))[0]
    assert ((counts - 1000) ** 2 / 1000).sum() < 45  # the 99.9th percentile of chi-square with 19 degrees
    for one, two in ((first, second), (first, third), (first[1:], first[:-1])):
        assert abs(np.corrcoef(one, two)[0, 1]) < 0.03
    assert set(draws.below(3)) == {0, 1, 2}
