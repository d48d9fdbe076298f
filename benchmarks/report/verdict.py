"""The verdict of a result in sentences, the first of which says the most important."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ...core.counts import counted, listed
from ...core.metrics.ratio import Ratio
from ...core.metrics.task_metrics import higher_is_better
from ..result import LatencyEntry, PercentileEntry, Result, StageEntry
from . import formatting

P99 = 99.0
THROTTLED = "THROTTLED"


class State(NamedTuple):
    """Whether decisions can be based on a result: VALID, NOISY, THROTTLED or INVALID, and why not."""

    status: str
    reason: str


def verdict(result: Result, faults: Sequence[str] = ()) -> list[str]:
    """The verdict in sentences: the state of the measurement, the model against the reference, and the gates.

    Args:
        faults: figures that do not follow from the raw times, because the result was edited.
    """
    stage, found = headline(result), state(result, faults)
    on = "this result" if found.status == "INVALID" else "these times"
    doubt = "" if found.status == "VALID" else f"{found.status}, so no decision can be based on {on}"
    sentences = []
    if stage.stage != result.reference:
        speeds = [_speed_words(batch, entry) for batch, entry in sorted(stage.latency.items()) if entry.ratio]
        against = f" than “{result.reference}”{_where(result)}"
        first = [speeds[0].replace(" at batch", f"{against} at batch", 1), p99_words(result, stage)] if speeds else []
        parts = [part for part in (*first, _size_words(result, stage), _loss_words(result, stage)) if part]
        sentences.append(f"{f'{doubt}: ' if doubt else ''}“{stage.stage}” is {_joined(parts)}.")
        sentences += [f"It is {speed}." for speed in speeds[1:]]
        sentences += _others(result, stage)
    else:
        alone = _alone(result, stage)
        sentences.append(f"{f'{doubt}: ' if doubt else ''}{alone}." if alone else f"{doubt}." if doubt else "")
    sentences = [sentence for sentence in sentences if sentence]
    sentences += _gates(result)
    return [*sentences, f"{found.status}: {found.reason}."] if doubt else sentences


def _alone(result: Result, stage: StageEntry) -> str:
    """A model that is compared with nothing: its time, its size and its metric; empty without times."""
    if not stage.latency:
        return ""
    batch, entry = min(stage.latency.items())
    median, worst = entry.median_ms, _p99(entry)
    span = "" if median.low is None or median.high is None else _time_span(median.low, median.high, median.confidence)
    parts = [f"“{stage.stage}” takes {formatting.time_text(median.value)}{_where(result)} at batch {batch}{span}"]
    parts += [f"p99 {formatting.time_text(worst.value_ms)}"] if worst is not None else []
    parts.append(formatting.bytes_text(stage.size_bytes))
    if stage.metric is not None:
        name, metric = stage.metric.name, stage.metric
        parts.append(f"{name} {formatting.metric_value(name, metric.value)} {formatting.metric_range(name, metric)}")
    return ", ".join(parts)


def _time_span(low: float, high: float, confidence: float) -> str:
    ends = f"{formatting.time_text(low)} to {formatting.time_text(high)}"
    return f" ({formatting.percent(confidence)} CI {ends})"


def state(result: Result, faults: Sequence[str] = ()) -> State:
    """Whether decisions can be based on a result; see :func:`verdict`."""
    if faults:
        return State("INVALID", f"{counted(len(faults), 'figure')} of it do not follow from its raw times")
    noisy = [run for run in result.runs if run.noise.status == "NOISY"]
    if not noisy:
        return State("VALID", "")
    reasons = list(dict.fromkeys(reason for run in noisy for reason in run.noise.reasons))
    throttled = [reason.partition(": ")[2] for reason in reasons if reason.startswith(THROTTLED)]
    where = listed([f"batch {run.batch}" for run in noisy])
    told = "; ".join(throttled or reasons) or "the machine was busy"
    return State(THROTTLED if throttled else "NOISY", f"at {where}, {told}")


def headline(result: Result) -> StageEntry:
    """The model of the verdict: the last stage of a run; of several models, the fastest that lost nothing for certain.

    Stages without accuracy or latency are passed over if there are others.
    """
    full = [stage for stage in result.stages if stage.latency and stage.metric] or list(result.stages)
    others = [stage for stage in full if stage.stage != result.reference]
    if result.details or result.gates or len(others) < 2:
        return full[-1]
    kept = [stage for stage in others if stage.drop is None or (stage.drop.low or 0) <= 0] or others
    return max(kept, key=_speed)


def _speed(stage: StageEntry) -> float:
    """The speedup at the smallest batch size; 0 if it is not known."""
    entry = stage.latency[min(stage.latency)] if stage.latency else None
    return entry.ratio.value or 0.0 if entry is not None and entry.ratio is not None else 0.0


def _where(result: Result) -> str:
    """`` on raspberrypi``: the device of a result that was not measured on this host."""
    device = result.env.get("device")
    if not isinstance(device, dict):
        return ""
    board = str(device.get("board") or "").partition(" Rev ")[0]
    return f" on {board or device.get('host') or 'the device'}"


def _others(result: Result, stage: StageEntry) -> list[str]:
    """The speeds of the other models, where several were compared."""
    others = [one for one in result.stages if one.stage not in (result.reference, stage.stage) and _speed(one)]
    if result.details or result.gates or not others:
        return []
    shown = [f"“{one.stage}” {formatting.digits(_speed(one))}×" for one in others[:6]]
    more = [f"{len(others) - 6} more"] if len(others) > 6 else []
    return [f"The others: {listed([*shown, *more])}."]


def _gates(result: Result) -> list[str]:
    missed = [gate for gate in result.gates if not gate.passed]
    if not result.gates:
        return []
    every = counted(len(result.gates), "gate")
    alone = len(result.gates) == 1
    passed = "The gate passed." if alone else f"All {every} passed."
    failed = "The gate was not passed." if alone else f"{len(missed)} of {every} were not passed."
    return [failed if missed else passed]


def p99_words(result: Result, stage: StageEntry) -> str:
    """The 99th percentile of a call against that of the reference, by their intervals; empty without enough calls."""
    batch = min(stage.latency)
    ours, theirs = (_p99(one.latency.get(batch)) for one in (stage, result.stage(result.reference)))
    if ours is None or theirs is None or None in (ours.low_ms, ours.high_ms, theirs.low_ms, theirs.high_ms):
        return ""
    times = f"({formatting.time_text(ours.value_ms)} against {formatting.time_text(theirs.value_ms)})"
    if (ours.high_ms or 0) <= (theirs.high_ms or 0) and (ours.value_ms or 0) <= (theirs.low_ms or 0):
        return f"p99 no worse {times}"
    if (ours.low_ms or 0) > (theirs.high_ms or 0):
        return f"p99 worse {times}"
    return f"p99 not measurably different {times}"


def _p99(entry: LatencyEntry | None) -> PercentileEntry | None:
    known = entry.percentiles if entry is not None else ()
    return next((one for one in known if one.percentile == P99 and one.value_ms is not None), None)


def _speed_words(batch: int, entry: LatencyEntry) -> str:
    """``3.1× faster at batch 1 (95 % CI 3.0 to 3.2)``."""
    ratio = entry.ratio
    if ratio is None or not ratio.value:
        return ""
    ends = [ratio.low, ratio.high]
    how = f"{formatting.digits(ratio.value)}× faster"
    if entry.verdict == "slower" or (ratio.doubts and ratio.ratio().tendency == "slower"):
        ends = [1 / end if end else None for end in reversed(ends)]
        how = f"{formatting.digits(1 / ratio.value)}× slower"
    elif entry.verdict == "cannot tell":
        how = _seeming(ratio.ratio()) or "not measurably faster or slower"
    if ends == [None, None]:
        return f"{how} at batch {batch} (not bounded: too few rounds)"
    span = " to ".join("not bounded" if end is None else formatting.digits(end) for end in ends)
    return f"{how} at batch {batch} ({formatting.percent(ratio.confidence)} CI {span})"


def _seeming(ratio: Ratio) -> str:
    """What a ratio would say without its doubts; empty if it has none, or says nothing then either."""
    if not ratio.doubts or ratio.tendency == "cannot tell":
        return ""
    faster = ratio.tendency == "faster"
    return f"seemingly {formatting.digits(ratio.value if faster else 1 / ratio.value)}× {ratio.tendency}"


def _size_words(result: Result, stage: StageEntry) -> str:
    ratio = result.stage(result.reference).size_bytes / max(stage.size_bytes, 1)
    if ratio == 1:
        return "as large"
    return f"{formatting.digits(ratio)}× smaller" if ratio > 1 else f"{formatting.digits(1 / ratio)}× larger"


def _loss_words(result: Result, stage: StageEntry) -> str:
    if stage.metric is None or stage.drop is None or stage.drop.value is None:
        return ""
    name, drop = stage.metric.name, stage.drop
    assert drop.value is not None
    change = formatting.drop_value(name, change_of(name, drop.value), signed=True)
    ends = sorted(change_of(name, end) for end in (drop.high, drop.low) if end is not None)
    span = " to ".join(
        formatting.drop_value(name, end, signed=True).removesuffix(" pp").removesuffix(" dB") for end in ends
    )
    gate = next((g for g in result.gates if g.stage == stage.stage and g.kind == "accuracy_drop"), None)
    remark = ""
    if gate is not None:
        remark = {"passed": ", within the gate", "failed": ", outside the gate"}.get(gate.verdict, ", gate undecided")
    elif (drop.low or 0) <= 0 <= (drop.high or 0):
        remark = ", not significant"
    return f"with {name} {change} ({formatting.percent(drop.confidence)} CI {span}{remark})"


def change_of(name: str, loss: float) -> float:
    """The change of the metric: minus the loss, or the loss itself for error metrics."""
    return -loss if higher_is_better(name) else loss


def _joined(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}".replace(" and with ", ", with ")
