"""Tables as splits: which column is the target, which are features, text, lists or files, and what was chosen."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...counts import counted
from ...errors import DataError, UserError
from ...options.data_options import TableOptions
from ...options.stage_options import Task
from ...tensors import Array
from ..class_labels import Labels, Targets, shortened, targets_of
from ..input_parts import ArraysPart, InputPart, SourceSplits, as_float32, joined
from ..splits import TRAIN
from ..text_encoding import TextPart, Texts, described, encoder_of, length_of
from .columns import Table
from .csv_table import POINT
from .list_columns import list_arrays, numbers_of
from .split_column import rows_by_split, split_column

TARGET_NAMES = ("label", "labels", "target", "targets", "class", "classes", "y")
NO_TARGET = "none"
FEATURES = "features"
Media = Callable[[Table, str], InputPart]
"""Makes the input of a column of files."""


@dataclass(frozen=True)
class Choice:
    """The columns of a table by what they are used for.

    Attributes:
        target: column of the targets; None without.
        features: columns of the input `features`.
        text: one column of text, or two.
        lists: columns that are an input each.
        media: columns of images or recordings, which are an input each.
        named: further inputs and their columns.
        why: why this column is the target, in words.
    """

    target: str | None
    features: tuple[str, ...]
    text: tuple[str, ...]
    lists: tuple[str, ...]
    media: tuple[str, ...]
    named: Mapping[str, tuple[str, ...]]
    why: str = ""


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
    targets = _targets(parts, choice, options, task)
    options = _with_length(parts.values(), choice, options)
    encoding = _encoding(train, choice, options, base)
    splits = {}
    for name, table in parts.items():
        made = _parts(table, choice, options, encoding, media)
        splits[name] = joined(made, table.count, None if targets is None else targets.values[name])
    notes = (*train.remarks, _note(train, choice, targets, encoding))
    return SourceSplits(splits, targets.classes if targets is not None else (), notes)


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


def choose(table: Table, options: TableOptions, of_splits: str | None = None) -> Choice:
    """Decide for what each column is used.

    Raises:
        UserError: an option names a column that does not exist.
        DataError: a column of text is left over, or no column is.
    """
    ignored = {table.name(name, "ignore") for name in options.ignore} | ({of_splits} if of_splits else set())
    left = [name for name in table.columns if name not in ignored]
    target, why = choose_target(table, options.target, left)
    left = [name for name in left if name != target]
    text = _text_columns(table, options, left)
    named = {key: tuple(table.name(name, f"inputs.{key}") for name in names) for key, names in options.inputs.items()}
    features = tuple(table.name(name, "features") for name in options.features)
    if features or named:
        taken = {*features, *text, *(name for names in named.values() for name in names)}
        left = [name for name in left if name in taken and not any(name in names for names in named.values())]
    elif text:
        left = list(text)
    of = {kind: tuple(n for n in left if table.columns[n].kind == kind) for kind in ("lists", "text", "image", "audio")}
    numbers = [name for name in left if table.columns[name].kind == "numbers"]
    deep = tuple(name for name in numbers if np.ndim(table.columns[name].values) > 1)
    plain = tuple(name for name in numbers if name not in deep)
    others = bool(text or of["image"] or of["audio"])
    rest = [name for name in of["text"] if name not in text]
    lists = (*deep, *of["lists"])
    if rest and not others:
        raise _no_numbers(table, rest)
    alone = {*lists, *text, *of["image"], *of["audio"]}
    used = tuple(name for name in features if name not in alone) or (() if others or lists else plain)
    choice = Choice(target, used, text, lists, (*of["image"], *of["audio"]), named, why)
    if not (used or text or lists or named or choice.media):
        raise DataError(
            f"{table.path} has no column for an input besides the target '{target}'",
            "name the column of the labels with `target`, or `target: none`",
        )
    return choice


def _no_numbers(table: Table, rest: Sequence[str]) -> DataError:
    shown = ", ".join(f"'{name}' (such as '{str(table.columns[name].values[0])[:30]}')" for name in rest[:4])
    more = f" and {len(rest) - 4} more" if len(rest) > 4 else ""
    commas = [name for name in rest if re.fullmatch(r"[-+]?\d+,\d+", str(table.columns[name].values[0]).strip())]
    if commas:
        value = table.columns[commas[0]].values[0]
        raise DataError(f"{table.place(0)}, column '{commas[0]}': '{value}' is not a number", POINT)
    many = len(rest) > 1
    listed = ", ".join(rest)
    return DataError(
        f"{table.path}: {'columns' if many else 'column'} {shown}{more} {'hold' if many else 'holds'} text",
        f"leave {'them' if many else 'it'} out (`ignore: [{listed}]`), write a column of numbers for each category, or "
        "read text with `tokenizer` or `vocabulary`",
    )


def choose_target(table: Table, wanted: str | int | None, names: Sequence[str]) -> tuple[str | None, str]:
    """The column of the targets and the reason for it in words; None if there is none.

    Raises:
        UserError: there is no such column.
    """
    if isinstance(wanted, str) and wanted.lower() == NO_TARGET and wanted not in table.columns:
        return None, ""
    if wanted is not None:
        return table.name(wanted, "target"), "as asked"
    lower = {name.lower(): name for name in reversed(names)}
    for usual in TARGET_NAMES:
        if usual in lower:
            return lower[usual], "by its name"
    usable = [name for name in names if table.columns[name].kind in ("numbers", "text")]
    flat = [name for name in usable if np.ndim(table.columns[name].values) == 1]
    if len(names) < 2 or not flat:
        return None, ""
    return flat[-1], "the last column"


def _text_columns(table: Table, options: TableOptions, left: Sequence[str]) -> tuple[str, ...]:
    if options.text:
        if len(options.text) > 2:
            raise UserError(f"`text` names {len(options.text)} columns", "name one column, or two for pairs")
        return tuple(table.name(name, "text") for name in options.text)
    if options.tokenizer is None and options.vocabulary is None:
        return ()
    texts = [name for name in left if table.columns[name].kind == "text"]
    usual = [
        name for name in texts if name.lower() in ("text", "sentence", "review", "content", "document", "sequence")
    ]
    if len(texts) != 1 and len(usual) != 1:
        found = f"the text columns {', '.join(texts)}" if texts else "no column of text"
        raise DataError(f"{table.path} has {found}", "name the column with `text`, or two columns for pairs")
    return (usual[0] if len(usual) == 1 else texts[0],)


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


def _encoding(train: Table, choice: Choice, options: TableOptions, base: Path) -> Encoding | None:
    if not choice.text:
        return None
    texts = _texts(train, choice)
    encoder = encoder_of(options, base, texts)
    length = length_of(options, encoder, texts)
    return Encoding(lambda given: TextPart(given, encoder, length, options.lengths), described(encoder, length))


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
