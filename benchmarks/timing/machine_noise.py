"""Disturbances of the machine during a timing, from the kernel's counters and the times themselves."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from ...core.metrics.intervals import Floats
from ...core.metrics.ratio import ClockName

Status = Literal["VALID", "NOISY"]
PRESSURE_LIMIT_PERCENT = 10.0
STEAL_LIMIT_PERCENT = 2.0
SPREAD_LIMIT_PERCENT = 10.0
DRIFT_LIMIT_PERCENT = 10.0
TOO_FEW_ROUNDS = 6


@dataclass(frozen=True)
class Noise:
    """A verdict on a measurement, with its reasons.

    Attributes:
        status: a NOISY measurement supports no decision and passes no gate.
        reasons: why it is NOISY.
        remarks: remarks on a valid measurement, such as a load that the clock does not count.
        pressure_percent: share of the time in which some process waited for a CPU (PSI); None if not counted.
        steal_percent: share of CPU time that the hypervisor took; None if not counted.
        spread_percent: robust coefficient of variation of the blocks' times, of the worst candidate.
        drift_percent: change of the blocks' times from the first to the last third, of the worst candidate.
        interrupted_percent: share of the slots that lost the CPU to another process; wall-clock time excludes them.
        attempts: number of measurements, of which all but the last were NOISY.
    """

    status: Status
    reasons: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    pressure_percent: float | None = None
    steal_percent: float | None = None
    spread_percent: float | None = None
    drift_percent: float | None = None
    interrupted_percent: float | None = None
    attempts: int = 1


@dataclass(frozen=True)
class Seen:
    """Observations of the machine during a measurement, in addition to the times.

    Attributes:
        pressure_percent: see :class:`Noise`.
        steal_percent: see :class:`Noise`.
        interrupted_percent: see :class:`Noise`.
        clock: ``thread`` does not count the time of other processes, so their load is only a remark.
        rounds: number of timed rounds.
        needed: number of rounds that an interval needs.
        seconds: duration of the measurement.
        moved: candidates whose ratio changed during the measurement by more than its intervals allow, in words.
        spoiled: number of used rounds in which every slot of some candidate was interrupted.
    """

    pressure_percent: float | None = None
    steal_percent: float | None = None
    interrupted_percent: float | None = None
    clock: ClockName = "wall"
    rounds: int = 1_000
    needed: int = TOO_FEW_ROUNDS
    seconds: float = 0.0
    moved: tuple[str, ...] = ()
    spoiled: int = 0


@dataclass
class Watch:
    """Counts CPU pressure and steal between its creation and :meth:`read`.

    Args:
        root: folder that contains ``proc``; another folder in tests.
    """

    root: Path = Path("/")
    _started: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self._pressure = _pressure_us(self.root)
        self._steal = _steal_ticks(self.root)
        self._busy = _busy_s(self.root)
        self._own = time.process_time()

    def others(self) -> float:
        """Processors that other processes used on average since the start; 0 if the kernel does not count them."""
        busy, own = _busy_s(self.root), time.process_time() - self._own
        if busy is None or self._busy is None:
            return 0.0
        return max(0.0, busy - self._busy - own) / max(time.monotonic() - self._started, 1e-3)

    def read(self) -> tuple[float | None, float | None]:
        """Pressure and steal in percent of the time since the start; None if the kernel does not count them."""
        elapsed = max(time.monotonic() - self._started, 1e-3)
        pressure, steal = _pressure_us(self.root), _steal_ticks(self.root)
        waited = None if pressure is None or self._pressure is None else (pressure - self._pressure) / elapsed / 1e4
        if steal is None or self._steal is None:
            return waited, None
        total = steal[1] - self._steal[1]
        return waited, 100 * (steal[0] - self._steal[0]) / total if total > 0 else 0.0


def judge(blocks: dict[str, Floats], seen: Seen, attempts: int = 1) -> Noise:
    """Judge a measurement: VALID, or NOISY with every reason.

    Args:
        blocks: times of the blocks in order, per candidate.
        attempts: number of measurements so far.
    """
    spreads = {name: spread_percent(values) for name, values in blocks.items()}
    drifts = {name: drift_percent(values) for name, values in blocks.items()}
    worst, most = max(spreads, key=spreads.__getitem__), max(drifts, key=lambda name: abs(drifts[name]))
    doubtful, reasons = _disturbed(seen), [*_too_little(seen), *seen.moved]
    if spreads[worst] > SPREAD_LIMIT_PERCENT:
        doubtful.append(f"blocks of '{worst}' scatter by {spreads[worst]:.0f} % (limit {SPREAD_LIMIT_PERCENT:.0f} %)")
    if abs(drifts[most]) > DRIFT_LIMIT_PERCENT:
        doubtful.append(f"'{most}' drifted by {drifts[most]:+.0f} % from the first to the last third")
    remarks = doubtful if seen.clock == "thread" else []
    reasons += [] if seen.clock == "thread" else doubtful
    return Noise(
        "NOISY" if reasons else "VALID", tuple(reasons), tuple(remarks), seen.pressure_percent, seen.steal_percent,
        spreads[worst], drifts[most], seen.interrupted_percent, attempts,
    )  # fmt: skip


def _disturbed(seen: Seen) -> list[str]:
    """Descriptions of the kernel's counters that exceed their limits."""
    pressure, steal, found = seen.pressure_percent, seen.steal_percent, []
    if pressure is not None and pressure > PRESSURE_LIMIT_PERCENT:
        found.append(
            f"processes waited for a CPU in {pressure:.0f} % of the time (limit {PRESSURE_LIMIT_PERCENT:.0f} %)"
        )
    if steal is not None and steal > STEAL_LIMIT_PERCENT:
        found.append(f"the hypervisor took {steal:.1f} % of the CPU time (limit {STEAL_LIMIT_PERCENT:.0f} %)")
    return found


def _too_little(seen: Seen) -> list[str]:
    found = []
    if seen.rounds < seen.needed:
        found.append(
            f"an interval needs {seen.needed} rounds, but only {seen.rounds} were possible in {seen.seconds:.0f} s"
        )
    if seen.spoiled:
        found.append(f"in {seen.spoiled} of {seen.rounds} rounds a candidate lost the CPU in every slot")
    return found


def spread_percent(values: Floats) -> float:
    """Robust coefficient of variation: 1.4826 times the median absolute deviation, in percent of the median."""
    centre = float(np.median(values))
    return 148.26 * float(np.median(np.abs(values - centre))) / centre if centre > 0 else 0.0


def drift_percent(values: Floats) -> float:
    """Change of the median from the first third to the last third, in percent; 0 for fewer than nine values."""
    third = len(values) // 3
    if third < 3:
        return 0.0
    first, last = float(np.median(values[:third])), float(np.median(values[-third:]))
    return 100 * (last / first - 1) if first > 0 else 0.0


def _pressure_us(root: Path) -> int | None:
    """Microseconds since boot in which some task waited for a CPU."""
    try:
        line = (root / "proc/pressure/cpu").read_text().splitlines()[0]
        return int(line.rsplit("total=", 1)[1])
    except (OSError, IndexError, ValueError):
        return None


def _busy_s(root: Path) -> float | None:
    """Processor seconds since boot that were not idle, of all processors together."""
    try:
        ticks = [int(word) for word in (root / "proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
        return (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):
        return None


def _steal_ticks(root: Path) -> tuple[int, int] | None:
    """Stolen ticks and all ticks since boot."""
    try:
        ticks = [int(word) for word in (root / "proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
        return (ticks[7], sum(ticks)) if len(ticks) == 8 else None
    except (OSError, ValueError):
        return None
