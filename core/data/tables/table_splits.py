"""Tables as splits: the chosen columns as arrays, encoded text and files, and what was chosen in words."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...counts import counted
from ...options.data_options import TableOptions
from ...options.stage_options import Task
from ...preprocessing.specs import ImageInput, SoundInput, TextInput
from ...tensors import Array
from ..class_labels import Labels, Targets, shortened, targets_of
from ..hf_tokenizer import Texts
from ..input_parts import ArraysPart, InputPart, LoadedPart, SourceSplits, as_float32, joined
from ..splits import FEATURES, TRAIN, Named
from ..text_encoding import TextPart, described, described_input, encoder_of, length_of, symbols_of
from .column_choice import Choice, choose
from .columns import Table
from .list_columns import list_arrays, numbers_of
from .split_column import rows_by_split, split_column

NAMED = 1024
"""Largest number of features whose names go with a model."""
Media = Callable[[Table, str], InputPart]
"""Makes the input of a column of files."""


def table_splits(
    tables: Mapping[str, Table],
    options: TableOptions,
    base: Path,
    task: Task | None = None,
    media: Media | None = None,
) -> SourceSplits:
    """The splits of tables with equal columns.

    Args:
        tables: by split; a single table may name the split of each row in a column.
        base: folder in which the tokenizer is looked up.
        media: makes the input of a column of files.

    Raises:
        DataError: columns are missing, or values cannot be used.
        UserError: an option names a column that does not exist.
    """
    parts, of_splits = _by_split(tables, options)
    train = parts.get(TRAIN) or next(iter(parts.values()))
    choice = choose(train, options, of_splits)
    parts, choice, remarks = _labelled(parts, choice, task)
    targets = _targets(parts, choice, options, task)
    options = _with_length(parts.values(), choice, options)
    encoding = _encoding(train, choice, options, base)
    splits: Named = {}
    specs: tuple[ImageInput | SoundInput, ...] = ()
    for name, table in parts.items():
        made = _parts(table, choice, options, encoding, media)
        splits[name] = joined(made, table.count, None if targets is None else targets.values[name])
        specs = tuple(part.spec for part in made if isinstance(part, LoadedPart) and part.spec is not None)
    notes = (*train.remarks, *remarks, _note(train, choice, targets, encoding))
    return SourceSplits(
        splits,
        targets.classes if targets is not None else (),
        notes,
        encoding.symbols if encoding is not None else (),
        _names(choice),
        (*(encoding.inputs if encoding is not None else ()), *specs),
        encoding.tokenizer if encoding is not None else b"",
    )


def _names(choice: Choice) -> tuple[str, ...]:
    """The names of the features; columns of a file without a header have numbers, and too many are not kept."""
    names = tuple(choice.features)
    return names if len(names) <= NAMED and not all(name.isdigit() for name in names) else ()


def _with_length(tables: Iterable[Table], choice: Choice, options: TableOptions) -> TableOptions:
    """The options with the length to which lists are padded in all splits."""
    if not (options.pad and choice.lists) or options.max_length is not None:
        return options
    lists = [value for table in tables for name in choice.lists for value in table.used(name).values]
    return options.model_copy(update={"max_length": max(map(len, lists))})


def _by_split(tables: Mapping[str, Table], options: TableOptions) -> tuple[dict[str, Table], str | None]:
    """The tables, or the parts of a single table by its column of splits, and the name of that column."""
    if len(tables) > 1 or TRAIN not in tables:
        return dict(tables), None
    table = tables[TRAIN]
    name = split_column(table, options.split)
    if name is None:
        return dict(tables), None
    return {split: table.rows(rows) for split, rows in rows_by_split(table, name).items()}, name


def _labelled(
    parts: dict[str, Table], choice: Choice, task: Task | None
) -> tuple[dict[str, Table], Choice, tuple[str, ...]]:
    """The splits with labels, and a remark; if training has none, all splits and no target.

    `datasets` gives every sample of a test split whose labels are secret the label -1.
    """
    name = choice.target
    columns = (
        {split: table.columns.get(name) for split, table in parts.items()} if name and task != "regression" else {}
    )
    bare = [split for split, column in columns.items() if column is not None and _only(column.values, -1)]
    trained = columns.get(TRAIN)
    if not bare or (TRAIN not in bare and trained is not None and _lowest(trained.values) < 0):
        return parts, choice, ()
    why = f"every label in column '{name}' is -1, which means that it is not known"
    if TRAIN in bare:
        return parts, replace(choice, target=None), (f"the samples have no labels: {why}",)
    left = {split: table for split, table in parts.items() if split not in bare}
    return left, choice, (f"{' and '.join(bare)} {'are' if len(bare) > 1 else 'is'} left out: {why}",)


def _only(values: Any, number: int) -> bool:
    return isinstance(values, np.ndarray) and values.dtype.kind == "i" and bool((values == number).all())


def _lowest(values: Any) -> float:
    return float(values.min()) if isinstance(values, np.ndarray) and values.dtype.kind in "iu" else 0.0


def _targets(parts: Mapping[str, Table], choice: Choice, options: TableOptions, task: Task | None) -> Targets | None:
    if choice.target is None:
        return None
    name = choice.target
    columns = {split: table.used(name) for split, table in parts.items()}
    for split, column in columns.items():
        if column.kind not in ("numbers", "text") or np.ndim(column.values) != 1:
            parts[split].refuse(0, name, f"the target holds {column.kind}", "give one number or one word per row")
    labels = {split: Labels(column.values, parts[split].place) for split, column in columns.items()}
    known = next((column.classes for column in columns.values() if column.classes), ())
    return targets_of(labels, f"column '{name}'", options.classes or known, task)


@dataclass(frozen=True)
class Encoding:
    """How the text columns become numbers."""

    part: Callable[[Texts], TextPart]
    note: str
    symbols: tuple[str, ...]
    inputs: tuple[TextInput, ...]
    tokenizer: bytes


def _encoding(train: Table, choice: Choice, options: TableOptions, base: Path) -> Encoding | None:
    if not choice.text:
        return None
    texts = _texts(train, choice)
    encoder = encoder_of(options, base, texts)
    length = length_of(options, encoder, texts)

    def _part(given: Texts) -> TextPart:
        return TextPart(given, encoder, length, options.lengths)

    inputs = described_input(encoder, length, options, texts)
    return Encoding(_part, described(encoder, length), symbols_of(encoder), inputs, encoder.tokenizer)


def _texts(table: Table, choice: Choice) -> Texts:
    columns = []
    for name in choice.text:
        column = table.used(name)
        if column.kind != "text":
            table.refuse(0, name, f"the column holds {column.kind}, not text", "name another column with `text`")
        columns.append([str(value) for value in column.values])
    return tuple(columns)


def _parts(
    table: Table, choice: Choice, options: TableOptions, encoding: Encoding | None, media: Media | None
) -> list[InputPart]:
    parts: list[InputPart] = []
    if choice.features:
        parts.append(ArraysPart({FEATURES: as_float32(_matrix(table, choice.features))}))
    for key, names in choice.named.items():
        matrix = _matrix(table, names) if len(names) > 1 else _one(table, names[0], options)
        parts.append(ArraysPart({key: matrix}))
    for name in choice.lists:
        values, lengths = list_arrays(table, name, options)
        arrays = {name: values}
        if options.lengths:
            used = lengths if lengths is not None else np.full(table.count, values.shape[1], np.int64)
            arrays["lengths" if len(choice.lists) == 1 else f"{name}_lengths"] = used
        parts.append(ArraysPart(arrays))
    if encoding is not None:
        parts.append(encoding.part(_texts(table, choice)))
    for name in choice.media:
        assert media is not None, "only Arrow tables have columns of files"
        parts.append(media(table, name))
    return parts


def _matrix(table: Table, names: Sequence[str]) -> Array:
    made = np.stack([numbers_of(table, name) for name in names], axis=1)
    return as_float32(made) if made.dtype.kind == "f" else made.astype(np.int64)


def _one(table: Table, name: str, options: TableOptions) -> Array:
    column = table.used(name)
    if column.kind == "lists" or np.ndim(column.values) > 1:
        return list_arrays(table, name, options)[0]
    values = numbers_of(table, name)
    return as_float32(values) if values.dtype.kind == "f" else values.astype(np.int64)


def _note(table: Table, choice: Choice, targets: Targets | None, encoding: Encoding | None) -> str:
    """What was chosen, in one line."""
    inputs = []
    if choice.features:
        count = len(choice.features)
        inputs.append(f"{counted(count, 'feature')} ({shortened(choice.features, counted=False)})")
    inputs += [f"{key} ({shortened(names)})" for key, names in choice.named.items()]
    inputs += [f"{name}" for name in (*choice.lists, *choice.media)]
    if encoding is not None:
        inputs.append(f"text '{' and '.join(choice.text)}' ({encoding.note})")
    taken = {*choice.features, *choice.lists, *choice.media, *choice.text, choice.target}
    taken |= {name for names in choice.named.values() for name in names}
    left = [name for name in table.columns if name not in taken]
    if left:
        inputs.append(f"not used: {shortened(left)}")
    target = "no target" if targets is None else f"target '{choice.target}' ({choice.why}): {targets.note}"
    return f"{', '.join(inputs)}; {target}"
