"""How raw samples become the inputs of a model: one frozen description per picture, text or recording.

A description is made by the data source that a model was trained on, or from the processor files of a Hugging Face
folder. It is part of the model's signature, so that every artifact behind has it. Part of the runtime half: standard
library only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Literal, TypeAlias, get_args

Mode = Literal["RGB", "L"]
Resample = Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]
Encoding = Literal["bytes", "characters", "tokenizer"]
Side = Literal["left", "right"]
TOKEN_INPUTS = ("input_ids", "attention_mask", "token_type_ids", "lengths")
"""What a text gives: the numbers, which of them are no padding, the text of a pair that each is from, the count."""


class _OneFile:
    """A description of one file per sample, which makes one input of the same name."""

    input: str

    @property
    def fields(self) -> tuple[str, ...]:
        """The names under which a request gives it."""
        return (self.input,)

    @property
    def inputs(self) -> tuple[str, ...]:
        """The inputs of the model that it makes."""
        return (self.input,)


@dataclass(frozen=True)
class ImageInput(_OneFile):
    """A picture as ``[C, H, W]``, or as ``[H, W, C]`` with ``channels_last``.

    The value of a channel is ``(pixel / scale - mean) / std`` with pixels from 0 to 255.

    Attributes:
        input: name of the model's input.
        size: height and width in pixels.
        resize: length of the shorter edge in pixels, after which the middle is cut out; 0 stretches to ``size``.
        floor: whether half a pixel of the place of the middle is dropped, as transformers does, instead of rounded to
            an even number, as torchvision does.
    """

    kind: ClassVar[str] = "image"
    input: str = "image"
    size: tuple[int, int] = (224, 224)
    mode: Mode = "RGB"
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    scale: float = 255.0
    resize: int = 0
    resample: Resample = "bicubic"
    channels_last: bool = False
    floor: bool = False

    def describe(self) -> str:
        """The steps in words."""
        height, width = self.size
        edge = f"shorter edge {self.resize}, middle {height}×{width}" if self.resize else f"{height}×{width}"
        numbers = f"/ {self.scale:g}" if self.scale != 1 else "0 to 255"
        normal = "" if (set(self.mean), set(self.std)) == ({0.0}, {1.0}) else f", mean {_numbers(self.mean)}"
        normal += f", std {_numbers(self.std)}" if normal else ""
        return f"{self.input}: a picture, {self.mode} {edge} ({self.resample}), {numbers}{normal}"


@dataclass(frozen=True)
class TextInput:
    """A text, or a pair of texts, as rows of numbers.

    Attributes:
        inputs_of: the model's input of each of :data:`TOKEN_INPUTS` that it takes, as pairs.
        encoding: the numbers are those of bytes (b is b + 1), of the signature's symbols, or of a tokenizer's tokens.
        length: number of values of a sample; longer texts are cut, shorter ones are padded.
        free: whether a request may be padded to fewer values, because a mask says what is padding.
        pair: whether a sample is two texts.
        sha256: of the file of the tokenizer.
        pad_id: number that pads ``input_ids``; ``pad_type_id`` pads ``token_type_ids``.
    """

    kind: ClassVar[str] = "text"
    inputs_of: tuple[tuple[str, str], ...] = (("input_ids", "input_ids"),)
    encoding: Encoding = "bytes"
    length: int = 128
    free: bool = False
    pair: bool = False
    sha256: str = ""
    pad_id: int = 0
    pad_type_id: int = 0
    pad_token: str = "[PAD]"
    pad_side: Side = "right"
    cut_side: Side = "right"

    @property
    def fields(self) -> tuple[str, ...]:
        """The names under which a request gives it."""
        return ("text", "text_pair") if self.pair else ("text",)

    @property
    def inputs(self) -> tuple[str, ...]:
        """The inputs of the model that it makes."""
        return tuple(name for _, name in self.inputs_of)

    def describe(self) -> str:
        """The encoding in words."""
        unit = {"tokenizer": "tokens"}.get(self.encoding, self.encoding)
        what = "a pair of texts" if self.pair else "a text"
        return f"{', '.join(self.inputs)}: {what}, {'up to ' if self.free else ''}{self.length} {unit}"


@dataclass(frozen=True)
class SoundInput(_OneFile):
    """A recording as ``[samples]``, or as ``[1, samples]`` with ``channel_axis``; channels are averaged.

    Attributes:
        input: name of the model's input.
        sample_rate: samples per second, to which recordings of other rates are resampled; 0 leaves their own.
        seconds: to which recordings are cut or padded with zeros; 0 leaves their length.
        normalize: whether each recording gets the mean 0 and the variance 1.
    """

    kind: ClassVar[str] = "audio"
    input: str = "audio"
    sample_rate: int = 16_000
    seconds: float = 0.0
    channel_axis: bool = False
    normalize: bool = False

    def describe(self) -> str:
        """The steps in words."""
        length = f"{self.seconds:.3g} s" if self.seconds else "any length"
        return f"{self.input}: a recording of {self.sample_rate} Hz, {length}"


Preprocessing: TypeAlias = ImageInput | TextInput | SoundInput
_KINDS: dict[str, type[Preprocessing]] = {one.kind: one for one in (ImageInput, TextInput, SoundInput)}
_CHOICES: dict[str, Any] = {
    "mode": Mode,
    "resample": Resample,
    "encoding": Encoding,
    "pad_side": Side,
    "cut_side": Side,
}


A_SAMPLE = {"image": "an image", "text": "a text", "audio": "a recording"}
"""What a sample of each kind is, in words."""
SAMPLES = {"image": "images", "text": "texts", "audio": "recordings"}
"""The same in the plural."""


def spec_to_json(spec: Preprocessing) -> dict[str, Any]:
    """JSON-ready values of a description, with its kind."""
    return {"kind": spec.kind, **asdict(spec)}


def spec_from_json(raw: Mapping[str, Any]) -> Preprocessing:
    """Inverse of :func:`spec_to_json`.

    Raises:
        ValueError: the kind or a field is unknown, or a value has a wrong type.
    """
    kind = _KINDS.get(str(raw.get("kind")))
    if kind is None:
        raise ValueError(f"unknown preprocessing {str(raw.get('kind'))[:40]!r}")
    defaults = {item.name: item.default for item in fields(kind)}
    values = {key: _tuples(value) for key, value in raw.items() if key != "kind"}
    for key, value in values.items():
        if key not in defaults:
            raise ValueError(f"unknown key {key[:40]!r} of {raw['kind']}")
        wanted = defaults[key]
        if isinstance(wanted, float) and type(value) is int:
            values[key] = value = float(value)
        if type(value) is not type(wanted) or (key in _CHOICES and value not in get_args(_CHOICES[key])):
            raise ValueError(f"{key} of {raw['kind']} is {str(value)[:40]!r}")
    return kind(**values)


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _numbers(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:.4g}" for value in values)
