"""The folders below a folder, without recursion, which ends at a thousand levels."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from ...errors import DataError

DEEPEST = 200
"""Levels of folders below which no data is looked for."""


def walked(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Each folder with the names of its files, from the top, sorted; links to folders are not followed.

    Raises:
        DataError: folders are nested more than :data:`DEEPEST` levels deep.
    """
    left = [(str(folder), 0)]
    while left:
        here, level = left.pop()
        folders: list[str] = []
        files: list[str] = []
        try:
            with os.scandir(here) as entries:
                for entry in entries:
                    (folders if entry.is_dir(follow_symlinks=False) else files).append(entry.name)
        except OSError:  # as os.walk, it passes over what cannot be listed
            continue
        if folders and level == DEEPEST:
            raise DataError(
                f"{folder} has folders that are nested more than {DEEPEST} levels deep", "give a folder of samples"
            )
        yield here, sorted(files)
        left += [(os.path.join(here, name), level + 1) for name in sorted(folders, reverse=True)]
