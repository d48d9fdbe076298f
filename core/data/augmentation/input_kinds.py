"""What each input of a data set is: an image, a series, a recording, a row of tokens or of numbers, and its values."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...options.image_transforms import Kind
from ...preprocessing.specs import ImageInput, Preprocessing, SoundInput, TextInput
from ...tensors import Array

CHANNELS = (1, 3, 4)
"""Numbers of channels that an axis of an image without a description can have."""
WORDS: dict[Kind, str] = {
    "image": "an image",
    "series": "a series",
    "recording": "a recording",
    "tokens": "a row of tokens",
    "numbers": "a row of numbers",
}


@dataclass(frozen=True)
class TokenForm:
    """What is known about rows of tokens.

    Attributes:
        pad: number of the padding.
        mask: number of the mask token, or None.
        special: numbers of special tokens, which stay where they are.
        attention: the input that is 0 at padding, or empty.
        types: the input of the texts' numbers, which moves with the tokens, or empty.
        lengths: the input of the number of tokens, or empty.
        left: whether the padding is before the tokens.
    """

    pad: int = 0
    mask: int | None = None
    special: tuple[int, ...] = ()
    attention: str = ""
    types: str = ""
    lengths: str = ""
    left: bool = False


@dataclass(frozen=True)
class InputForm:
    """One input.

    Attributes:
        name: of the input.
        shape: of a sample.
        dtype: of its values.
        kinds: everything that it can be; none for inputs that no transform is made for.
        channels_last: whether the channels of an image are its last axis.
        black: value of black, or the smallest value, for each channel or for all.
        white: value of white, or the largest value.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    kinds: frozenset[Kind] = frozenset()
    channels_last: bool = False
    black: tuple[float, ...] = (0.0,)
    white: tuple[float, ...] = (1.0,)
    tokens: TokenForm = field(default=TokenForm())

    def describe(self) -> str:
        """``input 'image', an image (float32[3, 32, 32])``."""
        words = [text for kind, text in WORDS.items() if kind in self.kinds]
        what = " or ".join(words) or "of no kind that can be changed"
        return f"input '{self.name}', {what} ({self.dtype}[{', '.join(map(str, self.shape))}])"

    def summary(self) -> str:
        """``'image' (an image, values 0 to 1)``."""
        words = " or ".join(text for kind, text in WORDS.items() if kind in self.kinds)
        if "tokens" in self.kinds:
            return f"'{self.name}' ({words})"
        return f"'{self.name}' ({words}, values {min(self.black):.3g} to {max(self.white):.3g})"

    def opened(self, values: Array) -> Array:
        """Float32 values in the layout of transforms: ``[N, C, H, W]`` of images and series, else ``[N, values]``."""
        made = values.astype(np.float32)  # a copy, which transforms may change
        if {"image", "series"} & self.kinds:
            made = made[:, None] if made.ndim == 3 else made
            return np.ascontiguousarray(made.transpose(0, 3, 1, 2)) if self.channels_last else made
        return made.reshape(len(made), -1)

    def closed(self, values: Array) -> Array:
        """Inverse of :meth:`opened`, in the input's type."""
        if self.channels_last:
            values = values.transpose(0, 2, 3, 1)
        if self.dtype == "uint8":
            values = np.clip(np.rint(values), 0, 255)
        return np.ascontiguousarray(values.reshape(len(values), *self.shape).astype(self.dtype, copy=False))

    def levels(self, channels: int) -> tuple[Array, Array]:
        """Black and white of each channel, ``float32[C, 1, 1]``."""
        made = [np.broadcast_to(np.asarray(one, np.float32), (channels,)) for one in (self.black, self.white)]
        return made[0][:, None, None].copy(), made[1][:, None, None].copy()


def input_forms(
    example: Mapping[str, Array], preprocessing: Sequence[Preprocessing], tokenizer: bytes = b""
) -> dict[str, InputForm]:
    """The form of every input, by its name.

    Args:
        example: a few samples of each input, from which the range of values without a description is taken.
        preprocessing: the descriptions of inputs.
        tokenizer: the file of the tokenizer of texts.
    """
    described = {name: spec for spec in preprocessing for name in spec.inputs}
    return {name: _form(name, values, described.get(name), tokenizer) for name, values in example.items()}


def _form(name: str, values: Array, spec: Preprocessing | None, tokenizer: bytes) -> InputForm:
    shape, dtype = values.shape[1:], values.dtype.name
    if isinstance(spec, TextInput):
        ids = dict(spec.inputs_of).get("input_ids") == name
        kinds: frozenset[Kind] = frozenset(("tokens",) if ids else ())
        return InputForm(name, shape, dtype, kinds, tokens=_tokens(spec, tokenizer))
    if isinstance(spec, ImageInput):
        low, high = (
            np.broadcast_to((edge / spec.scale - np.array(spec.mean)) / spec.std, _channels(spec)) for edge in (0, 255)
        )
        if dtype == "uint8":
            low, high = np.zeros(1), np.full(1, 255.0)
        return InputForm(name, shape, dtype, frozenset(("image",)), spec.channels_last, _tuple(low), _tuple(high))
    low_value, high_value = _range(values)
    kinds = frozenset(("recording",)) if isinstance(spec, SoundInput) else _kinds(shape, dtype)
    last = kinds >= {"image"} and len(shape) == 3 and shape[0] not in CHANNELS and shape[2] in CHANNELS
    return InputForm(name, shape, dtype, kinds, last, (low_value,), (high_value,))


def _channels(spec: ImageInput) -> int:
    return 3 if spec.mode == "RGB" else 1


def _tuple(values: Array) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


def _kinds(shape: tuple[int, ...], dtype: str) -> frozenset[Kind]:
    """What samples of a shape can be; a grey image and a series look alike."""
    if dtype in ("int32", "int64"):
        return frozenset(("tokens",) if len(shape) == 1 else ())
    if not dtype.startswith("float") and dtype != "uint8":
        return frozenset()
    if len(shape) == 1:
        return frozenset(("recording", "numbers"))
    if len(shape) == 2:
        return frozenset(("recording",) if shape[0] == 1 else ("image", "series"))
    if len(shape) == 3:
        return frozenset(("image", "series") if shape[0] == 1 else ("image",))
    return frozenset()


def _range(values: Array) -> tuple[float, float]:
    """The usual range that contains the values: 0 to 1, -1 to 1 or 0 to 255; else their own."""
    if values.dtype == np.uint8:
        return 0.0, 255.0
    if values.dtype.kind != "f" or not values.size:
        return 0.0, 1.0
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    if high <= 1 and low >= -1:
        return (0.0 if low >= 0 else -1.0), 1.0
    if low >= 0 and 128 <= high <= 255:
        return 0.0, 255.0
    return low, max(high, low + 1e-6)


def _tokens(spec: TextInput, tokenizer: bytes) -> TokenForm:
    names = dict(spec.inputs_of)
    special, mask = special_tokens(tokenizer) if spec.encoding == "tokenizer" else ((), None)
    return TokenForm(
        spec.pad_id,
        mask,
        special,
        names.get("attention_mask", ""),
        names.get("token_type_ids", ""),
        names.get("lengths", ""),
        spec.pad_side == "left",
    )


def special_tokens(tokenizer: bytes) -> tuple[tuple[int, ...], int | None]:
    """The numbers of the special tokens of a ``tokenizer.json``, and that of its mask token."""
    if not tokenizer:
        return (), None
    added: list[dict[str, Any]] = json.loads(tokenizer).get("added_tokens", [])
    special = {int(token["id"]): str(token["content"]) for token in added if token.get("special")}
    masks = [number for number, text in special.items() if text.strip("[]<>|").lower() == "mask"]
    return tuple(sorted(special)), next(iter(masks), None)
