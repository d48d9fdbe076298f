"""Sources of data: built-in sets, the user's own function, an .npz file, or a folder of images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import DataError, MissingFileError, UserError
from ..options.recipe import nearest
from ..options.stage_options import DataSpec
from .array_splits import as_split
from .built_in import BUILT_IN, built_in
from .held_out import complete
from .image_folder import image_splits
from .npz_file import read_npz
from .references import call
from .splits import ALIASES, NAMES, TRAIN, ArraySplit, Named, Split, Splits, Subset, check_finite


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
    splits = complete(*_read(spec, base), spec, seed)
    for where in NAMES:
        _check(getattr(splits, where), where, spec.source)
    return splits


def _read(spec: DataSpec, base: Path) -> tuple[Named, tuple[str, ...]]:
    source = spec.source
    if source in BUILT_IN:
        return built_in(source)
    path = base / source
    if source.endswith(".npz"):
        return read_npz(_present(path)), ()
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
        return {key: getattr(value, key) for key in NAMES}, value.classes
    if isinstance(value, Mapping):
        classes = tuple(map(str, value.get("classes", ())))
        named = {ALIASES.get(str(key), str(key)): part for key, part in value.items() if key != "classes"}
        return {key: as_split(part, f"{source}.{key}") for key, part in named.items()}, classes
    return {TRAIN: as_split(value, source)}, ()


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
