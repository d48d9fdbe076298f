"""A measured ratio of two times: its value, its interval, what was compared, and the clock."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from .intervals import NORMAL, Interval, z_value

ClockName = Literal["thread", "wall", "device"]
"""CPU time of the calling thread, wall-clock time, or the time that a user's function reports for another device."""
Judgement = Literal["faster", "slower", "cannot tell"]
_SMALL = 0.1
NOT_BOUNDED = "not bounded: too few rounds"


@dataclass(frozen=True)
class Ratio:
    """The speedup of a candidate over a reference, with its interval.

    Attributes:
        value: the time of the reference divided by the time of the candidate: above 1, the candidate is the faster one.
        low: lower end of the interval; None if too few rounds were timed.
        high: upper end; see ``low``.
        confidence: two-sided confidence, such as 0.95.
        candidate: name of the candidate.
        reference: name of the reference.
        rounds: number of pairs of timed blocks.
        clock: the clock that was used.
        wall: the same ratio in wall-clock time, if another clock was used.
        doubts: reasons why no decision may be based on it, such as a noisy machine; empty if it is valid.
        noise_floor: the largest difference between a file and itself on this machine, such as 0.012; a smaller
            difference between two files says nothing. 0 if it was not measured.
        p_holm: :attr:`p_value` with Holm's correction, if several candidates are compared with the reference.
    """

    value: float
    low: float | None
    high: float | None
    confidence: float
    candidate: str = ""
    reference: str = ""
    rounds: int = 0
    clock: ClockName = "wall"
    wall: float | None = None
    doubts: tuple[str, ...] = ()
    noise_floor: float = 0.0
    p_holm: float | None = None

    @property
    def bounded(self) -> bool:
        """Whether the interval has both ends."""
        return self.low is not None and self.high is not None

    @property
    def verdict(self) -> Judgement:
        """Faster or slower only when the measurement is valid and the whole interval lies on one side of 1."""
        return "cannot tell" if self.doubts else self.tendency

    @property
    def tendency(self) -> Judgement:
        """The verdict of the interval alone, without the doubts; none for a difference within the noise floor."""
        if self.within_noise or self.one_of_many:
            return "cannot tell"
        if self.low is not None and self.low > 1:
            return "faster"
        return "slower" if self.high is not None and self.high < 1 else "cannot tell"

    @property
    def within_noise(self) -> bool:
        """Whether a file differs from itself by as much on this machine."""
        return abs(math.log(self.value)) <= math.log1p(self.noise_floor) and self.noise_floor > 0

    @property
    def one_of_many(self) -> bool:
        """Whether the difference is no more than the largest of as many equal candidates may show."""
        return self.p_holm is not None and self.p_holm > 1 - self.confidence + 1e-9

    @property
    def spans_one(self) -> bool:
        """Whether the interval contains 1, or an end is unbounded."""
        return self.low is None or self.high is None or self.low <= 1 <= self.high

    @property
    def p_value(self) -> float:
        """Of the hypothesis that both are equally fast: 1 minus the confidence of the interval that ends at 1."""
        if not self.bounded:
            return 1.0
        return 2 * NORMAL.cdf(-z_value(self.confidence) * abs(math.log(self.value)) / max(self.half_width, 1e-12))

    @property
    def half_width(self) -> float:
        """Half the width of the interval on the log scale: 0.02 is about ± 2 %; infinite without both ends."""
        if self.low is None or self.high is None:
            return math.inf
        return (math.log(self.high) - math.log(self.low)) / 2

    @property
    def interval(self) -> Interval:
        """Both ends for computations: an unbounded end is infinite."""
        low = -math.inf if self.low is None else self.low
        return Interval(self.value, low, math.inf if self.high is None else self.high, self.confidence)

    @property
    def beyond_noise(self) -> Interval:
        """The interval, made as wide as the noise floor on both sides: no bound within it is decided."""
        known, factor = self.interval, 1 + self.noise_floor
        if not self.noise_floor:
            return known
        low, high = min(known.low, self.value / factor), max(known.high, self.value * factor)
        return Interval(self.value, low, high, self.confidence)

    @property
    def span(self) -> str:
        """``3.05 to 3.20``, or the statement that there is no interval."""
        if self.low is None and self.high is None:
            return NOT_BOUNDED
        low, high = ("not bounded" if end is None else _written(end) for end in (self.low, self.high))
        return f"{low} to {high}"

    @property
    def text(self) -> str:
        """``3.12 (3.05 to 3.20)``."""
        return f"{self.value:.2f} ({self.span})"

    @property
    def why_undecided(self) -> str:
        """Why the verdict is "cannot tell", in words; empty for another verdict."""
        if self.doubts:
            return "; ".join(self.doubts)
        if self.tendency != "cannot tell":
            return ""
        if self.within_noise:
            return f"this machine shows differences up to {self.noise_floor:.1%} between a file and itself"
        if self.one_of_many and not self.spans_one:
            return f"of several equal candidates, one may differ as much by chance (p = {self.p_holm:.2g} by Holm)"
        return "the interval contains 1" if self.bounded else "too few rounds were timed for an interval"

    def to_dict(self) -> dict[str, Any]:
        """Convert to JSON-ready values without infinities."""
        return {**asdict(self), "doubts": list(self.doubts)}

    @staticmethod
    def from_dict(raw: Mapping[str, Any]) -> Ratio:
        """Inverse of :meth:`to_dict`; also reads a plain interval, whose zero or infinite ends become unbounded."""
        known = {field.name for field in fields(Ratio)}
        given = {key: value for key, value in raw.items() if key in known}
        return Ratio(**{**given, **dict(open_ends(raw["low"], raw["high"])), "doubts": tuple(raw.get("doubts", ()))})


def _written(end: float) -> str:
    """Two decimals; two digits for a number that would be written as zero."""
    return f"{end:.2f}" if end >= _SMALL else f"{end:.2g}"


def open_ends(low: float | None, high: float | None) -> Iterable[tuple[str, float | None]]:
    """Both ends of a ratio by name; an end that is not finite and positive becomes None."""
    for name, end in (("low", low), ("high", high)):
        yield name, end if end is not None and math.isfinite(end) and end > 0 else None


def from_logs(logs: Interval, **attributes: Any) -> Ratio:
    """The ratio whose logarithm has this interval.

    Args:
        attributes: further attributes of the ratio.
    """
    ends = (math.exp(end) if math.isfinite(end) and abs(end) < 700 else None for end in (logs.low, logs.high))
    low, high = ends
    return Ratio(math.exp(logs.value), low, high, logs.confidence, **attributes)


def mean_of(ratios: Iterable[Ratio]) -> float:
    """Geometric mean of the values, such as over batch sizes."""
    logs = [math.log(ratio.value) for ratio in ratios]
    return math.exp(sum(logs) / len(logs))
