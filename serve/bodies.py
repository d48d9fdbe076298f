"""JSON bodies as arrays: KServe V2, V1 ``instances``, ``{name: list}`` and, for one input, a plain list.

Part of the runtime half: standard library and numpy only.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from itertools import chain
from typing import Any, Literal

import numpy as np

from ..core.counts import counted
from ..core.errors import InputError, LimitError
from ..core.system.garbage import no_collections
from ..core.tensors import BATCH, Array, Signature, TensorSpec
from .allowance import allowance
from .settings import Limits
from .wire import check_rows, is_size

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
MANY = 4096
"""Number of values from which sizes are checked before what is below them is read."""
Decoded = tuple[Mapping[str, Array], Literal["tensors", "bare", "instances", "v2"], tuple[str, ...], str]


def decode_json(body: object, signature: Signature, limits: Limits) -> Decoded:
    """Tensors of a JSON body, its form, the requested outputs and its id.

    Raises:
        InputError: the body is not JSON, is ragged or not numeric, or has none of the four forms.
        LimitError: the body has more values, lists or names than any legal request, or is nested too deeply.
    """
    allowed = allowance(signature, limits)
    if isinstance(body, bytes | bytearray):
        allowed.check_json(body)
    with no_collections():  # nested lists have no cycles, and the collector would visit them again and again
        return _decoded(parse_json(body), signature, limits)


def _decoded(value: object, signature: Signature, limits: Limits) -> Decoded:
    specs = {spec.name: spec for spec in signature.inputs}
    if isinstance(value, dict):
        if _is_v2(value):
            return _decode_v2(value, signature, limits)
        if "instances" in value and "instances" not in specs:
            return _decode_instances(value["instances"], signature, limits), "instances", (), ""
        signature.check_names(value)
        return {name: to_array(item, name, limits, specs[name]) for name, item in value.items()}, "tensors", (), ""
    if len(specs) == 1:
        (name, spec), *_ = specs.items()
        return {name: to_array(value, name, limits, spec)}, "bare", (), ""
    raise InputError("the JSON body is not an object", f"send {{name: list}} with {signature.describe_inputs()}")


def parse_json(body: object) -> Any:
    """The value of a JSON text; anything that is not text was parsed already.

    Raises:
        InputError: not JSON, or an object with duplicate keys.
        LimitError: nested too deeply.
    """
    if not isinstance(body, bytes | bytearray | str):
        return body
    try:
        return json.loads(body, object_pairs_hook=_unique)
    except RecursionError as error:
        raise LimitError(
            "the JSON body is nested too deeply", "send lists with one level per axis of the tensor"
        ) from error
    except ValueError as error:
        where = f": {error.msg} at character {error.pos}" if isinstance(error, json.JSONDecodeError) else ""
        remedy = "send JSON, npy or npz, with a matching content type"
        raise InputError(f"the body is not JSON{where}", remedy) from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise InputError("the JSON body has duplicate keys", "give each name once")
    return result


def to_array(value: object, name: str, limits: Limits, spec: TensorSpec | None = None) -> Array:
    """Nested lists of numbers as ``bool``, ``int64``, ``uint64`` or ``float64``.

    Text is rejected before numpy reads it: numpy would parse it, or widen every element to its length.

    Args:
        spec: the input that the lists must fit; a wrong size is refused before the lists below it are read.

    Raises:
        InputError: ragged, of a wrong size, or something that is not a number.
        LimitError: nested deeper than tensors may have axes, or more rows than allowed.
    """
    level: list[Any] = [value]
    shape: list[int] = []
    while level and type(level[0]) is list:
        if set(map(type, level)) != {list} or len(set(map(len, level))) != 1:
            raise InputError(f"input '{name}' is ragged", "give lists of equal length on each axis", input=name)
        shape.append(len(level[0]))
        if len(shape) > limits.axes:
            raise LimitError(f"input '{name}' is nested too deeply", f"at most {limits.axes} axes", input=name)
        if spec is not None and math.prod(shape) > MANY:
            _check_level(spec, shape, limits)
        level = list(chain.from_iterable(level))
    kinds = set(map(type, level))
    if not kinds <= {bool, int, float}:
        odd = sorted(kind.__name__ for kind in kinds - {bool, int, float})[0]
        raise InputError(f"input '{name}' contains {odd}, not only numbers", "send nested lists of numbers", input=name)
    return _numbers(level, kinds, name).reshape(shape)


def _check_level(spec: TensorSpec, shape: list[int], limits: Limits) -> None:
    """Compare the last size with the input's axis, so that what is below a wrong one is not read."""
    axis, found = len(shape) - 1, shape[-1]
    if axis >= len(spec.shape):
        message = f"input '{spec.name}' has more than {len(spec.shape)} axes, got [{', '.join(map(str, shape))}, …]"
        raise InputError(message, f"expected {spec.describe()}", input=spec.name)
    wanted = spec.shape[axis]
    check_rows(spec, tuple(shape), limits)
    if isinstance(wanted, int) and found != wanted:
        message = f"input '{spec.name}' has size {found} on axis {axis}, got [{', '.join(map(str, shape))}"
        message += "]" if len(shape) == len(spec.shape) else ", …]"
        raise InputError(message, f"expected {spec.describe()}", input=spec.name)


def _numbers(values: list[Any], kinds: set[type], name: str) -> Array:
    if kinds == {bool}:
        return np.array(values, dtype=np.bool_)
    try:
        if float in kinds or not kinds:
            return np.array(values, dtype=np.float64)
        return np.array(values, dtype=np.uint64 if max(values) > 2**63 - 1 else np.int64)
    except OverflowError as error:
        raise InputError(
            f"input '{name}' has numbers too large for 64 bits", "send smaller numbers", input=name
        ) from error


def _is_v2(value: Mapping[str, Any]) -> bool:
    items = value.get("inputs")
    return isinstance(items, list) and all(isinstance(item, dict) and "datatype" in item for item in items)


def _decode_v2(value: Mapping[str, Any], signature: Signature, limits: Limits) -> Decoded:
    feeds: dict[str, Array] = {}
    names = [item.get("name") for item in value["inputs"]]
    if not all(isinstance(name, str) for name in names) or len(set(names)) != len(names):
        raise InputError("a V2 input has no name, or a name appears twice", f"send {signature.describe_inputs()}")
    signature.check_names(names)
    for name, item in zip(names, value["inputs"], strict=True):
        feeds[name] = _v2_tensor(item, name, limits)
    asked = _requested(value.get("outputs", []), signature)
    tag = value.get("id", "")
    return feeds, "v2", asked, tag if isinstance(tag, str) else ""


def _v2_tensor(item: Mapping[str, Any], name: str, limits: Limits) -> Array:
    dtype = V2_TYPES.get(str(item["datatype"]))
    shape = item.get("shape")
    if dtype is None:
        raise InputError(f"input '{name}' has an unknown datatype", f"one of {', '.join(V2_TYPES)}", input=name)
    if not isinstance(shape, list) or not all(map(is_size, shape)):
        raise InputError(f"input '{name}' has no valid shape", "give a list of sizes", input=name)
    if len(shape) > limits.axes:
        raise LimitError(f"input '{name}' has {len(shape)} axes", f"at most {limits.axes}", input=name)
    if "data" not in item:
        remedy = "send `data` as a list; the binary extension is not supported"
        raise InputError(f"input '{name}' has no data", remedy, input=name)
    flat = item["data"]
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


def _requested(items: object, signature: Signature) -> tuple[str, ...]:
    known = {spec.name for spec in signature.outputs}
    names = [item.get("name") if isinstance(item, dict) else None for item in items] if isinstance(items, list) else [0]
    if not all(isinstance(name, str) and name in known for name in names):
        raise InputError("a requested output does not exist", f"request one of {', '.join(sorted(known))}")
    return tuple(str(name) for name in names)


def _decode_instances(instances: object, signature: Signature, limits: Limits) -> dict[str, Array]:
    if not isinstance(instances, list) or not instances:
        raise InputError("`instances` is not a list of samples", "give one entry per sample")
    if not all(BATCH in spec.shape for spec in (*signature.inputs, *signature.outputs)):
        raise InputError("`instances` needs a batch axis in every tensor", f"send {signature.describe_inputs()}")
    check_rows(TensorSpec("instances", "float32", (BATCH,)), (len(instances),), limits)
    named = isinstance(instances[0], dict)
    if not named and len(signature.inputs) > 1:
        raise InputError(
            "an instance must be an object with the names of the inputs", f"send {signature.describe_inputs()}"
        )
    if not named:
        return {spec.name: _column(instances, spec, limits) for spec in signature.inputs}
    wanted = {spec.name for spec in signature.inputs}
    if not all(isinstance(instance, dict) and set(instance) == wanted for instance in instances):
        raise InputError("an instance has other inputs than the model", f"send {signature.describe_inputs()}")
    columns = {spec.name: [instance[spec.name] for instance in instances] for spec in signature.inputs}
    return {spec.name: _column(columns[spec.name], spec, limits) for spec in signature.inputs}


def _column(values: list[Any], spec: TensorSpec, limits: Limits) -> Array:
    axis = spec.shape.index(BATCH)
    rows_first = replace(spec, shape=(BATCH, *spec.shape[:axis], *spec.shape[axis + 1 :]))
    array = to_array(values, spec.name, limits, rows_first)
    return np.moveaxis(array, 0, axis) if axis < array.ndim else array
