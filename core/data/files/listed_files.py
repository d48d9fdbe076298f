"""Files with labels: a folder per class, or a table that names each file and its label; with or without splits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...counts import counted
from ...errors import DataError
from ...options.data_options import CsvOptions, TargetOptions
from ...options.stage_options import Task
from ..class_labels import Labels, targets_of
from ..input_parts import InputPart, SourceSplits, joined, readable
from ..splits import TRAIN
from ..tables.column_choice import NO_TARGET, choose_target
from ..tables.columns import Table
from ..tables.csv_table import read_csv
from ..tables.split_column import rows_by_split, split_column
from .folder_layout import LOOKED_AT, files_below, label_file, named_file, split_folders, subfolders

FILL_LABEL = "write a label, delete the line, or read the files without labels (`target: none`)"
FILL_NAME = "write the name of the file, or delete the line"
FILE_NAMES = ("file", "filename", "file_name", "path", "filepath", "name", "image", "audio")


@dataclass(frozen=True)
class Listed:
    """The files of one split.

    Attributes:
        paths: one file per sample.
        labels: text or numbers of each, or None.
    """

    paths: tuple[Path, ...]
    labels: Labels | None


Make = Callable[[Sequence[Path]], InputPart]


def file_splits(
    folder: Path, suffixes: frozenset[str], what: str, options: TargetOptions, make: Make, task: Task | None
) -> SourceSplits:
    """The splits of a folder of images or recordings.

    Args:
        suffixes: of the files, in lower case.
        what: the files in words: ``images``.
        make: makes the input of the files of a split.

    Raises:
        DataError: there are no files, or files of the table are missing.
    """
    listed, where = listed_files(folder, suffixes, what, options)
    labels = {split: found.labels for split, found in listed.items() if found.labels is not None}
    if labels and len(labels) < len(listed):
        bare = next(split for split in listed if split not in labels)
        raise DataError(f"{folder}: {bare} has no labels, and {next(iter(labels))} has", "label all splits alike")
    targets = targets_of(labels, where, options.classes, task) if labels else None
    splits = {
        split: joined([make(found.paths)], len(found.paths), targets.values[split] if targets else None)
        for split, found in listed.items()
    }
    count = sum(len(found.paths) for found in listed.values())
    note = f"{count} {what}; {where}: {targets.note}" if targets else f"{count} {what} without labels"
    return SourceSplits(splits, targets.classes if targets else (), (note,))


def listed_files(
    folder: Path, suffixes: frozenset[str], what: str, options: TargetOptions
) -> tuple[dict[str, Listed], str]:
    """The files of every split, and where their labels are from, in words."""
    with readable(folder):
        table = label_file(folder, suffixes)
    if table is not None:
        return _from_table(table, folder, what, options)
    with readable(folder):
        roots = split_folders(folder, suffixes, labelled=False) or {TRAIN: folder}
    found: dict[str, Listed] = {}
    where = "labels from folders"
    for split, root in roots.items():
        with readable(root):
            own = label_file(root, suffixes)
            if own is not None:
                parts, where = _from_table(own, root, what, options, divided=False)
                found[split] = parts[TRAIN]
            else:
                found[split] = _from_folders(root, suffixes, what, options)
    return found, where


def _from_folders(root: Path, suffixes: frozenset[str], what: str, options: TargetOptions) -> Listed:
    """Files in one folder per class; files that lie in the folder itself have no labels."""
    groups = {child.name: files_below(child, suffixes) for child in subfolders(root)}
    groups = {name: files for name, files in groups.items() if files}
    loose = sorted(path for path in root.iterdir() if path.suffix.lower() in suffixes and not path.name.startswith("."))
    if loose and groups:
        raise DataError(
            f"{root} has {what} both beside and in folders of classes, such as {loose[0].name}",
            "put every file into the folder of its class",
        )
    if not loose and not groups:
        raise DataError(f"{root} contains no {what}", f"put them into one folder per class: {root}/<class>/<file>")
    if loose:
        return Listed(tuple(loose), None)
    if options.target == NO_TARGET:
        return Listed(tuple(path for files in groups.values() for path in files), None)
    if options.classes:
        groups = {name: files for name, files in groups.items() if name in options.classes} or groups
    pairs = [(path, name) for name, files in groups.items() for path in files]
    paths = tuple(path for path, _ in pairs)
    return Listed(paths, Labels(_texts([name for _, name in pairs]), lambda row: str(paths[row])))


def _texts(values: Iterable[str]) -> NDArray[np.object_]:
    listed = list(values)
    made = np.empty(len(listed), object)
    made[:] = listed
    return made


def _from_table(
    path: Path, folder: Path, what: str, options: TargetOptions, divided: bool = True
) -> tuple[dict[str, Listed], str]:
    """The files that a table names.

    Args:
        divided: whether a column of splits is used; otherwise all files belong to one split.
    """
    table = read_csv(path, CsvOptions())
    column, paths = _file_column(table, folder, what)
    rest = [name for name in table.columns if name != column]
    splits = _splits(table, rest)
    rest = [name for name in rest if name not in splits[1]]
    if not divided:
        splits = {TRAIN: np.arange(table.count)}, splits[1]
    target, _ = choose_target(table, options.target, [column, *rest])
    target = None if target == column else target
    labels = Labels(table.used(target, FILL_LABEL).values, table.place) if target is not None else None
    where = f"column '{target}' of {path.name}" if target is not None else "no labels"
    found = {}
    for split, chosen in splits[0].items():
        part = table.rows(chosen)
        own = None if labels is None else Labels(labels.values[chosen], part.place)
        found[split] = Listed(tuple(paths[int(row)] for row in chosen), own)
    return found, where


def _splits(table: Table, rest: Sequence[str]) -> tuple[Mapping[str, NDArray[np.integer[Any]]], tuple[str, ...]]:
    """The rows of every split, and the column that names them."""
    name = split_column(table)
    if name is None or name not in rest:
        return {TRAIN: np.arange(table.count)}, ()
    return rows_by_split(table, name), (name,)


def _file_column(table: Table, folder: Path, what: str) -> tuple[str, list[Path]]:
    """The column that names files in the folder, and the files.

    Raises:
        DataError: files are missing; the message lists the first ones with their lines.
    """
    texts = [name for name, column in table.columns.items() if column.kind in ("text", "numbers")]
    usual = [name for name in texts if name.lower() in FILE_NAMES]
    ranked = sorted(
        texts, key=lambda name: -sum(named_file(folder, v) is not None for v in table.columns[name].values[:LOOKED_AT])
    )
    best = ranked[0] if ranked else ""
    if best and any(named_file(folder, value) for value in table.columns[best].values[:LOOKED_AT]):
        column = best
    elif usual:
        column = usual[0]
    else:
        raise DataError(
            f"no column of {table.path} names {what} in {folder}",
            "write the columns file and label, with paths that are relative to the folder",
        )
    found = [named_file(folder, value) for value in table.used(column, FILL_NAME).values]
    missing = [row for row, path in enumerate(found) if path is None]
    if missing:
        shown = ", ".join(f"{table.columns[column].values[row]} (line {_line(table, row)})" for row in missing[:3])
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        count = "a file that does not exist" if len(missing) == 1 else f"{counted(missing, 'file')} that do not exist"
        raise DataError(f"{table.path} names {count}: {shown}{more}", f"add them to {folder}, or delete their lines")
    return column, [path for path in found if path is not None]


def _line(table: Table, row: int) -> str:
    return table.place(row).rpartition(" ")[2]
