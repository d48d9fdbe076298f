"""Recordings as arrays: one channel, one rate, one length. Part of the runtime half: libraries are imported in use."""

from __future__ import annotations

from importlib import import_module
from math import gcd
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError, LimitError
from ..system.installation import needed
from .specs import SoundInput

STARTS = (b"RIFF", b"fLaC", b"OggS", b"FORM", b".snd", b"ID3", b"\xff\xfb", b"\xff\xf3", b"\xff\xf2")
"""The first bytes of WAV, FLAC, Ogg, AIFF, AU and MP3."""
MOST_BYTES = 1 << 27
"""Size of a served recording as ``float32``, before it is resampled or cut."""


def looks_like_sound(start: bytes) -> bool:
    """Whether bytes begin as a recording does; 12 of them are enough."""
    return start.startswith(STARTS) and (start[:4] != b"RIFF" or start[8:12] == b"WAVE")


def read_sound(source: Path | IO[bytes], where: str, spec: SoundInput, bounded: bool = False) -> NDArray[np.float32]:
    """One recording, ``float32[samples]`` or ``float32[1, samples]``: channels averaged, resampled, cut or padded.

    Args:
        where: the recording in words, for messages.
        bounded: whether a recording that would need much memory is refused by its header.

    Raises:
        MachineError: soundfile is not installed, or scipy, which resamples.
        DataError: it is no recording, is damaged or empty.
        LimitError: it is too long.
    """
    values, rate = _read(source, where, bounded)
    if not len(values):
        raise DataError(f"{where} is empty", "remove or replace it")
    sound = values.mean(axis=1)
    if not np.isfinite(sound).all():
        raise DataError(f"{where} has NaN or infinite values", "remove or replace it")
    wanted = spec.sample_rate or rate
    sound = sound if rate == wanted else _resampled(sound, rate, wanted)
    if spec.normalize:
        sound = (sound - sound.mean()) / np.sqrt(sound.var() + 1e-7)
    if spec.seconds:
        length = max(1, round(spec.seconds * wanted))
        sound = np.pad(sound[:length], (0, max(0, length - len(sound))))
    sound = np.ascontiguousarray(sound, np.float32)
    return sound[None] if spec.channel_axis else sound


def _read(source: Path | IO[bytes], where: str, bounded: bool) -> tuple[NDArray[np.float32], int]:
    library = soundfile()
    try:
        with library.SoundFile(str(source) if isinstance(source, Path) else source) as file:
            if bounded and file.frames * file.channels * 4 > MOST_BYTES:
                seconds = MOST_BYTES // (4 * file.channels * file.samplerate)
                raise LimitError(f"{where} has {file.frames / file.samplerate:.0f} s", f"send at most {seconds} s")
            return file.read(dtype="float32", always_2d=True), int(file.samplerate)
    except (RuntimeError, OSError, TypeError, ValueError) as error:  # soundfile.SoundFileError is a RuntimeError
        raise DataError(f"{where} is not a readable recording: {error}", "remove or replace it") from error


def soundfile() -> Any:
    """The package soundfile.

    Raises:
        MachineError: it is not installed.
    """
    with needed("soundfile", "recordings"):
        return import_module("soundfile")


def _resampled(sound: NDArray[np.float32], rate: int, wanted: int) -> NDArray[np.float32]:
    """Resample with a polyphase filter against aliasing."""
    with needed("scipy", "recordings of another sample rate"):
        signal: Any = import_module("scipy.signal")
    step = gcd(rate, wanted)
    return np.asarray(signal.resample_poly(sound, wanted // step, rate // step))
