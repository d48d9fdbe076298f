"""Formatting of numbers: bytes, counts, times, ratios, metrics and drops with their intervals."""

from __future__ import annotations

from ...core.metrics.task_metrics import higher_is_better, unit_of
from ..result import Spread

DASH = "–"


def bytes_text(value: float | None) -> str:
    """``131 kB``, ``4.92 MB``; decimal units."""
    if value is None:
        return DASH
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= 0.9995 * size:
            return f"{digits(value / size)} {unit}"
    return f"{value:.0f} B"


def count_text(value: float | None) -> str:
    """``1.23 M``, ``120 k``."""
    if value is None:
        return DASH
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= 0.9995 * size:
            return f"{digits(value / size)} {unit}"
    return f"{value:.0f}"


def time_text(milliseconds: float | None) -> str:
    """``85.2 µs``, ``1.23 ms``, ``2.50 s``."""
    if milliseconds is None:
        return DASH
    if milliseconds >= 999.5:
        return f"{digits(milliseconds / 1e3)} s"
    return f"{digits(milliseconds)} ms" if milliseconds >= 0.09995 else f"{digits(milliseconds * 1e3)} µs"


def short_name(name: str, length: int = 22) -> str:
    """A name for a figure: its beginning and its end with an ellipsis between them if it is long."""
    if len(name) <= length:
        return name
    end = (length - 1) // 2
    return f"{name[: length - 1 - end]}…{name[-end:]}"


def digits(value: float, count: int = 3) -> str:
    """``value`` with about three significant digits, never in exponent form."""
    size = abs(value)
    if size >= 100:
        return minus(f"{value:,.0f}")
    decimals = 1 if size >= 10 else 2 if size >= 1 else 3 if size >= 0.1 else 4
    return minus(f"{value:.{decimals + count - 3}f}")


def digits_short(value: float) -> str:
    """``value`` on an axis: no trailing zeros."""
    return minus(f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}")


def tick(value: float) -> str:
    """``value`` on an axis on which zero is shown as 0."""
    return minus(f"{round(value, 9):.4g}")


def metric_tick(name: str, value: float) -> str:
    """A metric on an axis."""
    return f"{tick(100 * value)} %" if unit_of(name) == "percent" else tick(value)


def ratio_text(ratio: Spread | None) -> str:
    """``3.12×``; a dash for the reference."""
    return DASH if ratio is None or ratio.value is None else f"{digits(ratio.value)}×"


def range_text(spread: Spread | None, scale: float = 1.0, decimals: int | None = None) -> str:
    """``[3.05, 3.20]``, or a statement that there is no interval."""
    if spread is None:
        return ""
    if spread.low is None and spread.high is None:
        return "[not bounded]"
    return f"[{_end(spread.low, scale, decimals)}, {_end(spread.high, scale, decimals)}]"


def metric_value(name: str, value: float | None) -> str:
    """``98.61 %``, ``0.0123`` or ``23.4 dB``."""
    if value is None:
        return "∞"
    if unit_of(name) == "target":
        return minus(f"{value:.4g}")
    return minus(f"{value:.1f} dB") if unit_of(name) == "dB" else minus(f"{100 * value:.2f} %")


def metric_range(name: str, spread: Spread | None) -> str:
    """The interval of a metric in its unit, without the unit."""
    if unit_of(name) == "target":
        return (
            ""
            if spread is None
            else f"[{', '.join(minus(f'{end:.4g}') for end in (spread.low or 0, spread.high or 0))}]"
        )
    return range_text(spread, metric_scale(name), 1)


def drop_value(name: str, value: float | None, signed: bool = False) -> str:
    """``0.28 pp`` or ``0.28 dB``: loss against the reference, positive is worse."""
    if value is None:
        return DASH
    plus = "+" if signed else ""
    if unit_of(name) == "target":
        return minus(f"{value:{plus}.3g}")
    return minus(f"{metric_scale(name) * value:{plus}.2f} {'dB' if unit_of(name) == 'dB' else 'pp'}")


def change_text(name: str, drop: float) -> str:
    """``lost 0.28 pp`` or ``gained 0.28 pp``; ``lost nothing`` where the figures are equal.

    An error that grew is ``worse by 0.012``, because "mse lost 0.012" would say that it shrank.
    """
    shown = drop_value(name, abs(drop))
    if not any(digit in shown for digit in "123456789"):
        return "lost nothing"
    words = ("lost", "gained") if higher_is_better(name) else ("worse by", "better by")
    return f"{words[0] if drop > 0 else words[1]} {shown}"


def loss_name(name: str, usual: str = "loss") -> str:
    """The heading of losses, which are positive where a metric is worse: ``rise`` for errors, which grow then."""
    return usual if higher_is_better(name) else "rise"


def drop_range(name: str, spread: Spread | None) -> str:
    """The interval of a drop, without the unit."""
    if spread is None:
        return ""
    return metric_range(name, spread) if unit_of(name) == "target" else range_text(spread, metric_scale(name), 2)


def metric_scale(name: str) -> float:
    """What a metric and its drops are multiplied by to be shown: 100 for percentages."""
    return 100.0 if unit_of(name) == "percent" else 1.0


def drop_unit(name: str) -> str:
    """The unit of a drop on an axis, with a comma before it: ``, percentage points``."""
    return {"percent": ", percentage points", "dB": ", dB", "target": ""}[unit_of(name)]


def factor(reference: float, value: float) -> str:
    """How many times smaller: ``9.2×``."""
    return f"{digits(reference / value)}×" if value > 0 else DASH


def percent(confidence: float) -> str:
    """``95 %``."""
    return f"{100 * confidence:g} %"


def minus(text: str) -> str:
    """Replace hyphens by minus signs, and remove the sign of zero."""
    return text.lstrip("-") if not text.strip("-+0., %dBp") else text.replace("-", "−")


def _end(value: float | None, scale: float, decimals: int | None) -> str:
    if value is None:
        return "not bounded"
    return digits(value * scale) if decimals is None else minus(f"{value * scale:.{decimals}f}")
