"""Data of any make as splits: loaders, datasets, arrays, batches, names of sources, or a mapping of those."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ...core.data.data_sources import ALIASES, CALIBRATION, TEST, TRAIN, VALIDATION, hold_out, load_data
from ...core.data.splits import Split, Splits, Subset
from ...core.errors import DataError
from ...core.options.stage_options import DataSpec, Task
from ...core.tensors import Signature
from .feeds import is_array
from .samples import Reader

Use = Literal["train", "calibrate", "test"]
NAMES = (TRAIN, VALIDATION, CALIBRATION, TEST)
HELD_OUT = 0.15
CALIBRATED = 256
FEW = 8
REMEDY = "give a DataLoader, a Dataset, arrays, a (x, y) pair, a mapping of splits, or the name of a data source"


def as_splits(data: Any, signature: Signature, use: Use, seed: int = 0) -> Splits:
    """The four splits in any kind of data.

    A mapping with the keys ``train``, ``validation``, ``calibration`` and ``test`` gives splits by name; a name gives
    those of its source, as on the command line. Anything else is one set: to test with, all of it; for other uses
    15 % are held out for validation and 256 of the rest calibrate; below 8 samples all serve for everything.

    Args:
        data: splits, or what they are made of.
        signature: of the model, which tells inputs from targets.
        use: what a single set is for.
        seed: decides which samples are held out.

    Raises:
        DataError: not samples, no samples, or none that fit the model.
        UserError: a name that is no data source.
    """
    if isinstance(data, Splits):
        return data
    if isinstance(data, str | Path):
        return load_data(DataSpec(source=str(data)), Path.cwd(), seed)
    reader = Reader(signature)
    if isinstance(data, Mapping) and names_splits(data):
        given = {ALIASES.get(str(key), str(key)): value for key, value in data.items() if key != "classes"}
        parts = {key: reader.read(value, f"data['{key}']") for key, value in given.items()}
        return _filled(parts, use, seed, tuple(map(str, data.get("classes", ()))))
    whole = reader.read(data, "data")
    return Splits(whole, whole, _some(whole, seed), whole) if use == "test" else _filled({TRAIN: whole}, use, seed, ())


def names_splits(data: Mapping[Any, Any]) -> bool:
    """Whether a mapping holds splits by name rather than inputs by name.

    Raises:
        DataError: it holds splits and something else.
    """
    known = {*NAMES, *ALIASES, "classes"}
    named = [key for key in data if str(key) in known]
    if named and len(named) < len(data) and not any(is_array(value) for value in data.values()):
        other = next(str(key) for key in data if str(key) not in known)
        raise DataError(f"data has '{named[0]}' and the unknown split '{other}'", f"name splits {', '.join(NAMES)}")
    return bool(named) and len(named) == len(data)


def _filled(given: dict[str, Split], use: Use, seed: int, classes: tuple[str, ...]) -> Splits:
    """Four splits from those that are there."""
    parts, generator = dict(given), np.random.default_rng(seed)
    if use == "train" and TRAIN not in parts:
        raise DataError(f"data has {', '.join(parts)}, and training needs a train split", "add data['train']")
    if use == "test" and TEST not in parts:
        raise DataError(
            f"data has {', '.join(parts)}, and no test split", "add data['test'], or give the test set alone"
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
    """The task that is asked for; else regression where targets are floating point, classification otherwise."""
    if asked is not None:
        return asked
    targets = splits.train.read([0])[1]
    return "regression" if targets is not None and np.asarray(targets).dtype.kind == "f" else "classification"


def require_targets(splits: Splits, stage: str, remedy: str) -> None:
    """Refuse to train without labels before anything is done.

    Raises:
        DataError: the train split has no targets.
    """
    if splits.train.read([0])[1] is None:
        raise DataError(f"the data have no labels, which `{stage}` trains on", remedy)
