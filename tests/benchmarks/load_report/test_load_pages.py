"""Pages of loads: the verdict first, every figure that belongs to the kind of measurement, small, safe and whole."""

from __future__ import annotations

import json
import re
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from drawn_results import HOSTILE
from load_results import load_result

from retort.__main__ import main
from retort.benchmarks.load_report.load_markdown import load_markdown
from retort.benchmarks.load_report.load_page import load_page
from retort.benchmarks.load_report.load_plots import load_plots
from retort.benchmarks.load_report.load_verdict import load_verdict
from retort.benchmarks.scenarios.load_result import write_load
from retort.benchmarks.scenarios.load_state import judged
from retort.benchmarks.validation.validation import validate_file

KINDS = ("single-stream", "multi-stream", "server", "offline", "sweep", "sustain", "cold")


def headings(page: str) -> list[str]:
    """The titles of the figures of a page."""
    return re.findall(r"<figure>\s*<h3>(.*?)</h3>", page)


def exit_code(*arguments: str) -> object:
    """Run a command; its exit code."""
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return ended.value.code


@pytest.mark.parametrize("kind", KINDS)
def test_a_page_is_one_small_safe_file_that_begins_with_the_verdict(kind: str) -> None:
    """No script, no address, no lost number, no name that becomes markup; the heading is the first sentence."""
    found = judged(load_result(kind, names=HOSTILE[2:9]))
    page = load_page(found)
    assert len(page.encode()) <= 300_000
    assert "<script" not in page
    assert not re.search(r"https?:|src=|url\((?!#)|@import", page)
    assert not re.search(r"\b(nan|inf|None)\b", re.sub(r"<style.*?</style>", "", page, flags=re.S))
    assert unescape(re.findall(r"<h1>(.*?)</h1>", page, re.S)[0]) == load_verdict(found)[0]
    assert found.command in page


@pytest.mark.parametrize(
    ("kind", "changes", "first", "figures"),
    [
        (
            "single-stream", {}, "“int8” is 1.99× faster than “fp32” (95 % CI 1.93 to 2.04)",
            ["distribution of queries", "latency over time", "stages of a query"],
        ),
        (
            "server", {"p99_ms": 50.0, "failed": 5}, "“int8” keeps a 99th percentile of 50 ms up to 400 queries per",
            ["distribution of queries", "latency over time", "stages of a query", "queries without an answer",
             "trials of rates"],
        ),
        ("offline", {"names": ("fp32",)}, "“fp32” takes 2.0", ["distribution of queries", "latency over time",
                                                              "stages of a query"]),
        ("sweep", {}, "The lowest latency is 1.0", ["latency and throughput"]),
        ("sustain", {}, "“int8” takes 0.9", ["without a break", "distribution of queries", "stages of a query"]),
        ("cold", {}, "“int8” answers as fast as later", ["start of a model"]),
    ],
)  # fmt: skip
def test_the_first_sentence_and_the_figures_belong_to_the_measurement(
    kind: str, changes: dict[str, Any], first: str, figures: list[str]
) -> None:
    """Speed against the first candidate, a highest rate, throughput, the last minute or a start, and their plots."""
    if kind == "sustain":
        minutes = {"fp32": (2.0, 2.1), "int8": (0.9, 0.95)}
        found = load_result(kind)
        entries = tuple(
            one.model_copy(update=dict(zip(("first_minute_ms", "last_minute_ms"), minutes[one.name], strict=True)))
            for one in found.candidates
        )
        found = found.model_copy(update={"candidates": entries})
    else:
        found = load_result(kind, **changes)
    said = load_verdict(found)
    assert said[0].startswith(first)
    assert [plot.title for plot in load_plots(found)] == figures
    assert headings(load_page(found)) == figures
    if "failed" in changes:
        assert "“fp32” did not answer 5 queries of 1,205." in said


def test_a_noisy_measurement_says_so_first_and_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The heading, the terminal and Markdown begin with NOISY; the tiles do not show the ratio."""
    noisy = judged(load_result("single-stream", steal_percent=9.0))
    first, *_, last = load_verdict(noisy)
    assert first.startswith("NOISY, so no decision can be based on these times: “int8” is seemingly ")
    assert last == "NOISY: the hypervisor took 9.0 % of the CPU time (limit 2 %)."
    page = load_page(noisy)
    assert "times faster" not in page
    assert "times faster" in load_page(judged(load_result("single-stream")))
    assert "Why it decides nothing" in page
    write_load(noisy, tmp_path / "r.json")
    assert validate_file(tmp_path / "r.json").faults == ()
    assert exit_code("report", str(tmp_path / "r.json"), "--out", str(tmp_path / "r.md")) == 0
    assert "NOISY, so no decision can be based on it: the hypervisor" in capsys.readouterr().err
    assert (tmp_path / "r.md").read_text().splitlines()[2].startswith("**NOISY, so no decision")
    assert exit_code("report", str(tmp_path / "r.json"), "--out", str(tmp_path / "r.html")) == 0
    assert (tmp_path / "r.html").read_text() == page


def test_an_edited_result_is_invalid(tmp_path: Path) -> None:
    """A verdict that was changed by hand does not follow from what the result keeps, and the page says INVALID."""
    path = tmp_path / "r.json"
    write_load(judged(load_result("single-stream", steal_percent=9.0)), path)
    path.write_text(json.dumps({**json.loads(path.read_text()), "status": "VALID", "reasons": []}))
    assert any(fault.startswith("status says VALID") for fault in validate_file(path).faults)
    assert exit_code("report", str(path), "--out", str(tmp_path / "r.html")) == 0
    assert "<h1>INVALID, so no decision can be based on this result" in (tmp_path / "r.html").read_text()


def test_a_result_of_an_earlier_version_has_its_verdict_on_its_page(tmp_path: Path) -> None:
    """Without a stored status it is found from what the result keeps."""
    old = load_result("single-stream", steal_percent=9.0)
    write_load(old, tmp_path / "r.json")
    assert old.status is None
    assert validate_file(tmp_path / "r.json").faults == ()
    assert load_verdict(old)[0].startswith("NOISY")


def test_names_stay_text_in_markdown() -> None:
    """Every row has every cell, whatever the names are."""
    page = load_markdown(load_result("offline", names=("a|b", "`x`", "@everyone")))
    table = [line for line in page.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in table[:5]} == {10}
    assert "@everyone" not in page


def test_nothing_answered_is_a_sentence() -> None:
    """A candidate without any answer has a page, which says so."""
    found = judged(load_result("single-stream", names=("fp32",), queries=0))
    assert load_verdict(found)[0] == "INVALID, so no decision can be based on this result: “fp32” answered no query."
    assert "answered no query" in load_page(found)
