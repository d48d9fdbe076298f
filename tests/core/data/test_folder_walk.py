"""Folders below a folder: order, links, and more levels than Python may call."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from retort.core.data.files.folder_walk import DEEPEST, walked
from retort.core.data.source_forms import read_path
from retort.core.errors import DataError


@pytest.fixture
def deep() -> Iterator[Path]:
    """A folder with 1,200 levels of folders, which no path can name, and which pytest could not delete."""
    folder = tempfile.mkdtemp()
    here = os.getcwd()
    os.chdir(folder)
    for _ in range(1200):
        os.mkdir("d")
        os.chdir("d")
    os.chdir(here)
    yield Path(folder)
    subprocess.run(["rm", "-rf", folder], check=True)


def test_folders_are_walked_from_the_top_and_sorted(tmp_path: Path) -> None:
    """Files of a folder come before those of its folders; a link to a folder is not followed."""
    for name in ("b/2.png", "b/1.png", "a/x/3.png", "0.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    found = [(os.path.relpath(here, tmp_path), names) for here, names in walked(tmp_path)]
    assert found == [(".", ["0.png"]), ("a", ["loop"]), ("a/x", ["3.png"]), ("b", ["1.png", "2.png"])]


def test_folders_without_end_are_one_sentence(deep: Path) -> None:
    """More levels than any data has are refused, where recursion would end in an internal error."""
    with pytest.raises(DataError, match=f"more than {DEEPEST} levels deep"):
        list(walked(deep))
    with pytest.raises(DataError, match="levels deep"):
        read_path(deep, {}, Path(), None)
