"""Pages of results of every kind are small, safe and whole, and their first sentence is the verdict."""

from __future__ import annotations

import re
import warnings
from functools import cache
from html import unescape

import pytest
from drawn_results import HOSTILE, drawn_result, hot_device

from retort.benchmarks.report.html_report import render
from retort.benchmarks.report.plots import all_plots
from retort.benchmarks.result import Result
from retort.benchmarks.timing.machine_noise import Noise

LARGEST = 300_000


@cache
def made(kind: str) -> Result:
    """A result of a kind, made once for all tests."""
    if kind == "names":
        return drawn_result(HOSTILE, (1, 32), rounds=20, slots=20)
    if kind == "many times":
        return drawn_result([f"candidate-{number}" for number in range(12)], (1, 8, 32), rounds=100, slots=28)
    if kind == "hot":
        return hot_device()
    if kind == "one":
        return drawn_result(("only",))
    return drawn_result(accuracy=False)


KINDS = ("names", "many times", "hot", "one", "no accuracy")


@pytest.mark.parametrize("kind", KINDS)
def test_a_page_is_one_small_safe_file(kind: str) -> None:
    """A page has at most 300 kB, no script, no address, no unescaped name, no lost number and no warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        page = render(made(kind))
    assert len(page.encode()) <= LARGEST
    assert "<script" not in page
    assert not re.search(r"https?:|src=|url\((?!#)|@import", page)
    assert not re.search(r"\b(nan|inf)\b", re.sub(r"<style.*?</style>", "", page, flags=re.S))
    for stage in made(kind).stages:
        assert stage.sha256[:12] in page


def test_the_large_page_has_a_hundred_thousand_raw_times() -> None:
    """The result of the size test holds 12 models and more than 100,000 readings."""
    found = made("many times")
    assert len(found.stages) == 12
    raws = [entry.raw for stage in found.stages for entry in stage.latency.values()]
    assert sum(raw.readings for raw in raws if raw is not None) > 100_000


@pytest.mark.slow
def test_more_batch_sizes_stay_below_the_limit() -> None:
    """Twelve models at six batch sizes still make a page of at most 300 kB."""
    many = drawn_result([f"candidate-{number}" for number in range(12)], (1, 2, 4, 8, 16, 32), rounds=30, slots=10)
    assert len(render(many).encode()) <= LARGEST


def test_names_are_text_on_the_page() -> None:
    """Names that are code in HTML, in a template or in a formula are shown letter by letter."""
    text = unescape(re.sub("<[^>]*>", " ", render(made("names"))))
    for name in HOSTILE:
        assert name in text


def test_no_label_leaves_its_figure() -> None:
    """Every text of every figure begins inside the figure's box."""
    for plot in all_plots(made("names")):
        found = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', plot.svg)
        assert found is not None
        width, height = float(found[1]), float(found[2])
        places = re.findall(r'<text [^>]*x="(-?[\d.]+)" y="(-?[\d.]+)"', plot.svg)
        assert all(-1 <= float(x) <= width + 1 and -1 <= float(y) <= height + 1 for x, y in places), plot.title


def test_a_throttled_device_is_told_first() -> None:
    """The first sentence begins with THROTTLED and names the device; figures show heat, frequency and starts."""
    page = render(made("hot"))
    heading = unescape(re.search(r"<h1>(.*?)</h1>", page, re.S)[1])  # type: ignore[index]
    assert heading.startswith("THROTTLED, so no decision can be based on these times: “int8” is seemingly")
    assert "on Raspberry Pi 5 Model B at batch 1" in heading
    assert "the firmware says that the processor is throttled" in page
    titles = [plot.title for plot in all_plots(made("hot"))]
    for title in ("without a break at batch 1", "start of a model", "latency over time at batch 1"):
        assert title in titles
    assert ">°C<" in page
    assert ">MHz<" in page


def test_a_noisy_and_an_edited_result_are_told_first() -> None:
    """NOISY stands first in the sentence, and INVALID before it where figures do not follow from the raw times."""
    noisy = drawn_result(noise=Noise("NOISY", ("processes waited",)))
    assert "<h1>NOISY, so no decision can be based on these times" in render(noisy)
    page = render(noisy, faults=("stages.1: the median <b>",))
    assert "<h1>INVALID, so no decision can be based on this result" in page
    assert "the median &lt;b&gt;" in page


def test_one_model_has_a_sentence_of_its_own() -> None:
    """A model that is compared with nothing is told by its time, its size and its metric, and no loss is shown."""
    page = render(made("one"))
    heading = unescape(re.search(r"<h1>(.*?)</h1>", page, re.S)[1])  # type: ignore[index]
    assert re.match(
        r"“only” takes [\d.]+ (ms|µs) at batch 1 \(95 % CI .*\), p99 .*, 4.00 MB, accuracy 98.23 %", heading
    )
    assert "compared with" not in page
    assert ">loss</th>" not in page


def test_dark_light_and_print_have_their_styles() -> None:
    """The page follows the system's colours, is light on paper, and no figure or row is cut at the end of a sheet."""
    page = render(made("one"))
    assert "prefers-color-scheme: dark" in page
    printed = page[page.index("@media print") : page.index("</style>")]
    assert "--page: #ffffff" in printed
    assert "break-inside: avoid" in printed
    assert 'name="viewport" content="width=device-width' in page
