"""What recorded comparisons of a file with itself say about verdicts: false alarms, power, and the gate.

A true slowdown is simulated by scaling the recorded times of one side. Longer comparisons are consecutive recorded ones
put together; they overlap by three quarters where they are few, so the number of separate ones is given, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ....core.metrics.intervals import Interval, wilson
from ....core.metrics.ratio import Ratio
from ...gating.regression_checks import check_latency
from ...repeatability.self_comparison import NAMES
from ...timing.statistics import ratio_interval, unpaired_ratio

CONFIDENCE = 0.95
SLOWDOWNS_PERCENT = (0.0, 1.0, 2.0, 5.0)
LENGTHS_S = (0.0, 5.0, 20.0, 60.0)
"""Lengths of the comparisons in seconds; 0 is a single recorded one."""
BOUND_PERCENT = 5.0
STEPS = 4
FEWEST = 3
"""Separate comparisons of a length without which it is left out."""

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Verdicts:
    """The verdicts on comparisons of one length with one true slowdown.

    Attributes:
        seconds: length of a comparison, mean.
        slowdown_percent: the true slowdown.
        comparisons: number of them, of which ``separate`` share no recorded time.
        slower: how many were called slower.
        faster: how many were called faster.
        covered: in how many the interval holds the true ratio.
        gate_failed: how many failed a gate that must find 5 %.
        gate_passed: how many passed it; the others were undecided.
        half_width_percent: half the width of the interval, median.
    """

    seconds: float
    slowdown_percent: float
    comparisons: int
    separate: int
    slower: int
    faster: int
    covered: int
    gate_failed: int
    gate_passed: int
    half_width_percent: float

    def share(self, count: int) -> Interval:
        """A share of the comparisons with its 95 % interval, as if all were independent."""
        return wilson(count, self.comparisons, CONFIDENCE)

    @property
    def alarms(self) -> int:
        """How many were called different."""
        return self.slower + self.faster

    def to_dict(self) -> dict[str, Any]:
        """All values, as JSON-ready values."""
        return {**asdict(self), "alarms": asdict(self.share(self.alarms)), "coverage": self.covered / self.comparisons}


def verdicts(rows: Sequence[Row]) -> list[Verdicts]:
    """The verdicts on valid comparisons, for each length and each true slowdown.

    Args:
        rows: recorded comparisons, in order, as :func:`retort.benchmarks.repeatability.self_comparison.compared` gives
            them.
    """
    valid = [row for row in rows if not row["noisy"]]
    found = []
    for length_s in LENGTHS_S:
        windows = list(_windows(valid, length_s))
        separate = len(windows) if not length_s else sum(1 for _ in _windows(valid, length_s, steps=1))
        if separate < FEWEST:
            continue
        found += [_verdicts(windows, separate, percent) for percent in SLOWDOWNS_PERCENT]
    return found


def _windows(rows: Sequence[Row], length_s: float, steps: int = STEPS) -> Iterator[Sequence[Row]]:
    """Consecutive comparisons that last so long together."""
    if not length_s:
        yield from ([row] for row in rows)
        return
    ends = np.cumsum([row["seconds"] for row in rows])
    start = 0
    while start < len(rows):
        before = ends[start - 1] if start else 0.0
        end = int(np.searchsorted(ends, before + length_s, side="right"))
        if ends[-1] < before + length_s:
            return
        yield rows[start : max(end, start + 1)]
        start += max(1, (end - start) // steps)


def _verdicts(windows: Sequence[Sequence[Row]], separate: int, percent: float) -> Verdicts:
    ratios = [ratio_of(window, percent, seed) for seed, window in enumerate(windows)]
    truth = 1 / (1 + percent / 100)
    gates = [check_latency("model", 1, ratio, (None, None), BOUND_PERCENT).outcome for ratio in ratios]
    return Verdicts(
        seconds=float(np.mean([sum(row["seconds"] for row in window) for window in windows])),
        slowdown_percent=percent,
        comparisons=len(ratios),
        separate=separate,
        slower=sum(ratio.verdict == "slower" for ratio in ratios),
        faster=sum(ratio.verdict == "faster" for ratio in ratios),
        covered=sum(ratio.interval.low <= truth <= ratio.interval.high for ratio in ratios),
        gate_failed=gates.count("failed"),
        gate_passed=gates.count("passed"),
        half_width_percent=100 * float(np.median([ratio.half_width for ratio in ratios])),
    )


def ratio_of(window: Sequence[Row], percent: float, seed: int) -> Ratio:
    """The ratio of consecutive comparisons put together, in which the second side takes so many percent longer."""
    reference, candidate = (
        np.concatenate([np.asarray(row["times_ms"][name], np.float64) for row in window]) for name in NAMES
    )
    openings = sum(len(row["turns"]) for row in window)
    slowed = candidate * (1 + percent / 100)
    return ratio_interval(reference.tolist(), slowed.tolist(), CONFIDENCE, seed, openings)


@dataclass(frozen=True)
class Replication:
    """How far two runs of one file differ that begin some minutes apart, by the times of one side alone.

    Attributes:
        pairs: number of pairs of runs.
        apart_s: seconds between their beginnings.
        within_2: how many differ by at most 2 %.
        within_5: how many differ by at most 5 %.
        largest_percent: the largest difference.
    """

    pairs: int
    apart_s: float
    within_2: int
    within_5: int
    largest_percent: float


def replication(rows: Sequence[Row], length_s: float = 20.0, apart_s: float = 300.0) -> Replication | None:
    """Differences of the times of one file between runs of ``length_s`` that begin ``apart_s`` apart; None of too few.

    Args:
        rows: recorded comparisons with their beginnings.
    """
    valid = [row for row in rows if not row["noisy"]]
    runs = [(window[0]["began"], _times_of(window)) for window in _windows(valid, length_s, steps=1)]
    found = []
    for index, (began, times) in enumerate(runs):
        later = next((other for start, other in runs[index + 1 :] if start - began >= apart_s), None)
        if later is not None:
            found.append(abs(float(np.log(unpaired_ratio(times, later, CONFIDENCE).value))))
    if not found:
        return None
    differences = 100 * np.expm1(np.array(found))
    return Replication(
        len(found), apart_s, int(np.sum(differences <= 2)), int(np.sum(differences <= 5)), float(differences.max())
    )


def _times_of(window: Sequence[Row]) -> list[float]:
    return [float(time) for row in window for time in row["times_ms"][NAMES[0]]]


def table(found: Sequence[Verdicts]) -> tuple[list[str], list[list[str]]]:
    """Columns, and a row for each length and true slowdown."""
    columns = ["seconds", "true slowdown", "comparisons", "slower", "faster", "covered", "± %", "gate fails", "passes"]
    return columns, [_row(one) for one in found]


def _row(one: Verdicts) -> list[str]:
    count = str(one.comparisons) if one.separate == one.comparisons else f"{one.comparisons} ({one.separate} separate)"
    return [
        f"{one.seconds:.1f}",
        f"{one.slowdown_percent:g} %",
        count,
        *(f"{100 * part / one.comparisons:.1f} %" for part in (one.slower, one.faster, one.covered)),
        f"{one.half_width_percent:.2f}",
        *(f"{100 * part / one.comparisons:.1f} %" for part in (one.gate_failed, one.gate_passed)),
    ]
