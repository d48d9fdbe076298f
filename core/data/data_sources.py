"""Sources of data: built-in sets, the user's own function, an .npz file, or a folder of images."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError, MissingFileError, UserError
from ..options.recipe import nearest
from ..options.stage_options import DataSpec
from ..tensors import BATCH, Array, Signature, TensorSpec, to_array
from .image_folder import image_splits
from .references import call
from .splits import ArraySplit, SequenceSplit, Split, Splits, Subset, check_finite

Named = dict[str, Split]
BUILT_IN = ("digits", "breast-cancer", "wine", "iris", "diabetes")
TRAIN, VALIDATION, TEST, CALIBRATION = "train", "validation", "test", "calibration"
ALIASES = {"val": VALIDATION, "valid": VALIDATION, "dev": VALIDATION, "calib": CALIBRATION}


def load_data(spec: DataSpec, base: Path, seed: int = 0) -> Splits:
    """Load the data of a recipe and make the splits that the source does not have.

    Args:
        base: folder in which relative paths and modules are looked up, in addition to the current folder.
        seed: random seed that selects the held-out samples.

    Raises:
        MissingFileError: the file or folder does not exist.
        DataError: the data set is empty, ragged or not finite, or the user's function raised.
        UserError: ``source`` has none of the known forms.
    """
    splits = _complete(*_read(spec, base), spec, seed)
    for where in (TRAIN, VALIDATION, CALIBRATION, TEST):
        _check(getattr(splits, where), where, spec.source)
    return splits


def _read(spec: DataSpec, base: Path) -> tuple[Named, tuple[str, ...]]:
    source = spec.source
    if source in BUILT_IN:
        return _built_in(source)
    path = base / source
    if source.endswith(".npz"):
        return _npz(_present(path)), ()
    if path.is_dir():
        return image_splits(path, **spec.args)
    if ":" in source:
        return _from_user(call(source, spec.args, base, "data function", DataError), source)
    if path.is_file():
        raise UserError(
            f"{path} is not a .npz file, and other files of data are not read",
            'save it with `np.savez("data.npz", inputs=…, targets=…)`, or give package.module:function',
        )
    if "/" in source or "." in source:
        raise MissingFileError(f"no such data: {path}", "check the path of `data.source`")
    raise UserError(
        f"unknown data source '{source}'{nearest(source, list(BUILT_IN))}",
        f"give one of {', '.join(BUILT_IN)}, package.module:function, a .npz file or a folder of images",
    )


def _present(path: Path) -> Path:
    if not path.is_file():
        raise MissingFileError(f"no such file: {path}", "check the path of `data.source`")
    return path


def _from_user(value: Any, source: str) -> tuple[Named, tuple[str, ...]]:
    if isinstance(value, Splits):
        return {key: getattr(value, key) for key in (TRAIN, VALIDATION, CALIBRATION, TEST)}, value.classes
    if isinstance(value, Mapping):
        classes = tuple(map(str, value.get("classes", ())))
        named = {ALIASES.get(str(key), str(key)): part for key, part in value.items() if key != "classes"}
        return {key: as_split(part, f"{source}.{key}") for key, part in named.items()}, classes
    return {TRAIN: as_split(value, source)}, ()


def as_split(value: Any, where: str) -> Split:
    """Convert ``(inputs, targets)``, an array, a mapping of arrays, a map-style dataset or a split to a :class:`Split`.

    Targets may be None.

    Raises:
        DataError: the value is none of these, or its arrays differ in length.
    """
    if hasattr(value, "read") and hasattr(value, "fingerprint"):
        split: Split = value
        return split
    pair = isinstance(value, tuple | list) and len(value) == 2
    if pair and _is_arrays(value[0]) and (value[1] is None or _is_arrays(value[1])):
        return array_split(value[0], value[1], where)
    if _is_arrays(value):
        return array_split(value, None, where)
    if hasattr(value, "__getitem__") and hasattr(value, "__len__"):
        return SequenceSplit(value, "input", where)
    raise DataError(
        f"{where} is a {type(value).__name__}, not samples", "return (inputs, targets) arrays or a map-style dataset"
    )


def _is_arrays(value: Any) -> bool:
    parts = value.values() if isinstance(value, Mapping) else [value]
    return all(hasattr(part, "shape") and hasattr(part, "dtype") for part in parts)


def array_split(inputs: Any, targets: Any, where: str) -> ArraySplit:
    """Make a split in memory from arrays of equal length, in the dtypes that stages use.

    A number without axes is the value of every sample.

    Raises:
        DataError: the arrays differ in length or contain no numbers.
    """
    given = inputs if isinstance(inputs, Mapping) else {"input": inputs}
    named = {str(key): to_array(value) for key, value in given.items()}
    labels = None if targets is None else to_array(targets)
    lengths = {name: len(array) for name, array in named.items() if array.ndim}
    if labels is not None:
        lengths["targets"] = len(labels) if labels.ndim else 0
    if not lengths:
        raise DataError(f"{where} has only numbers without axes: {', '.join(named)}", "give one row per sample")
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{name} has {length}" for name, length in lengths.items())
        raise DataError(
            f"{where}: arrays differ in length: {listed}",
            "give one row per sample in every array; repeat for each sample an array that all of them share "
            "(`np.repeat(value[None], samples, axis=0)`), or make it a constant of the model (`fixed`, `--fix`)",
        )
    count = next(iter(lengths.values()))
    named = {name: array if array.ndim else np.full(count, array) for name, array in named.items()}
    return ArraySplit({k: _standard(v) for k, v in named.items()}, None if labels is None else _standard(labels))


def _standard(array: Array) -> Array:
    if array.dtype == np.float64:
        return array.astype(np.float32)
    if array.dtype.kind == "O":
        raise DataError("the data contain Python objects instead of numbers", "convert them to a numeric array")
    return array.astype(np.int64) if array.dtype.kind in "iu" and array.dtype != np.uint8 else array


def _npz(path: Path) -> Named:
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
    except Exception as error:  # zipfile, numpy and zlib each raise their own errors here
        raise DataError(f"{path} cannot be read: {error}", "write it again with numpy.savez") from error
    parts: dict[str, dict[str, Array]] = {}
    for key, array in arrays.items():
        split, name = _npz_key(key)
        parts.setdefault(split, {})[name] = array
    if not parts:
        raise DataError(f"{path} contains no array", "save x_train, y_train, x_test, y_test … (or x and y)")
    return {
        split: array_split({n: a for n, a in named.items() if n != "y"}, named.get("y"), f"{path}:{split}")
        for split, named in parts.items()
    }


def _npz_key(key: str) -> tuple[str, str]:
    """Split a name: ``x_train`` → train/input, ``y`` → train/y, ``input_ids_test`` → test/input_ids."""
    name, _, suffix = key.rpartition("_")
    split = ALIASES.get(suffix, suffix)
    if split not in {TRAIN, VALIDATION, TEST, CALIBRATION} or not name:
        split, name = TRAIN, key
    short = {"x": "input", "inputs": "input", "targets": "y", "labels": "y", "target": "y", "label": "y"}
    return split, short.get(name.lower(), name)


def _built_in(name: str) -> tuple[Named, tuple[str, ...]]:
    try:
        datasets = importlib.import_module("sklearn.datasets")
    except ImportError as error:
        raise UserError(f"the built-in set '{name}' needs scikit-learn", "pip install scikit-learn") from error
    bunch = getattr(datasets, f"load_{name.replace('-', '_')}")()
    if name == "digits":
        images = (bunch.images / 16.0).astype(np.float32)[:, None]
        return {TRAIN: ArraySplit({"image": images}, bunch.target.astype(np.int64))}, tuple("0123456789")
    features = bunch.data.astype(np.float32)
    features = (features - features.mean(axis=0)) / (features.std(axis=0) + 1e-12)
    if name == "diabetes":
        return {TRAIN: ArraySplit({"features": features}, bunch.target.astype(np.float32)[:, None])}, ()
    return {TRAIN: ArraySplit({"features": features}, bunch.target.astype(np.int64))}, tuple(
        map(str, bunch.target_names)
    )


def _complete(named: Named, classes: tuple[str, ...], spec: DataSpec, seed: int) -> Splits:
    unknown = sorted(set(named) - {TRAIN, VALIDATION, TEST, CALIBRATION})
    if unknown or TRAIN not in named:
        fault = f"unknown split '{unknown[0]}'" if unknown else "no `train` split"
        raise DataError(f"{spec.source} has {fault}", "name them train, validation, test, calibration")
    parts, whole = dict(named), len(named[TRAIN])
    generator = np.random.default_rng(seed)
    for key, share in ((TEST, spec.test), (VALIDATION, spec.validation)):
        if key not in parts:
            of_all = share if TEST in named or key == TEST else share / (1 - spec.test)
            parts[TRAIN], parts[key] = hold_out(parts[TRAIN], of_all, generator, spec.source, whole)
    if CALIBRATION not in parts:
        count = min(spec.calibration, len(parts[TRAIN]))
        chosen = np.sort(generator.permutation(len(parts[TRAIN]))[:count])
        parts[CALIBRATION] = Subset(parts[TRAIN], chosen)
    return Splits(parts[TRAIN], parts[VALIDATION], parts[CALIBRATION], parts[TEST], classes)


def hold_out(
    split: Split, share: float, generator: np.random.Generator, source: str, whole: int | None = None
) -> tuple[Split, Split]:
    """Divide a split into the part that remains and the held-out part; both have about the same shares of classes.

    Args:
        whole: number of samples of the source, for the message.

    Raises:
        DataError: there are too few samples.
    """
    count = round(len(split) * share)
    if count < 1 or count >= len(split):
        raise DataError(
            f"{source} has {len(split) if whole is None else whole} samples: too few to hold out some of them for "
            "validation and test",
            "give more samples, or give your own splits",
        )
    order = _stratified(split, generator)
    held, kept = order[:count], order[count:]
    return Subset(split, np.sort(kept)), Subset(split, np.sort(held))


def _stratified(split: Split, generator: np.random.Generator) -> NDArray[np.int64]:
    """An order in which every prefix has about the same shares of classes as the whole."""
    order = generator.permutation(len(split))
    targets = getattr(split, "targets", None)
    if targets is None and isinstance(split, Subset):
        whole = getattr(split.parent, "targets", None)
        targets = None if whole is None else whole[split.indices]
    if targets is None or targets.dtype.kind not in "iu" or targets.ndim != 1:
        return order
    ranks = np.empty(len(order))
    for label in np.unique(targets):
        members = order[targets[order] == label]
        ranks[members] = (np.arange(len(members)) + 0.5) / len(members)
    return order[np.argsort(ranks[order], kind="stable")]


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


@dataclass(frozen=True)
class Renamed:
    """A split whose inputs have the names and the layout of a model's signature.

    Attributes:
        names: for each input of the model, the input of the parent.
        signature: where the model's batch axis is not axis 0, the rows are moved there; of an input without a batch
            axis, which all samples share, the first row is taken.
    """

    parent: Split
    names: dict[str, str] = field(default_factory=dict)
    signature: Signature = field(default=Signature((), ()))

    def __len__(self) -> int:
        return len(self.parent)

    def read(self, indices: Any) -> tuple[dict[str, Array], Array | None]:
        """See :meth:`retort.core.data.splits.Split.read`."""
        inputs, targets = self.parent.read(indices)
        specs = {spec.name: spec for spec in self.signature.inputs}
        return {wanted: laid_out(inputs[given], specs.get(wanted)) for wanted, given in self.names.items()}, targets

    def fingerprint(self) -> str:
        """The fingerprint of the parent split."""
        return self.parent.fingerprint()


def _rows_first(split: Split) -> Split:
    """A split before it was laid out for another model, so that no axis is moved twice."""
    if isinstance(split, Renamed):
        return Renamed(split.parent, split.names)
    if isinstance(split, Subset) and isinstance(split.parent, Renamed):
        return Subset(_rows_first(split.parent), split.indices)
    return split


def laid_out(rows: Array, spec: TensorSpec | None) -> Array:
    """Samples, which are rows first in a data set, in the layout of a model's input."""
    if spec is None:
        return rows
    if BATCH in spec.shape:
        axis = spec.shape.index(BATCH)
        return np.moveaxis(rows, 0, axis) if 0 < axis < np.ndim(rows) else rows
    return rows[0] if np.ndim(rows) == len(spec.shape) + 1 else rows


def matched(given: Sequence[str], wanted: Sequence[str]) -> dict[str, str] | None:
    """The name in the data of each input of a model: the same name; in order if no name is the same.

    If all but one have the same name, the last one belongs to the other.

    Returns:
        None if the data have more or fewer inputs than the model, or if it is not clear which belongs to which.
    """
    if set(wanted) <= set(given):
        return {name: name for name in wanted}
    rest = [name for name in given if name not in wanted]
    if len(given) != len(wanted) or 1 < len(rest) < len(given):
        return None
    left = iter(rest)
    return {name: name if name in given else next(left) for name in wanted}


def fit_to(splits: Splits, signature: Signature) -> Splits:
    """Give the inputs of ``splits`` the names of ``signature``: by name, and by position where no name agrees.

    Raises:
        DataError: the number of inputs differs, or a sample does not fit the signature.
    """
    sources = {key: _rows_first(getattr(splits, key)) for key in (TRAIN, VALIDATION, CALIBRATION, TEST)}
    inputs = sources[TRAIN].read([0])[0]
    given, wanted = list(inputs), [spec.name for spec in signature.inputs]
    names = matched(given, wanted)
    if names is None:
        raise DataError(
            f"the data have the inputs {', '.join(given)}; the model takes {signature.describe_inputs()}",
            "give the inputs of the data the names of the model's inputs",
        )
    parts = [Renamed(source, names, signature) for source in sources.values()]
    signature.validate(parts[0].read([0])[0])
    return Splits(parts[0], parts[1], parts[2], parts[3], splits.classes)
