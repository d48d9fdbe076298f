"""Shape arithmetic: computations of ONNX graphs with sizes, done with Python numbers instead of tensors.

A host value is a number (which may be a symbolic size), a flat list of numbers, or with more axes an array of objects.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Host = Any
Objects = NDArray[Any]
LIMIT = 4096
"""Values with more elements are computed with tensors."""


def compute(kind: str, given: Sequence[Host], attributes: dict[str, Any], outputs: int) -> Any:
    """The result of an operator on host values, a tuple for several outputs; None if it is not supported here."""
    function = _TABLE.get(kind)
    if function is None:
        return None
    arrays = [None if value is None else objects(value) for value in given]
    result = function(arrays, {**attributes, "outputs": outputs})
    if isinstance(result, tuple):
        return tuple(host(part) for part in result)
    return None if result is None or np.size(result) > LIMIT else host(result)


def whole(value: Host) -> list[Any]:
    """A host value as a flat list."""
    return value if isinstance(value, list) else objects(value).reshape(-1).tolist()


def objects(value: Host) -> Objects:
    """A host value as an array, whose elements are the numbers themselves."""
    if isinstance(value, np.ndarray):
        return value
    shape: Any = (len(value),) if isinstance(value, list) else ()
    found = np.empty(shape, object)
    found[...] = value
    return found


def host(value: Any) -> Host:
    """An array as a host value."""
    array = value if isinstance(value, np.ndarray) else objects(value)
    return array.item() if array.ndim == 0 else array.tolist() if array.ndim == 1 else array.astype(object)


def is_known(array: Objects | None) -> bool:
    """Whether all elements are plain numbers, not symbolic sizes."""
    return array is None or all(isinstance(item, int | float) for item in array.reshape(-1))


def _divide(left: Any, right: Any) -> Any:
    """ONNX divides integers towards zero; symbolic sizes are never negative."""
    if isinstance(left, float) or isinstance(right, float):
        return left / right if right != 0 else math.copysign(math.inf, left) if left else math.nan
    known = isinstance(left, int) and isinstance(right, int)
    return -(-left // right) if known and (left < 0) != (right < 0) else left // right


def _modulo(arrays: list[Any], attributes: dict[str, Any]) -> Objects | None:
    if attributes.get("fmod", 0):
        return None
    return _of(operator.mod)(*arrays)


def _of(function: Callable[..., Any], count: int = 2) -> Callable[..., Objects]:
    lifted = np.frompyfunc(function, count, 1)
    return lambda *arrays: lifted(*arrays)


def _pairs(function: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    lifted = _of(function)

    def _run(arrays: list[Any], attributes: dict[str, Any]) -> Any:
        result = arrays[0]
        for other in arrays[1:]:
            result = lifted(result, other)
        return result

    return _run


def _each(function: Callable[[Any], Any]) -> Callable[..., Any]:
    lifted = _of(function, 1)
    return lambda arrays, attributes: lifted(arrays[0])


def _gather(arrays: list[Any], attributes: dict[str, Any]) -> Any:
    data, indices = arrays
    return np.take(data, indices.astype(np.int64), attributes.get("axis", 0)) if is_known(indices) else None


def _slice(arrays: list[Any], attributes: dict[str, Any]) -> Any:
    data, *rest = arrays
    if rest:
        starts, ends, axes, steps = (*rest, None, None)[:4]
    else:
        starts, ends = (objects(attributes[name]) for name in ("starts", "ends"))
        axes, steps = (None if "axes" not in attributes else objects(attributes["axes"])), None
    if not all(is_known(item) for item in (starts, ends, axes, steps)):
        return None
    places = range(len(starts)) if axes is None else axes.tolist()
    key = [slice(None)] * data.ndim
    for index, axis in enumerate(places):
        key[axis] = _range_of(starts[index], ends[index], 1 if steps is None else steps[index])
    return data[tuple(key)]


def _range_of(start: int, end: int, step: int) -> slice:
    """The slice of Python; beyond the first element, ONNX writes a number that is far below zero."""
    return slice(start, None if step < 0 and end < -(2**30) else end, step)


def _concat(arrays: list[Any], attributes: dict[str, Any]) -> Any:
    return np.concatenate(arrays, attributes.get("axis", 0))


def _axes(arrays: list[Any], attributes: dict[str, Any]) -> tuple[int, ...] | None:
    """Axes, an input or, in older opsets, an attribute."""
    given = arrays[1].tolist() if len(arrays) > 1 and arrays[1] is not None else attributes.get("axes")
    return None if given is None else tuple(given) if isinstance(given, list) else (given,)


def _squeeze(arrays: list[Any], attributes: dict[str, Any]) -> Any:
    return np.squeeze(arrays[0], _axes(arrays, attributes))


def _unsqueeze(arrays: list[Any], attributes: dict[str, Any]) -> Any:
    return np.expand_dims(arrays[0], _axes(arrays, attributes) or ())


def _reshape(arrays: list[Any], attributes: dict[str, Any]) -> Any:
    data, shape = arrays[0], (arrays[1] if len(arrays) > 1 else objects(attributes["shape"]))
    if not is_known(shape):
        return None
    zeros = not attributes.get("allowzero", 0)
    return data.reshape([data.shape[i] if size == 0 and zeros else size for i, size in enumerate(shape.tolist())])


def _flatten(arrays: list[Any], attributes: dict[str, Any]) -> Any:
    axis = attributes.get("axis", 1)
    return arrays[0].reshape(math.prod(arrays[0].shape[:axis]), -1)


def _transpose(arrays: list[Any], attributes: dict[str, Any]) -> Any:
    return arrays[0].transpose(attributes.get("perm"))


def _cast(arrays: list[Any], attributes: dict[str, Any]) -> Any:
    kind = attributes["to"]
    if kind in (1, 10, 11, 16):
        return _each(lambda item: item * 1.0)(arrays, attributes)
    if kind == 9:
        return _each(bool)(arrays, attributes)
    return _each(_to_whole)(arrays, attributes) if kind in (6, 7) else None


def _to_whole(item: Any) -> Any:
    """A size as an integer; ``int`` would make a symbolic one a number."""
    if isinstance(item, bool | int | float):
        return int(item) if math.isfinite(item) else -(2**63)
    return item.__trunc__() if hasattr(item, "__trunc__") and "Float" in type(item).__name__ else item


def _where(arrays: list[Any], attributes: dict[str, Any]) -> Any:
    return _of(lambda test, yes, no: yes if test else no, 3)(*arrays)


def _filled(arrays: list[Any], attributes: dict[str, Any]) -> Any:
    shape, value = arrays[0], attributes.get("value")
    if not is_known(shape) or math.prod(shape.tolist()) > LIMIT:
        return None
    if value is not None and value.dtype.name not in ("float32", "int64", "int32", "bool"):
        return None
    found = np.empty(tuple(shape.tolist()), object)
    found[...] = 0.0 if value is None else value.reshape(-1)[0].item()
    return found


def _range(arrays: list[Any], attributes: dict[str, Any]) -> Any:
    if not all(is_known(item) for item in arrays):
        return None
    start, stop, step = (item.item() for item in arrays)
    count = max(0, math.ceil((stop - start) / step))
    return objects([start + index * step for index in range(count)]) if count <= LIMIT else None


def _reduced(function: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    lifted = np.frompyfunc(function, 2, 1)

    def _reduce(arrays: list[Any], attributes: dict[str, Any]) -> Any:
        data, axes = arrays[0], _axes(arrays, attributes)
        if not data.size:
            return None
        if not axes:
            if attributes.get("noop_with_empty_axes", 0):
                return data
            axes = tuple(range(data.ndim))
        for axis in sorted((axis % data.ndim for axis in axes), reverse=True):
            data = objects(lifted.reduce(data, axis)) if data.ndim == 1 else lifted.reduce(data, axis)
        return np.expand_dims(data, tuple(axes)) if attributes.get("keepdims", 1) else data

    return _reduce


def _split(arrays: list[Any], attributes: dict[str, Any]) -> Any:
    data, axis, count = arrays[0], attributes.get("axis", 0), attributes["outputs"]
    sizes = arrays[1].tolist() if len(arrays) > 1 and arrays[1] is not None else attributes.get("split")
    if sizes is None:
        step = -(-data.shape[axis] // count)
        sizes = [step] * (count - 1) + [data.shape[axis] - step * (count - 1)]
    return tuple(np.split(data, np.cumsum(sizes)[:-1], axis))


def _expand(arrays: list[Any], attributes: dict[str, Any]) -> Any:
    shape = arrays[1]
    if not is_known(shape) or math.prod(shape.tolist()) > LIMIT:
        return None
    return np.broadcast_to(arrays[0], np.broadcast_shapes(arrays[0].shape, tuple(shape.tolist())))


def _tile(arrays: list[Any], attributes: dict[str, Any]) -> Any:
    if not is_known(arrays[1]) or math.prod(arrays[1].tolist()) * arrays[0].size > LIMIT:
        return None
    return np.tile(arrays[0], arrays[1].tolist())


def _non_zero(arrays: list[Any], attributes: dict[str, Any]) -> Any:
    return np.stack(np.nonzero(arrays[0].astype(bool))).astype(object) if is_known(arrays[0]) else None


def _scatter(arrays: list[Any], attributes: dict[str, Any]) -> Any:
    data, indices, updates = arrays
    if not is_known(indices) or attributes.get("reduction", "none") != "none":
        return None
    found = data.copy()
    found[tuple(np.moveaxis(indices.astype(np.int64), -1, 0))] = updates
    return found


def _shape(arrays: list[Any], attributes: dict[str, Any]) -> Any:
    return objects(list(arrays[0].shape)[attributes.get("start", 0) : attributes.get("end")])


def _smaller(left: Any, right: Any) -> Any:
    return left if left < right else right


def _larger(left: Any, right: Any) -> Any:
    return left if left > right else right


def _power(left: Any, right: Any) -> Any:
    return left**right


_TABLE: dict[str, Callable[..., Any]] = {
    "Add": _pairs(operator.add), "Sub": _pairs(operator.sub), "Mul": _pairs(operator.mul), "Div": _pairs(_divide),
    "Mod": _modulo, "Min": _pairs(_smaller), "Max": _pairs(_larger), "Equal": _pairs(operator.eq),
    "Less": _pairs(operator.lt), "Greater": _pairs(operator.gt), "LessOrEqual": _pairs(operator.le),
    "GreaterOrEqual": _pairs(operator.ge), "And": _pairs(lambda a, b: a and b), "Or": _pairs(lambda a, b: a or b),
    "Pow": _pairs(_power), "Neg": _each(operator.neg), "Abs": _each(abs), "Not": _each(operator.not_),
    "Identity": _each(lambda item: item), "Floor": _each(lambda item: item // 1.0),
    "Ceil": _each(lambda item: -(-item // 1.0)), "Sqrt": _each(lambda item: item**0.5),
    "Sign": _each(lambda item: (item > 0) - (item < 0)),
    "Gather": _gather, "Slice": _slice, "Concat": _concat, "Squeeze": _squeeze, "Unsqueeze": _unsqueeze,
    "Reshape": _reshape, "Flatten": _flatten, "Transpose": _transpose, "Cast": _cast, "Where": _where,
    "ConstantOfShape": _filled, "Range": _range, "Split": _split, "Expand": _expand, "Tile": _tile,
    "NonZero": _non_zero, "ScatterND": _scatter, "Shape": _shape, "Size": lambda arrays, _: objects(arrays[0].size),
    "ReduceProd": _reduced(operator.mul), "ReduceSum": _reduced(operator.add), "ReduceMax": _reduced(_larger),
    "ReduceMin": _reduced(_smaller),
}  # fmt: skip
TAKEN = frozenset(_TABLE)
