"""For what each column of a table is used: target, features, text, lists, files, or further inputs."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ...counts import counted
from ...errors import DataError, UserError
from ...options.data_options import TableOptions
from .columns import Table
from .csv_table import POINT

TARGET_NAMES = ("label", "labels", "target", "targets", "class", "classes", "y")
NO_TARGET = "none"


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


def choose(table: Table, options: TableOptions, of_splits: str | None = None) -> Choice:
    """Decide for what each column is used.

    Raises:
        UserError: an option names a column that does not exist.
        DataError: a column of text is left over, or no column is.
    """
    ignored = {table.name(name, "ignore") for name in options.ignore} | ({of_splits} if of_splits else set())
    left = [name for name in table.columns if name not in ignored]
    named = {key: tuple(table.name(name, f"inputs.{key}") for name in names) for key, names in options.inputs.items()}
    features = tuple(table.name(name, "features") for name in options.features)
    target, why = _target(table, options, left, {"features": features, **named})
    left = [name for name in left if name != target]
    text = _text_columns(table, options, left)
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


def _target(
    table: Table, options: TableOptions, left: Sequence[str], inputs: Mapping[str, Sequence[str]]
) -> tuple[str | None, str]:
    """The column of the targets and why it is; the last column only counts if it is no input.

    Args:
        inputs: the columns that the options make inputs.

    Raises:
        UserError: the target is an input, which would give the answer away.
    """
    inputs = {**inputs, "text": [table.name(name, "text") for name in options.text]}
    asked = {name: key for key, names in inputs.items() for name in names}
    target, why = choose_target(table, options.target, left, asked)
    if target in asked:
        raise UserError(
            f"{table.path}: the column '{target}' is the target ({why}) and in `{asked[target]}`, so that the model "
            "would be given the answer",
            f"take it out of `{asked[target]}`, or name another column with `target`, or `target: none`",
        )
    return target, why


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


def choose_target(
    table: Table, wanted: str | int | None, names: Sequence[str], inputs: Collection[str] = ()
) -> tuple[str | None, str]:
    """The column of the targets and the reason for it in words; None if there is none.

    Args:
        names: the columns that may be it.
        inputs: those of them that are not taken just because they are the last.

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
    usable = [name for name in names if table.columns[name].kind in ("numbers", "text") and name not in inputs]
    flat = [name for name in usable if np.ndim(table.columns[name].values) == 1]
    if len(names) < 2 or not flat:
        return None, ""
    return flat[-1], "the last column"


def _text_columns(table: Table, options: TableOptions, left: Sequence[str]) -> tuple[str, ...]:
    if options.text:
        if len(options.text) > 2:
            raise UserError(f"`text` names {counted(options.text, 'column')}", "name one column, or two for pairs")
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
