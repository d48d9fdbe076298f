"""Matplotlib figures as inline SVG in the colours and the font of the page, light or dark."""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from .formatting import short_name

WIDTH = 480
SERIES = 6
_NAMES = ("ink", "soft", "faint", "rule", "grid", "card", "bad", "ref", *(f"s{index}" for index in range(SERIES)))
GLYPHS = "(?s).*[Gg]lyph .*"
"""Warnings that matplotlib's font lacks a letter or its layout a script: the page's own font draws the text."""
Coordinates = str | tuple[str, str]
COLOUR = {name: f"#00fe{index + 16:02x}" for index, name in enumerate(_NAMES)}
"""Placeholders for the colours of the page's style; :func:`drawn` replaces them by ``var(--name)``."""
_STYLE: Any = {
    "text.parse_math": False,  # the name of a stage may contain a dollar sign
    "svg.fonttype": "none",
    "path.simplify": False,
    "svg.hashsalt": "retort",
    "font.family": "DejaVu Sans",
    "font.size": 13,
    "axes.edgecolor": COLOUR["rule"],
    "axes.labelcolor": COLOUR["soft"],
    "axes.labelsize": 13,
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
    "xtick.labelsize": 12.5,
    "ytick.labelsize": 12.5,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
}
OFFSETS = (
    (9, 11), (-9, 11), (9, -11), (-9, -11), (9, 0), (-9, 0), (0, 15), (0, -15), (9, 26), (9, -26), (-9, 26), (-9, -26),
)  # fmt: skip
"""Possible offsets of a label from its point, in pixels, the best one first."""


@dataclass(frozen=True)
class Plot:
    """A drawing with its heading and a sentence that explains it.

    Attributes:
        keys: what the colours stand for: names, each with the number of its series.
    """

    title: str
    caption: str
    svg: str
    keys: tuple[tuple[str, int], ...] = ()


@contextmanager
def axes(height: float) -> Iterator[Axes]:
    """Axes of a figure with the width of a card of the report and a height of ``height`` pixels; see :func:`drawn`."""
    with mpl.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", GLYPHS)
        figure = Figure(figsize=(WIDTH / 72, height / 72), dpi=72, layout="constrained")
        FigureCanvasSVG(figure)
        yield figure.add_subplot()


@contextmanager
def panels(*heights: float) -> Iterator[list[Axes]]:
    """Axes one below the other, of these heights in pixels, which share their horizontal axis; see :func:`drawn`."""
    with mpl.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", GLYPHS)
        figure = Figure(figsize=(WIDTH / 72, sum(heights) / 72), dpi=72, layout="constrained")
        FigureCanvasSVG(figure)
        made = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights, squeeze=False)
        yield list(made[:, 0])


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
    inside = re.sub(r'<g id="[^"]*"/>|<defs>\s*</defs>', "", inside)
    inside = re.sub(r'(?<= d=")[^"]*', lambda found: compact_path(found[0]), inside)
    inside = re.sub(r'(?<= [xy]=")[^"]*', lambda found: re.sub(r"(\.\d)\d+", r"\1", found[0]), inside)
    inside = re.sub(r'(?<= style=")[^"]*', _compact_style, inside)
    for name, stand_in in COLOUR.items():
        inside = inside.replace(stand_in, f"var(--{name})")
    shown = escape(title)
    box = view[1] if view else f"0 0 {WIDTH} {WIDTH}"
    return f'<svg viewBox="{box}" role="img" aria-label="{shown}"><title>{shown}</title>{inside}</svg>'


def compact_path(data: str) -> str:
    """The same path in fewer characters: tenths of a pixel, and each point relative to the one before."""
    steps = re.findall(r"([A-Za-z])((?:\s*-?[\d.]+(?:e-?\d+)?)*)", data)
    if {letter for letter, _ in steps} - set("MLz"):
        return re.sub(r"\s+", " ", re.sub(r"(\.\d)\d+", r"\1", data)).strip()
    made, here = "", (0, 0)
    for letter, numbers in steps:
        if letter == "z":
            made += "z"
            continue
        x, y = (round(10 * float(number)) for number in numbers.split())
        step = (x - here[0], y - here[1])
        made += f"M{_tenths(x)} {_tenths(y)}" if not made else "h0" if step == (0, 0) else _relative(letter, step)
        here = (x, y)
    return made


def _relative(letter: str, step: tuple[int, int]) -> str:
    first, second = (_tenths(value) for value in step)
    return f"{letter.lower()}{first}{'' if second.startswith('-') else ' '}{second}"


def _tenths(value: int) -> str:
    return f"{value / 10:g}"


def _compact_style(found: re.Match[str]) -> str:
    return re.sub(r"\s*([:;])\s*", r"\1", found[0].replace("stroke-linecap: square", "")).rstrip(";")


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


def whisker(
    ax: Axes, span: tuple[float, float], across: float, colour: str, vertical: bool = False, faint: bool = False
) -> None:
    """Draw an interval as a line with end caps inside the plot; an unbounded end continues to the plot's border.

    Args:
        faint: draw a thin line without caps, where many would hide each other.
    """
    limits = sorted(ax.get_ylim() if vertical else ax.get_xlim())
    ends = [min(max(end, limits[0]), limits[1]) for end in span]
    draw = ax.vlines if vertical else ax.hlines
    draw([across], [ends[0]], [ends[1]], colors=colour, linewidth=1.0 if faint else 1.8, alpha=0.5 if faint else 1.0)
    if faint:
        return
    for end, value in zip(ends, span, strict=True):
        if limits[0] <= value <= limits[1]:
            place = (across, end) if vertical else (end, across)
            ax.plot(*place, marker="_" if vertical else "|", markersize=8, markeredgewidth=1.8, color=colour)


def dots(ax: Axes, xs: Sequence[float], ys: Sequence[float], colour: str) -> None:
    """Draw many small points as one path, which takes a fifth of the bytes of as many markers."""
    flat_x = [value for x in xs for value in (x, x, math.nan)]
    flat_y = [value for y in ys for value in (y, y, math.nan)]
    ax.plot(flat_x, flat_y, color=colour, linewidth=4.5, alpha=0.7, solid_capstyle="round")


def line_of(series: int) -> dict[str, Any]:
    """Colour and dashes of a series; from the seventh on, the colours come again with dashes."""
    return {"color": COLOUR[f"s{series % SERIES}"], "linestyle": "-" if series < SERIES else (0, (3, 2))}


def named_rows(ax: Axes, labels: Sequence[str]) -> None:
    """One row per label, the first on top."""
    ax.set_ylim(len(labels) - 0.5, -0.5)
    ax.set_yticks(range(len(labels)), [short_name(label) for label in labels])
    ax.tick_params("y", labelcolor=COLOUR["ink"], labelsize=13)
    for text in ax.get_yticklabels():
        text.set_fontweight("bold")
    ax.grid(visible=False, axis="y")


def beside(ax: Axes, place: tuple[float, float], text: str, coordinates: Coordinates = "data") -> None:
    """Text to the right of a place, also outside the plot."""
    ax.annotate(text, place, xycoords=coordinates, xytext=(8, 0), textcoords="offset points", va="center",
                color=COLOUR["soft"], annotation_clip=False)  # fmt: skip


def no_difference(draw: Callable[..., object], place: float) -> None:
    """The line of no difference."""
    draw(place, color=COLOUR["faint"], linewidth=1.4, linestyle=(0, (3, 3)))


def dot(ax: Axes, x: float, y: float, colour: str) -> None:
    """Draw a point with a thin border that separates it from the lines below."""
    ax.plot(x, y, marker="o", markersize=9, markeredgewidth=1.5, color=colour, markeredgecolor=COLOUR["card"], zorder=5)


def label_points(ax: Axes, points: Sequence[tuple[float, float, str]], all_of_them: bool = True) -> None:
    """Place each label at the first offset from its point where it covers no point and no other label.

    Args:
        all_of_them: also place labels for which there is no room; otherwise they are left out.
    """
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
        free = [box for box in inside if not any(_overlap(box, other) for other in taken)]
        if not free and not all_of_them:
            label.remove()
            continue
        best = (free or inside)[0]
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
