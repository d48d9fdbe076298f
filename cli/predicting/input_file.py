"""Input files of the command `predict`: arrays that numpy wrote, or lists in JSON."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np

from ...core.errors import InputError, MissingFileError
from ...core.signature import Signature
from ...core.tensors import Array


def read_input(path: Path, signature: Signature | None) -> dict[str, Array]:
    """Read inputs from a ``.npy`` (one input), a ``.npz`` or a ``.json`` (a list, or a mapping of names to lists).

    Raises:
        MissingFileError: there is no such file.
        InputError: the file cannot be read, or contains no arrays.
    """
    if not path.is_file():
        raise MissingFileError(f"no such input: {path}", "check the path of --input")
    try:
        loaded = json.loads(path.read_text()) if path.suffix == ".json" else _load(path)
    except (ValueError, OSError, EOFError) as error:
        if "allow_pickle" in str(error):  # numpy takes every file that it does not know for a pickle
            raise InputError(
                f"{path} holds no arrays of numbers",
                "write it with numpy.save, numpy.savez or json.dump; a table is read with --data, its test split",
            ) from error
        raise InputError(
            f"{path} cannot be read: {error}", "write it with numpy.save, numpy.savez or json.dump"
        ) from error
    if isinstance(loaded, dict):
        return {key: np.asarray(value) for key, value in loaded.items()}
    only = signature.inputs[0].name if signature else "input"
    return {only: np.asarray(loaded)}


def _load(path: Path) -> Any:
    loaded = np.load(io.BytesIO(path.read_bytes()), allow_pickle=False)
    return {key: loaded[key] for key in loaded.files} if hasattr(loaded, "files") else loaded
