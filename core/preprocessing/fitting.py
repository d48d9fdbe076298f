"""Which inputs of a model the descriptions of data fit. Part of the runtime half: standard library and numpy only."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Protocol

from ..signature import Signature
from ..tensors import BATCH, TensorSpec
from .specs import ImageInput, Preprocessing, SoundInput, TextInput


class Described(Protocol):
    """What describes data besides the names of classes: a signature has it, and so have splits."""

    @property
    def symbols(self) -> tuple[str, ...]:
        """Characters in the order of their numbers."""
        ...

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the columns of a table."""
        ...

    @property
    def preprocessing(self) -> tuple[Preprocessing, ...]:
        """How pictures, texts and recordings become inputs."""
        ...


def completed(signature: Signature, source: Described) -> Signature:
    """The signature with symbols, features and preprocessing of ``source`` that it does not have and that fit it."""
    told = signature.spelling(source.symbols).tabulating(source.features)
    if told.preprocessing or not source.preprocessing:
        return told
    return preprocessed(told, source.preprocessing)


def preprocessed(signature: Signature, preprocessing: Sequence[Preprocessing]) -> Signature:
    """The signature with those descriptions that fit its inputs, under the inputs' names."""
    found: list[Preprocessing] = []
    free = {spec.name: spec for spec in signature.inputs}
    for wanted in preprocessing:
        made = _text(wanted, free) if isinstance(wanted, TextInput) else _media(wanted, free)
        if made is not None:
            found.append(made)
            free = {name: spec for name, spec in free.items() if name not in made.inputs}
    return replace(signature, preprocessing=tuple(found))


def _media(wanted: ImageInput | SoundInput, free: dict[str, TensorSpec]) -> ImageInput | SoundInput | None:
    """The description for the input of the same name, else for the first that has the shape."""
    named = [free[wanted.input]] if wanted.input in free else list(free.values())
    for spec in filter(_rows_first, named):
        made = _image(wanted, spec) if isinstance(wanted, ImageInput) else _sound(wanted, spec)
        if made is not None:
            return made
    return None


def _image(wanted: ImageInput, spec: TensorSpec) -> ImageInput | None:
    channels = 3 if wanted.mode == "RGB" else 1
    for last, shape in ((False, (channels, *wanted.size)), (True, (*wanted.size, channels))):
        if len(spec.shape) == 4 and _agree(spec.shape[1:], shape) and spec.dtype.startswith(("float", "uint8")):
            return replace(wanted, input=spec.name, channels_last=last)
    return None


def _sound(wanted: SoundInput, spec: TensorSpec) -> SoundInput | None:
    samples = round(wanted.seconds * wanted.sample_rate) or "any"
    for axis, shape in ((False, (samples,)), (True, (1, samples))):
        if len(spec.shape) == len(shape) + 1 and _agree(spec.shape[1:], shape) and spec.dtype.startswith("float"):
            return replace(wanted, input=spec.name, channel_axis=axis)
    return None


def _rows_first(spec: TensorSpec) -> bool:
    """Whether the samples lie along the first axis, as those that are read do."""
    return BATCH not in spec.shape[1:]


def _agree(axes: Sequence[int | str], sizes: Sequence[int | str]) -> bool:
    """Whether every fixed axis has the size; a size that is not known agrees with any."""
    return all(axis == size or isinstance(axis, str) or isinstance(size, str) for axis, size in zip(axes, sizes))


def _text(wanted: TextInput, free: dict[str, TensorSpec]) -> TextInput | None:
    """The description for inputs of the same names; a single input that takes rows of numbers may have another one."""
    free = {name: spec for name, spec in free.items() if _rows_first(spec)}
    rows = [spec for spec in free.values() if spec.dtype in ("int32", "int64") and len(spec.shape) == 2]
    pairs = [(kind, name) for kind, name in wanted.inputs_of if name in free]
    if not any(kind == "input_ids" for kind, _ in pairs):
        if len(rows) != 1:
            return None
        pairs = [("input_ids", rows[0].name), *pairs]
    ids = next(free[name] for kind, name in pairs if kind == "input_ids")
    length = ids.shape[1] if len(ids.shape) == 2 else 0
    if ids not in rows or length == 0:
        return None
    masked = any(kind == "attention_mask" for kind, _ in pairs)
    wanted = wanted if isinstance(length, str) else replace(wanted, length=length)
    return replace(wanted, inputs_of=tuple(pairs), free=isinstance(length, str) and masked)


def others(signature: Signature) -> tuple[TensorSpec, ...]:
    """The inputs of a model that no description makes, which are given as arrays."""
    made: Collection[str] = {name for spec in signature.preprocessing for name in spec.inputs}
    return tuple(spec for spec in signature.inputs if spec.name not in made)


def has_tokenizer(signature: Signature) -> bool:
    """Whether a model takes the tokens of a tokenizer."""
    return any(isinstance(spec, TextInput) and spec.encoding == "tokenizer" for spec in signature.preprocessing)


def single_field(signature: Signature) -> str | None:
    """The field of a model that takes nothing but one picture, text or recording per sample; None for other models."""
    fields = [name for spec in signature.preprocessing for name in spec.fields]
    return fields[0] if len(fields) == 1 and not others(signature) else None
