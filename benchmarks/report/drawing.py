"""Matplotlib figures as inline SVG in the colours and the font of the page, light or dark."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from html import escape
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

WIDTH = 480
SERIES = 6
_NAMES = ("ink", "soft", "faint", "rule", "grid", "card", "bad", "ref", *(f"s{index}" for index in range(SERIES)))
COLOUR = {name: f"#00fe{index + 16:02x}" for index, name in enumerate(_NAMES)}
"""Placeholders for the colours of the page's style; :func:`drawn` replaces them by ``var(--name)``."""
_STYLE: Any = {
    "text.parse_math": False,  # the name of a stage may contain a dollar sign
    "svg.fonttype": "none",
    "svg.hashsalt": "retort",
    "font.family": "DejaVu Sans",
    "font.size": 12,
    "axes.edgecolor": COLOUR["rule"],
    "axes.labelcolor": COLOUR["soft"],
    "axes.labelsize": 12,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": COLOUR["grid"],
    "grid.linewidth": 1,
    "text.color": COLOUR["ink"],
    "xtick.color": COLOUR["soft"],
    "ytick.color": COLOUR["soft"],
    "xtick.labelsize": 11.5,
    "ytick.labelsize": 11.5,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
}
OFFSETS = (
    (9, 0), (-9, 0), (0, 13), (0, -13), (9, 13), (9, -13), (-9, 13), (-9, -13), (9, 28), (9, -28), (-9, 28), (-9, -28),
)  # fmt: skip
"""Possible offsets of a label from its point, in pixels, the best one first."""


@contextmanager
def axes(height: float) -> Iterator[Axes]:
    """Axes of a figure with the width of a card of the report and a height of ``height`` pixels; see :func:`drawn`."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(WIDTH / 72, height / 72), dpi=72, layout="constrained")
        FigureCanvasSVG(figure)
        yield figure.add_subplot()


def drawn(ax: Axes, title: str) -> str:
    """The figure of some axes as SVG: it is reproducible, its text is text, and it contains only the drawing."""
    written = io.StringIO()
    _figure(ax).savefig(written, format="svg", metadata={"Date": None, "Creator": None})
    body = written.getvalue()
    view = re.search(r'viewBox="([^"]+)"', body)
    inside = body[body.index(">", body.index("<svg")) + 1 : body.rindex("</svg>")]
    inside = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->|\n\s*", " ", inside, flags=re.DOTALL)
    inside = re.sub(r"<style.*?</style>| transform=\"rotate\(-0 [^\"]*\"| font-family: '[^']*';", "", inside)
    inside = re.sub(r'<g id="[^"]*">', "<g>", inside).replace("xlink:href=", "href=")
    for name, stand_in in COLOUR.items():
        inside = inside.replace(stand_in, f"var(--{name})")
    shown = escape(title)
    box = view[1] if view else f"0 0 {WIDTH} {WIDTH}"
    return f'<svg viewBox="{box}" role="img" aria-label="{shown}"><title>{shown}</title>{inside}</svg>'


def _figure(ax: Axes) -> Figure:
    figure = ax.get_figure(root=True)
    assert figure is not None, "`axes` made it"
    return figure


def scale(
    axis: Any, values: Sequence[float], log: bool = False, show: Callable[[float], str] = str, whole: bool = False
) -> None:
    """Set the limits of an axis to all finite values with a margin, with about five round ticks.

    Args:
        axis: the ``xaxis`` or ``yaxis`` of some axes.
        show: function that formats a tick.
        whole: use only whole numbers as ticks.
    """
    finite = [value for value in values if math.isfinite(value) and (value > 0 or not log)]
    low, high = (min(finite), max(finite)) if finite else (1.0, 2.0)
    name = axis.axis_name
    ax = axis.axes
    if log:
        getattr(ax, f"set_{name}scale")("log")
        reach = max(high / low, 1.05) ** 0.6 / math.sqrt(high / low)
        low, high = low / reach, high * reach
    else:
        reach = 0.58 * max(high - low, abs(high) * 1e-2, 1e-9)
        low, high = (low + high) / 2 - reach, (low + high) / 2 + reach
    getattr(ax, f"set_{name}lim")(low, high)
    ratio = high / low if log else 1.0
    decades = LogLocator(subs=(1, 2, 5) if ratio < 100 else (1,), numticks=9)
    axis.set_major_locator(decades if ratio > 8 else MaxNLocator(5, steps=[1, 2, 5, 10], integer=whole))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())
    axis.set_major_formatter(FuncFormatter(lambda value, _: show(value)))


def whisker(ax: Axes, span: tuple[float, float], across: float, colour: str, vertical: bool = False) -> None:
    """Draw an interval as a line with end caps inside the plot; an unbounded end continues to the plot's border."""
    limits = sorted(ax.get_ylim() if vertical else ax.get_xlim())
    ends = [min(max(end, limits[0]), limits[1]) for end in span]
    draw = ax.vlines if vertical else ax.hlines
    draw([across], [ends[0]], [ends[1]], colors=colour, linewidth=1.8)
    for end, value in zip(ends, span, strict=True):
        if limits[0] <= value <= limits[1]:
            place = (across, end) if vertical else (end, across)
            ax.plot(*place, marker="_" if vertical else "|", markersize=8, markeredgewidth=1.8, color=colour)


def dot(ax: Axes, x: float, y: float, colour: str) -> None:
    """Draw a point with a thin border that separates it from the lines below."""
    ax.plot(x, y, marker="o", markersize=9, markeredgewidth=1.5, color=colour, markeredgecolor=COLOUR["card"], zorder=5)


def label_points(ax: Axes, points: Sequence[tuple[float, float, str]]) -> None:
    """Place each label at the first offset from its point where it covers no point and no other label."""
    _figure(ax).draw_without_rendering()  # the layout does not change after this
    _figure(ax).set_layout_engine("none")
    pixels = [ax.transData.transform(point[:2]) for point in points]
    taken = [(x - 6, y - 6, x + 6, y + 6) for x, y in pixels]
    for x, y, words in _together(points, pixels):
        label = ax.annotate(
            words, (x, y), xytext=OFFSETS[0], textcoords="offset points", va="center", fontweight="bold"
        )
        boxes = [_placed(label, offset) for offset in OFFSETS]
        frame = ax.bbox.extents
        inside = [box for box in boxes if _contains(frame, box)] or boxes
        best = next((box for box in inside if not any(_overlap(box, other) for other in taken)), inside[0])
        _placed(label, OFFSETS[boxes.index(best)])
        taken.append(best)


def _placed(label: Any, offset: tuple[int, int]) -> tuple[float, float, float, float]:
    label.set_position(offset)
    label.set_horizontalalignment("left" if offset[0] > 0 else "right" if offset[0] < 0 else "center")
    left, bottom, right, top = label.get_window_extent().extents
    return float(left), float(bottom), float(right), float(top)


def _contains(frame: Sequence[float], box: Sequence[float]) -> bool:
    return box[0] >= frame[0] and box[2] <= frame[2] and box[1] >= frame[1] and box[3] <= frame[3]


def _overlap(a: Sequence[float], b: Sequence[float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _together(points: Sequence[tuple[float, float, str]], pixels: Sequence[Any]) -> list[tuple[float, float, str]]:
    """Join the labels of points at the same place."""
    groups: dict[int, list[str]] = {}
    for index, point in enumerate(points):
        near = next((k for k in groups if math.dist(pixels[k], pixels[index]) < 12), index)
        groups.setdefault(near, []).append(point[2])
    return [(*points[k][:2], " · ".join(names)) for k, names in groups.items()]
