"""What the tutorial and the how-to pages tell a reader to do works, in the order in which it stands there."""

from __future__ import annotations

import os
import runpy
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
WALK: dict[str, Any] = runpy.run_path(str(ROOT / "docs/walk.py"), run_name="walk")
PAGES = [ROOT / "docs/tutorial.md", *sorted((ROOT / "docs/how-to").glob("*.md"))]


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_pages_can_be_walked(page: Path, tmp_path: Path) -> None:
    """Every command of a page succeeds; with RETORT_WALK_WORDS it also prints the words that the page shows.

    Which words are printed (a verdict on speed, a layer that stays in FP32) depends on the processor and its load.
    """
    ran = 0
    for done in WALK["walk_page"](page.read_text(), tmp_path):
        assert done.code == 0, f"$ {done.command}\n{done.printed}"
        shown = "not shown" not in done.mark and "RETORT_WALK_WORDS" in os.environ
        unexpected = [line for line in WALK["mask"](done.out) if line not in WALK["mask"](done.shown)]
        assert not shown or unexpected == [], f"$ {done.command}"
        ran += 1
    assert ran == page.read_text().count("\n$ ")


def test_masks_leave_words() -> None:
    """What is compared of an output are its words: numbers, hashes and units may differ from run to run."""
    one, two = "│fp32 │ 1.5 ms │ 3.0× [2.9, 3.1]│\n", "│fp32   │ 780 µs │ 2.71× [2.70, 2.72] │\n"
    assert WALK["mask"](one) == WALK["mask"](two) == ["fp# # # [# #]"]
    assert WALK["mask"]("a 0123456789ab\n") == ["a #"]


def test_pages_are_rewritten_with_what_was_printed() -> None:
    """What a command printed takes the place of what stood there; files and other text stay."""
    page = "text\n<!-- file: a.py -->\n```python\nprint(1)\n```\n```console\n$ python a.py\nold\n$ true\n```\n"
    done = WALK["Done"]("python a.py", "old", 0, "1\n", ""), WALK["Done"]("true", "", 0, "", "")
    assert WALK["rewritten"](page, list(done)) == page.replace("old\n", "1\n")
