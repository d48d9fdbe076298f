"""Raw samples of a request, or of files, as the inputs of a model. Part of the runtime half."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..errors import ArtifactError, DataError, InputError, MachineError
from ..signature import Signature
from ..tensors import Array
from .decode_images import check_pixels, image_values, open_served, pillow
from .decode_sounds import read_sound, soundfile
from .specs import ImageInput, Preprocessing, SoundInput, TextInput
from .symbols import numbered, padded, values_of
from .tokens import Tokenizer, buckets

Raw = str | bytes
Given = Mapping[str, Sequence[Raw]]
"""For each field of a request, one value per sample: the bytes of a file, or a text."""


@dataclass(frozen=True)
class Samples:
    """What raw samples became, and what an answer about them needs.

    Attributes:
        feeds: one array per input, with a leading batch axis.
        texts: the first text of each sample, if there are texts.
        offsets: where each token begins and ends in it, ``int64[N, length, 2]``; None without a tokenizer.
        pictures: width and height of each picture as it was sent.
    """

    feeds: dict[str, Array] = field(default_factory=dict)
    texts: Sequence[str] = ()
    offsets: Array | None = None
    pictures: Sequence[tuple[int, int]] = ()


class SampleReader:
    """Makes the inputs of one model of pictures, texts and recordings.

    Args:
        signature: of the model.
        tokenizer: the file of its tokenizer, if it has one.

    Raises:
        MachineError: a package that the inputs need is not installed.
        ArtifactError: the tokenizer is missing, or is not the one with which the model was trained.
        UserError: the model takes fewer tokens than the tokenizer adds to each text.
    """

    def __init__(self, signature: Signature, tokenizer: bytes = b"") -> None:
        self.signature = signature
        self.specs: dict[str, Preprocessing] = {name: spec for spec in signature.preprocessing for name in spec.fields}
        self._dtypes = {spec.name: spec.dtype for spec in signature.inputs}
        self._symbols = numbered(signature.symbols)
        self.tokenizer: Tokenizer | None = None
        for spec in signature.preprocessing:
            self._require(spec, tokenizer)

    def _require(self, spec: Preprocessing, tokenizer: bytes) -> None:
        if isinstance(spec, ImageInput):
            pillow()
        elif isinstance(spec, SoundInput):
            soundfile()
        elif spec.encoding == "tokenizer":
            self.tokenizer = _tokenizer(spec, tokenizer)

    def read(self, given: Given) -> Samples:
        """The inputs of raw samples; ``given`` has all fields of each description that it uses.

        Raises:
            InputError: a sample cannot be read; the message names the field and the sample.
            LimitError: it is too large.
        """
        samples = Samples()
        for spec in self.signature.preprocessing:
            if spec.fields[0] not in given:
                continue
            if isinstance(spec, TextInput):
                columns = [_texts(given[name], name, spec) for name in spec.fields]
                samples = self._with_texts(samples, columns, spec)
            else:
                samples.feeds[spec.input], sizes = self._files(given[spec.input], spec)
                samples = replace(samples, pictures=sizes or samples.pictures)
        return samples

    def other_lengths(self, known: Mapping[str, Array]) -> list[dict[str, Array]]:
        """Known inputs, cut or padded to each length to which texts are padded; none if all have one length."""
        found: list[dict[str, Array]] = []
        for spec in self.signature.preprocessing:
            if isinstance(spec, TextInput) and spec.free and set(known) == set(spec.inputs):
                found += [_resized(known, spec, size) for size in buckets(spec.length)]
        return found

    def _with_texts(self, samples: Samples, columns: Sequence[Sequence[str]], spec: TextInput) -> Samples:
        if self.tokenizer is not None and spec.encoding == "tokenizer":
            found = self.tokenizer.encode(columns, spec, free=True)
            made, offsets = found.inputs, found.offsets
        else:
            symbols = None if spec.encoding == "bytes" else self._symbols
            ids, used = padded([values_of(text[: spec.length], symbols) for text in columns[0]], spec.length)
            made, offsets = {"input_ids": ids, "lengths": used}, None
        for kind, name in spec.inputs_of:
            samples.feeds[name] = made[kind].astype(self._dtypes.get(name, "int64"))
        return replace(samples, texts=columns[0], offsets=offsets)

    def _files(self, values: Sequence[Raw], spec: ImageInput | SoundInput) -> tuple[Array, Sequence[tuple[int, int]]]:
        """The input that files make, and the sizes of pictures; no picture is unpacked before all may be."""
        names = [f"{spec.kind} {index} of {len(values)}" for index in range(1, len(values) + 1)]
        names = names if len(values) > 1 else [f"the {spec.kind}"]
        files = [_content(value, name, spec) for value, name in zip(values, names, strict=True)]
        if isinstance(spec, SoundInput):
            return _stacked([_sound(file, name, spec) for file, name in zip(files, names, strict=True)], spec), ()
        with _told(spec, "send it in a known format"):
            images = [open_served(file, name) for file, name in zip(files, names, strict=True)]
            sizes = [(int(image.width), int(image.height)) for image in images]
            check_pixels(sizes, sum(map(len, files)))
            arrays = [self._picture(images.pop(0), name, spec) for name in names]
        return np.stack(arrays), sizes

    def _picture(self, image: Any, where: str, spec: ImageInput) -> Array:
        array = image_values(image, where, spec)
        wanted = self._dtypes.get(spec.input, "float32")
        return np.clip(np.rint(array), 0, 255).astype(np.uint8) if wanted == "uint8" else array


def _content(value: Raw, where: str, spec: ImageInput | SoundInput) -> bytes:
    if isinstance(value, str):
        raise InputError(f"{where} is a text", f"send the bytes of a file as '{spec.input}'", input=spec.input)
    return value


def _sound(content: bytes, where: str, spec: SoundInput) -> Array:
    with _told(spec, f"send recordings of {spec.sample_rate} Hz"):
        return read_sound(io.BytesIO(content), where, spec, file_bytes=len(content))


@contextmanager
def _told(spec: ImageInput | SoundInput, remedy: str) -> Iterator[None]:
    """Faults of a file as faults of the request."""
    try:
        yield
    except DataError as error:
        raise InputError(error.message, "send it in a known format", input=spec.input) from error
    except MachineError as error:
        raise InputError(f"the {spec.kind} cannot be read: {error.message}", remedy, input=spec.input) from error


def _stacked(arrays: Sequence[Array], spec: SoundInput) -> Array:
    if len({array.shape for array in arrays}) > 1:
        message = "the recordings have different lengths, and this model takes them as they are"
        raise InputError(message, "send recordings of one length together", input=spec.input)
    return np.stack(arrays)


def _tokenizer(spec: TextInput, content: bytes) -> Tokenizer:
    if not content:
        raise ArtifactError(
            "the model takes the tokens of a tokenizer, and there is none beside it", "pack it again with its tokenizer"
        )
    made = Tokenizer(content)
    if made.sha256 != spec.sha256:
        raise ArtifactError(
            f"the tokenizer (SHA-256 {made.sha256[:12]}…) is not the one with which the model was trained "
            f"({spec.sha256[:12]}…)",
            "give the tokenizer of the training data",
        )
    made.encode([["a"]] * len(spec.fields), spec)
    return made


def _resized(known: Mapping[str, Array], spec: TextInput, size: int) -> dict[str, Array]:
    """The inputs of texts with another number of values."""
    padding = {"input_ids": spec.pad_id, "token_type_ids": spec.pad_type_id}
    made = {}
    for kind, name in spec.inputs_of:
        array = known[name]
        cut = array[:, :size] if array.ndim == 2 else np.minimum(array, size)
        widths = [(0, 0), (0, size - cut.shape[1])] if cut.ndim == 2 else [(0, 0)]
        made[name] = np.ascontiguousarray(np.pad(cut, widths, constant_values=padding.get(kind, 0)))
    return made


def _texts(values: Sequence[Raw], name: str, spec: TextInput) -> list[str]:
    made = []
    for value in values:
        try:
            text = value if isinstance(value, str) else bytes(value).decode("utf-8")
            if spec.encoding == "tokenizer" and not text.isascii():
                text.encode("utf-8")  # JSON can write half of a character, which no tokenizer takes
        except UnicodeError as error:
            raise InputError(f"'{name}' is not UTF-8", "send the text in UTF-8", input=name) from error
        made.append(text)
    return made
