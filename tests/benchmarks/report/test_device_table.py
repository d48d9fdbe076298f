"""The table of all devices as a page and as Markdown."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from retort.benchmarks.edge.store import Row
from retort.benchmarks.report.device_table import claim_table, device_table, write_table_markdown, write_table_page
from retort.core.errors import UserError

FP32 = Row(
    run="r", started="2026-12-01T10:00:00+00:00", command="retort edge run pi a b", device="pi (Raspberry Pi 5)",
    fingerprint="a" * 16, model="fp32", sha256="1" * 64, precision="FP32", cores="all", threads=1, batch=1,
    median_ms=8.0, low_ms=7.9, high_ms=8.1, p99_ms=None, against="", ratio=None, ratio_low=None, ratio_high=None,
    metric="accuracy", value=0.97, drop=None, peak_bytes=None, size_bytes=10, verdict="VALID", reasons="",
    runtime="ONNX Runtime on the CPU",
)  # fmt: skip
INT8 = replace(
    FP32, model="int8 <b>", sha256="2" * 64, precision="INT8", median_ms=4.0, against="fp32", ratio=2.0, ratio_low=1.9,
    ratio_high=2.1,
)  # fmt: skip
HOT = replace(INT8, device="pi4", fingerprint="b" * 16, verdict="THROTTLED", reasons="the processor is throttled")


def test_devices_stand_side_by_side() -> None:
    """A line for each model, a cell for each device, of the newest measurements; what was not measured is empty."""
    newer = replace(INT8, run="s", median_ms=3.0)
    found = device_table([FP32, INT8, HOT, newer])
    assert found.devices == ("pi (Raspberry Pi 5)", "pi4")
    first, second = found.lines
    assert (first.model, first.cells[1]) == ("fp32", None)
    times = [cell.time for cell in second.cells if cell]
    assert times == ["3.00 ms", "4.00 ms"]
    assert found.summary == "2 models on 2 devices, 4 measurements, of which 3 can decide something"
    assert len(found.details[0][1]) == 3


@pytest.mark.parametrize(
    ("row", "floor", "mark"),
    [
        (FP32, 0.0, ""),
        (INT8, 0.0, "good"),
        (INT8, 1.5, "doubt"),
        (HOT, 0.0, "doubt"),
        (replace(INT8, ratio=0.5, ratio_low=0.4, ratio_high=0.6), 0.0, "bad"),
        (replace(INT8, ratio=0.98, ratio_low=0.97, ratio_high=0.99), 0.03, "doubt"),
        (replace(INT8, ratio_low=0.9), 0.0, "doubt"),
        (replace(INT8, ratio_low=None), 0.0, "doubt"),
    ],
)
def test_a_ratio_is_judged_by_interval_verdict_and_noise(row: Row, floor: float, mark: str) -> None:
    """Nothing is decided within the noise of the device, by an interval around 1, or while the device was throttled."""
    (line,) = device_table([row], lambda _: floor).lines
    (cell,) = line.cells
    assert cell is not None
    assert cell.mark == mark


def test_pages_are_whole_and_replace_only_their_own(tmp_path: Path) -> None:
    """One file that loads nothing and escapes names; another file of the name stays."""
    found, page, text = device_table([FP32, INT8, HOT]), tmp_path / "a.html", tmp_path / "a.md"
    for path, write, suffix in ((page, write_table_page, ".html"), (text, write_table_markdown, ".md")):
        claim_table(path, suffix)
        write(found, path)
        claim_table(path, suffix)
    html, markdown = page.read_text(), text.read_text()
    assert "int8 &lt;b&gt;" in html
    assert not re.search(r"<script|https?://|<link|<img", html)
    assert {"prefers-color-scheme: dark", "@media print", "max-width: 720px", "THROTTLED"} <= set(
        re.findall(r"prefers-color-scheme: dark|@media print|max-width: 720px|THROTTLED", html)
    )
    assert "2.00 × " in markdown
    assert "(THROTTLED)" in markdown
    assert "cannot tell" in markdown
    for name, told in (("a.html", "does not end in"), ("no/where.md", "does not exist"), ("mine.md", "exists, and is")):
        (tmp_path / "mine.md").write_text("mine")
        with pytest.raises(UserError, match=told):
            claim_table(tmp_path / name, ".md")
