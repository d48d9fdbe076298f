"""Parquet files and folders that `save_to_disk` of `datasets` wrote, as tables; they are read with pyarrow."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import DataError
from ...options.data_options import ArrowOptions
from ...preprocessing.decode_images import read_image
from ...preprocessing.decode_sounds import read_sound
from ...preprocessing.specs import ImageInput
from ...system.installation import needed
from ..files.images import image_input
from ..files.sounds import sound_input
from ..input_parts import InputPart, LoadedPart, file_state, readable
from .columns import Column, Table
from .json_table import REMEDY, column_of, infinite_in

DAMAGED = "write it again: it is truncated, or of another kind"
STATE, INFO, DICT = "state.json", "dataset_info.json", "dataset_dict.json"
"""The files by which a folder of `datasets` is known: of one set, of its features, and of several splits."""


def read_parquet(path: Path) -> Table:
    """Read a Parquet file; its columns are mapped into memory where that is possible.

    Raises:
        MachineError: pyarrow is not installed.
        DataError: the file is truncated, or no Parquet file.
    """
    with needed("pyarrow", "Parquet files"):
        parquet = import_module("pyarrow.parquet")
    try:
        with readable(path, DAMAGED):
            found = parquet.read_table(str(path), memory_map=True)
    except (ValueError, RuntimeError, NotImplementedError) as error:  # pyarrow's own classes are subclasses of these
        raise _unreadable(path, error, DAMAGED) from error
    return _table(path, found, _state([path]))


def read_saved(folder: Path) -> Table:
    """Read one set that `save_to_disk` wrote.

    Raises:
        MachineError: pyarrow is not installed.
        DataError: a file is missing or truncated.
    """
    with needed("pyarrow", "folders of datasets"):
        arrow = import_module("pyarrow")
    state = _json(folder / STATE)
    files = [folder / str(entry["filename"]) for entry in state.get("_data_files", [])]
    missing = [file.name for file in files if not file.is_file()]
    if missing or not files:
        what = f"lacks its file {missing[0]}" if missing else "lists no data files"
        raise DataError(f"{folder} {what}", "save it again with `save_to_disk`")
    parts = []
    for file in files:
        try:
            with readable(file, DAMAGED):
                parts.append(arrow.ipc.open_stream(arrow.memory_map(str(file))).read_all())
        except (ValueError, RuntimeError) as error:
            raise _unreadable(file, error, DAMAGED) from error
    features = _json(folder / INFO).get("features") if (folder / INFO).is_file() else None
    return _table(folder, arrow.concat_tables(parts), _state(files), features)


def saved_splits(folder: Path) -> list[str]:
    """Names of the splits of a folder that `save_to_disk` of a DatasetDict wrote."""
    return [str(name) for name in _json(folder / DICT).get("splits", [])]


def _json(path: Path) -> dict[str, Any]:
    try:
        with readable(path):
            found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path} is not valid JSON: {error}", "save the dataset again with `save_to_disk`") from error
    return found if isinstance(found, dict) else {}


def _unreadable(path: Path, error: Exception, remedy: str) -> DataError:
    text = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
    return DataError(f"{path} cannot be read: {text}", remedy)


def _state(files: Sequence[Path]) -> str:
    return hashlib.sha256("|".join(map(file_state, files)).encode()).hexdigest()


def _table(path: Path, found: Any, digest: str, features: Any = None) -> Table:
    if found.num_rows == 0:
        raise DataError(f"{path} has no rows", "give at least one sample")
    if features is None:
        features = _stored_features(found)
    columns = {name: _column(found.column(name), (features or {}).get(name)) for name in found.column_names}
    named = {name: column for name, column in columns.items() if not name.startswith("__index_level")}
    return Table(path, named, found.num_rows, lambda row: f"{path}, row {row + 1}", digest)


def _stored_features(found: Any) -> Any:
    """The features that `datasets` writes into the metadata of a file."""
    stored = (found.schema.metadata or {}).get(b"huggingface")
    try:
        return json.loads(stored)["info"]["features"] if stored else None
    except (ValueError, KeyError, TypeError):
        return None


def _column(values: Any, feature: Any) -> Column:
    """One column: numbers without a copy where that is possible, images and recordings as they are stored."""
    types = import_module("pyarrow.types")
    kind = str(feature.get("_type")) if isinstance(feature, dict) else ""
    storage = getattr(values.type, "storage_type", values.type)
    if types.is_struct(storage) and {field.name for field in storage} >= {"bytes", "path"}:
        return Column(values, "audio" if kind == "Audio" else "image")
    classes = tuple(map(str, feature["names"])) if kind == "ClassLabel" else ()
    if (types.is_integer(storage) or types.is_floating(storage) or types.is_boolean(storage)) and not values.null_count:
        numbers = np.asarray(values.to_numpy())
        return Column(numbers, "numbers", infinite_in(numbers), classes)
    even = _even(values, types, storage)
    if even is not None:
        return Column(even, "numbers")
    found = column_of(values.to_pylist())
    return Column(found.values, found.kind, found.fault, classes)


def _even(values: Any, types: Any, storage: Any) -> Any:
    """Lists of equal length of numbers as ``[N, L]``; None for other values."""
    if not (types.is_list(storage) or types.is_large_list(storage) or types.is_fixed_size_list(storage)):
        return None
    if not (types.is_integer(storage.value_type) or types.is_floating(storage.value_type)) or values.null_count:
        return None
    compute = import_module("pyarrow.compute")
    lengths = compute.list_value_length(values).to_numpy()
    flat = compute.list_flatten(values)
    if len(set(lengths.tolist())) != 1 or flat.null_count:
        return None
    numbers = np.asarray(flat.to_numpy())
    if numbers.dtype.kind == "f" and not np.isfinite(numbers).all():
        return None
    return numbers.reshape(len(lengths), int(lengths[0]))


def media_part(options: ArrowOptions) -> Any:
    """What makes the input of a column of images or recordings, which are decoded when they are read."""

    def _part(table: Table, name: str) -> InputPart:
        column = table.columns[name]
        folder = table.path if table.path.is_dir() else table.path.parent

        def _source(row: int) -> bytes | Path:
            stored = column.values[row].as_py()
            if not stored or (stored.get("bytes") is None and not stored.get("path")):
                raise DataError(f"{table.place(row)}, column '{name}': there is no file", REMEDY)
            given = stored.get("bytes")
            return bytes(given) if given is not None else folder / str(stored["path"])

        def _content(row: int) -> bytes:
            found = _source(row)
            return found if isinstance(found, bytes) else found.read_bytes()

        def _load(row: int) -> Any:
            found, where = _source(row), f"{table.place(row)}, column '{name}'"
            source = io.BytesIO(found) if isinstance(found, bytes) else found
            return read_image(source, where, spec) if isinstance(spec, ImageInput) else read_sound(source, where, spec)

        spec = image_input(name, options) if column.kind == "image" else sound_input(name, options)
        # without a rate in the options, each file may have another one
        known = spec if isinstance(spec, ImageInput) or spec.sample_rate else None
        return LoadedPart(name, range(table.count), _load, f"{table.digest}|{spec}", lambda _: "", known, _content)

    return _part
