"""The commands of the tutorial and the how-to pages work in the order of the pages."""

from __future__ import annotations

import os
import runpy
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]
RUN_PAGES: dict[str, Any] = runpy.run_path(str(ROOT / "docs/run_pages.py"), run_name="run_pages")
GUIDES = [ROOT / "docs/guides" / name for name in ("data.md", "metrics.md")]
PAGES = [ROOT / "docs/tutorial.md", *GUIDES, *sorted((ROOT / "docs/how-to").glob("*.md"))]


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    "page", [pytest.param(p, id=p.stem, marks=pytest.mark.long if p.stem == "raspberry-pi" else ()) for p in PAGES]
)
def test_commands_of_pages_succeed(page: Path, tmp_path: Path) -> None:
    """Every command of a page succeeds; with RETORT_COMPARE_PAGES it also prints the words that the page shows.

    Which words are printed (a verdict on speed, a layer that stays in FP32) depends on the processor and its load.
    """
    ran = 0
    with closing(RUN_PAGES["run_page"](page.read_text(), tmp_path)) as run:
        for done in run:
            assert done.code == 0, f"$ {done.command}\n{done.printed}"
            shown = "not shown" not in done.mark and "RETORT_COMPARE_PAGES" in os.environ
            unexpected = [line for line in RUN_PAGES["mask"](done.out) if line not in RUN_PAGES["mask"](done.shown)]
            assert not shown or unexpected == [], f"$ {done.command}"
            ran += 1
    assert ran == page.read_text().count("\n$ ")


def test_a_page_that_fails_leaves_no_process(tmp_path: Path) -> None:
    """Where a test stops in the middle of a page, the server that the page started in the background ends."""
    code = f"import os, time; print(os.getpid(), '{RUN_PAGES['READY']}', flush=True); time.sleep(300)"
    page = f'```console\n$ python -c "{code}" &\n$ true\n```\n'
    with closing(RUN_PAGES["run_page"](page, tmp_path)) as run:
        process = psutil.Process(int(next(run).out.split()[0]))
        assert process.is_running()
    assert not process.is_running()


def test_masks_leave_words() -> None:
    """Only the words of outputs are compared, because numbers, hashes and units may differ between runs."""
    one, two = "│fp32 │ 1.5 ms │ 3.0× [2.9, 3.1]│\n", "│fp32   │ 780 µs │ 2.71× [2.70, 2.72] │\n"
    assert RUN_PAGES["mask"](one) == RUN_PAGES["mask"](two) == ["fp# # # [# #]"]
    assert RUN_PAGES["mask"]("a 0123456789ab\n") == ["a #"]


def test_pages_are_rewritten_with_the_present_outputs() -> None:
    """The output of a command replaces the output in the page; files and other text do not change."""
    page = "text\n<!-- file: a.py -->\n```python\nprint(1)\n```\n```console\n$ python a.py\nold\n$ true\n```\n"
    done = RUN_PAGES["Done"]("python a.py", "old", 0, "1\n", ""), RUN_PAGES["Done"]("true", "", 0, "", "")
    assert RUN_PAGES["rewritten"](page, list(done)) == page.replace("old\n", "1\n")


def test_the_tutorial_shows_that_everything_is_reused() -> None:
    """Below the sentence on reuse every stage says `reused`; a page that ran while code was edited showed none."""
    text = (ROOT / "docs/tutorial.md").read_text()
    shown = text.partition("reuses everything:")[2].partition("```console")[2].partition("```")[0]
    stages = ("capture", "prune", "quantize", "export", "pack", "bench", "report")
    assert [stage for stage in stages if f"{stage}  reused runs/" not in shown] == []
