"""Text files as splits: a file per class with a sample per line, a folder per class with a file per sample."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...counts import counted, listed
from ...errors import DataError
from ...options.data_options import TextOptions
from ..class_labels import Labels, targets_of
from ..input_parts import SourceSplits, joined, readable
from ..splits import NAMES, TRAIN
from ..tables.csv_table import read_text_file
from ..tables.split_column import split_name
from ..text_encoding import TextPart, described, described_input, encoder_of, length_of, symbols_of
from .folder_layout import LABEL_FILES, files_below, split_folders, subfolders

TEXTS = frozenset((".txt",))
Sample = tuple[str, str, str]
"""The text, its class (empty without one) and its place."""


@dataclass(frozen=True)
class _Found:
    """The samples of one split, and how they were found, in words."""

    samples: list[Sample]
    form: str


def text_splits(source: Path, options: TextOptions, base: Path) -> SourceSplits:
    """The splits of a folder of text files, or of one file without labels.

    Args:
        base: folder in which the tokenizer is looked up.

    Raises:
        DataError: there are no texts, or a file has another encoding.
        UserError: no option says how text becomes numbers.
    """
    found = _read(source, options)
    first = found.get(TRAIN) or next(iter(found.values()))
    train = [text for text, _, _ in first.samples]
    encoder = encoder_of(options, base, (train,))
    length = length_of(options, encoder, (train,))
    named = any(name for _, name, _ in first.samples)
    targets = targets_of({k: _labels(v) for k, v in found.items()}, str(source), options.classes) if named else None
    splits = {}
    for split, part in found.items():
        texts = [text for text, _, _ in part.samples]
        made = TextPart((texts,), encoder, length, options.lengths)
        splits[split] = joined([made], len(texts), targets.values[split] if targets else None)
    count = sum(len(part.samples) for part in found.values())
    labels = targets.note if targets else "no labels"
    note = f"{counted(count, 'text')}, {first.form} ({described(encoder, length)}); {labels}"
    return SourceSplits(
        splits,
        targets.classes if targets else (),
        (note,),
        symbols_of(encoder),
        preprocessing=described_input(encoder, length, options, (train,)),
        tokenizer=encoder.tokenizer,
    )


def _labels(found: _Found) -> Labels:
    values = np.empty(len(found.samples), object)
    values[:] = [name for _, name, _ in found.samples]
    return Labels(values, lambda row: found.samples[row][2])


def _read(source: Path, options: TextOptions) -> dict[str, _Found]:
    if source.is_file():
        return {TRAIN: _Found(_lines(source, "", options), "one per line")}
    with readable(source):
        roots = split_folders(source, TEXTS, labelled=True) or {TRAIN: source}
        files = _text_files(source)
    split_files = {split_name(path.stem): path for path in files}
    if TRAIN in split_files and set(split_files) <= set(NAMES):
        if len(split_files) < len(files):
            raise DataError(f"{source} has two files for one split: {listed(p.name for p in files)}", "use one of them")
        return {split: _Found(_lines(path, "", options), "one per line") for split, path in split_files.items()}
    found = {split: _of_folder(root, options) for split, root in roots.items()}
    for split, part in found.items():
        if not part.samples:
            raise DataError(f"{roots[split]} contains no texts", "write one sample per line, or one file per sample")
    return found


def _text_files(folder: Path) -> list[Path]:
    """The text files in a folder, without a list of the names of classes."""
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in TEXTS and p.name.lower() not in LABEL_FILES)


def _of_folder(root: Path, options: TextOptions) -> _Found:
    with readable(root):
        files = _text_files(root)
        groups = {child.name: files_below(child, TEXTS) for child in subfolders(root)}
    if options.classes:
        files = [path for path in files if path.stem in options.classes]
        groups = {name: paths for name, paths in groups.items() if name in options.classes}
    groups = {name: paths for name, paths in groups.items() if paths}
    if files and groups:
        raise DataError(
            f"{root} has text files beside and in folders, such as {files[0].name} and {next(iter(groups))}",
            "use either one file per class, or one folder per class; or name the classes to read with `classes`",
        )
    if files:
        samples = [sample for path in files for sample in _lines(path, path.stem, options)]
        return _Found(samples, "one per line of a file per class")
    samples = [_whole(path, name, options) for name, paths in groups.items() for path in paths]
    return _Found(samples, "one per file in a folder per class")


def _lines(path: Path, name: str, options: TextOptions) -> list[Sample]:
    text, _ = read_text_file(path, options.encoding)
    lines = ((number, line.strip()) for number, line in enumerate(text.split("\n"), 1))
    return [(line, name, f"{path}, line {number}") for number, line in lines if line]


def _whole(path: Path, name: str, options: TextOptions) -> Sample:
    text, _ = read_text_file(path, options.encoding)
    return text.strip(), name, str(path)
