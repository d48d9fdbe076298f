"""Gates: bounds that must hold with a confidence; the verdict is one sentence with the value and its interval."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any

from ..core.metrics.intervals import Interval
from ..core.metrics.task_metrics import higher_is_better, unit_of
from ..core.options.stage_options import Gate


@dataclass(frozen=True)
class GateResult:
    """The verdict of one gate.

    Attributes:
        stage: the stage after which it was checked.
        kind: ``accuracy_drop``, ``speedup`` or ``size_ratio``.
        bound: the bound in the recipe.
        value: the measured value, with ``low`` and ``high`` at ``confidence``; they are equal for exact sizes, and None
            if an end is unbounded.
        batch_size: the batch size of a speedup.
        verdict: ``passed``, ``failed``, or ``cannot tell``: the interval spans the bound, or the measurement is NOISY.
    """

    stage: str
    kind: str
    bound: float
    value: float
    low: float | None
    high: float | None
    confidence: float
    against: str
    verdict: str
    sentence: str
    batch_size: int | None = None

    @property
    def passed(self) -> bool:
        """Whether the run may continue."""
        return self.verdict == "passed"

    def to_dict(self) -> dict[str, Any]:
        """All fields, as JSON-ready values."""
        return {**asdict(self), "passed": self.passed}


def judge(
    gate: Gate,
    interval: Interval,
    against: str,
    metric: str,
    doubts: Sequence[str] = (),
    noise_floor: float = 0.0,
) -> GateResult:
    """Compare the whole interval with the bound: inside is passed, outside is failed, both is "cannot tell".

    Args:
        interval: the drop of the metric, the speed-up, or the share of the reference's bytes.
        against: name of the reference stage.
        metric: name of the metric of an accuracy gate.
        doubts: reasons why no decision may be based on the measurement, such as a noisy machine.
        noise_floor: the largest difference between a file and itself on this machine, such as 0.012; a speed-up that
            is as close to its bound is not decided.
    """
    kind, bound, at_most = _bound(gate)
    within_noise = noise_floor > 0 and bound / (1 + noise_floor) <= interval.value <= bound * (1 + noise_floor)
    inside = interval.high <= bound if at_most else interval.low >= bound
    outside = interval.low > bound if at_most else interval.high < bound
    undecided = bool(doubts) or within_noise or not (inside or outside)
    verdict = "cannot tell" if undecided else "passed" if inside else "failed"
    floor = noise_floor if within_noise and (inside or outside) else 0.0
    sentence = f"{_sentence(gate, interval, against, metric)}: {_ending(verdict, interval, doubts, floor)}"
    low, high = (end if isfinite(end) else None for end in (interval.low, interval.high))
    return GateResult(
        gate.after,
        kind,
        bound,
        interval.value,
        low,
        high,
        gate.confidence,
        against,
        verdict,
        sentence,
        gate.batch_size if kind == "speedup" else None,
    )


def _bound(gate: Gate) -> tuple[str, float, bool]:
    if gate.accuracy_drop is not None:
        return "accuracy_drop", gate.accuracy_drop, True
    if gate.size_ratio is not None:
        return "size_ratio", gate.size_ratio, True
    assert gate.speedup is not None
    return "speedup", gate.speedup, False


def _ending(verdict: str, interval: Interval, doubts: Sequence[str], noise_floor: float) -> str:
    if doubts:
        return f"CANNOT TELL, because the measurement is NOISY: {'; '.join(doubts)}"
    if verdict != "cannot tell":
        return {"passed": "passed", "failed": "MISSED"}[verdict]
    if noise_floor:
        return (
            f"CANNOT TELL, because this machine shows differences up to {noise_floor:.1%} between a file and itself: "
            "measure longer"
        )
    if not (isfinite(interval.low) or isfinite(interval.high)):
        return "CANNOT TELL, because the interval is not bounded: measure longer"
    return "CANNOT TELL, because the interval spans the bound: use more samples or measure longer"


def _sentence(gate: Gate, interval: Interval, against: str, metric: str) -> str:
    kind, bound, _ = _bound(gate)
    span = f"{gate.confidence:.0%} interval"
    if kind == "accuracy_drop":
        measured = f"{metric} {_drop(interval, metric)} against {against} ({span})"
        wanted = f"the gate allows a loss of at most {_points(bound, metric)}"
    elif kind == "speedup":
        measured = (
            f"{interval.value:.2f}× the speed of {against} at batch {gate.batch_size} "
            f"({span} {_end(interval.low)} to {_end(interval.high)})"
        )
        wanted = f"the gate requires at least {bound:g}×"
    else:
        measured = f"{interval.value:.1%} of the bytes of {against}"
        wanted = f"the gate allows at most {bound:.0%}"
    return f"after {gate.after}: {measured}; {wanted}"


def _end(value: float) -> str:
    return f"{value:.2f}" if isfinite(value) else "not bounded"


def _points(value: float, metric: str) -> str:
    """``2 pp``, ``3 dB``, or a number in the targets' unit."""
    if unit_of(metric) == "percent":
        return f"{100 * value:.3g} pp"
    return f"{value:.4g} dB" if unit_of(metric) == "dB" else f"{value:.4g}"


def _drop(interval: Interval, metric: str) -> str:
    """``lost 0.56 pp [−0.20, 1.90]`` or, if the metric is better, ``gained 0.70 pp [−0.10, 1.50]``."""
    better = interval.value < 0
    low, high = (-interval.high, -interval.low) if better else (interval.low, interval.high)
    if unit_of(metric) == "percent":
        words = ("gained", "lost") if higher_is_better(metric) else ("better by", "worse by")
        change = words[0] if better else words[1]
        return _signed(f"{change} {100 * abs(interval.value):.2f} pp [{100 * low:.2f}, {100 * high:.2f}]")
    word = "better" if better else "worse"
    return _signed(f"{word} by {_points(abs(interval.value), metric)} [{low:.4g}, {high:.4g}]")


def _signed(text: str) -> str:
    """Minus signs instead of hyphens before numbers."""
    return re.sub(r"-(?=[\d.])", "−", text)
