"""Arrays that are read by their names: an .npz file, a folder of .npy files, or one .npy file."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...counts import counted
from ...errors import DataError
from ...options.data_options import ArrayOptions
from ...options.stage_options import Task
from ...tensors import Array
from ..array_splits import array_split, of_one_length
from ..class_labels import Labels, targets_of
from ..input_parts import ArraysPart, JoinedSplit, SourceSplits, file_state, readable, standard
from ..splits import ALIASES, NAMES, TRAIN, Named, Split
from ..tables.split_column import OTHERS, split_name

TARGETS = ("y", "label", "labels", "target", "targets", "class", "output", "outputs", "ys")
ONLY = ("x", "xs", "input", "inputs", "data", "feature", "features", "image", "images", "arr_0", "samples")
"""Names of a single input, in lower case, which becomes `input`."""
CLASSES = ("classes", "class_names", "label_names", "target_names", "labels_names")
_SPLIT = "|".join(sorted({*NAMES, *ALIASES, *OTHERS}, key=len, reverse=True))
_BEFORE = re.compile(rf"^({_SPLIT})[_/.\-](.+)$", re.IGNORECASE)
_AFTER = re.compile(rf"^(.+?)[_/.\-]({_SPLIT})$", re.IGNORECASE)
MAGIC = b"\x93NUMPY"
NOT_ARRAYS = "write it again with numpy.savez or numpy.save; name a table .csv, .jsonl or .parquet, and a text .txt"
PICKLED = "save arrays of numbers: np.asarray(x, dtype=np.float32), and padded sequences instead of ragged ones"


def npz_splits(path: Path, options: ArrayOptions, task: Task | None = None) -> SourceSplits:
    """The splits of an .npz file.

    Raises:
        DataError: the file cannot be read, contains Python objects, or its arrays do not fit together.
    """
    return _splits(read_npz_arrays(path), path, options, task)


def npz_files(
    paths: Mapping[str, Sequence[Path]], folder: Path, options: ArrayOptions, task: Task | None = None
) -> SourceSplits:
    """The splits of a folder with .npz files of each split: ``train.npz``, ``test-00000-of-00002.npz``.

    Raises:
        DataError: files of one split have different arrays, or two files name the classes differently.
    """
    arrays: dict[str, Array] = {}
    for split, files in paths.items():
        read = [read_npz_arrays(path) for path in files]
        for name, array in _chained(read, files).items():
            own, bare = place_of(name)
            named = _is_names(name, array)
            key = name if named else f"{bare if own == split else name}_{split}"
            if named and key in arrays and not np.array_equal(arrays[key], array):
                raise DataError(f"{folder}: its files have different arrays '{name}'", "give all the same one")
            arrays[key] = array
    return _splits(arrays, folder, options, task)


def _chained(parts: Sequence[dict[str, Array]], files: Sequence[Path]) -> dict[str, Array]:
    """The arrays of several files of one split, of which each has some of the samples."""
    first = parts[0]
    for part, path in zip(parts, files, strict=True):
        shapes = {name: array.shape[1:] for name, array in part.items()}
        if shapes != {name: array.shape[1:] for name, array in first.items()}:
            raise DataError(
                f"{path} has {_listed(part)}, and {files[0]} has {_listed(first)}",
                "give all files of a split the same arrays, with a row per sample",
            )
    several = len(parts) > 1
    return {
        name: np.concatenate([np.atleast_1d(part[name]) for part in parts])
        if several and not _is_names(name, array)
        else array
        for name, array in first.items()
    }


def _listed(arrays: Mapping[str, Array]) -> str:
    return ", ".join(f"{name} {list(array.shape)}" for name, array in arrays.items())


def npy_splits(paths: Mapping[str, Path], where: Path, options: ArrayOptions, task: Task | None = None) -> SourceSplits:
    """The splits of .npy files, which are mapped into memory; their names are read as those of an .npz.

    Raises:
        DataError: a file cannot be read, contains Python objects, or the arrays do not fit together.
    """
    found = {name: _mapped(path) for name, path in paths.items()}
    return _splits(found, where, options, task, "|".join(map(file_state, paths.values())))


def read_npz_arrays(path: Path) -> dict[str, Array]:
    """The arrays of a file by name.

    Raises:
        DataError: the file cannot be read, or contains Python objects.
    """
    arrays: dict[str, Array] = {}
    with readable(path):
        if _starts_as_npy(path):
            raise DataError(f"{path} is a single array, not an .npz file", "call it .npy, or write it with numpy.savez")
    try:
        with np.load(path, allow_pickle=False) as archive:
            names = list(archive.files)
            for name in names:
                arrays[name] = _member(archive, name, path)
    except ValueError as error:  # numpy takes every file that it does not know for a pickle
        if "allow_pickle" in str(error):
            raise DataError(f"{path} is not an .npz file", NOT_ARRAYS) from error
        raise DataError(f"{path} cannot be read: {error}", "write it again with numpy.savez") from error
    except (zipfile.BadZipFile, OSError, EOFError, KeyError) as error:
        raise DataError(f"{path} cannot be read: {error}", "write it again with numpy.savez") from error
    if not arrays:
        raise DataError(f"{path} contains no array", "save x_train, y_train, x_test, y_test … (or x and y)")
    return arrays


def _member(archive: Any, name: str, path: Path) -> Array:
    try:
        array: Array = archive[name]
    except ValueError as error:
        if "allow_pickle" in str(error):
            raise DataError(f"{path}: the array '{name}' contains Python objects", PICKLED) from error
        raise
    except Exception as error:  # zlib, zipfile and numpy raise their own classes for damaged members
        raise DataError(
            f"{path}: the array '{name}' cannot be read: {error}", "write it again with numpy.savez"
        ) from error
    return array


def _mapped(path: Path) -> Array:
    try:
        with readable(path):
            array: Array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        if not _starts_as_npy(path):
            raise DataError(f"{path} is not an .npy file", NOT_ARRAYS) from error
        if "allow_pickle" in str(error) or "object" in str(error).lower():
            raise DataError(f"{path} contains Python objects", PICKLED) from error
        raise DataError(f"{path} cannot be read: {error}", "write it again with numpy.save") from error
    return array


def _starts_as_npy(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(len(MAGIC)) == MAGIC


def place_of(name: str) -> tuple[str, str]:
    """Split a name: ``x_train``, ``train_x`` and ``train/x`` → train, x; ``y`` → train, y."""
    for pattern, which, rest in ((_AFTER, 2, 1), (_BEFORE, 1, 2)):
        found = pattern.match(name)
        if found:
            return split_name(found[which]), found[rest]
    split = split_name(name)
    return (split, "x") if split in NAMES else (TRAIN, name)


def _splits(
    arrays: Mapping[str, Array], path: Path, options: ArrayOptions, task: Task | None, identity: str = ""
) -> SourceSplits:
    """The splits of named arrays; with an identity, large arrays are not hashed."""
    left, classes = _class_names(arrays, options)
    parts: dict[str, dict[str, tuple[str, Array]]] = {}
    for name, array in left.items():
        split, own = place_of(name)
        key = "y" if own.lower() in TARGETS else own
        if key in parts.setdefault(split, {}):
            raise _unclear(path, left, f"'{parts[split][key][0]}' and '{name}' are both read as {_role(split, key)}")
        parts[split][key] = (name, array)
    parts = {split: _one_input(_positional(named)) for split, named in parts.items()}
    _require_alike(parts, path, left)
    targets, classes = _targets(parts, path, classes, task)
    splits: Named = {}
    for split, named in parts.items():
        inputs = {key: array for key, (_, array) in named.items() if key != "y"}
        splits[split] = _split(inputs, targets.get(split), f"{path}:{split}", identity)
    return SourceSplits(splits, classes, (_described(parts),))


def _class_names(arrays: Mapping[str, Array], options: ArrayOptions) -> tuple[dict[str, Array], tuple[str, ...]]:
    """The arrays without the one that names the classes, and the names."""
    found = next((name for name, array in arrays.items() if _is_names(name, array)), None)
    names = () if found is None else tuple(map(_text, arrays[found].tolist()))
    return {name: array for name, array in arrays.items() if name != found}, options.classes or names


def _is_names(name: str, array: Array) -> bool:
    return name.lower() in CLASSES and array.dtype.kind in "US" and array.ndim == 1


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _positional(named: dict[str, tuple[str, Array]]) -> dict[str, tuple[str, Array]]:
    """``arr_0`` and ``arr_1``, which `np.savez(file, x, y)` writes, as x and y."""
    if set(named) == {"arr_0", "arr_1"} and named["arr_1"][1].ndim <= 1:
        return {"arr_0": named["arr_0"], "y": named["arr_1"]}
    return named


def _one_input(named: dict[str, tuple[str, Array]]) -> dict[str, tuple[str, Array]]:
    """A single input of a usual name is called `input`."""
    inputs = [key for key in named if key != "y"]
    usual = len(inputs) == 1 and inputs[0].lower() in ONLY
    return {("input" if usual and key == inputs[0] else key): value for key, value in named.items()}


def _require_alike(
    parts: Mapping[str, Mapping[str, tuple[str, Array]]], path: Path, arrays: Mapping[str, Array]
) -> None:
    first = TRAIN if TRAIN in parts else next(iter(parts))
    for split, named in parts.items():
        if not any(key != "y" for key in named):
            raise _unclear(path, arrays, f"{split} has labels and no input")
        odd = set(named) ^ set(parts[first])
        if odd - {"y"}:
            raise _unclear(path, arrays, f"{first} and {split} have different inputs")


def _targets(
    parts: Mapping[str, Mapping[str, tuple[str, Array]]], path: Path, classes: tuple[str, ...], task: Task | None
) -> tuple[dict[str, Array], tuple[str, ...]]:
    """The targets by split; labels that are text become indices."""
    found = {split: named["y"] for split, named in parts.items() if "y" in named}
    if not any(array.dtype.kind in "US" for _, array in found.values()):
        for name, array in found.values():
            wrong = np.flatnonzero(array >= len(classes)) if classes and array.dtype.kind in "iu" else np.empty(0)
            if len(wrong):
                raise DataError(
                    f"{path}, '{name}', sample {wrong[0] // max(1, array[0].size) + 1}: the label "
                    f"{array.flat[wrong[0]]} is not one of the {counted(classes, 'class')}, which have names",
                    "correct the label, or name all classes, in the order of their numbers",
                )
        return {split: array for split, (_, array) in found.items()}, classes

    def _labels(name: str, array: Array) -> Labels:
        texts = np.empty(len(array), object)
        texts[:] = list(map(_text, array.tolist()))
        return Labels(texts, lambda row: f"{path}, '{name}', sample {row + 1}")

    made = targets_of(
        {s: _labels(*pair) for s, pair in found.items()}, f"'{next(iter(found.values()))[0]}'", classes, task
    )
    return made.values, made.classes


def _split(inputs: Mapping[str, Array], targets: Array | None, where: str, identity: str) -> Split:
    """A split; with an identity, its inputs stay on the disk, and their type is checked on the first row."""
    if not identity:
        return array_split(inputs, targets, where)
    named = of_one_length(inputs, targets, where)
    for name, array in named.items():
        standard(np.asarray(array[:1]), f"{where}: '{name}'")
    labels = None if targets is None else standard(np.asarray(targets), f"{where}: the labels")
    return JoinedSplit((ArraysPart(named, f"{identity}|{where}"),), len(next(iter(named.values()))), labels)


def _role(split: str, key: str) -> str:
    return f"the labels of {split}" if key == "y" else f"the input '{key}' of {split}"


def _described(parts: Mapping[str, Mapping[str, tuple[str, Array]]]) -> str:
    """How every array was read, in one line."""
    listed = [
        f"{split}: " + ", ".join(f"{name} as {'labels' if key == 'y' else key}" for key, (name, _) in named.items())
        for split, named in parts.items()
    ]
    return "; ".join(listed)


def _unclear(path: Path, arrays: Mapping[str, Array], what: str) -> DataError:
    read = []
    for name, array in arrays.items():
        split, own = place_of(name)
        read.append(f"{name} {list(array.shape)} → {_role(split, 'y' if own.lower() in TARGETS else own)}")
    return DataError(
        f"{path}: {what}; its arrays are {', '.join(read)}",
        "name them <input>_<split> and y_<split>, such as input_ids_train, mask_train, y_train, input_ids_test …",
    )
