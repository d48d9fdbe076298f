"""A result as Markdown: the verdict first, whole tables, and no name that becomes markup or a mention."""

from __future__ import annotations

from pathlib import Path

import pytest
from drawn_results import HOSTILE, drawn_result, hot_device

from retort.__main__ import main
from retort.benchmarks.report.html_report import render
from retort.benchmarks.report.markdown_report import markdown
from retort.benchmarks.report.verdict import verdict
from retort.benchmarks.result import EnergyEntry, load_result, save_result


def test_the_page_begins_with_the_verdict_of_the_html_page() -> None:
    """The first line that is shown is the first sentence, in bold; model, percentile and ratio are in the table."""
    found = drawn_result()
    lines = markdown(found).splitlines()
    assert lines[0] == "<!-- Retort, retort.result/2 -->"
    assert lines[2] == f"**{verdict(found)[0]}**"
    header = next(line for line in lines if line.startswith("| model"))
    assert header == "| model | size | accuracy | loss | batch 1 | p99 | × faster |"
    assert "retort bench a.onnx b.onnx" in lines


def test_every_row_has_every_cell() -> None:
    """Names with bars, backticks, tags and mentions stay in their cell, and are text."""
    page = markdown(drawn_result((*HOSTILE, "a|b", "`x`", "@everyone", "line\nbreak"), (1, 8), rounds=8, slots=8))
    rows = [line.replace("\\|", "") for line in page.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + len(HOSTILE) + 4
    assert len({row.count("|") for row in rows}) == 1
    assert "<script>" not in page
    assert "@everyone" not in page
    assert "&lt;script&gt;" in page


def test_a_device_has_its_starts_and_its_energy() -> None:
    """Starts have a table of their own, energy a column, and THROTTLED stands first."""
    hot = hot_device()
    used = EnergyEntry(net_mj=1.234, low_mj=1.2, high_mj=1.3, gross_mj=3, watts=5, idle_watts=3, source="VDD_IN",
                       turns=3, per_second=2)  # fmt: skip
    stages = tuple(stage.model_copy(update={"energy": used}) for stage in hot.stages)
    shown = render(hot.model_copy(update={"stages": stages}))
    assert "energy per sample, net</th>" in shown
    assert "1.23 mJ<small>[1.20, 1.30], VDD_IN</small>" in shown
    page = markdown(hot.model_copy(update={"stages": stages}))
    assert page.splitlines()[2].startswith("**THROTTLED, so no decision")
    assert "| mJ per sample |" in page
    assert "| 1.23 net |" in page
    assert "| fp32 | 610 ms | 90.0 ms | 210 ms |" in page


def test_the_command_writes_by_the_ending(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`retort report --out` writes Markdown and replaces its own file; a file of the user's is kept."""
    save_result(drawn_result(), tmp_path / "result.json")
    page, own = tmp_path / "page.md", tmp_path / "README.md"
    own.write_text("# mine\n")
    for out, code in ((page, 0), (page, 0), (own, 2), (tmp_path / "page.txt", 2)):
        with pytest.raises(SystemExit) as ended:
            main(["report", str(tmp_path / "result.json"), "--out", str(out)])
        assert (ended.value.code != 0) == (code != 0)
    assert page.read_text().startswith("<!-- Retort, ")
    assert own.read_text() == "# mine\n"


def test_an_edited_result_is_reported_as_invalid(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`retort report` computes the figures again, and writes INVALID with the figures that do not follow."""
    save_result(drawn_result(), tmp_path / "result.json")
    text = (tmp_path / "result.json").read_text()
    mean = load_result(tmp_path / "result.json").stages[1].latency[1].mean_ms
    (tmp_path / "result.json").write_text(text.replace(f'"mean_ms": {mean}', '"mean_ms": 0.01'))
    with pytest.raises(SystemExit):
        main(["report", str(tmp_path / "result.json"), "--out", str(tmp_path / "page.md")])
    page = (tmp_path / "page.md").read_text()
    assert "**INVALID, so no decision can be based on this result" in page
    assert "the mean of 'int8' at batch 1 says 0.01 ms" in page


def test_the_folder_of_a_device_is_a_source(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The result in a folder of a device is found; of several, the user is told to choose one."""
    (tmp_path / "result.json").write_text("{}")
    save_result(drawn_result(), tmp_path / "result-t1-a.json")
    for code in (0, 1):
        with pytest.raises(SystemExit) as ended:
            main(["report", str(tmp_path), "--out", str(tmp_path / "page.html")])
        assert bool(ended.value.code) == bool(code)
        save_result(drawn_result(), tmp_path / "result-t2-b.json")
    assert "contains 2 results: result-t1-a.json, result-t2-b.json" in " ".join(capsys.readouterr().err.split())
