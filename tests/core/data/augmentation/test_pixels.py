"""Colours, blur, noise and erasing: known answers, and the range of values that normalised images have."""

from __future__ import annotations

import numpy as np
import pytest
from augmented_views import view, views

from retort.core.data.augmentation.colors import contrasted, grey, saturated, turned
from retort.core.data.augmentation.draws import Draws, view_seeds
from retort.core.data.augmentation.input_kinds import InputForm, input_forms
from retort.core.data.augmentation.pixels import blur
from retort.core.data.augmentation.randaugment import COLORS, _equalize, _posterize, _solarize
from retort.core.options.image_transforms import BlurOptions
from retort.core.preprocessing.specs import ImageInput

RED = np.array([1, 0, 0], np.float32).reshape(1, 3, 1, 1)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def test_contrast_and_saturation_move_pixels_away_from_grey() -> None:
    """A factor of 0 leaves the mean grey, or the grey of each pixel; a factor of 1 changes nothing."""
    pair = np.array([[[[0.2, 0.6]]]], np.float32)
    assert contrasted(pair, np.array([0.0])).ravel().tolist() == pytest.approx([0.4, 0.4])
    assert contrasted(pair, np.array([1.5])).ravel().tolist() == pytest.approx([0.1, 0.7])
    assert saturated(RED, np.array([0.0])).ravel().tolist() == pytest.approx([0.299] * 3)
    assert saturated(RED, np.array([1.0])).ravel().tolist() == pytest.approx([1, 0, 0])


def test_a_turned_hue_keeps_the_brightness() -> None:
    """A whole turn gives the colour again, and any turn its grey."""
    color = np.array([0.5, 0.4, 0.45], np.float32).reshape(1, 3, 1, 1)
    np.testing.assert_allclose(turned(color, np.array([1.0])), color, atol=1e-3)
    half = turned(color, np.array([0.5]))
    assert not np.allclose(half, color, atol=0.02)
    np.testing.assert_allclose(grey(half), grey(color), atol=2e-3)


def test_colours_of_normalised_images_are_those_of_the_images_before() -> None:
    """A change of colour, of noise or of RandAugment commutes with the normalisation that the data describe."""
    pixels = np.random.default_rng(0).random((6, 3, 8, 8)).astype(np.float32)
    mean, std = (np.array(values, np.float32)[:, None, None] for values in (MEAN, STD))
    plain = ImageInput("x", (8, 8))
    normalised = ImageInput("x", (8, 8), mean=MEAN, std=STD)
    for step in ({"color": {"hue": 0.1}}, {"noise": 0.1}, {"erase": {"fill": "black"}}, "randaugment", {"rotate": 20}):
        one = view(views(pixels, step, preprocessing=[plain]), 6).inputs["x"]
        other = view(views((pixels - mean) / std, step, preprocessing=[normalised]), 6).inputs["x"]
        np.testing.assert_allclose(other * std + mean, one, atol=2e-3, err_msg=str(step))


def test_brightness_stays_within_black_and_white() -> None:
    """Views of an image with all values from 0 to 1 have no other values, and not all the same brightness."""
    ramp = np.broadcast_to(np.linspace(0, 1, 64, dtype=np.float32).reshape(1, 8, 8), (30, 1, 8, 8)).copy()
    made = view(views(ramp, {"color": {"brightness": 0.9, "contrast": 0.9}}), 30).inputs["x"]
    assert (made.min(), made.max()) == (0, 1)
    assert made.mean(axis=(1, 2, 3)).std() > 0.05


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        (np.array([[0, 0.3], [0.9, 0.2]], np.float32), (0, 1)),
        (np.array([[-1, 0.3], [0.9, 0.2]], np.float32), (-1, 1)),
        (np.array([[0, 200], [13, 2]], np.float32), (0, 255)),
        (np.array([[-2.1, 2.5], [0, 1]], np.float32), (-2.1, 2.5)),
        (np.array([[3, 4], [5, 6]], np.uint8), (0, 255)),
    ],
)
def test_the_range_of_values_without_a_description(values: np.ndarray, wanted: tuple[float, float]) -> None:
    """0 to 1, -1 to 1 and 0 to 255 are recognised; other values span their own range."""
    form = input_forms({"x": values[None, None]}, ())["x"]
    assert (form.black[0], form.white[0]) == pytest.approx(wanted)


def test_a_described_image_has_the_levels_of_its_normalisation() -> None:
    """Black is (0 - mean) / std and white (1 - mean) / std of each channel."""
    form: InputForm = input_forms(
        {"x": np.zeros((1, 3, 4, 4), np.float32)}, [ImageInput("x", (4, 4), mean=MEAN, std=STD)]
    )["x"]
    assert form.black == pytest.approx([-m / s for m, s in zip(MEAN, STD, strict=True)])
    assert form.white == pytest.approx([(1 - m) / s for m, s in zip(MEAN, STD, strict=True)])


def test_a_blur_spreads_a_point_and_keeps_its_sum() -> None:
    """The sum of a point far from the edges stays, its height falls, and a constant image stays what it is."""
    point = np.zeros((20, 1, 21, 21), np.float32)
    point[:, 0, 10, 10] = 1
    draws = Draws(view_seeds(0, 0, np.arange(20)), 0)
    made = blur(BlurOptions(sigma=2), point, draws)
    np.testing.assert_allclose(made.sum(axis=(1, 2, 3)), 1, atol=1e-5)
    assert made[:, 0, 10, 10].min() < 0.1 < made[:, 0, 10, 10].max()
    np.testing.assert_allclose(blur(BlurOptions(), np.ones_like(point), draws), 1, atol=1e-6)


def test_noise_has_the_size_that_was_asked_for() -> None:
    """A share of the range of values as a standard deviation, or a ratio in dB to each sample's own power."""
    zeros = np.zeros((50, 1, 32, 32), np.float32)
    zeros[:, 0, 0, 0] = 4
    made = view(views(zeros, {"noise": {"std": 0.1}}), 50).inputs["x"] - zeros
    assert made.std() == pytest.approx(0.4, rel=0.02)
    tone = np.sin(np.arange(16000) / 5, dtype=np.float32) * np.array([[1], [0.1]], np.float32)
    noisy = view(views(tone, {"noise": {"snr_db": [20, 20]}}), 2).inputs["x"] - tone
    ratio = 10 * np.log10((tone**2).mean(axis=1) / (noisy**2).mean(axis=1))
    assert ratio.tolist() == pytest.approx([20, 20], abs=0.2)


def test_an_erased_rectangle_is_no_larger_than_asked() -> None:
    """At most a fifth of the image becomes the mean grey; the rest stays."""
    ones = np.ones((200, 1, 20, 20), np.float32)
    made = view(views(ones, {"erase": {"probability": 1}}), 200).inputs["x"]
    shares = (made == 0.5).mean(axis=(1, 2, 3))
    assert set(np.unique(made)) == {0.5, 1}
    assert 0.1 < shares.max() <= 0.21
    half = view(views(ones, "erase"), 200).inputs["x"]
    assert 0.35 < (half == 0.5).any(axis=(1, 2, 3)).mean() < 0.65


def test_operations_of_randaugment_on_known_pixels() -> None:
    """Solarize inverts bright pixels, posterize keeps the high bits, equalize spreads the levels evenly."""
    pixels = np.array([0, 0.2, 0.6, 1], np.float32).reshape(1, 1, 2, 2)
    assert _solarize(pixels, np.array([0.5])).ravel().tolist() == pytest.approx([0, 0.2, 0.4, 0])
    assert _posterize(
        np.array([[[[255 / 255, 200 / 255, 17 / 255]]]], np.float32), np.array([1.0])
    ).ravel().tolist() == pytest.approx([240 / 255, 192 / 255, 16 / 255])
    assert _equalize(
        np.array([[[[0.5, 0.5, 0.6, 0.7]]]], np.float32), np.array([0.0])
    ).ravel().tolist() == pytest.approx([0, 0, 0.5, 1])


def test_a_strength_of_zero_changes_no_pixel_but_by_equalizing() -> None:
    """Every operation with a strength is the identity at strength 0."""
    pixels = np.random.default_rng(0).random((3, 3, 6, 6)).astype(np.float32)
    for operation in COLORS:
        if operation.__name__ not in ("_equalize", "_autocontrast"):
            made = operation(pixels.copy(), np.zeros(3))
            np.testing.assert_allclose(made, pixels, atol=1e-6, err_msg=operation.__name__)
