"""The arguments of every kind of data source: frozen models that name an unknown argument and its nearest spelling."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from ..counts import counted
from .option_types import Count, Options, Positive


def _listed(value: Any) -> Any:
    """One name, or names with commas between them, as a list."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return [value] if isinstance(value, int) and not isinstance(value, bool) else value


def _columns(value: Any) -> Any:
    """Names or numbers of columns as a list: ``1,2`` of a command line are numbers, as ``[1, 2]`` is."""
    listed = _listed(value)
    if not isinstance(value, str):
        return listed
    return [int(part) if re.fullmatch(r"-?\d+", part) else part for part in listed]


Names = Annotated[tuple[str | int, ...], BeforeValidator(_columns)]
Channels = Annotated[
    tuple[float, ...], BeforeValidator(lambda value: [value] if isinstance(value, int | float) else value)
]
Size = Annotated[
    tuple[Count, Count], BeforeValidator(lambda value: [value, value] if isinstance(value, int) else value)
]


class LabelOptions(Options):
    """Labels of samples."""

    classes: Annotated[tuple[str, ...], BeforeValidator(lambda value: _texts(value))] = Field(
        default=(),
        description="Names of the classes in the order of the model's scores. The default is the order of the alphabet "
        "for text, and the order of size for whole numbers.",
    )


def _texts(value: Any) -> Any:
    listed = _listed(value)
    return [str(item) for item in listed] if isinstance(listed, list | tuple) else listed


class EncodingOptions(Options):
    """Text as numbers."""

    tokenizer: str | None = Field(
        default=None,
        description="Tokenizer of the texts: a Hugging Face folder, or a tokenizer.json. It gives `input_ids` and "
        "`attention_mask`, and `token_type_ids` where the tokenizer's model takes them.",
    )
    vocabulary: str | None = Field(
        default=None,
        description="Symbols instead of tokens: `bytes` (0 pads, byte b is b + 1), `characters` (0 pads, 1 is unknown, "
        "then the characters of the training texts in order), or a file with one symbol per line. It gives "
        "`input_ids`.",
    )
    max_length: Count | None = Field(
        default=None,
        description="Number of tokens per sample; longer texts are cut, shorter ones padded. The default is the "
        "longest of the first 1024 training texts, at most 512, in steps of 8.",
    )
    lengths: bool = Field(
        default=False, description="Give the number of values before the padding as the further input `lengths`."
    )


class PixelOptions(Options):
    """Images."""

    size: Size = Field(
        default=(224, 224), description="Pixels after resizing: one number for a square, or [height, width]."
    )
    mode: Literal["RGB", "L"] = Field(default="RGB", description="Three channels, or grey (L).")
    mean: Channels = Field(default=(0.0,), description="Subtracted from each channel after scaling to [0, 1].")
    std: Channels = Field(default=(1.0,), description="Divides each channel after that.")
    scale: Positive = Field(
        default=255.0, description="Divides the pixels, 0 to 255, before `mean` and `std` are applied."
    )
    resize: int = Field(
        default=0,
        ge=0,
        description="Pixels of the shorter edge after resizing, of which the middle of `size` is cut out. The default, "
        "0, stretches the whole image to `size`.",
    )
    resample: Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"] = Field(
        default="bicubic", description="Filter of the resizing."
    )

    @model_validator(mode="after")
    def _of_channels(self) -> Self:
        channels = {"RGB": 3, "L": 1}[self.mode]
        for name in ("mean", "std"):
            count = len(getattr(self, name))
            if count not in (1, channels):
                wanted = f"1 value or {channels}" if channels > 1 else "1 value"
                raise ValueError(f"{name} has {counted(count, 'value')}, but mode {self.mode} takes {wanted}")
        if 0 in self.std:
            raise ValueError("std must not be 0")
        return self


class SoundOptions(Options):
    """Recordings."""

    sample_rate: Count | None = Field(
        default=None,
        description="Samples per second, to which recordings of other rates are resampled. By default all recordings "
        "must have one rate.",
    )
    seconds: Positive | None = Field(
        default=None,
        description="Length in seconds: longer recordings are cut at their end, shorter ones padded with zeros. By "
        "default all recordings must have one length.",
    )
    channel_axis: bool = Field(
        default=False, description="Give [batch, 1, samples] instead of [batch, samples]. Channels are averaged."
    )


class TargetOptions(LabelOptions):
    """The column of the targets."""

    target: str | int | None = Field(
        default=None,
        description="Column of the targets, by name or by its number from 1; `none` for samples without targets. The "
        "default is the first that is called label, labels, target, targets, class, classes or y, else the last "
        "column.",
    )


class TableOptions(EncodingOptions, TargetOptions):
    """Columns of a table."""

    features: Names = Field(
        default=(),
        description="Columns of the input `features`, in this order. The default is every column of numbers but the "
        "target.",
    )
    ignore: Names = Field(default=(), description="Columns that are not read.")
    inputs: dict[str, Names] = Field(
        default_factory=dict,
        description="Further inputs: the columns of each, such as `{city: [city_id], weather: [wind, rain]}`. Whole "
        "numbers stay int64.",
    )
    text: Names = Field(
        default=(),
        description="Column of the text, or two columns for pairs. The default is the only text column beside the "
        "target.",
    )
    split: str | int | None = Field(
        default=None,
        description="Column that names the split of each row. The default is a column called split or subset that "
        "holds names of splits.",
    )
    pad: bool = Field(
        default=False, description="Pad lists of different lengths with zeros to the longest, or to `max_length`."
    )
    dtype: Literal["float32", "int64"] | None = Field(
        default=None, description="Type of inputs that are lists. The default is int64 for whole numbers, else float32."
    )


class CsvOptions(TableOptions):
    """A CSV or TSV file."""

    header: bool | None = Field(
        default=None, description="Whether the first line has the names of the columns. The default is to look."
    )
    delimiter: str | None = Field(
        default=None, min_length=1, max_length=1, description="Character between cells. The default is to look."
    )
    encoding: str = Field(default="utf-8", description="Encoding of the file, such as latin-1 or utf-16.")


class JsonOptions(TableOptions):
    """A JSON Lines file, or a JSON array of objects."""

    encoding: str = Field(default="utf-8", description="Encoding of the file.")


class ArrowOptions(SoundOptions, PixelOptions, TableOptions):
    """A Parquet file, or a folder that `save_to_disk` of `datasets` wrote."""


class TextOptions(EncodingOptions, LabelOptions):
    """Text files: one per class with a sample per line, or one folder per class with a file per sample."""

    encoding: str = Field(default="utf-8", description="Encoding of the files.")


class ImageOptions(PixelOptions, TargetOptions):
    """A folder of images."""

    name: str = Field(default="image", description="Name of the input.")


class AudioOptions(SoundOptions, TargetOptions):
    """A folder of recordings."""

    name: str = Field(default="audio", description="Name of the input.")


class ArrayOptions(LabelOptions):
    """An .npz file, a folder of .npy files, or one .npy file."""


SOURCES: dict[str, type[Options]] = {
    "CSV and TSV": CsvOptions,
    "JSON Lines and JSON": JsonOptions,
    "Parquet, and folders of `datasets`": ArrowOptions,
    "Text files": TextOptions,
    "Images": ImageOptions,
    "Audio": AudioOptions,
    "Arrays": ArrayOptions,
}
"""The kinds of data sources with arguments, in the order of the guide."""
