"""Shape arithmetic: computations of ONNX graphs with sizes, done with Python numbers instead of tensors.

A host value is a number (which may be a symbolic size) or a flat list of numbers.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

Host = Any  # a number, or a list of numbers
TAKEN = frozenset(
    (
        "Add", "Sub", "Mul", "Div", "Mod", "Min", "Max", "Neg", "Abs", "Equal", "Less", "Greater", "LessOrEqual",
        "GreaterOrEqual", "Not", "And", "Or", "Gather", "Slice", "Concat", "Squeeze", "Unsqueeze", "Reshape", "Cast",
        "Identity", "Where", "ConstantOfShape", "Range", "ReduceProd", "ReduceSum", "ReduceMax", "ReduceMin", "Floor",
        "Ceil", "Sqrt", "Split", "Expand", "Size", "Flatten",
    )
)  # fmt: skip


def compute(kind: str, given: Sequence[Host], attributes: dict[str, Any], outputs: int) -> Any:
    """The result of an operator on host values, a tuple for several outputs; None if it is not supported here."""
    if kind in _BINARY:
        return _pairs(_BINARY[kind], given)
    if kind in _UNARY:
        return _each(_UNARY[kind], given[0])
    special = _SPECIAL.get(kind)
    return special(given, attributes, outputs) if special else None


def whole(value: Host) -> list[Any]:
    """A host value as a list."""
    return value if isinstance(value, list) else [value]


def _divide(left: Any, right: Any) -> Any:
    """ONNX divides integers towards zero; sizes are never negative."""
    return left / right if isinstance(left, float) or isinstance(right, float) else left // right


def _pairs(function: Callable[[Any, Any], Any], given: Sequence[Host]) -> Host:
    result = given[0]
    for other in given[1:]:
        if not isinstance(result, list) and not isinstance(other, list):
            result = function(result, other)
            continue
        left, right = whole(result), whole(other)
        count = max(len(left), len(right))
        left, right = (part * count if len(part) == 1 else part for part in (left, right))
        result = [function(a, b) for a, b in zip(left, right, strict=True)]
    return result


def _each(function: Callable[[Any], Any], value: Host) -> Host:
    return [function(item) for item in value] if isinstance(value, list) else function(value)


def _gather(given: Sequence[Host], attributes: dict[str, Any], outputs: int) -> Host:
    data, indices = given
    return [data[index] for index in indices] if isinstance(indices, list) else data[indices]


def _slice(given: Sequence[Host], attributes: dict[str, Any], outputs: int) -> Host:
    if len(given) > 1:
        start, stop = whole(given[1])[0], whole(given[2])[0]
        step = whole(given[4])[0] if len(given) > 4 and given[4] is not None else 1
    else:
        start, stop, step = attributes["starts"][0], attributes["ends"][0], 1
    return given[0][slice(start, stop if abs(stop) < 2**31 - 1 else None, step)]


def _concat(given: Sequence[Host], attributes: dict[str, Any], outputs: int) -> Host:
    return [item for value in given for item in whole(value)]


def _squeeze(given: Sequence[Host], attributes: dict[str, Any], outputs: int) -> Host:
    return given[0][0] if isinstance(given[0], list) and len(given[0]) == 1 else given[0]


def _unsqueeze(given: Sequence[Host], attributes: dict[str, Any], outputs: int) -> Host | None:
    return None if isinstance(given[0], list) else [given[0]]


def _reshape(given: Sequence[Host], attributes: dict[str, Any], outputs: int) -> Host | None:
    shape = whole(given[1]) if len(given) > 1 else [-1]
    if not shape:
        return whole(given[0])[0]
    return whole(given[0]) if len(shape) == 1 else None


def _cast(given: Sequence[Host], attributes: dict[str, Any], outputs: int) -> Host:
    kind = attributes["to"]
    if kind in (1, 10, 11, 16):
        return _each(lambda item: item * 1.0, given[0])
    if kind == 9:
        return _each(bool, given[0])
    return _each(lambda item: int(item) if isinstance(item, float | bool) else item, given[0])


def _where(given: Sequence[Host], attributes: dict[str, Any], outputs: int) -> Host:
    count = max(len(whole(value)) for value in given)
    if not any(isinstance(value, list) for value in given):
        return given[1] if given[0] else given[2]
    test, yes, no = (whole(value) * count if len(whole(value)) == 1 else whole(value) for value in given)
    return [a if choice else b for choice, a, b in zip(test, yes, no, strict=True)]


def _filled(given: Sequence[Host], attributes: dict[str, Any], outputs: int) -> Host | None:
    shape, value = whole(given[0]), attributes.get("value")
    item = 0.0 if value is None else value.reshape(-1)[0].item()
    if not shape:
        return item
    return [item] * shape[0] if len(shape) == 1 and isinstance(shape[0], int) else None


def _range(given: Sequence[Host], attributes: dict[str, Any], outputs: int) -> Host | None:
    start, stop, step = given
    return list(range(start, stop, step)) if all(isinstance(item, int) for item in given) else None


def _reduced(function: Callable[[Any, Any], Any]) -> Callable[..., Host]:
    def _reduce(given: Sequence[Host], attributes: dict[str, Any], outputs: int) -> Host:
        items = whole(given[0])
        result = items[0]
        for item in items[1:]:
            result = function(result, item)
        return [result] if attributes.get("keepdims", 1) else result

    return _reduce


def _split(given: Sequence[Host], attributes: dict[str, Any], outputs: int) -> tuple[Host, ...]:
    sizes = given[1] if len(given) > 1 else attributes.get("split") or [len(given[0]) // outputs] * outputs
    parts, start = [], 0
    for size in sizes:
        parts.append(given[0][start : start + size])
        start += size
    return tuple(parts)


def _expand(given: Sequence[Host], attributes: dict[str, Any], outputs: int) -> Host | None:
    shape = whole(given[1])
    if len(shape) != 1 or not isinstance(shape[0], int):
        return None
    values = whole(given[0])
    return values * shape[0] if len(values) == 1 else values


def _smaller(left: Any, right: Any) -> Any:
    return left if left < right else right


def _larger(left: Any, right: Any) -> Any:
    return left if left > right else right


_BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "Add": operator.add, "Sub": operator.sub, "Mul": operator.mul, "Div": _divide, "Mod": operator.mod,
    "Min": _smaller, "Max": _larger, "Equal": operator.eq, "Less": operator.lt, "Greater": operator.gt,
    "LessOrEqual": operator.le, "GreaterOrEqual": operator.ge, "And": lambda a, b: a and b, "Or": lambda a, b: a or b,
}  # fmt: skip
_UNARY: dict[str, Callable[[Any], Any]] = {
    "Neg": operator.neg, "Abs": abs, "Not": operator.not_, "Identity": lambda item: item,
    "Floor": lambda item: item // 1.0, "Ceil": lambda item: -(-item // 1.0), "Sqrt": lambda item: item**0.5,
}  # fmt: skip
_SPECIAL: dict[str, Callable[..., Any]] = {
    "Gather": _gather, "Slice": _slice, "Concat": _concat, "Squeeze": _squeeze, "Unsqueeze": _unsqueeze,
    "Reshape": _reshape, "Flatten": _reshape, "Cast": _cast, "Where": _where, "ConstantOfShape": _filled,
    "Range": _range, "Split": _split, "Expand": _expand, "Size": lambda given, *_: len(whole(given[0])),
    "ReduceProd": _reduced(operator.mul), "ReduceSum": _reduced(operator.add), "ReduceMax": _reduced(_larger),
    "ReduceMin": _reduced(_smaller),
}  # fmt: skip
