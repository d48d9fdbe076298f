"""Conversion of data to splits: loaders, datasets, arrays, batches, names of sources, or a mapping of those."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import ValidationError

from ....core.data.array_splits import classes_of
from ....core.data.data_sources import load_data
from ....core.data.held_out import hold_out
from ....core.data.splits import ALIASES, CALIBRATION, NAMES, TEST, TRAIN, VALIDATION, Split, Splits, Subset
from ....core.errors import DataError, UserError
from ....core.options.recipe import option_faults
from ....core.options.stage_options import DataSpec, Task
from ....core.signature import Signature
from ....core.tensors import BATCH
from .feeds import is_array
from .samples import Reader

Use = Literal["train", "calibrate", "test"]
HELD_OUT: float = DataSpec.model_fields["validation"].default
CALIBRATED: int = DataSpec.model_fields["calibration"].default
FEW = 8
REMEDY = "give a DataLoader, a Dataset, arrays, a (x, y) pair, a mapping of splits, or the name of a data source"


def as_splits(data: Any, signature: Signature, use: Use, seed: int = 0, task: Task | None = None) -> Splits:
    """Make the four splits from any kind of data.

    A mapping with the keys ``train``, ``validation``, ``calibration`` and ``test`` has splits by name. A name selects
    the splits of a data source, as on the command line, and so does a mapping with the keys of ``data`` in a recipe,
    such as ``{"source": "pics", "args": {"size": 16}}``. Anything else is one set. For testing, all of it is used;
    otherwise 15 % are held out for validation and 256 of the rest are used for calibration. Below 8 samples, every
    split is the whole set.

    Args:
        data: splits, or the data from which they are made.
        signature: signature of the model, which distinguishes inputs from targets.
        use: purpose of a single set.
        seed: random seed that selects the held-out samples.
        task: what the targets of a named source are for; by default the task that the model's output implies.

    Raises:
        DataError: the data are not samples, are empty, or do not fit the model.
        UserError: a name is not a data source.
    """
    if isinstance(data, Splits):
        return data
    if is_source(data):
        return _loaded(_described(data), signature, use, seed, task)
    reader = Reader(signature)
    if isinstance(data, Mapping) and names_splits(data):
        given = {ALIASES.get(str(key), str(key)): value for key, value in data.items() if key != "classes"}
        parts = {key: reader.read(value, f"data['{key}']") for key, value in given.items()}
        return _filled(parts, use, seed, names_of_classes(data))
    whole, classes = reader.read(data, "data"), names_of_classes(data)
    if use == "test":
        return Splits(whole, whole, _some(whole, seed), whole, classes)
    return _filled({TRAIN: whole}, use, seed, classes)


def one_value(signature: Signature) -> bool:
    """Whether a model gives one number per sample, which cannot be scores of classes."""
    scores = next((spec for spec in signature.outputs if spec.dtype.startswith("float")), None)
    return scores is not None and scores.shape in ((BATCH,), (BATCH, 1))


def _loaded(spec: DataSpec, signature: Signature, use: Use, seed: int, task: Task | None) -> Splits:
    """A named source; without a task, whole numbers are values for a model that gives one, unless they have names."""
    splits = load_data(spec, Path.cwd(), seed, task, judging=use == "test")
    if task is not None or not one_value(signature) or not all(name.lstrip("-").isdigit() for name in splits.classes):
        return splits
    targets = splits.train.read([0])[1]
    indices = targets is not None and targets.dtype.kind in "iu"
    return load_data(spec, Path.cwd(), seed, "regression", judging=use == "test") if indices else splits


def is_source(data: Any) -> bool:
    """Whether data are named: the name of a source, or a mapping with the name of one and its arguments."""
    return isinstance(data, str | Path) or (isinstance(data, Mapping) and isinstance(data.get("source"), str | Path))


def _described(data: str | Path | Mapping[str, Any]) -> DataSpec:
    if not isinstance(data, Mapping):
        return DataSpec(source=str(data))
    try:
        return DataSpec.model_validate({**data, "source": str(data["source"])})
    except ValidationError as error:
        faults = option_faults(DataSpec, error, lambda path: f"data['{'.'.join(path)}']")
        raise UserError("; ".join(faults), f"the keys of data are {', '.join(DataSpec.model_fields)}") from error


def names_of_classes(data: Any) -> tuple[str, ...]:
    """The names of the classes that data have: splits, a mapping with the key ``classes``, or datasets with names."""
    if not isinstance(data, Mapping):
        return classes_of(data)
    given = data.get("classes", ()) if names_splits(data) else ()
    return tuple(map(str, given)) or next(filter(None, map(classes_of, data.values())), ())


def names_splits(data: Mapping[Any, Any]) -> bool:
    """Whether a mapping contains splits by name and not inputs by name.

    Raises:
        DataError: it contains splits and something else.
    """
    known = {*NAMES, *ALIASES, "classes"}
    named = [key for key in data if str(key) in known]
    if named and len(named) < len(data) and not any(is_array(value) for value in data.values()):
        other = next(str(key) for key in data if str(key) not in known)
        raise DataError(
            f"data has '{named[0]}' and the unknown split '{other}'", f"the names of splits are {', '.join(NAMES)}"
        )
    return bool(named) and len(named) == len(data)


def _filled(given: dict[str, Split], use: Use, seed: int, classes: tuple[str, ...]) -> Splits:
    """Four splits from the given ones."""
    parts, generator = dict(given), np.random.default_rng(seed)
    if use == "train" and TRAIN not in parts:
        raise DataError(f"data has {', '.join(parts)}, but training needs a train split", "add data['train']")
    if use == "test" and TEST not in parts:
        raise DataError(
            f"data has {', '.join(parts)}, but no test split", "add data['test'], or give only the test set"
        )
    first = next(parts[name] for name in (TRAIN, CALIBRATION, VALIDATION, TEST) if name in parts)
    parts.setdefault(TRAIN, first)
    if VALIDATION not in parts and TRAIN in given and len(first) >= FEW:
        parts[TRAIN], parts[VALIDATION] = hold_out(parts[TRAIN], HELD_OUT, generator, "data")
    parts.setdefault(VALIDATION, parts.get(CALIBRATION, first))
    parts.setdefault(CALIBRATION, _some(parts[TRAIN], seed))
    parts.setdefault(TEST, parts[VALIDATION])
    return Splits(parts[TRAIN], parts[VALIDATION], parts[CALIBRATION], parts[TEST], classes)


def _some(split: Split, seed: int) -> Split:
    if len(split) <= CALIBRATED:
        return split
    chosen = np.random.default_rng(seed).permutation(len(split))[:CALIBRATED]
    return Subset(split, np.sort(chosen))


def task_of(splits: Splits, asked: Task | None) -> Task:
    """The given task; else regression if targets are floating point, or classification."""
    if asked is not None:
        return asked
    targets = splits.train.read([0])[1]
    return "regression" if targets is not None and np.asarray(targets).dtype.kind == "f" else "classification"


def require_targets(splits: Splits, stage: str, remedy: str) -> None:
    """Reject training without labels before the stage starts.

    Raises:
        DataError: the train split has no targets.
    """
    if splits.train.read([0])[1] is None:
        raise DataError(f"`{stage}` needs labels for training, but the data have none", remedy)
