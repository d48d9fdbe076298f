"""Recordings as arrays: one channel, one rate, one length."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from math import gcd
from pathlib import Path
from typing import IO, Any

import numpy as np

from ...errors import DataError
from ...options.data_options import SoundOptions
from ...tensors import Array
from ..input_parts import needed

SOUNDS = frozenset((".wav", ".flac", ".ogg", ".mp3", ".aiff", ".aif", ".au"))


def sound_settings(options: SoundOptions) -> str:
    """Text that represents how recordings become arrays."""
    return f"{options.sample_rate}|{options.seconds}|{options.channel_axis}"


def _soundfile() -> Any:
    with needed("soundfile", "recordings"):
        return import_module("soundfile")


def read_sound(source: Path | IO[bytes], where: str, options: SoundOptions) -> Array:
    """One recording as ``float32[samples]`` or ``float32[1, samples]``: channels averaged, resampled, cut or padded.

    Args:
        where: the recording in words, for messages.

    Raises:
        MachineError: soundfile is not installed, or scipy, which resamples.
        DataError: the file is not a recording, is damaged or empty.
    """
    library = _soundfile()
    try:
        values, rate = library.read(
            str(source) if isinstance(source, Path) else source, dtype="float32", always_2d=True
        )
    except (RuntimeError, OSError, TypeError) as error:  # soundfile.SoundFileError is a RuntimeError
        raise DataError(f"{where} is not a readable recording: {error}", "remove or replace it") from error
    if not len(values):
        raise DataError(f"{where} is empty", "remove or replace it")
    sound = values.mean(axis=1)
    if not np.isfinite(sound).all():
        raise DataError(f"{where} has NaN or infinite values", "remove or replace it")
    wanted = options.sample_rate or int(rate)
    sound = sound if int(rate) == wanted else _resampled(sound, int(rate), wanted)
    if options.seconds is not None:
        length = max(1, round(options.seconds * wanted))
        sound = np.pad(sound[:length], (0, max(0, length - len(sound))))
    sound = np.ascontiguousarray(sound, np.float32)
    return sound[None] if options.channel_axis else sound


def _resampled(sound: Array, rate: int, wanted: int) -> Array:
    """Resample with a polyphase filter against aliasing."""
    with needed("scipy", "recordings of another sample rate"):
        signal: Any = import_module("scipy.signal")
    step = gcd(rate, wanted)
    return np.asarray(signal.resample_poly(sound, wanted // step, rate // step))


def require_equal(paths: Iterable[Path], options: SoundOptions) -> None:
    """Refuse recordings of different rates or lengths that no option makes equal; only their headers are read.

    Raises:
        MachineError: soundfile is not installed.
        DataError: rates or lengths differ, or a file is damaged.
    """
    if options.sample_rate is not None and options.seconds is not None:
        return
    library = _soundfile()
    rates: dict[int, Path] = {}
    lengths: dict[int, Path] = {}
    for path in paths:
        try:
            header = library.info(str(path))
        except (RuntimeError, OSError) as error:
            raise DataError(f"{path} is not a readable recording: {error}", "remove or replace it") from error
        rates.setdefault(int(header.samplerate), path)
        wanted = options.sample_rate or header.samplerate
        lengths.setdefault(-(-header.frames * wanted // header.samplerate), path)  # as `resample_poly` rounds: up
    if options.sample_rate is None and len(rates) > 1:
        shown = ", ".join(f"{path.name} has {rate} Hz" for rate, path in list(rates.items())[:3])
        raise DataError(
            f"the recordings have different sample rates: {shown}",
            f"give the rate to which they are resampled: `sample_rate: {min(rates)}`",
        )
    if options.seconds is None and len(lengths) > 1:
        rate = options.sample_rate or next(iter(rates))
        shown = ", ".join(f"{path.name} has {length / rate:.3g} s" for length, path in list(lengths.items())[:3])
        raise DataError(
            f"the recordings have different lengths: {shown}",
            f"give the length to which they are cut or padded: `seconds: {max(lengths) / rate:.3g}`",
        )
