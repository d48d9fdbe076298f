"""The Open Inference Protocol (KServe V2): its tensors in JSON, and its binary extension.

A body of the binary extension is a JSON text, whose length a header says, and behind it the bytes of the tensors,
little endian; texts and files are each preceded by their length in 4 bytes. Part of the runtime half: standard library
and numpy only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...core.counts import counted
from ...core.errors import InputError, LimitError
from ...core.signature import Signature
from ...core.tensors import BATCH, Array, TensorSpec
from ..settings import Limits, Settings
from .bodies import parse_json, to_array
from .wire import is_size

OCTETS = "application/octet-stream"
EXTENSIONS = ("binary_tensor_data", "classification")
LENGTH_HEADER = "inference-header-content-length"
"""Header with the length of the JSON text of a body of the binary extension, in lower case."""

V2_TYPES = {
    "BOOL": "bool",
    "UINT8": "uint8",
    "UINT16": "uint16",
    "UINT32": "uint32",
    "UINT64": "uint64",
    "INT8": "int8",
    "INT16": "int16",
    "INT32": "int32",
    "INT64": "int64",
    "FP16": "float16",
    "FP32": "float32",
    "FP64": "float64",
}
_V2_NAMES = {dtype: name for name, dtype in V2_TYPES.items()}


def is_v2(value: object) -> bool:
    """Whether a JSON value has the form of a V2 request."""
    if not isinstance(value, dict):
        return False
    items = value.get("inputs")
    return isinstance(items, list) and all(isinstance(item, dict) and "datatype" in item for item in items)


def decode_v2(value: Mapping[str, Any], signature: Signature, limits: Limits) -> dict[str, Array]:
    """The tensors of a V2 request.

    Raises:
        InputError: a name, a shape or a datatype is wrong, or the data do not fit them.
        LimitError: a tensor has too many axes.
    """
    names = [item.get("name") for item in value["inputs"]]
    if not all(isinstance(name, str) for name in names) or len(set(names)) != len(names):
        raise InputError("a V2 input has no name, or a name appears twice", f"send {signature.describe_inputs()}")
    signature.check_names(names)
    return {name: tensor_of(item, name, limits) for name, item in zip(names, value["inputs"], strict=True)}


def tag_of(value: Mapping[str, Any]) -> str:
    """The client's own id of a request, which the answer repeats."""
    tag = value.get("id", "")
    return tag if isinstance(tag, str) else ""


def tensor_of(item: Mapping[str, Any], name: str, limits: Limits) -> Array:
    """The array of one tensor.

    Raises:
        InputError: the datatype or the shape is wrong, or the data do not fit them.
        LimitError: it has too many axes.
    """
    dtype = V2_TYPES.get(str(item["datatype"]))
    shape = item.get("shape")
    if dtype is None:
        raise InputError(f"input '{name}' has an unknown datatype", f"one of {', '.join(V2_TYPES)}", input=name)
    if not isinstance(shape, list) or not all(map(is_size, shape)):
        raise InputError(f"input '{name}' has no valid shape", "give a list of sizes", input=name)
    if len(shape) > limits.axes:
        raise LimitError(f"input '{name}' has {len(shape)} axes", f"at most {limits.axes}", input=name)
    flat = item.get("data")
    if isinstance(flat, memoryview):
        return _from_bytes(flat, np.dtype(dtype), shape, name)
    if "data" not in item:
        remedy = f"send `data` as a list, or its bytes behind the JSON with the header {LENGTH_HEADER}"
        raise InputError(f"input '{name}' has no data", remedy, input=name)
    found = len(flat) if isinstance(flat, list) and flat and type(flat[0]) is not list else math.prod(shape)
    if found != math.prod(shape):
        message = f"input '{name}' has {counted(found, 'value')}, its shape {shape} needs {math.prod(shape)}"
        raise InputError(message, "make the data and the shape agree", input=name)
    array = to_array(flat, name, limits)
    if math.prod(shape) != array.size:
        message = f"input '{name}' has {counted(array.size, 'value')}, its shape {shape} needs {math.prod(shape)}"
        raise InputError(message, "make the data and the shape agree", input=name)
    # floats stay float64 until the signature converts them, so that it detects an overflow
    shaped = array.reshape(shape)
    return shaped if dtype.startswith("float") else TensorSpec(name, dtype, ()).cast(shaped)


def requested(items: object, signature: Signature) -> tuple[str, ...]:
    """The names of the outputs that a request asks for; empty for all.

    Raises:
        InputError: there is no such output.
    """
    known = {spec.name for spec in signature.outputs}
    names = [item.get("name") if isinstance(item, dict) else None for item in items] if isinstance(items, list) else [0]
    if not all(isinstance(name, str) and name in known for name in names):
        raise InputError("a requested output does not exist", f"request one of {', '.join(sorted(known))}")
    return tuple(str(name) for name in names)


def _from_bytes(data: memoryview, dtype: np.dtype[Any], shape: list[int], name: str) -> Array:
    needed = math.prod(shape) * dtype.itemsize
    if needed != len(data):
        message = f"input '{name}' has {counted(len(data), 'byte')}, its shape {shape} needs {needed}"
        raise InputError(message, "make the data and the shape agree", input=name)
    if dtype.kind == "b":
        return np.asarray(np.frombuffer(data, np.uint8).reshape(shape) != 0)
    array = np.frombuffer(data, dtype.newbyteorder("<")).reshape(shape)
    return array.astype(dtype) if not array.flags.aligned or dtype.byteorder == ">" else array


def parse_binary(body: bytes | bytearray, length: str, limits: Limits) -> Any:
    """The JSON value of a body of the binary extension, with ``data`` of each tensor that lies behind it.

    ``data`` is a view of bytes, and a list of bytes for the datatype BYTES.

    Raises:
        InputError: a length is wrong.
    """
    if not length.isdecimal() or len(length) > 9 or int(length) > len(body):
        raise InputError(
            f"the header {LENGTH_HEADER} is '{length[:20]}'", f"give the length of the JSON, at most {len(body)}"
        )
    value = parse_json(bytes(body[: int(length)]))
    rest = memoryview(body)[int(length) :]
    items = value.get("inputs") if isinstance(value, dict) else None
    for item in items if isinstance(items, list) else ():
        size = _binary_size(item, len(rest))
        if size is not None:
            own, rest = rest[:size], rest[size:]
            item["data"] = _split(own, limits) if item.get("datatype") == "BYTES" else own
    if len(rest):
        message = f"the body has {counted(len(rest), 'byte')} that belong to no input"
        raise InputError(message, "give `binary_data_size` for each input behind the JSON")
    return value


def _binary_size(item: Any, left: int) -> int | None:
    parameters = item.get("parameters") if isinstance(item, dict) else None
    size = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
    if size is None:
        return None
    if not is_size(size) or size > left:
        raise InputError(f"`binary_data_size` is {str(size)[:40]}", f"the body has {left} bytes left")
    if "data" in item:
        raise InputError("a V2 input has both `data` and `binary_data_size`", "give one of them")
    return int(size)


def _split(data: memoryview, limits: Limits) -> list[bytes]:
    """The elements of a tensor of the datatype BYTES."""
    found: list[bytes] = []
    while len(data):
        size = int.from_bytes(data[:4], "little")
        if len(data) < 4 or size > len(data) - 4 or len(found) >= limits.rows:
            raise InputError("a tensor of BYTES is damaged, or has too many elements", "precede each by its length")
        found.append(bytes(data[4 : 4 + size]))
        data = data[4 + size :]
    return found


def wants_binary(value: Mapping[str, Any]) -> frozenset[str] | bool:
    """The outputs whose data a request wants as bytes: all (True), none (False) or those of the names."""
    parameters = value.get("parameters")
    if isinstance(parameters, dict) and parameters.get("binary_data_output") is True:
        return True
    items = value.get("outputs")
    names = (
        item.get("name")
        for item in (items if isinstance(items, list) else ())
        if isinstance(item, dict) and isinstance(item.get("parameters"), dict) and item["parameters"].get("binary_data")
    )
    return frozenset(str(name) for name in names) or False


def classified_outputs(value: Mapping[str, Any]) -> dict[str, int]:
    """For each output of which a request wants the best classes (``classification``), their number."""
    items = value.get("outputs")
    found: dict[str, int] = {}
    for item in items if isinstance(items, list) else ():
        parameters = item.get("parameters") if isinstance(item, dict) else None
        count = parameters.get("classification") if isinstance(parameters, dict) else None
        if count is not None:
            if not is_size(count) or count < 1:
                raise InputError(f"`classification` is {str(count)[:40]}", "give a whole number from 1")
            found[str(item.get("name"))] = int(count)
    return found


def v2_tensor(name: str, array: Array) -> dict[str, Any]:
    """One tensor in V2 form, with its data as a flat array."""
    return {**_head(name, array), "data": array.reshape(-1)}


def _head(name: str, array: Array) -> dict[str, Any]:
    kind = _V2_NAMES.get(array.dtype.name, array.dtype.name.upper())
    return {"name": name, "datatype": kind, "shape": list(array.shape)}


def binary_tensor(name: str, array: Array) -> tuple[dict[str, Any], bytes]:
    """One tensor in V2 form, and its data as bytes."""
    data = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()
    return {**_head(name, array), "parameters": {"binary_data_size": len(data)}}, data


def text_tensor(name: str, rows: Sequence[Sequence[str]]) -> dict[str, Any]:
    """A tensor of texts in V2 form, such as the best classes of each row."""
    width = len(rows[0]) if rows else 0
    flat = [text for row in rows for text in row]
    return {"name": name, "datatype": "BYTES", "shape": [len(rows), width], "data": flat}


def metadata(settings: Settings, signature: Signature, backend: str) -> dict[str, Any]:
    """The metadata of a model: its name and version, and its inputs and outputs, with -1 for each free axis."""
    ports = {side: [_port(spec) for spec in getattr(signature, side)] for side in ("inputs", "outputs")}
    names = {"name": settings.name, "versions": [settings.version]}
    return {**names, "platform": f"retort_{backend}", **ports}


def _port(spec: TensorSpec) -> dict[str, Any]:
    shape = [axis if isinstance(axis, int) else -1 for axis in spec.shape]
    return {"name": spec.name, "datatype": _V2_NAMES.get(spec.dtype, spec.dtype.upper()), "shape": shape} | (
        {"parameters": {"batch_axis": spec.shape.index(BATCH)}} if BATCH in spec.shape else {}
    )
