"""Recordings as arrays: one channel, one rate, one length. Part of the runtime half: libraries are imported in use."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError, LimitError
from ..system.installation import needed
from .mpeg_frames import begins_with_frames
from .resampling import ZEROS, resampled
from .specs import SoundInput

_MPEG = (b"ID3", b"\xff\xfb", b"\xff\xf3", b"\xff\xf2")
_PREFIX = re.compile(r"^Error opening [^:]*: ")
STARTS = (b"RIFF", b"fLaC", b"OggS", b"FORM", b".snd", *_MPEG)
"""The first bytes of WAV, FLAC, Ogg, AIFF, AU and MP3."""
SMALL_BYTES, MOST_BYTES = 1 << 25, 1 << 27
"""Sizes of a served recording as ``float32`` that are allowed for every file, and for the largest ones."""
USUAL_RATIO = 64
"""Bytes of ``float32`` per byte of a file, up to which a served recording is no bomb."""
MOST_CHANGE = 64
"""Largest factor of a change of the sample rate of a served recording."""


def looks_like_sound(start: bytes) -> bool:
    """Whether bytes begin as a recording does; 12 of them are enough."""
    return start.startswith(STARTS) and (start[:4] != b"RIFF" or start[8:12] == b"WAVE")


def read_sound(
    source: Path | IO[bytes], where: str, spec: SoundInput, file_bytes: int | None = None
) -> NDArray[np.float32]:
    """One recording, ``float32[samples]`` or ``float32[1, samples]``: channels averaged, resampled, cut or padded.

    Args:
        where: the recording in words, for messages.
        file_bytes: size of a file that anybody may have sent, so that much memory is refused by its header.

    Raises:
        MachineError: soundfile is not installed.
        DataError: it is no recording, is damaged or empty.
        LimitError: it is too long.
    """
    values, rate = _read(source, where, spec, file_bytes)
    if not len(values):
        raise DataError(f"{where} is empty", "remove or replace it")
    sound = values[:, 0] if values.shape[1] == 1 else values.mean(axis=1)
    if not np.isfinite(sound).all():
        raise DataError(f"{where} has NaN or infinite values", "remove or replace it")
    wanted = spec.sample_rate or rate
    sound = sound if rate == wanted else resampled(sound, rate, wanted)
    if spec.normalize:
        sound = (sound - sound.mean()) / np.sqrt(sound.var() + 1e-7)
    if spec.seconds:
        length = max(1, round(spec.seconds * wanted))
        sound = np.pad(sound[:length], (0, max(0, length - len(sound))))
    sound = np.ascontiguousarray(sound, np.float32)
    return sound[None] if spec.channel_axis else sound


def _read(
    source: Path | IO[bytes], where: str, spec: SoundInput, file_bytes: int | None
) -> tuple[NDArray[np.float32], int]:
    library = soundfile()
    try:
        with _file(source, where, file_bytes is not None) as given, library.SoundFile(given, closefd=False) as file:
            rate = int(file.samplerate)
            frames = min(file.frames, _frames(spec, rate))
            if file_bytes is not None:
                _check_length(frames, file.channels, rate, spec, where, file_bytes)
            return file.read(frames, dtype="float32", always_2d=True), rate
    except (RuntimeError, OSError, TypeError, ValueError, OverflowError) as error:  # SoundFileError is a RuntimeError
        what = _PREFIX.sub("", str(error))[:200]
        raise DataError(f"{where} is not a readable recording: {what}", "remove or replace it") from error


@contextmanager
def _file(source: Path | IO[bytes], where: str, served: bool) -> Iterator[str | int | IO[bytes]]:
    """What soundfile opens: a name, or the number of a file in memory, where each read of a stream is a call of Python.

    Raises:
        DataError: the bytes are said to be MPEG audio, and have no frame of it.
    """
    if isinstance(source, Path):
        yield str(source)
        return
    content = source.read()
    if served and content.startswith(_MPEG) and not begins_with_frames(content):
        raise DataError(f"{where} is not a readable recording: it has no MPEG frames", "remove or replace it")
    if not hasattr(os, "memfd_create"):
        yield io.BytesIO(content)
        return
    with open(os.memfd_create("recording"), "w+b") as file:
        file.write(content)
        file.seek(0)
        yield file.fileno()


def _frames(spec: SoundInput, rate: int) -> int:
    """How much of a recording has an influence: with a length, no more than that and the filter behind it."""
    if not spec.seconds or spec.normalize:
        return 1 << 62
    wanted = spec.sample_rate or rate
    margin = ZEROS * max(1, -(-rate // wanted)) + 2
    return -(-max(1, round(spec.seconds * wanted)) * rate // wanted) + margin


def _check_length(frames: int, channels: int, rate: int, spec: SoundInput, where: str, file_bytes: int) -> None:
    """Refuse a recording by its header.

    Raises:
        LimitError: its samples would be too many, or its sample rate is no usual one.
    """
    wanted = spec.sample_rate or rate
    if max(rate, wanted) > MOST_CHANGE * max(1, min(rate, wanted)):
        raise LimitError(f"{where} has {rate} samples per second", f"send a recording of {wanted} Hz")
    allowed = min(MOST_BYTES, max(SMALL_BYTES, USUAL_RATIO * file_bytes)) // 4
    if max(frames * channels, frames * wanted // rate) > allowed:
        seconds = min(allowed // (channels * rate), allowed // wanted)
        known = f"has {frames / rate:.0f} s" if frames < 1 << 40 else "does not say how long it is"
        raise LimitError(f"{where} {known}", f"send at most {seconds} s")


def soundfile() -> Any:
    """The package soundfile.

    Raises:
        MachineError: it is not installed.
    """
    with needed("soundfile", "recordings"):
        return import_module("soundfile")
