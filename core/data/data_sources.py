"""Sources of data by their name: built-in sets, the user's own function, files and folders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..console import SILENT, Console
from ..errors import DataError, MissingFileError, UserError
from ..options.recipe import nearest
from ..options.stage_options import DataSpec, Task
from .array_splits import as_split, classes_of
from .built_in import BUILT_IN, built_in
from .held_out import complete
from .input_parts import SourceSplits
from .references import call
from .source_forms import FORMS, read_path
from .splits import ALIASES, NAMES, TRAIN, ArraySplit, Split, Splits, Subset, check_finite


def load_data(
    spec: DataSpec,
    base: Path,
    seed: int = 0,
    task: Task | None = None,
    console: Console = SILENT,
    judging: bool = False,
) -> Splits:
    """Load the data of a recipe and make the splits that the source does not have.

    Args:
        base: folder in which relative paths and modules are looked up, in addition to the current folder.
        seed: random seed that selects the held-out samples.
        task: what the targets are for; by default, whole numbers are classes and others values.
        console: shows how the source was read.
        judging: whether models are only judged on the data, for which a test split is enough.

    Raises:
        MissingFileError: the file or folder does not exist.
        DataError: the data set is empty, ragged or not finite, or the user's function raised.
        UserError: ``source`` has none of the known forms, or an argument is wrong.
    """
    found = _read(spec, base, task)
    for note in found.notes:
        console.stage("data", f"{spec.source}: {note}")
    splits = replace(
        complete(found.splits, found.classes, spec, seed, judging),
        symbols=found.symbols,
        features=found.features,
        preprocessing=found.preprocessing,
        tokenizer=found.tokenizer,
    )
    for where in NAMES:
        _check(getattr(splits, where), where, spec.source)
    return splits


def _read(spec: DataSpec, base: Path, task: Task | None) -> SourceSplits:
    source = spec.source
    if source in BUILT_IN:
        if spec.args:
            raise UserError(f"the built-in set '{source}' takes no arguments", "remove them")
        return SourceSplits(*built_in(source))
    path = base / source
    if path.exists():
        return read_path(path, spec.args, base, task)
    if ":" in source:
        return _from_user(call(source, spec.args, base, "data function", DataError), source)
    if "/" in source or "." in source:
        raise MissingFileError(f"no such data: {path}", "check the path of `data.source`")
    raise UserError(
        f"unknown data source '{source}'{nearest(source, list(BUILT_IN))}",
        f"give one of {', '.join(BUILT_IN)}, package.module:function, {FORMS}",
    )


def _from_user(value: Any, source: str) -> SourceSplits:
    if isinstance(value, Splits):
        parts = {key: getattr(value, key) for key in NAMES}
        known = (value.symbols, value.features, value.preprocessing, value.tokenizer)
        return SourceSplits(parts, value.classes, (), *known)
    if isinstance(value, Mapping):
        classes = tuple(map(str, value.get("classes", ()))) or classes_of(value.get(TRAIN))
        named = {ALIASES.get(str(key), str(key)): part for key, part in value.items() if key != "classes"}
        return SourceSplits({key: as_split(part, f"{source}.{key}") for key, part in named.items()}, classes)
    return SourceSplits({TRAIN: as_split(value, source)}, classes_of(value))


def _check(split: Split, where: str, source: str) -> None:
    if len(split) == 0:
        raise DataError(f"{source}: the {where} split is empty", "give at least one sample")
    for start in range(0, len(split), 1024):
        inputs, targets = split.read(range(start, min(start + 1024, len(split))))
        check_finite(inputs, f"{source}, {where}")
        if targets is not None:
            check_finite({"targets": targets}, f"{source}, {where}")
        if not _in_memory(split):
            return


def _in_memory(split: Split) -> bool:
    return _in_memory(split.parent) if isinstance(split, Subset) else isinstance(split, ArraySplit)
