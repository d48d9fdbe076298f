"""mixup and CutMix: what is mixed, by which share, and what becomes of the targets."""

from __future__ import annotations

import numpy as np
import pytest
from augmented_views import read, view, views

from retort.core.data.augmentation.draws import partner_seeds, view_seeds
from retort.core.errors import UserError
from retort.core.tensors import Array


def _numbered(count: int = 50, size: int = 6) -> Array:
    """Images of which each has its own number as all its values."""
    return np.broadcast_to(np.arange(count, dtype=np.float32)[:, None, None, None], (count, 1, size, size)).copy()


def test_mixup_mixes_values_and_targets_by_the_same_share() -> None:
    """Each view is `share · own + (1 - share) · partner`, and its partner is any sample of the split."""
    images = _numbered()
    made = view(views(images, {"mixup": 1.0}, targets=np.arange(50)), 50)
    assert made.targets is not None
    assert made.partners is not None
    assert made.shares is not None
    wanted = made.shares * made.targets + (1 - made.shares) * made.partners
    np.testing.assert_allclose(made.inputs["x"][:, 0, 0, 0], wanted, rtol=1e-4, atol=1e-4)
    assert len(set(made.partners.tolist())) > 20
    assert 0.35 < made.shares.mean() < 0.65
    small = view(views(images, {"mixup": 0.2}, targets=np.arange(50)), 50)
    assert small.shares is not None
    assert np.minimum(small.shares, 1 - small.shares).mean() < 0.12


def test_the_partner_is_changed_by_the_other_transforms_too() -> None:
    """The partner's part is the view that its own seed gives, which is drawn from the seed of the mixed view."""
    images = np.random.default_rng(0).random((20, 1, 8, 8)).astype(np.float32)
    source = views(images, {"rotate": 40}, "mixup", targets=np.arange(20))
    made = view(source, 20)
    assert made.partners is not None
    assert made.shares is not None
    plain = views(images, {"rotate": 40}, targets=np.arange(20))
    seeds = view_seeds(1, 0, np.arange(20))
    own = plain.read(np.arange(20), seeds).inputs["x"]
    other = plain.read(made.partners, partner_seeds(seeds)).inputs["x"]
    share = made.shares[:, None, None, None]
    np.testing.assert_allclose(made.inputs["x"], share * own + (1 - share) * other, atol=1e-6)


def test_without_targets_only_inputs_are_mixed() -> None:
    """Samples without labels, as for distillation on soft targets, are mixed and stay without."""
    made = view(views(_numbered(), "mixup"), 50)
    assert made.targets is None
    assert made.partners is None
    assert not np.array_equal(made.inputs["x"], _numbered())


def test_cutmix_pastes_a_rectangle_and_its_share_of_the_target() -> None:
    """The pixels of the partner are as many as the partner's share of the target says."""
    made = view(views(_numbered(50, 12), "cutmix", targets=np.arange(50)), 50)
    assert made.partners is not None
    assert made.shares is not None
    for number in range(50):
        values, counts = np.unique(made.inputs["x"][number], return_counts=True)
        pixels = dict(zip(values.tolist(), counts.tolist(), strict=True))
        assert set(pixels) <= {float(number), float(made.partners[number])}
        if number != made.partners[number]:
            assert pixels.get(float(number), 0) / 144 == pytest.approx(float(made.shares[number]))


def test_cutmix_cuts_masks_in_the_same_places() -> None:
    """A dense target gets the classes of the rectangle, and no probabilities."""
    images = _numbered(30, 10)
    made = view(views(images, "cutmix", targets=images[:, 0].astype(np.int64)), 30)
    np.testing.assert_array_equal(made.inputs["x"][:, 0], made.targets)
    np.testing.assert_array_equal(made.targets, made.partners)
    assert made.shares is not None
    assert (made.shares == 1).all()


def test_no_sample_is_both_mixed_and_cut() -> None:
    """With half of the samples mixed, CutMix takes from the others; the rest stays as it is."""
    images = _numbered(400, 8)
    steps = [{"mixup": {"alpha": 1.0, "probability": 0.5}}, {"cutmix": {"probability": 0.5}}]
    made = view(views(images, *steps, targets=np.arange(400)), 400)
    kinds = [len(np.unique(image)) for image in made.inputs["x"]]
    untouched = (made.inputs["x"] == images).all(axis=(1, 2, 3)).mean()
    assert max(kinds) == 2
    assert 0.15 < untouched < 0.4


def test_the_partner_does_not_depend_on_the_batch() -> None:
    """Half of a batch has the same partners and shares as in the whole, so that processes may share a batch."""
    source = views(_numbered(), "mixup", targets=np.arange(50))
    whole, half = view(source, 50), read(source, range(25, 50))
    assert whole.shares is not None
    assert whole.partners is not None
    np.testing.assert_array_equal(whole.shares[25:], half.shares)
    np.testing.assert_array_equal(whole.partners[25:], half.partners)
    np.testing.assert_array_equal(whole.inputs["x"][25:], half.inputs["x"])


def test_all_inputs_of_a_sample_are_mixed_with_the_same_partner() -> None:
    """Two inputs: the same share and the same partner; bytes are rounded."""
    inputs = {"a": _numbered(), "b": _numbered().astype(np.uint8)}
    made = view(views(inputs, {"mixup": 1.0}), 50).inputs
    assert made["b"].dtype == np.uint8
    np.testing.assert_allclose(made["a"], made["b"], atol=0.51)


def test_mixing_refuses_inputs_that_have_no_values_between() -> None:
    """Numbers of tokens cannot be mixed, nor can one input alone, nor a transform be given twice."""
    with pytest.raises(UserError, match="`mixup` mixes whole samples, and cannot mix input 'ids', a row of tokens"):
        views({"x": _numbered(), "ids": np.ones((50, 4), np.int64)}, "mixup")
    with pytest.raises(UserError, match="cannot mix input 'x' alone"):
        views(_numbered(), {"mixup": {"input": "x"}})
    with pytest.raises(UserError, match="`mixup` twice"):
        views(_numbered(), "mixup", "mixup")
