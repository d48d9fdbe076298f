"""Checks for a regression: each compares one figure of a model with the baseline, and says what it found in words.

A check of speed asks whether a slowdown of the bound or more is there. It passes if the interval excludes such a
slowdown, and fails if the model is certainly slower and such a slowdown is not excluded. So an unchanged model fails,
and a model that is slower by the bound passes, only if the interval does not hold the truth.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from ...core.metrics.intervals import Interval
from ...core.metrics.ratio import Ratio
from ...core.metrics.task_metrics import unit_of
from ..report import formatting
from ..spreads import Spread
from ..timing.equivalence import no_slower

SAME_PERCENT = 0.05
"""A change that would be written as 0.0 %."""
UNDECIDED = ": this decides nothing, because "
"""Stands between what a check found and why nothing can be decided by it."""
Outcome = Literal["passed", "failed", "cannot tell", "invalid"]
"""An ``invalid`` measurement, such as a NOISY one, supports no decision, and is never taken for a pass."""
Quantity = Literal["latency", "accuracy", "size"]


@dataclass(frozen=True)
class Check:
    """One figure of one model compared with the baseline.

    Attributes:
        quantity: what is compared.
        model: name of the model.
        batch: batch size of a latency.
        before: the figure of the baseline, formatted.
        after: the present figure, formatted.
        change: the change with its interval, formatted.
        bound: the largest change that is allowed, formatted.
        value: the change: slowdown and growth in percent, or loss of the metric.
        low: lower end of its interval; None if it is not bounded.
        high: upper end; see ``low``.
        outcome: what was decided.
        sentence: the decision with its reason.
    """

    quantity: Quantity
    model: str
    batch: int | None
    before: str
    after: str
    change: str
    bound: str
    value: float
    low: float | None
    high: float | None
    outcome: Outcome
    sentence: str

    def to_dict(self) -> dict[str, Any]:
        """All fields, as JSON-ready values."""
        return asdict(self)


def check_latency(
    model: str, batch: int, ratio: Ratio, times_ms: tuple[float | None, float | None], slower_percent: float
) -> Check:
    """Whether a model became slower by ``slower_percent`` or more.

    Args:
        ratio: how many times faster the present model is than the baseline.
        times_ms: of the baseline and of the present model.
        slower_percent: the slowdown that must be found.
    """
    slowdown = slowdown_percent(ratio)
    change = f"{_signed(slowdown.value)} % [{_signed(slowdown.low)}, {_signed(slowdown.high)}]"
    found = f"{model} at batch {batch} takes {_longer(slowdown.value)} {_span(slowdown)}"
    bound = f"{slower_percent:g} %"
    if ratio.doubts:
        outcome: Outcome = "invalid"
        reason = UNDECIDED.removeprefix(": ") + "; ".join(ratio.doubts)
    elif no_slower(ratio, slower_percent) == "yes":
        outcome, reason = "passed", f"a slowdown of {bound} is excluded"
    elif ratio.tendency == "slower":
        outcome, reason = "failed", f"it is certainly slower, and a slowdown of {bound} is not excluded"
    else:
        outcome = "cannot tell"
        reason = f"neither no change nor a slowdown of {bound} is excluded"
    before, after = (formatting.time_text(time) for time in times_ms)
    low, high = (end if math.isfinite(end) else None for end in (slowdown.low, slowdown.high))
    sentence = f"{found}: {reason}"
    return Check("latency", model, batch, before, after, change, bound, slowdown.value, low, high, outcome, sentence)


def slowdown_percent(ratio: Ratio) -> Interval:
    """How much longer the present model takes, in percent; unbounded without an interval."""
    low = -math.inf if ratio.high is None else 100 * (1 / ratio.high - 1)
    high = math.inf if ratio.low is None else 100 * (1 / ratio.low - 1)
    return Interval(100 * (1 / ratio.value - 1), low, high, ratio.confidence)


def check_accuracy(
    model: str, metric: str, values: tuple[float | None, float | None], drop: Interval, bound: float
) -> Check:
    """Whether a model lost at most ``bound`` of its metric: the whole interval of the loss must say so.

    Args:
        metric: name of the metric.
        values: of the baseline and of the present model.
        drop: the loss; positive is worse.
        bound: the largest allowed loss in the unit of the metric, such as 0.01 for one percentage point.
    """
    spread = Spread.of(drop)
    change = f"{formatting.drop_value(metric, drop.value, signed=True)} {formatting.drop_range(metric, spread)}"
    allowed = f"{100 * bound:g} pp" if unit_of(metric) == "percent" else f"{bound:g}"
    if drop.high <= bound:
        outcome: Outcome = "passed"
        reason = f"at most {allowed} are allowed"
    elif drop.low > bound:
        outcome, reason = "failed", f"only {allowed} are allowed"
    else:
        outcome, reason = "cannot tell", f"the interval spans the allowed {allowed}: use more test samples"
    lost = f"{model} {formatting.change_text(metric, drop.value)} of {metric}"
    sentence = f"{lost} [{formatting.drop_range(metric, spread).strip('[]')}]: {reason}"
    before, after = (formatting.metric_value(metric, value) for value in values)
    return Check(
        "accuracy", model, None, before, after, change, allowed, drop.value, spread.low, spread.high, outcome, sentence
    )


def check_size(model: str, sizes: tuple[int, int], growth_percent: float) -> Check:
    """Whether a file grew by at most ``growth_percent``.

    Args:
        sizes: bytes of the baseline's file and of the present one.
    """
    growth = 100 * (sizes[1] / max(sizes[0], 1) - 1)
    outcome: Outcome = "passed" if growth <= growth_percent else "failed"
    allowed = f"{growth_percent:g} %"
    before, after = (formatting.bytes_text(size) for size in sizes)
    change = f"{_signed(growth)} %"
    reason = "which is allowed" if outcome == "passed" else f"only {allowed} are allowed"
    sentence = f"the file of {model} has {after} instead of {before} ({change}), {reason}"
    return Check("size", model, None, before, after, change, allowed, growth, growth, growth, outcome, sentence)


def overall(checks: Sequence[Check]) -> Outcome:
    """The outcome of all checks together: the worst one, where a failure is worse than what is not known."""
    for outcome in ("failed", "invalid", "cannot tell"):
        if any(check.outcome == outcome for check in checks):
            return outcome
    return "passed"


def _longer(percent: float) -> str:
    if abs(percent) < SAME_PERCENT:
        return "as long as before"
    return f"{abs(percent):.1f} % {'longer' if percent > 0 else 'less time'}"


def _span(change: Interval) -> str:
    return f"[{_signed(change.low)} to {_signed(change.high)}]"


def _signed(value: float) -> str:
    return formatting.minus(f"{value:+.1f}") if math.isfinite(value) else "not bounded"
