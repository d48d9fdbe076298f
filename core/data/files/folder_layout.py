"""The layout of a folder of files: folders of splits, folders of classes, and a table of labels."""

from __future__ import annotations

import os
import re
from itertools import islice
from pathlib import Path

from ...errors import DataError
from ..splits import NAMES, TEST, TRAIN
from ..tables.split_column import split_name
from .folder_walk import walked

NAMES_FILE = "labels.txt"
LABEL_FILES = ("labels.csv", "labels.tsv", NAMES_FILE, "metadata.csv")
"""Names of tables of labels in a folder of files; the last one is that of Hugging Face."""
LOOKED_AT = 64
"""Number of lines of a table in which names of files are looked for."""


def label_file(folder: Path, suffixes: frozenset[str]) -> Path | None:
    """The table of labels in a folder; a labels.txt beside folders of classes that names no file is a list of names."""
    for name in LABEL_FILES:
        path = folder / name
        if not path.is_file():
            continue
        classes = name == NAMES_FILE and any(has_files(child, suffixes) for child in subfolders(folder))
        if not classes or _names_files(path, folder):
            return path
    return None


def _names_files(path: Path, folder: Path) -> bool:
    with path.open(encoding="utf-8", errors="replace") as stream:
        lines = [line.strip() for line in islice(stream, LOOKED_AT)]
    return any(named_file(folder, cell.strip("\"' ")) for line in lines for cell in re.split("[,;\t|]", line))


def split_folders(folder: Path, suffixes: frozenset[str], labelled: bool) -> dict[str, Path]:
    """The folders in a folder that are called like splits; empty if they are classes among others.

    Args:
        suffixes: of the files of samples.
        labelled: whether files that lie in a split itself can have labels, as text files can.

    Raises:
        DataError: two folders have names of one split, or a folder called train may be a split or a class.
    """
    splits: dict[str, Path] = {}
    others = []
    for child in subfolders(folder):
        split = split_name(child.name)
        if split not in NAMES:
            others.append(child)
        elif split in splits:
            raise DataError(f"{splits[split]} and {child} are both the split {split}", "put the files into one folder")
        else:
            splits[split] = child
    if TRAIN not in splits:
        alone = TEST in splits and not any(has_files(child, suffixes) for child in others)
        return splits if alone and _has_classes(splits[TEST], suffixes, labelled) else {}
    train = splits[TRAIN]
    other = next((child for child in others if has_files(child, suffixes)), None)
    if other is None or any(has_files(child, suffixes) for child in subfolders(train)):
        return splits
    if len(splits) == 1:
        return {}
    if not labelled and has_files(train, suffixes) and label_file(train, suffixes) is None:
        raise DataError(
            f"{train} may be a split or a class, because {other.name} is beside it and its files have no classes",
            f"move {other.name} to another place, or put the classes into folders in {train.name}",
        )
    return splits


def _has_classes(split: Path, suffixes: frozenset[str], labelled: bool) -> bool:
    if any(has_files(child, suffixes) for child in subfolders(split)):
        return True
    return has_files(split, suffixes) if labelled else label_file(split, suffixes) is not None


def has_files(folder: Path, suffixes: frozenset[str]) -> bool:
    """Whether there is a file with one of some suffixes below a folder."""
    names = (name for _, files in walked(folder) for name in files)
    return any(os.path.splitext(name)[1].lower() in suffixes and not name.startswith(".") for name in names)


def subfolders(folder: Path) -> list[Path]:
    """The folders in a folder, without hidden ones, sorted."""
    return sorted(child for child in folder.iterdir() if child.is_dir() and not child.name.startswith((".", "__")))


def files_below(folder: Path, suffixes: frozenset[str]) -> list[Path]:
    """The files below a folder that have one of some suffixes, sorted."""
    paths = (Path(here) / name for here, names in walked(folder) for name in names if not name.startswith("."))
    return sorted(path for path in paths if path.suffix.lower() in suffixes)


def named_file(folder: Path, value: object) -> Path | None:
    """The file that a cell names, relative to the folder."""
    text = str(value).strip()
    if not text:
        return None
    path = folder / text
    return path if os.path.isfile(path) else None  # unlike `Path.is_file`, it takes a text of any length
