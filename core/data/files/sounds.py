"""Files of recordings: how the options of a source say that they become arrays, and whether they are alike."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ...errors import DataError
from ...options.data_options import SoundOptions
from ...preprocessing.decode_sounds import soundfile
from ...preprocessing.specs import SoundInput

SOUNDS = frozenset((".wav", ".flac", ".ogg", ".mp3", ".aiff", ".aif", ".au"))


def sound_input(name: str, options: SoundOptions, rate: int = 0) -> SoundInput:
    """How recordings become the input ``name``.

    Args:
        rate: of the recordings, if no option gives one.
    """
    return SoundInput(name, options.sample_rate or rate, options.seconds or 0.0, options.channel_axis)


def common_rate(paths: Iterable[Path], options: SoundOptions) -> int:
    """The sample rate of recordings after they are read; only their headers are looked at.

    Raises:
        MachineError: soundfile is not installed.
        DataError: rates or lengths differ and no option makes them equal, or a file is damaged.
    """
    if options.sample_rate is not None and options.seconds is not None:
        return options.sample_rate
    library = soundfile()
    rates: dict[int, Path] = {}
    lengths: dict[int, Path] = {}
    for path in paths:
        try:
            header = library.info(str(path))
        except (RuntimeError, OSError) as error:
            raise DataError(f"{path} is not a readable recording: {error}", "remove or replace it") from error
        rates.setdefault(int(header.samplerate), path)
        wanted = options.sample_rate or header.samplerate
        lengths.setdefault(-(-header.frames * wanted // header.samplerate), path)  # as `resampled` rounds: up
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
    return options.sample_rate or next(iter(rates), 0)
