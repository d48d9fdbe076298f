"""JSON texts: those of requests, read once, and those of answers, in which arrays stand as nested lists.

A float32 is written with the fewest digits that give the same float32 again, as Python does for its own floats
(serve.md H21). ``orjson`` writes that 30 times, and reads 2.5 times as fast where it is installed. Part of the runtime
half: standard library and numpy only; orjson is imported in use.
"""

from __future__ import annotations

import json
import math
import secrets
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np

from ...core.tensors import Array

UNREAD = object()
"""What :func:`read_fast` gives for texts that it leaves to the standard library."""


def read_fast(body: bytes | bytearray) -> Any:
    """The value of a JSON text by orjson, if it surely is what the standard library gives, with each key once.

    Whole numbers outside of 64 bits are floats in it.

    Returns:
        :data:`UNREAD` for a faulty text, for one with escapes, with a key twice, or without orjson.
    """
    library = _orjson()
    if library is None or b"\\" in body:
        return UNREAD
    try:
        value = library.loads(body)
    except ValueError:
        return UNREAD
    # without escapes, each text has two quotes: a key that appears twice is read once, so that one is missing
    return value if 2 * _texts(value) == body.count(b'"') else UNREAD


def _texts(value: object) -> int:
    """Number of keys and texts; a list that begins with a number is not searched, so that there may be more."""
    found, left = 0, [value]
    while left:
        one = left.pop()
        if isinstance(one, str):
            found += 1
        elif isinstance(one, dict):
            found += len(one)
            left.extend(one.values())
        elif isinstance(one, list) and one and not isinstance(one[0], int | float):
            left.extend(one)
    return found


def dump(value: object) -> bytes:
    """Compact JSON of values and arrays; NaN and infinite values, which JSON does not have, become null."""
    library = _orjson()
    try:
        if library is not None:
            return bytes(library.dumps(value, default=_plain, option=library.OPT_SERIALIZE_NUMPY))
    except TypeError:  # arrays of another byte order, whole numbers of more than 64 bits
        return dump_without_orjson(value)
    return dump_without_orjson(value)


@cache
def _orjson() -> Any:
    try:
        return import_module("orjson")
    except ImportError:
        return None


def _plain(value: object) -> object:
    """What orjson does not take: arrays that are empty, have no axis or are not contiguous, and numbers of numpy."""
    if isinstance(value, np.ndarray):
        if not value.size or not value.ndim:
            return value[()] if not value.ndim else value.tolist()
        return np.ascontiguousarray(value)
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(type(value).__name__)


def dump_without_orjson(value: object) -> bytes:
    """The same JSON values by the standard library alone."""
    arrays: list[Array] = []
    mark = secrets.token_hex(8)

    def _kept(item: object) -> object:
        if isinstance(item, np.ndarray):
            arrays.append(item)
            return f"{mark}{len(arrays) - 1}:"
        if isinstance(item, np.generic):
            return _kept(np.asarray(item))
        raise TypeError(type(item).__name__)

    try:
        text = json.dumps(value, separators=(",", ":"), default=_kept, allow_nan=False)
    except ValueError:  # a float of Python that is not finite
        return dump_without_orjson(_finite(value))
    if not arrays:
        return text.encode()
    pieces = text.split(f'"{mark}')
    rest = (piece.partition(':"')[2] for piece in pieces[1:])
    listed = (_listed(array) + tail for array, tail in zip(arrays, rest, strict=True))
    return "".join((pieces[0], *listed)).encode()


def _finite(value: object) -> object:
    """The same values with None for floats that are not finite."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _listed(array: Array) -> str:
    """Nested lists of an array as text."""
    if not array.size:
        return json.dumps(array.tolist(), separators=(",", ":"))
    if array.dtype.kind == "b":
        flat = ["true" if value else "false" for value in array.ravel().tolist()]
    elif array.dtype.kind == "f" and array.dtype.itemsize <= 4:
        flat = array.ravel().astype("U16").tolist()
    else:
        flat = list(map(repr, array.ravel().tolist()))
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        finite = np.isfinite(array).ravel().tolist()
        flat = [text if known else "null" for text, known in zip(flat, finite, strict=True)]
    for size in reversed(array.shape):
        flat = [f"[{','.join(flat[start : start + size])}]" for start in range(0, len(flat), size)]
    return flat[0]
