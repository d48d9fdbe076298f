"""Small pieces of inline SVG: scales with round ticks, axes, marks, and labels that keep out of each other's way."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH = 480
CHARACTER = 6.4
LINE = 15
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Scale:
    """Maps values to pixels, linearly or by logarithm.

    Attributes:
        low: value at ``start``.
        high: value at ``stop``.
    """

    low: float
    high: float
    start: float
    stop: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Pixels of a value, held inside the plot."""
        low, high, here = (self._warp(number) for number in (self.low, self.high, value))
        share = min(max((here - low) / (high - low), 0.0), 1.0)
        return self.start + share * (self.stop - self.start)

    def ticks(self, count: int = 5) -> list[float]:
        """About ``count`` round values inside the range."""
        if self.log:
            ticks = _log_ticks(self.low, self.high, count)
            if len(ticks) >= 3:
                return ticks
        step = _round_step((self.high - self.low) / count)
        first = math.ceil(self.low / step - 1e-9)
        return [round(index * step, 12) for index in range(first, math.floor(self.high / step + 1e-9) + 1)]

    def _warp(self, value: float) -> float:
        return math.log(max(value, 1e-12)) if self.log else value


def fitted(values: Iterable[float], start: float, stop: float, log: bool = False, margin: float = 0.08) -> Scale:
    """A scale that holds all finite values with a margin; never of zero length."""
    finite = [value for value in values if math.isfinite(value) and (value > 0 or not log)]
    low, high = (min(finite), max(finite)) if finite else (1.0, 2.0)
    if log:
        ratio = max(high / low, 1.05)
        middle = math.sqrt(high * low)
        reach = ratio ** (0.5 + margin)
        return Scale(middle / reach, middle * reach, start, stop, True)
    length = max(high - low, abs(high) * 1e-3, 1e-9)
    return Scale((low + high) / 2 - length * (0.5 + margin), (low + high) / 2 + length * (0.5 + margin), start, stop)


def figure(title: str, body: Sequence[str], height: float, description: str = "") -> str:
    """A responsive drawing with an accessible name."""
    told = f"<desc>{escape(description)}</desc>" if description else ""
    head = (
        f'<svg viewBox="0 0 {WIDTH} {height:g}" role="img" aria-label="{escape(title)}"><title>{escape(title)}</title>'
    )
    return f"{head}{told}{''.join(body)}</svg>"


def text(x: float, y: float, words: str, anchor: str = "start", kind: str = "") -> str:
    """A label; ``anchor`` is ``start``, ``middle`` or ``end``."""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{kind}">{escape(words)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, kind: str = "axis") -> str:
    """A straight line."""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"/>'


def path(points: Sequence[tuple[float, float]], kind: str) -> str:
    """A line through points."""
    steps = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{steps}" class="{kind}"/>'


def dot(x: float, y: float, kind: str, radius: float = 4.5, title: str = "") -> str:
    """A point; ``title`` shows when the pointer rests on it."""
    told = f"<title>{escape(title)}</title>" if title else ""
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}" class="{kind}">{told}</circle>'


def bar(x: float, y: float, width: float, height: float, kind: str, title: str = "") -> str:
    """A rectangle with slightly rounded corners."""
    told = f"<title>{escape(title)}</title>" if title else ""
    place = f'x="{x:.1f}" y="{y:.1f}" width="{max(width, 1.5):.1f}" height="{height:.1f}"'
    return f'<rect {place} rx="2" class="{kind}">{told}</rect>'


def whisker(scale: Scale, low: float, high: float, across: float, kind: str, vertical: bool = False) -> str:
    """An interval as a line with end caps where it ends inside the plot."""
    ends = [scale(low), scale(high)]
    caps = [end for end, value in zip(ends, (low, high), strict=True) if scale.low <= value <= scale.high]
    if vertical:
        marks = [line(across, ends[0], across, ends[1], kind)]
        return "".join(marks + [line(across - 4, end, across + 4, end, kind) for end in caps])
    marks = [line(ends[0], across, ends[1], across, kind)]
    return "".join(marks + [line(end, across - 4, end, across + 4, kind) for end in caps])


def x_axis(scale: Scale, top: float, bottom: float, show: Callable[[float], str], label: str) -> str:
    """Vertical grid lines with their values below, and the axis' name."""
    parts = []
    for tick in scale.ticks():
        parts.append(line(scale(tick), top, scale(tick), bottom, "grid"))
        parts.append(text(scale(tick), bottom + 16, show(tick), "middle", "tick"))
    middle = (scale.start + scale.stop) / 2
    return (
        "".join(parts)
        + line(scale.start, bottom, scale.stop, bottom)
        + text(middle, bottom + 34, label, "middle", "name")
    )


def y_axis(scale: Scale, left: float, right: float, show: Callable[[float], str]) -> str:
    """Horizontal grid lines with their values to the left."""
    parts = []
    for tick in scale.ticks():
        parts.append(line(left, scale(tick), right, scale(tick), "grid"))
        parts.append(text(left - 7, scale(tick) + 4, show(tick), "end", "tick"))
    return "".join(parts)


def place_labels(points: Sequence[tuple[float, float, str]], limits: Box, taken: list[Box] | None = None) -> list[str]:
    """Labels beside their points, each at the first place around it that is free.

    Args:
        points: x, y and the words.
        limits: left, top, right and bottom of the plot.
        taken: boxes to keep clear of; filled in.
    """
    taken = [] if taken is None else taken
    taken += [(x - 6, y - 6, x + 6, y + 6) for x, y, _ in points]
    drawn = []
    for x, y, words in points:
        box = _free_box(x, y, len(words) * CHARACTER, limits, taken)
        taken.append(box)
        drawn.append(text(box[0], box[3] - 4, words, kind="label"))
    return drawn


def _free_box(x: float, y: float, width: float, limits: Box, taken: Sequence[Box]) -> Box:
    left, top, right, bottom = limits
    tries = [
        (x + shift, y + rise)
        for rise, shift in (
            (-LINE / 2, 9), (-LINE / 2, -9 - width), (-LINE - 7, -width / 2), (7, -width / 2),
            (-LINE - 5, 7), (5, 7), (-LINE - 5, -7 - width), (5, -7 - width),
            (18, 9), (18, -9 - width), (-LINE - 18, 9), (-LINE - 18, -9 - width), (33, 9), (33, -9 - width),
        )
    ]  # fmt: skip
    boxes = [(a, b, a + width, b + LINE) for a, b in tries]
    inside = [box for box in boxes if box[0] >= left and box[2] <= right and box[1] >= top and box[3] <= bottom]
    free = (box for box in inside if not any(_overlap(box, other) for other in taken))
    return next(free, (inside or boxes)[0])


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _round_step(step: float) -> float:
    power = 10 ** math.floor(math.log10(step))
    return float(next(power * nice for nice in (1, 2, 5, 10) if step <= power * nice * 1.0001))


def _log_ticks(low: float, high: float, count: int) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1, 1.5, 2, 3, 4, 5, 6, 8), (1, 2, 3, 5), (1, 2, 5), (1, 3), (1,)):
        ticks = [float(f"{step * 10.0**decade:.6g}") for decade in decades for step in steps]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) <= count + 1:
            return ticks
    return ticks[:: math.ceil(len(ticks) / count)]
