"""Labels of samples as targets: text and whole numbers become class indices, other numbers stay values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..counts import counted
from ..errors import DataError
from ..options.stage_options import Task
from ..tensors import Array
from .input_parts import as_float32
from .splits import TRAIN

MANY = 0.5
"""Share of different labels from which a column of text is taken for names and not for classes."""
FEW_ROWS = 20


@dataclass(frozen=True)
class Labels:
    """The labels of one split.

    Attributes:
        values: ``[N]``, numbers or text.
        place: where the label of a sample stands, such as ``flowers.csv, line 7``.
    """

    values: Array
    place: Callable[[int], str]


@dataclass(frozen=True)
class Targets:
    """The targets of all splits.

    Attributes:
        values: ``int64[N]`` class indices or ``float32[N, 1]`` values by split.
        classes: names of the classes in index order; empty for values, and for indices without names.
        note: what was made of the labels, in words.
    """

    values: dict[str, Array]
    classes: tuple[str, ...]
    note: str


def targets_of(
    labels: Mapping[str, Labels], what: str, classes: Sequence[str] = (), task: Task | None = None
) -> Targets:
    """Targets of labels, numbered alike in all splits.

    Args:
        labels: by split.
        what: the labels in words, such as ``column 'kind'``.
        classes: names in the order of the model's scores; by default the sorted labels.
        task: ``regression`` makes values of whole numbers.

    Raises:
        DataError: a label is not among the classes, occurs outside the training split only, or all labels are equal.
    """
    columns = [part.values for part in labels.values()]
    if any(values.dtype.kind == "O" for values in columns):
        if task == "regression":
            first = next(part for part in labels.values() if part.values.dtype.kind == "O")
            raise DataError(
                f"{what} has the text '{first.values[0]}' in {first.place(0)}, and regression needs numbers",
                "choose another column with `target`, or set `task: classification`",
            )
        return _named(labels, what, classes)
    whole = all(values.dtype.kind in "iub" or _is_whole(values) for values in columns)
    if task == "regression" or not (whole and (task is not None or all(v.dtype.kind in "iub" for v in columns))):
        return _values(labels)
    return _numbered(labels, what, tuple(classes))


def _is_whole(values: Array) -> bool:
    return bool(values.dtype.kind == "f" and np.isfinite(values).all() and (values == np.floor(values)).all())


def _values(labels: Mapping[str, Labels]) -> Targets:
    made = {split: as_float32(part.values)[:, None] for split, part in labels.items()}
    joined = np.concatenate(list(made.values()))
    return Targets(made, (), f"values from {joined.min():.7g} to {joined.max():.7g}")


def _named(labels: Mapping[str, Labels], what: str, classes: Sequence[str]) -> Targets:
    """Indices of labels that are text in at least one split."""
    texts = {split: [str(value).strip() for value in part.values.tolist()] for split, part in labels.items()}
    known = {text for split in texts for text in texts[split]}
    rows = sum(map(len, texts.values()))
    if not classes and rows >= FEW_ROWS and len(known) > MANY * rows:
        raise DataError(
            f"{what} has {len(known)} different texts in {rows} samples, so it does not hold classes",
            "choose the column of the labels with `target`, or `target: none` for samples without targets",
        )
    _require_two(known, what, rows)
    names = tuple(classes) or tuple(sorted(known))
    if not classes:
        _require_in_training(texts, labels, what)
    index = {name: number for number, name in enumerate(names)}
    made = {}
    for split, part in labels.items():
        unknown = next((row for row, text in enumerate(texts[split]) if text not in index), None)
        if unknown is not None:
            raise DataError(
                f"{part.place(unknown)}: the label '{texts[split][unknown]}' is not one of the classes "
                f"{', '.join(names)}",
                "correct the label, or add it to `classes`",
            )
        made[split] = np.array([index[text] for text in texts[split]], np.int64)
    return Targets(made, names, f"classes {shortened(names)}")


def _require_two(known: set[str], what: str, rows: int) -> None:
    if len(known) == 1:
        raise DataError(
            f"every label in {what} is '{next(iter(known))}' ({counted(rows, 'label')})",
            "give samples of at least two classes, or samples without labels",
        )


def _require_in_training(found: Mapping[str, Sequence[Any]], labels: Mapping[str, Labels], what: str) -> None:
    trained = set(found.get(TRAIN, ()))
    for split, values in found.items() if trained else ():
        row = next((row for row, value in enumerate(values) if value not in trained), None)
        if row is not None:
            raise DataError(
                f"{labels[split].place(row)}: the label '{values[row]}' in {what} does not occur in the training "
                "samples",
                "correct the label, or list all names in `classes`, in the order of the model's scores",
            )


def _numbered(labels: Mapping[str, Labels], what: str, classes: tuple[str, ...]) -> Targets:
    """Indices of labels that are whole numbers: those from 0 are indices, others are numbered in order."""
    found = {split: part.values.astype(np.int64) for split, part in labels.items()}
    distinct = np.unique(np.concatenate(list(found.values())))
    _require_two({str(number) for number in distinct}, what, sum(map(len, found.values())))
    if classes and {str(number) for number in distinct} <= set(classes):
        as_text = {s: Labels(found[s].astype(str).astype(object), part.place) for s, part in labels.items()}
        return _named(as_text, what, classes)
    if distinct[0] == 0 or classes:
        for split, values in found.items() if classes else ():
            wrong = np.flatnonzero((values < 0) | (values >= len(classes)))
            if len(wrong):
                raise DataError(
                    f"{labels[split].place(int(wrong[0]))}: the label {values[wrong[0]]} is not one of the "
                    f"{len(classes)} classes, which are 0 to {len(classes) - 1}",
                    "correct the label, or the list `classes`",
                )
        if not classes:
            _require_in_training({split: values.tolist() for split, values in found.items()}, labels, what)
        named = f" ({shortened(classes)})" if classes else ""
        return Targets(found, classes, f"class indices 0 to {distinct[-1]}{named}")
    _require_in_training({split: values.tolist() for split, values in found.items()}, labels, what)
    names = tuple(map(str, distinct))
    made = {split: np.searchsorted(distinct, values).astype(np.int64) for split, values in found.items()}
    return Targets(made, names, f"classes {shortened(names)}; a model with more scores takes them as indices")


def shortened(names: Sequence[str], shown: int = 6, counted: bool = True) -> str:
    """Names in one line, with their number if there are many and it is not told elsewhere."""
    if len(names) <= shown:
        return ", ".join(names)
    return f"{', '.join(names[: shown - 1])} …" + (f" ({len(names)} in all)" if counted else "")
