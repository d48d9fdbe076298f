"""Transforms that move pixels: known answers on small arrays, and masks that move with their images."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from augmented_views import view, views

from retort.core.data.augmentation.geometry import rotating, scaling, shearing, shifting
from retort.core.data.augmentation.views import views_of
from retort.core.data.augmentation.warping import moved
from retort.core.data.splits import ArraySplit
from retort.core.errors import UserError
from retort.core.options.stage_options import TrainOptions
from retort.core.tensors import Array

IMAGE = np.arange(12, dtype=np.float32).reshape(1, 1, 3, 4)
BLACK = np.zeros((1, 1, 1), np.float32)


def _one(value: float) -> Any:
    return np.array([value])


def test_a_mirrored_image_has_its_columns_in_the_other_order() -> None:
    """A factor of -1 mirrors exactly, along the width or along the height."""
    assert np.array_equal(moved(IMAGE, scaling(_one(-1), _one(1)), BLACK), IMAGE[..., ::-1])
    assert np.array_equal(moved(IMAGE, scaling(_one(1), _one(-1)), BLACK), IMAGE[..., ::-1, :])


def test_a_shift_moves_whole_pixels_and_fills_what_is_free() -> None:
    """One pixel to the right and one down; free places are black, or repeat the edge."""
    made = moved(IMAGE, shifting(_one(1), _one(1)), BLACK)
    assert made[0, 0].tolist() == [[0, 0, 0, 0], [0, 0, 1, 2], [0, 4, 5, 6]]
    made = moved(IMAGE, shifting(_one(-1), _one(0)), None)
    assert made[0, 0].tolist() == [[1, 2, 3, 3], [5, 6, 7, 7], [9, 10, 11, 11]]


def test_a_shift_by_more_than_the_image_leaves_only_the_fill() -> None:
    """Nothing of the image is left, in either direction."""
    for pixels in (9, -9):
        assert moved(IMAGE, shifting(_one(pixels), _one(0)), BLACK + 7).tolist() == np.full((1, 1, 3, 4), 7).tolist()


def test_a_quarter_turn_is_that_of_numpy() -> None:
    """90 degrees turn counterclockwise, as seen with the first row on top."""
    square = np.arange(16, dtype=np.float32).reshape(1, 1, 4, 4)
    np.testing.assert_allclose(moved(square, rotating(_one(90)), BLACK), np.rot90(square, axes=(2, 3)), atol=1e-5)


def test_half_a_pixel_is_the_mean_of_two_neighbours() -> None:
    """Bilinear interpolation between pixels, and towards black at the border."""
    made = moved(IMAGE, shifting(_one(-0.5), _one(0)), BLACK)
    assert made[0, 0].tolist() == [[0.5, 1.5, 2.5, 1.5], [4.5, 5.5, 6.5, 3.5], [8.5, 9.5, 10.5, 5.5]]


def test_a_shear_moves_each_row_by_its_distance_from_the_middle() -> None:
    """One pixel per row: the first row to the left, the last one to the right."""
    made = moved(IMAGE, shearing(_one(1), _one(0)), BLACK)
    assert made[0, 0].tolist() == [[1, 2, 3, 0], [4, 5, 6, 7], [0, 8, 9, 10]]


def test_an_enlarged_image_agrees_with_an_independent_interpolation() -> None:
    """Scaling by 1.5 around the middle equals SciPy's linear interpolation."""
    ndimage = pytest.importorskip("scipy.ndimage")
    image = np.random.default_rng(0).random((1, 3, 9, 12)).astype(np.float32)
    made = moved(image, scaling(_one(1.5), _one(1.5)), None)
    middle = (np.array(image.shape[2:]) - 1) / 2
    for channel in range(3):
        wanted = ndimage.affine_transform(
            image[0, channel].astype(float), np.eye(2) / 1.5, middle - middle / 1.5, order=1, mode="nearest"
        )
        np.testing.assert_allclose(made[0, channel], wanted, atol=1e-5)


def test_consecutive_moves_interpolate_only_once() -> None:
    """Turning there and back gives the image again; two interpolations would have blurred it."""
    image = np.random.default_rng(1).random((1, 1, 9, 9)).astype(np.float32)
    joined = rotating(_one(30)) @ rotating(_one(-30))
    np.testing.assert_allclose(moved(image, joined, None), image, atol=1e-4)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 1), (2, 2)])
def test_tiny_images_can_be_turned(size: tuple[int, int]) -> None:
    """An image of one row or one column has no neighbours to interpolate with."""
    image = np.ones((3, 1, *size), np.float32)
    made = view(views(image, {"rotate": 30}, {"resized_crop": 0.5}, {"shift": 0.5}), 3).inputs["x"]
    assert made.shape == image.shape
    assert np.isfinite(made).all()


def test_a_crop_is_a_part_of_the_padded_image() -> None:
    """Each view of a crop by 2 is one of the 25 windows of the image with a border of 2, and not always the same."""
    image = np.random.default_rng(2).random((40, 1, 6, 6)).astype(np.float32)
    made = view(views(image, {"crop": {"padding": 2}}), 40).inputs["x"]
    padded = np.pad(image, [(0, 0), (0, 0), (2, 2), (2, 2)], constant_values=0)
    found = {
        next(
            (row, column)
            for row in range(5)
            for column in range(5)
            if np.array_equal(made[number], padded[number, :, row : row + 6, column : column + 6])
        )
        for number in range(40)
    }
    assert len(found) > 12


def test_a_flip_has_the_share_that_was_asked_for() -> None:
    """Of 2000 images, about 30 % are mirrored left to right, and none top to bottom."""
    image = np.broadcast_to(np.array([[0, 1], [2, 3]], np.float32), (2000, 1, 2, 2)).copy()
    made = view(views(image, {"flip": 0.3}), 2000).inputs["x"]
    assert set(map(tuple, made.reshape(2000, 4).tolist())) == {(0, 1, 2, 3), (1, 0, 3, 2)}
    assert 0.26 < (made[:, 0, 0, 0] == 1).mean() < 0.34


def test_a_resized_crop_shows_only_a_part() -> None:
    """A ramp whose window is enlarged spans less of the values than before, and never leaves them."""
    ramp = np.broadcast_to(np.linspace(0, 1, 32, dtype=np.float32), (50, 1, 32, 32)).copy()
    made = view(views(ramp, {"resized_crop": {"area": 0.25, "ratio": 1}}), 50).inputs["x"]
    spans = made.max(axis=(1, 2, 3)) - made.min(axis=(1, 2, 3))
    assert made.min() >= 0
    assert made.max() <= 1
    assert 0.45 < spans.min() < 0.7
    assert spans.max() <= 1


MOVES: list[Any] = ["flip", {"shift": 0.3}, {"crop": 2}, "resized_crop", {"rotate": 40}, {"shear": 20}, {"scale": 0.5}]


@pytest.mark.parametrize("step", [*MOVES, {"randaugment": {"magnitude": 20, "n": 3}}])
def test_a_mask_moves_with_its_image(step: Any) -> None:
    """Where the image of a bright square is bright, its mask says 1, and elsewhere it says 0, also at edges."""
    image = np.zeros((16, 1, 24, 24), np.float32)
    image[:, :, 6:16, 8:18] = 1
    made = view(views(image, step, targets=image[:, 0].astype(np.int64)), 16)
    assert made.targets is not None
    assert made.targets.shape == (16, 24, 24)
    shown = made.inputs["x"][:, 0]
    clear = np.abs(shown - 0.5) > 0.45  # colour operations of RandAugment may invert or flatten an image
    agree = [
        ((row > 0.5) == (mask == 1))[sure].mean() for row, mask, sure in zip(shown, made.targets, clear) if sure.any()
    ]
    if "randaugment" in str(step):
        assert np.median(agree) > 0.9
        return
    assert min(agree) == 1
    assert not np.array_equal(made.targets, image[:, 0])


def test_places_of_a_mask_that_no_image_covers_do_not_count() -> None:
    """They become -100, or 255 in masks of bytes, which losses and metrics leave out."""
    image = np.ones((20, 1, 8, 8), np.float32)
    for kind, void in ((np.int64, -100), (np.uint8, 255)):
        made = view(views(image, {"shift": 0.3}, targets=np.ones((20, 8, 8), kind)), 20)
        assert made.targets is not None
        np.testing.assert_array_equal(made.targets == void, made.inputs["x"][:, 0] == 0)
        assert (made.targets == void).any()


def test_masks_of_values_are_interpolated_and_may_have_several_channels() -> None:
    """Dense values `[N, K, H, W]` move as the image does: a copy of the image as its target stays a copy."""
    image = np.random.default_rng(3).random((8, 2, 10, 12)).astype(np.float32)
    image[:, :, 0, 0], image[:, :, 0, 1] = 0, 1
    made = view(views(image, {"rotate": 25}, "flip", targets=image.copy()), 8)
    np.testing.assert_array_equal(made.inputs["x"], made.targets)


def test_images_with_channels_last_and_grey_images_move_alike() -> None:
    """`[H, W, C]` and `[H, W]` give the same views as `[C, H, W]`."""
    image = np.random.default_rng(4).random((6, 3, 9, 8)).astype(np.float32)
    steps: list[Any] = [{"rotate": 20}, "flip"]
    first = view(views(image, *steps), 6).inputs["x"]
    last = view(views(np.ascontiguousarray(image.transpose(0, 2, 3, 1)), *steps), 6).inputs["x"]
    np.testing.assert_array_equal(first, last.transpose(0, 3, 1, 2))
    grey = view(views(image[:, 0].copy(), *steps), 6).inputs["x"]
    np.testing.assert_array_equal(first[:, 0], grey)


def test_two_images_of_a_sample_move_alike() -> None:
    """A pair of images keeps its alignment; `input` changes one of them alone."""
    pair: dict[str, Array] = {name: np.random.default_rng(5).random((4, 1, 8, 8)).astype(np.float32) for name in "ab"}
    made = view(views(pair, {"rotate": 30}), 4).inputs
    np.testing.assert_array_equal(made["a"], made["b"])
    alone = view(views(pair, {"rotate": {"degrees": 30, "input": "b"}}), 4).inputs
    np.testing.assert_array_equal(alone["a"], pair["a"])
    np.testing.assert_array_equal(alone["b"], made["b"])


def test_whole_numbers_stay_bytes() -> None:
    """Images of uint8 stay uint8, rounded and within 0 to 255."""
    image = np.full((5, 3, 8, 8), 255, np.uint8)
    made = view(views(image, {"rotate": 30}, "color", {"noise": 0.2}), 5).inputs["x"]
    assert made.dtype == np.uint8
    assert made.max() > 200


def _boxed(*augment: Any, count: int = 30) -> tuple[Array, Array]:
    """Views of images with a bright rectangle, and the boxes around it, of which the second fills up."""
    image = np.zeros((count, 1, 40, 30), np.float32)
    image[:, :, 12:20, 10:16] = 1
    boxes = np.tile(np.array([[10, 12, 16, 20, 3], [0, 0, 0, 0, -1]], np.float32), (count, 1, 1))
    split = ArraySplit({"x": image}, boxes)
    made = view(views_of(split, TrainOptions(augment=augment).augment, task="detection"), count)
    assert made.targets is not None
    return made.inputs["x"][:, 0], made.targets


@pytest.mark.parametrize("step", [{"flip": {"vertical": 0.5}}, {"shift": 0.1}, {"crop": 3}])
def test_boxes_move_exactly_with_their_images(step: Any) -> None:
    """After whole pixels and mirrors, each box is the rectangle of its image, and what fills up stays."""
    images, boxes = _boxed(step)
    for image, (box, filler) in zip(images, boxes, strict=True):
        rows, columns = np.nonzero(image)
        assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1, 3]
        assert filler.tolist() == [0, 0, 0, 0, -1]


@pytest.mark.parametrize("step", [{"rotate": 30}, {"scale": 0.5}, {"shear": 20}, {"randaugment": {"magnitude": 9}}])
def test_boxes_enclose_what_was_turned(step: Any) -> None:
    """A turned rectangle lies within its box, which is no wider than its corners ask for."""
    images, boxes = _boxed(step)
    for image, (box, _) in zip(images, boxes, strict=True):
        if "randaugment" in step and not 0.9 < image.max() - image.min() <= 1:
            continue  # an operation on colours changed the background
        rows, columns = np.nonzero(image > 0.6)
        if "randaugment" in step and len(rows) > 200:
            continue
        assert box[4] == 3
        assert box[0] - 1 <= columns.min() <= box[0] + 4
        assert box[1] - 1 <= rows.min() <= box[1] + 5
        assert box[2] + 1 >= columns.max() + 1 >= box[2] - 4


def test_a_box_that_leaves_the_image_is_left_out() -> None:
    """Less than a tenth of it is left: its label becomes -1; a part that stays is cut at the edge."""
    images, boxes = _boxed({"shift": 0.6}, count=300)
    shown = images.sum(axis=(1, 2)) / 48
    assert (boxes[shown < 0.09, 0, 4] == -1).all()
    assert (boxes[shown > 0.11, 0, 4] == 3).all()
    assert (shown < 0.09).any()
    assert boxes[..., [0, 2]].max() <= 30
    assert boxes[..., :4].min() >= 0


def test_boxes_cannot_be_mixed() -> None:
    """mixup of boxes has no meaning here and is refused."""
    with pytest.raises(UserError, match="`mixup` cannot mix the targets of `task: detection`"):
        _boxed("mixup")
