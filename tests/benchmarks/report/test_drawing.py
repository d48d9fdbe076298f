"""The report's plots fit the page, and no value makes them fail."""

from __future__ import annotations

import itertools
import re
from html.parser import HTMLParser

import pytest
from matplotlib.transforms import Bbox

from retort.benchmarks import result
from retort.benchmarks.report import drawing, formatting, plots

Ends = tuple[float | None, float | None, float | None]
OPEN: list[Ends] = [(None, 1.0, None), (0.0, 2.0, None), (None, 0.5, 4.0), (None, None, None), (3.0, None, None)]


def spread(low: float | None, value: float | None, high: float | None) -> result.Spread:
    """A value with its interval."""
    return result.Spread(value=value, low=low, high=high, confidence=0.95)


def stage(name: str, metric: float = 0.9, ms: float = 1.0, ratio: result.Spread | None = None) -> result.StageEntry:
    """A stage with accuracy and times at one batch size."""
    timed = result.LatencyEntry.model_construct(
        median_ms=spread(ms * 0.99, ms, ms * 1.01), ratio=ratio, verdict="cannot tell", blocks_ms=(), percentiles=()
    )
    found = result.MetricEntry(
        value=metric, low=metric - 0.01, high=metric + 0.01, confidence=0.95, name="accuracy", n=9
    )
    return result.StageEntry.model_construct(
        stage=name, sha256="0" * 64, kind="program", file="x", size_bytes=10, metric=found, latency={1: timed},
        drop=None, history=(), notes=(),
    )  # fmt: skip


def outcome(*stages: result.StageEntry) -> result.Result:
    """A result of some stages, the first as the reference."""
    return result.Result.model_construct(stages=stages, reference=stages[0].stage, gates=(), runs=())


@pytest.mark.parametrize("ends", OPEN)
@pytest.mark.parametrize(("zero", "log"), [(1.0, True), (0.0, False)])
def test_open_and_missing_ends_are_drawn_to_the_border(ends: Ends, zero: float, log: bool) -> None:
    """An interval without an end, or without any number, is drawn inside the plot."""
    rows = [plots.Row("a", spread(*ends), "?", 0), plots.Row("b", spread(1, 2, 3), "", 1)]
    made = plots._intervals("t", "c", rows, zero, log, "x", formatting.tick)
    assert made is not None
    assert not re.search(r"\b(nan|inf)\b", made.svg)
    width, height = (float(number) for number in re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', made.svg)[0])
    places = [(float(x), float(y)) for x, y in re.findall(r'<use [^>]*x="(-?[\d.]+)" y="(-?[\d.]+)"', made.svg)]
    assert len(places) >= 2
    assert all(0 <= x <= width and 0 <= y <= height for x, y in places)


def test_the_same_numbers_give_the_same_bytes() -> None:
    """Plots contain no date and no random name, so that a report of the same result is the same file."""
    found = outcome(stage("train"), stage("export", 0.88, 0.4, spread(0.5, 1.0, 2.0)))
    first, second = ([plot.svg for plot in plots.all_plots(found)] for _ in range(2))
    assert first == second
    assert len(first) == 4


def test_plots_take_the_colours_and_the_font_of_the_page() -> None:
    """Plots use the page's variables for colours, light or dark, and text without a font family, and load nothing."""
    svg = plots.sizes(outcome(stage("train"), stage("a & <b> $x$"))).svg
    assert "var(--s0)" in svg
    assert "var(--ref)" in svg
    assert not re.findall(r"#00fe|font:|font-family|http|xmlns|<style", svg)
    assert "a &amp; &lt;b&gt; $x$" in svg


class Names(HTMLParser):
    """Collects names and references."""

    def __init__(self) -> None:
        super().__init__()
        self.named: list[str] = []
        self.used: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Remember names and references."""
        given = dict(attrs)
        self.named += [given["id"] or ""] if "id" in given else []
        self.used |= set(re.findall(r"#([\w-]+)", " ".join(str(given.get(key)) for key in ("href", "clip-path"))))


def test_every_reference_inside_a_plot_has_its_target() -> None:
    """Every reference in a drawing has exactly one target in the same drawing."""
    for plot in plots.all_plots(outcome(stage("train"), stage("export", 0.88, 0.4))):
        names = Names()
        names.feed(plot.svg)
        assert names.used <= set(names.named)
        assert len(names.named) == len(set(names.named))


@pytest.mark.parametrize(
    ("low", "high", "log"),
    [(0.0, 0.037, False), (-3.2, 9.9, False), (0.01, 70, True), (0.9, 1.1, True), (5, 5, True), (0.9, 0.9, False)],
)
def test_ticks_are_few_and_have_different_labels(low: float, high: float, log: bool) -> None:
    """Some ticks are inside the plot, not too many, and all their labels differ."""
    with drawing.axes(200) as ax:
        drawing.scale(ax.xaxis, [low, high], log, formatting.tick)
        limits = ax.get_xlim()
        ticks = [value for value in ax.xaxis.get_majorticklocs() if limits[0] <= value <= limits[1]]
    assert limits[0] < low <= high < limits[1]
    assert 2 <= len(ticks) <= 8
    assert len({formatting.tick(value) for value in ticks}) == len(ticks)


def test_labels_keep_out_of_each_others_way() -> None:
    """Labels of five points that are close together do not overlap; two equal points share a label."""
    points = [(0.40 + 0.03 * k, 0.50 - 0.02 * k, f"stage {k}") for k in range(5)]
    with drawing.axes(330) as ax:
        drawing.scale(ax.xaxis, [0, 1])
        drawing.scale(ax.yaxis, [0, 1])
        drawing.label_points(ax, [*points, (*points[0][:2], "twin")])
        boxes = [Bbox(text.get_window_extent().get_points()) for text in ax.texts]
        told = [text.get_text() for text in ax.texts]
    assert len(boxes) == 5
    assert told[0] == "stage 0 · twin"
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
