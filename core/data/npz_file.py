"""Splits from an .npz file, whose arrays are read by their names."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..errors import DataError
from ..tensors import Array
from .array_splits import array_split
from .splits import ALIASES, CALIBRATION, TEST, TRAIN, VALIDATION, Named


def read_npz(path: Path) -> Named:
    """Read the splits of a file.

    Raises:
        DataError: the file cannot be read, or its arrays do not fit together.
    """
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
