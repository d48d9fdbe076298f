"""The CSV file of a power meter between the wall and a device, brought into the time of the device.

The clocks of a meter and of a device differ. The run computes and pauses in a known rhythm, so the time at which the
power follows it best is looked for; a file in which nothing follows it is refused.
"""

from __future__ import annotations

import csv
import datetime
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np

from ...core.counts import counted
from ...core.errors import DataError, MissingFileError
from ...core.metrics.intervals import Floats
from .pulled_results import Pulled

CLOCKS_APART_S = 300.0
"""Largest difference of the clocks of a meter and a device that is looked for."""
LONGEST_S = 6 * 3600.0
"""Longest recording in which a run is looked for."""
SURE = 0.6
"""Correlation of power and rhythm below which a meter measured something else."""
CLEAR = 0.03
"""How much better the best time has to be than any that is more than two seconds away."""
_STEP_S, _NEAR_S, _COARSE_S = 0.05, 2.0, 0.1
_TIMES = ("time", "timestamp", "unix", "date", "datetime", "seconds", "elapsed", "t", "t_s", "time_s", "time_ms", "ms")
_WATTS = {"w": 1.0, "watt": 1.0, "watts": 1.0, "power": 1.0, "power_w": 1.0, "mw": 1e-3, "power_mw": 1e-3}
_VOLTS = {"v": 1.0, "volt": 1.0, "volts": 1.0, "voltage": 1.0, "voltage_v": 1.0, "mv": 1e-3, "voltage_mv": 1e-3}
_AMPERES = {"a": 1.0, "amp": 1.0, "amps": 1.0, "current": 1.0, "current_a": 1.0, "ma": 1e-3, "current_ma": 1e-3}
_FEWEST = 20
_EPOCH = 1e8
"""Seconds above which a time is one of the calendar, and not since the start of the meter."""


@dataclass(frozen=True)
class Meter:
    """Readings of a meter.

    Attributes:
        name: of the file.
        times: seconds of the device's monotonic clock, ascending, ``[N]``.
        watts: ``[N]``.
        correlation: how well the power follows the run.
    """

    name: str
    times: Floats
    watts: Floats
    correlation: float

    def between(self, begun: float, ended: float) -> list[float]:
        """The readings in a span of the device's monotonic clock."""
        inside = (self.times >= begun) & (self.times <= ended)
        return [float(value) for value in self.watts[inside]]


def read_meter(path: Path, pulled: Pulled) -> Meter:
    """Read a meter's file and bring it into the time of a run.

    Args:
        path: CSV with a header; a column of times (ISO 8601, Unix seconds, or seconds from any start), and one of power
            or two of voltage and current, named with their units, such as ``power_mW``.

    Raises:
        MissingFileError: there is no such file.
        DataError: it cannot be read, the run has no parts for energy, or its power does not follow the run.
    """
    if not path.is_file():
        raise MissingFileError(f"no such file: {path}", "give the CSV file that the meter wrote")
    times, watts = _columns(path)
    spans = [
        (float(part.said["begun"]["t"]), float(part.said["ended"]["t"]), part.said["kind"] == "energy")
        for part in (*pulled.of_kind("energy"), *pulled.of_kind("idle"))
        if not part.error
    ]
    if not any(busy for _, _, busy in spans) or all(busy for _, _, busy in spans):
        raise DataError("the run measured no energy, so a meter has nothing to measure", "run it with --energy on")
    offset, correlation = _aligned(path, times, watts, spans, _guess(times, pulled))
    return Meter(path.name, times + offset, watts, correlation)


def _columns(path: Path) -> tuple[Floats, Floats]:
    """Times in seconds and power in watts, ascending."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}", "give a CSV file in UTF-8") from error
    first = text.partition("\n")[0]
    delimiter = max(",;\t", key=first.count)
    try:
        rows = list(csv.reader(io.StringIO(text), delimiter=delimiter))
    except csv.Error as error:
        raise DataError(f"{path} is no CSV file: {error}", "give the CSV file that the meter wrote") from error
    names = [_plain(name) for name in rows[0]] if rows else []
    when = next((at for at, name in enumerate(names) if name in _TIMES), None)
    power = _found(names, _WATTS)
    volts, amperes = _found(names, _VOLTS), _found(names, _AMPERES)
    if when is None or (power is None and (volts is None or amperes is None)):
        raise DataError(
            f"{path} has the columns {', '.join(rows[0]) if rows else 'none'}",
            "name a column time, and one power_W or power_mW, or two voltage_V and current_A",
        )
    step = 1e-3 if names[when].endswith("ms") else 1.0
    made = []
    for number, row in enumerate(rows[1:], 2):
        if not any(cell.strip() for cell in row):
            continue
        try:
            values = [_number(row[at], delimiter) * factor for at, factor in filter(None, (power, volts, amperes))]
            made.append(
                (_seconds(row[when], delimiter, step), values[0] if power is not None else values[0] * values[1])
            )
        except (ValueError, IndexError) as error:
            if number == len(rows):  # a meter that is stopped may leave half a line
                continue
            raise DataError(f"{path}, line {number}: {error}", "correct the line, or leave it out") from error
    if len(made) < _FEWEST:
        raise DataError(f"{path} has {counted(len(made), 'reading')}", "measure from before the run until its end")
    ordered = np.array(sorted(made), np.float64)
    return ordered[:, 0], ordered[:, 1]


def _plain(name: str) -> str:
    """A name of a column without its blanks and brackets: ``Power [mW]`` is ``power_mw``."""
    words = "".join(letter if letter.isalnum() else " " for letter in name.lower()).split()
    return "_".join(words)


def _found(names: Sequence[str], known: dict[str, float]) -> tuple[int, float] | None:
    return next(((at, known[name]) for at, name in enumerate(names) if name in known), None)


def _number(text: str, delimiter: str) -> float:
    value = float(text.replace(",", ".") if delimiter != "," else text)
    if not math.isfinite(value):
        raise ValueError(f"{text!r} is no reading")
    return value


def _seconds(text: str, delimiter: str, step: float) -> float:
    """A time in seconds; milliseconds of the calendar are recognised by their size, too.

    Args:
        step: seconds of the unit that the name of the column says.
    """
    try:
        value = _number(text, delimiter) * step
    except ValueError:
        return datetime.datetime.fromisoformat(text.strip()).timestamp()
    return value / 1e3 if value > _EPOCH * 1e3 else value


def _guess(times: Floats, pulled: Pulled) -> float | None:
    """What to add to times of the calendar, by the device's clock; None for times since the meter's start.

    The clock of a device may be set during a run, so the middle one of its differences counts.
    """
    if float(times[0]) < _EPOCH:
        return None
    known = [part.said["begun"] for part in (*pulled.of_kind("energy"), *pulled.of_kind("idle")) if not part.error]
    return median(float(one["t"]) - float(one["unix_s"]) for one in known)


def _aligned(
    path: Path, times: Floats, watts: Floats, spans: Sequence[tuple[float, float, bool]], guess: float | None
) -> tuple[float, float]:
    """What to add to the times, so that the power is high where the run computed and low where it paused."""
    begun, ended = min(span[0] for span in spans), max(span[1] for span in spans)
    if guess is None:
        lowest, highest = begun - float(times[0]) - (ended - begun), ended - float(times[-1]) + (ended - begun)
    else:
        lowest, highest = guess - CLOCKS_APART_S, guess + CLOCKS_APART_S
    if float(times[-1] - times[0]) > LONGEST_S:
        hours = float(times[-1] - times[0]) / 3600
        raise DataError(
            f"{path} lasts {hours:.0f} hours, and the run {(ended - begun) / 60:.0f} minutes",
            "cut it to the time of the run; name times in milliseconds time_ms",
        )
    times, watts = _coarse(times, watts)
    tried = np.arange(min(lowest, highest), max(lowest, highest) + _STEP_S, _STEP_S)
    scores = np.array([_score(times + offset, watts, spans) for offset in tried])
    best = int(np.argmax(scores))
    far = scores[np.abs(tried - tried[best]) > _NEAR_S]
    second = float(far.max()) if len(far) else 0.0
    if scores[best] < SURE or scores[best] - second < CLEAR:
        what = "measured something else" if scores[best] < SURE else f"fits at two times (correlation {second:.2f})"
        raise DataError(
            f"the power in {path} does not follow the run: it {what}; the best correlation is {scores[best]:.2f}",
            "record from before the run until its end, at least twice a second, with a longer --energy-seconds",
        )
    near = np.flatnonzero(scores > scores[best] - 1e-9)  # a slow meter fits equally well over a part of its step
    return float(np.mean(tried[near[np.abs(tried[near] - tried[best]) < _NEAR_S]])), float(scores[best])


def _coarse(times: Floats, watts: Floats) -> tuple[Floats, Floats]:
    """The means over tenths of a second of a meter that reads more often, which is enough to find its time."""
    places = np.floor((times - times[0]) / _COARSE_S).astype(np.int64)
    present, where, counts = np.unique(places, return_inverse=True, return_counts=True)
    if len(present) == len(times):
        return times, watts
    sums = [np.bincount(where, values, len(present)) / counts for values in (times, watts)]
    return sums[0], sums[1]


def _score(times: Floats, watts: Floats, spans: Sequence[tuple[float, float, bool]]) -> float:
    """Correlation of the power with the rhythm of the run, over the readings inside of its spans; -1 with too few."""
    rhythm = np.full(len(times), np.nan)
    for begun, ended, busy in spans:
        first, last = np.searchsorted(times, [begun, ended])
        if last - first < 2:
            return -1.0
        rhythm[first:last] = float(busy)
    inside = ~np.isnan(rhythm)
    power = watts[inside]
    if power.std() == 0:
        return -1.0
    return float(np.corrcoef(rhythm[inside], power)[0, 1])
