"""Pictures as arrays: the steps are those of Pillow, of torchvision and of transformers."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from retort.core.data.hf_processor import read_processor
from retort.core.preprocessing.decode_images import read_image
from retort.core.preprocessing.specs import ImageInput

RANDOM = np.random.default_rng(3)


def _png(values: np.ndarray[Any, Any]) -> io.BytesIO:
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, "PNG")
    stream.seek(0)
    return stream


def test_stretched_pictures_equal_plain_steps() -> None:
    """Without a shorter edge the picture is resized, divided and normalised."""
    values = RANDOM.integers(0, 255, (30, 41, 3), np.uint8)
    spec = ImageInput(size=(16, 20), mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4), resample="bilinear")
    plain = np.asarray(Image.fromarray(values).resize((20, 16), Image.Resampling.BILINEAR), np.float32) / 255
    wanted = (plain - np.array(spec.mean, np.float32)) / np.array(spec.std, np.float32)
    np.testing.assert_allclose(read_image(_png(values), "it", spec), wanted.transpose(2, 0, 1), rtol=1e-6)


@pytest.mark.parametrize("shape", [(50, 67, 3), (67, 50, 3), (33, 33, 3), (20, 91, 3)])
def test_the_middle_is_that_of_torchvision(shape: tuple[int, ...]) -> None:
    """Shorter edge and middle are those of torchvision's formulas, with halves rounded to even numbers."""
    values = RANDOM.integers(0, 255, shape, np.uint8)
    spec = ImageInput(size=(24, 25), resize=28)
    height, width = shape[:2]
    size = (28, int(28 * height / width)) if width < height else (int(28 * width / height), 28)
    resized = Image.fromarray(values).resize(size, Image.Resampling.BICUBIC)
    top, left = round((size[1] - 24) / 2.0), round((size[0] - 25) / 2.0)
    wanted = np.asarray(resized, np.float32)[top : top + 24, left : left + 25].transpose(2, 0, 1) / np.float32(255)
    np.testing.assert_array_equal(read_image(_png(values), "it", spec), wanted)


def test_grey_of_16_bits_is_not_white() -> None:
    """A value of 16 bits becomes the nearest one of 8 bits."""
    values = np.arange(0, 65_536, 16, dtype=np.uint16).reshape(64, 64)
    spec = ImageInput(size=(64, 64), mode="L", scale=1.0, resample="nearest")
    found = read_image(_png(values), "it", spec)[0]
    np.testing.assert_array_equal(found, np.floor(values / 257 + 0.5))


@pytest.mark.parametrize("name", ["ViT", "CLIP"])
@pytest.mark.parametrize("shape", [(50, 67, 3), (70, 45, 3), (33, 34, 3)])
def test_processors_of_transformers_agree(name: str, shape: tuple[int, ...], tmp_path: Any) -> None:
    """A folder's processor files give what the processor of transformers gives with Pillow."""
    transformers = pytest.importorskip("transformers")
    made = getattr(transformers, f"{name}ImageProcessorPil", None)
    if made is None:
        pytest.skip("this version of transformers has no such class")
    size = {"shortest_edge": 28} if name == "CLIP" else {"height": 24, "width": 24}
    processor = made(size=size, crop_size={"height": 24, "width": 25})
    processor.save_pretrained(tmp_path)
    (spec,) = read_processor(tmp_path).preprocessing
    assert isinstance(spec, ImageInput)
    values = RANDOM.integers(0, 255, shape, np.uint8)
    wanted = processor(Image.fromarray(values), return_tensors="np")["pixel_values"][0]
    np.testing.assert_allclose(read_image(_png(values), "it", spec), wanted, atol=1e-5)
