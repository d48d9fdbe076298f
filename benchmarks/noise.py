"""How disturbed the machine was while something was timed, from what the kernel counts anyway."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from ..core.intervals import Floats

Status = Literal["VALID", "NOISY"]
PRESSURE_LIMIT_PERCENT = 10.0
STEAL_LIMIT_PERCENT = 2.0
SPREAD_LIMIT_PERCENT = 10.0
DRIFT_LIMIT_PERCENT = 10.0
TOO_FEW_ROUNDS = 6


@dataclass(frozen=True)
class Noise:
    """A verdict on the quiet of the machine, with its reasons.

    Attributes:
        pressure_percent: share of the time in which some process waited for a CPU (PSI); None where not counted.
        steal_percent: share of CPU time that the hypervisor took; None where not counted.
        spread_percent: robust coefficient of variation of the block medians, of the worst candidate.
        drift_percent: change of the block medians from the first to the last third, of the worst candidate.
    """

    status: Status
    reasons: tuple[str, ...] = ()
    pressure_percent: float | None = None
    steal_percent: float | None = None
    spread_percent: float | None = None
    drift_percent: float | None = None


@dataclass
class Watch:
    """Counts CPU pressure and steal between its creation and :meth:`read`.

    Args:
        root: where ``proc`` is; another folder in tests.
    """

    root: Path = Path("/")
    _started: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self._pressure = _pressure_us(self.root)
        self._steal = _steal_ticks(self.root)

    def read(self) -> tuple[float | None, float | None]:
        """Pressure and steal in percent of the time since the start; None where the kernel does not count."""
        elapsed = max(time.monotonic() - self._started, 1e-3)
        pressure, steal = _pressure_us(self.root), _steal_ticks(self.root)
        waited = None if pressure is None or self._pressure is None else (pressure - self._pressure) / elapsed / 1e4
        if steal is None or self._steal is None:
            return waited, None
        total = steal[1] - self._steal[1]
        return waited, 100 * (steal[0] - self._steal[0]) / total if total > 0 else 0.0


def judge(medians: dict[str, Floats], pressure: float | None, steal: float | None) -> Noise:
    """VALID, or NOISY with every reason.

    Args:
        medians: block medians in order of time, per candidate.
        pressure: see :class:`Noise`.
        steal: see :class:`Noise`.
    """
    spreads = {name: spread_percent(values) for name, values in medians.items()}
    drifts = {name: drift_percent(values) for name, values in medians.items()}
    worst, moved = max(spreads, key=spreads.__getitem__), max(drifts, key=lambda name: abs(drifts[name]))
    reasons = []
    if pressure is not None and pressure > PRESSURE_LIMIT_PERCENT:
        reasons.append(
            f"processes waited for a CPU in {pressure:.0f} % of the time (limit {PRESSURE_LIMIT_PERCENT:.0f} %)"
        )
    if steal is not None and steal > STEAL_LIMIT_PERCENT:
        reasons.append(f"the hypervisor took {steal:.1f} % of the CPU time (limit {STEAL_LIMIT_PERCENT:.0f} %)")
    if spreads[worst] > SPREAD_LIMIT_PERCENT:
        reasons.append(f"blocks of '{worst}' scatter by {spreads[worst]:.0f} % (limit {SPREAD_LIMIT_PERCENT:.0f} %)")
    if abs(drifts[moved]) > DRIFT_LIMIT_PERCENT:
        reasons.append(f"'{moved}' drifted by {drifts[moved]:+.0f} % from the first to the last third")
    if (rounds := min(map(len, medians.values()))) < TOO_FEW_ROUNDS:
        reasons.append(f"only {rounds} rounds fitted into the time budget")
    return Noise("NOISY" if reasons else "VALID", tuple(reasons), pressure, steal, spreads[worst], drifts[moved])


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


def _steal_ticks(root: Path) -> tuple[int, int] | None:
    """Ticks stolen and ticks counted in all since boot."""
    try:
        ticks = [int(word) for word in (root / "proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
        return (ticks[7], sum(ticks)) if len(ticks) == 8 else None
    except (OSError, ValueError):
        return None


def context_switches() -> int | None:
    """How often the kernel took the CPU from this process; None where it is not counted."""
    if os.name != "posix":
        return None
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
