"""JSON bodies as arrays: V1 ``instances``, ``{name: list}`` and, for one input, a plain list.

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

from ...core.errors import InputError, LimitError
from ...core.signature import Signature
from ...core.tensors import BATCH, Array, TensorSpec
from ..settings import Limits
from .json_text import UNREAD, read_fast
from .wire import check_rows

MANY = 4096
"""Number of values from which sizes are checked before what is below them is read."""
Decoded = tuple[Mapping[str, Array], Literal["tensors", "bare", "instances"]]


def decode_value(value: object, signature: Signature, limits: Limits) -> Decoded:
    """Tensors of a JSON value, and its form.

    Raises:
        InputError: the value is ragged or not numeric, or has none of the three forms.
        LimitError: it is nested too deeply, or has more rows than allowed.
    """
    specs = {spec.name: spec for spec in signature.inputs}
    if isinstance(value, dict):
        if "instances" in value and "instances" not in specs:
            return _decode_instances(value["instances"], signature, limits), "instances"
        signature.check_names(value)
        return {name: to_array(item, name, limits, specs[name]) for name, item in value.items()}, "tensors"
    if len(specs) == 1:
        (name, spec), *_ = specs.items()
        return {name: to_array(value, name, limits, spec)}, "bare"
    raise InputError("the JSON body is not an object", f"send {{name: list}} with {signature.describe_inputs()}")


def parse_json(body: object) -> Any:
    """The value of a JSON text; anything that is not text was parsed already.

    Raises:
        InputError: not JSON, or an object with duplicate keys.
        LimitError: nested too deeply.
    """
    if not isinstance(body, bytes | bytearray | str):
        return body
    value = UNREAD if isinstance(body, str) else read_fast(body)
    if value is not UNREAD:
        return value
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
    """Nested lists of numbers as ``bool``, ``int64``, ``uint64`` or, also outside of 64 bits, ``float64``.

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
        if float not in kinds and kinds and min(values) >= -(2**63) and max(values) < 2**64:
            return np.array(values, dtype=np.uint64 if max(values) > 2**63 - 1 else np.int64)
        return np.array(values, dtype=np.float64)  # whole numbers outside of 64 bits, which only a float can be
    except OverflowError as error:
        raise InputError(
            f"input '{name}' has numbers too large for 64 bits", "send smaller numbers", input=name
        ) from error


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
        return {spec.name: column(instances, spec, limits) for spec in signature.inputs}
    wanted = {spec.name for spec in signature.inputs}
    if not all(isinstance(instance, dict) and set(instance) == wanted for instance in instances):
        raise InputError("an instance has other inputs than the model", f"send {signature.describe_inputs()}")
    columns = {spec.name: [instance[spec.name] for instance in instances] for spec in signature.inputs}
    return {spec.name: column(columns[spec.name], spec, limits) for spec in signature.inputs}


def column(values: list[Any], spec: TensorSpec, limits: Limits) -> Array:
    """The values of one input, one per sample, with the samples along its batch axis."""
    axis = spec.shape.index(BATCH)
    rows_first = replace(spec, shape=(BATCH, *spec.shape[:axis], *spec.shape[axis + 1 :]))
    array = to_array(values, spec.name, limits, rows_first)
    return np.moveaxis(array, 0, axis) if axis < array.ndim else array
