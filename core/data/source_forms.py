"""The form of a data source on disk: what a file or a folder holds decides how it is read."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from ..errors import DataError, UserError
from ..options.data_options import (
    ArrayOptions,
    ArrowOptions,
    AudioOptions,
    CsvOptions,
    ImageOptions,
    JsonOptions,
    TextOptions,
)
from ..options.recipe import option_faults
from ..options.stage_options import Options, Task
from .files.folder_layout import LABEL_FILES
from .files.folder_walk import walked
from .files.images import IMAGES
from .files.media_folders import audio_splits, image_splits
from .files.named_arrays import npy_splits, npz_files, npz_splits
from .files.sounds import SOUNDS
from .files.text_files import TEXTS, text_splits
from .input_parts import SourceSplits, readable
from .splits import NAMES, TEST, TRAIN
from .tables.arrow_table import DICT, STATE, media_part, read_parquet, read_saved, saved_splits
from .tables.columns import Table, stacked
from .tables.csv_table import read_csv
from .tables.json_table import read_json
from .tables.split_column import split_name
from .tables.table_splits import table_splits

Given = TypeVar("Given", bound=Options)
CSV, JSON, PARQUET = (
    frozenset((".csv", ".tsv")),
    frozenset((".jsonl", ".ndjson", ".json")),
    frozenset((".parquet", ".pq")),
)
TABLES = CSV | JSON | PARQUET
FORMS = (
    "a .csv, .tsv, .jsonl, .json, .parquet, .npz, .npy or .txt file, a folder of such files called train, test …, a "
    "folder of images, recordings or texts, or a folder that `save_to_disk` of datasets wrote"
)
_SHARD = re.compile(r"^(.+?)-\d+-of-\d+$")
WALKED = 2000
"""Number of files that are looked at to find out what a folder holds."""


def options_of(kind: type[Given], args: Mapping[str, Any], what: str) -> Given:
    """The arguments of a source.

    Raises:
        UserError: an argument is unknown or has a wrong value; the message lists all.
    """
    try:
        return kind.model_validate(dict(args))
    except ValidationError as error:
        faults = option_faults(kind, error, lambda path: f"data argument {'.'.join(path)}")
        raise UserError("; ".join(faults), f"{what} take {', '.join(kind.model_fields)}") from error


def read_path(path: Path, args: Mapping[str, Any], base: Path, task: Task | None) -> SourceSplits:
    """The splits of a file or a folder.

    Args:
        args: the arguments of the source.
        base: folder in which further files are looked up, such as a tokenizer.
        task: regression keeps whole numbers as values.

    Raises:
        DataError: the data cannot be used.
        UserError: it has none of the known forms, or an argument is wrong.
    """
    return _read_folder(path, args, base, task) if path.is_dir() else _read_file(path, args, base, task)


def _read_file(path: Path, args: Mapping[str, Any], base: Path, task: Task | None) -> SourceSplits:
    suffix = path.suffix.lower()
    if suffix in TABLES:
        return _read_tables({TRAIN: [path]}, args, base, task)
    if suffix == ".npz":
        return npz_splits(path, options_of(ArrayOptions, args, "arrays"), task)
    if suffix == ".npy":
        return npy_splits({"x": path}, path, options_of(ArrayOptions, args, "arrays"), task)
    if suffix in TEXTS:
        return text_splits(path, options_of(TextOptions, args, "text files"), base)
    other = "; unpack it first" if suffix in (".zip", ".tar", ".gz", ".tgz") else ""
    raise UserError(
        f"{path} is not a kind of data that Retort reads{other}", f"give {FORMS}, or package.module:function"
    )


def _read_tables(
    files: Mapping[str, list[Path]], args: Mapping[str, Any], base: Path, task: Task | None
) -> SourceSplits:
    suffix = next(iter(files.values()))[0].suffix.lower()
    if suffix in CSV:
        csv = options_of(CsvOptions, args, "CSV files")
        return table_splits(_each(files, lambda path: read_csv(path, csv)), csv, base, task)
    if suffix in JSON:
        records = options_of(JsonOptions, args, "JSON files")
        return table_splits(_each(files, lambda path: read_json(path, records)), records, base, task)
    arrow = options_of(ArrowOptions, args, "Parquet files")
    return table_splits(_each(files, read_parquet), arrow, base, task, media_part(arrow))


def _each(files: Mapping[str, list[Path]], read: Callable[[Path], Table]) -> dict[str, Table]:
    return {split: stacked([read(path) for path in paths], paths[0].parent) for split, paths in files.items()}


def _read_folder(folder: Path, args: Mapping[str, Any], base: Path, task: Task | None) -> SourceSplits:
    with readable(folder):
        names = sorted(child.name for child in folder.iterdir())
    if DICT in names or STATE in names:
        arrow = options_of(ArrowOptions, args, "folders of datasets")
        saved = {split_name(name): folder / name for name in saved_splits(folder)} if DICT in names else {TRAIN: folder}
        return table_splits({k: read_saved(path) for k, path in saved.items()}, arrow, base, task, media_part(arrow))
    files = split_files(folder, names)
    if files:
        return _read_files(files, folder, args, base, task)
    arrays = {name[:-4]: folder / name for name in names if name.lower().endswith(".npy")}
    if arrays:
        return npy_splits(arrays, folder, options_of(ArrayOptions, args, "arrays"), task)
    kind = _most(folder)
    if kind in IMAGES:
        return image_splits(folder, options_of(ImageOptions, args, "images"), task)
    if kind in SOUNDS:
        return audio_splits(folder, options_of(AudioOptions, args, "recordings"), task)
    if kind in TEXTS:
        return text_splits(folder, options_of(TextOptions, args, "text files"), base)
    files = split_files(folder, names, TEST)
    if files:
        return _read_files(files, folder, args, base, task)
    found = f"holds {', '.join(names[:6])}{' …' if len(names) > 6 else ''}" if names else "is empty"
    raise DataError(f"{folder} {found}: nothing in it is read as data", f"give {FORMS}")


def _read_files(
    files: Mapping[str, list[Path]], folder: Path, args: Mapping[str, Any], base: Path, task: Task | None
) -> SourceSplits:
    if next(iter(files.values()))[0].suffix.lower() == ".npz":
        return npz_files(files, folder, options_of(ArrayOptions, args, "arrays"), task)
    return _read_tables(files, args, base, task)


def split_files(folder: Path, names: list[str], needed: str = TRAIN) -> dict[str, list[Path]]:
    """The files of a folder that are called like splits, by split; empty unless one is the needed split.

    Several files of one split are called ``train-00000-of-00002.parquet``.

    Raises:
        DataError: the files of the splits are of different kinds.
    """
    found: dict[str, list[Path]] = {}
    for name in names:
        path = Path(name)
        shard = _SHARD.match(path.stem)
        split = split_name(shard[1] if shard else path.stem)
        if split in NAMES and path.suffix.lower() in TABLES | {".npz"}:
            found.setdefault(split, []).append(folder / name)
    kinds = {path.suffix.lower() for paths in found.values() for path in paths}
    if needed not in found:
        return {}
    if len(kinds) > 1:
        raise DataError(f"{folder} has splits of different kinds: {', '.join(sorted(kinds))}", "use one kind of file")
    return found


def _most(folder: Path) -> str | None:
    """A suffix of the kind of files of which a folder and its folders hold most, among the first ones."""
    kinds = {"image": IMAGES, "sound": SOUNDS, "text": TEXTS}
    counts = dict.fromkeys(kinds, 0)
    for name in islice(_walked(folder), WALKED):
        for kind, suffixes in kinds.items():
            counts[kind] += os.path.splitext(name)[1].lower() in suffixes and name not in LABEL_FILES
    best = max(counts, key=lambda kind: counts[kind])
    return min(kinds[best]) if counts[best] else None


def _walked(folder: Path) -> Iterator[str]:
    for _, files in walked(folder):
        yield from files
