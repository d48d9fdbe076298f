"""Explanations of pictures, texts and recordings: as a model in a file reads them, or as they are sent to a server."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain

import numpy as np

from ..core.console import SILENT, Console
from ..core.counts import counted
from ..core.errors import DataError, InputError
from ..core.explanation.explanation import Asked
from ..core.explanation.gallery import Gallery
from ..core.explanation.text_pieces import pieces_of
from ..core.preprocessing.decode_images import check_pixels, image_values, looks_like_image, open_served, pillow
from ..core.preprocessing.decode_sounds import read_sound, soundfile
from ..core.preprocessing.sample_reader import Raw, SampleReader
from ..core.preprocessing.specs import ImageInput, Preprocessing, SoundInput
from ..core.session import model_faults
from ..core.tensors import Array, Feeds
from ..serve.client import Client
from .explaining import Samples, Subject, gallery_of, inferred

SENT_EDGE = 512
"""Longest edge in pixels of the copies of a picture that are sent to a server; a larger picture is made smaller."""
SENT_BYTES = 4_000_000
"""Size of the copies in one request to a server."""
ALL_LABELS = 999_999
Prepare = Callable[[Raw, int], tuple[Subject, Samples]]
"""Makes the subject and the samples of one raw sample and its number."""


def raw_gallery(
    samples: Sequence[Raw],
    rows: Sequence[int],
    prepare: Prepare,
    asked: Sequence[Asked],
    source: str,
    console: Console = SILENT,
) -> Gallery:
    """Explain raw samples, each for everything that is asked.

    Args:
        rows: the numbers of those that are explained.
        source: where they are from, in words.

    Raises:
        InputError: there is no such sample, a sample cannot be read, or what is asked for does not fit the model.
    """
    if not rows:
        raise InputError(f"{source} has only {counted(samples, 'sample')}", "give a smaller --start")
    galleries = []
    for row in rows:
        subject, found = prepare(samples[row], row)
        galleries.append(gallery_of(subject, found, asked, lambda signature: signature, console))
    items = list(chain.from_iterable(gallery.items for gallery in galleries))
    return Gallery(galleries[0].model, source, galleries[0].signature, items)


def as_read(subject: Subject, field: str, reader: SampleReader) -> Prepare:
    """Samples as the inputs that the model in a file gets of them."""

    def prepare(value: Raw, row: int) -> tuple[Subject, Samples]:
        with model_faults(subject.name):
            found = reader.read({field: [value]})
        return subject, Samples(subject.name, found.feeds, [row], pieces=[pieces_of(reader, found)])

    return prepare


@dataclass(frozen=True)
class Sent:
    """A raw sample whose changed copies can be sent.

    Attributes:
        name: what it is, which is the name of the input in the explanation.
        array: pixels ``uint8[H, W, 3]``, a recording ``float32[samples]``, or the numbers of words from 1, where 0 is a
            word that is left out.
        write: makes of such an array what a request holds.
        preprocessing: how the array became of the sample, for drawings.
        pieces: the words of a text with the blanks before them.
    """

    name: str
    array: Array
    write: Callable[[Array], Raw]
    preprocessing: tuple[Preprocessing, ...] = ()
    pieces: Sequence[str] = ()


def as_sent(client: Client) -> Prepare:
    """Samples whose changed copies are sent to a server: parts of a picture or recording, or words of a text."""

    def prepare(value: Raw, row: int) -> tuple[Subject, Samples]:
        sent = sendable(value)

        def run(feeds: Feeds) -> Mapping[str, Array]:
            return _answers(client, [sent.write(one) for one in feeds[sent.name]])

        feeds = {sent.name: sent.array[None]}
        outputs = run(feeds)
        signature = inferred(feeds, outputs).naming(_classes(client, sent.write(sent.array), outputs))
        subject = Subject(client.address.name, run, replace(signature, preprocessing=sent.preprocessing))
        pieces = [{sent.name: sent.pieces}] if sent.pieces else []
        return subject, Samples(subject.name, feeds, [row], pieces=pieces)

    return prepare


def _answers(client: Client, values: Sequence[Raw]) -> dict[str, Array]:
    """The outputs of raw samples, in requests of limited size."""
    found: list[dict[str, Array]] = []
    start = size = 0
    for stop, value in enumerate(values):
        if size and size + len(value) > SENT_BYTES:
            found.append(client.classify_raw({"": values[start:stop]})[0])
            start, size = stop, 0
        size += len(value)
    found.append(client.classify_raw({"": values[start:]})[0])
    return {name: np.concatenate([one[name] for one in found]) for name in found[0]}


def _classes(client: Client, value: Raw, outputs: Mapping[str, Array]) -> list[str]:
    """The names of the classes, which a server tells with the scores of one sample; none if it has no names."""
    labels = client.say([value], ALL_LABELS)[0].get("labels") or []
    scores = next((array[0] for array in outputs.values() if array.shape == (1, len(labels))), None)
    if scores is None or len(np.unique(scores)) < len(scores):
        return []
    names = [""] * len(labels)
    for index, label in zip(np.argsort(-scores, kind="stable").tolist(), labels, strict=True):
        names[index] = str(label["label"])
    return names


def sendable(value: Raw) -> Sent:
    """A raw sample in the form in which parts of it can be replaced.

    Raises:
        InputError: it is no text, picture or recording, or has nothing that could be replaced.
        LimitError: it is too large.
        MachineError: the package that reads it is not installed.
    """
    if isinstance(value, str):
        pieces = re.findall(r"\s*\S+", value)
        if not pieces:
            raise InputError("the text has no words", "give a text with at least one word")
        return Sent("text", np.arange(1, len(pieces) + 1), partial(_text, pieces), (), pieces)
    try:
        return _picture(value) if looks_like_image(value[:12]) else _recording(value)
    except DataError as error:
        raise InputError(error.message, "give a picture, a recording or a text") from error


def _text(pieces: Sequence[str], numbers: Array) -> str:
    return "".join(piece for piece, number in zip(pieces, numbers.tolist(), strict=True) if number).strip()


def _picture(value: bytes) -> Sent:
    image = open_served(value, "the image")
    width, height = image.size
    check_pixels([(width, height)], len(value))
    times = min(1.0, SENT_EDGE / max(width, height))
    size = max(1, round(height * times)), max(1, round(width * times))
    spec = ImageInput("image", size, scale=1.0, channels_last=True)
    pixels = np.clip(np.rint(image_values(image, "the image", spec)), 0, 255)
    return Sent("image", pixels.astype(np.uint8), _png, (spec,))


def _png(pixels: Array) -> bytes:
    written = io.BytesIO()
    pillow().fromarray(pixels).save(written, format="PNG", compress_level=1)
    return written.getvalue()


def _recording(value: bytes) -> Sent:
    with io.BytesIO(value) as file:
        try:
            rate = int(soundfile().info(file).samplerate)
        except (RuntimeError, TypeError, ValueError) as error:
            raise DataError(f"the recording cannot be read: {error}", "") from error
    sound = read_sound(io.BytesIO(value), "the recording", SoundInput("audio", 0), len(value))
    return Sent("audio", sound, partial(_wav, rate))


def _wav(rate: int, sound: Array) -> bytes:
    written = io.BytesIO()
    soundfile().write(written, sound, rate, format="WAV", subtype="FLOAT")
    return written.getvalue()
