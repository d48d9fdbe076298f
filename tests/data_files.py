"""Sources for the tests of data: a load in one call, rows of text, and refusals by their words."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from retort.core.data.data_sources import load_data
from retort.core.data.splits import Splits
from retort.core.errors import UserError
from retort.core.options.stage_options import DataSpec, Task

ROWS = [
    (f"{a:.2f}", f"{b:.2f}", "malignant" if a > 0 else "benign")
    for a, b in np.random.default_rng(0).normal(size=(40, 2))
]
"""Forty rows of two numbers and a label."""


def load(source: str, base: Path, task: Task | None = "classification", **args: object) -> Splits:
    """Load a source with arguments."""
    return load_data(DataSpec(source=source, args=args), base, task=task)


def write(path: Path, *lines: str, encoding: str = "utf-8") -> Path:
    """Write lines, in a folder that is made if needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(("\n".join(lines) + "\n").encode(encoding))
    return path


def csv_lines(rows: list[tuple[str, str, str]] | None = None, delimiter: str = ",") -> list[str]:
    """Rows as lines of a CSV file."""
    return [delimiter.join(row) for row in (ROWS if rows is None else rows)]


def assert_refused(source: str, base: Path, *words: str, task: Task | None = "classification", **args: object) -> None:
    """Loading fails with one sentence that has all the words, and with a remedy."""
    with pytest.raises(UserError) as caught:
        load(source, base, task, **args)
    text = str(caught.value)
    assert [word for word in words if word not in text] == [], text
    assert caught.value.remedy
    assert "\n" not in caught.value.message
    assert not re.search(r"Traceback|object at 0x|<class", text)
