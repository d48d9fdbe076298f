"""Which inputs of a model a description of data fits."""

from __future__ import annotations

import pytest

from retort.core.preprocessing.fitting import preprocessed, single_field
from retort.core.preprocessing.specs import ImageInput, Preprocessing, SoundInput, TextInput
from retort.core.signature import Signature
from retort.core.tensors import TensorSpec

IMAGE, SOUND, TEXT = ImageInput("picture", (8, 6)), SoundInput("wave", 8000, 0.5), TextInput(length=16)


def model(dtype: str, *shape: int | str, name: str = "x") -> Signature:
    """A model with one input."""
    return Signature((TensorSpec(name, dtype, shape),), ())


@pytest.mark.parametrize(
    ("wanted", "given", "fits"),
    [
        (IMAGE, model("float32", "batch", 3, 8, 6), True),
        (IMAGE, model("uint8", "batch", 8, 6, 3), True),
        (IMAGE, model("float32", 1, 3, "height", "width"), True),
        (IMAGE, model("float32", "batch", 1, 8, 6), False),
        (IMAGE, model("float32", 3, "batch", 8, 6), False),
        (SOUND, model("float32", "batch", 4000), True),
        (SOUND, model("float32", "batch", 1, 4000), True),
        (SOUND, model("float32", "batch", 4001), False),
        (SOUND, model("float32", 4000, "batch"), False),
        (TEXT, model("int64", "batch", 16), True),
        (TEXT, model("int64", "batch", "length"), True),
        (TEXT, model("int64", "length", "batch"), False),
        (TEXT, model("float32", "batch", 16), False),
    ],
)
def test_a_description_fits_by_shape_and_type(wanted: Preprocessing, given: Signature, fits: bool) -> None:
    """An input of another name is taken if it has the shape; one whose samples are not along axis 0 never is."""
    assert bool(preprocessed(given, [wanted]).preprocessing) is fits
    assert (single_field(preprocessed(given, [wanted])) is not None) is fits


def test_a_text_is_padded_to_few_sizes_only_with_a_mask() -> None:
    """Without a mask the padding would change the answer, so that a free length stays that of the training."""
    ids, mask = (TensorSpec(name, "int64", ("batch", "length")) for name in ("input_ids", "attention_mask"))
    both = TextInput((("input_ids", "input_ids"), ("attention_mask", "attention_mask")), "tokenizer", free=True)
    (masked,) = preprocessed(Signature((ids, mask), ()), [both]).preprocessing
    (bare,) = preprocessed(Signature((ids,), ()), [both]).preprocessing
    assert isinstance(masked, TextInput)
    assert isinstance(bare, TextInput)
    assert (masked.free, bare.free) == (True, False)
