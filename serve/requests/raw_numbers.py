"""A body of bare numbers for a model with one input: little-endian, row by row (serve.md H12).

Part of the runtime half: standard library and numpy only. The Open Inference Protocol calls it a raw binary request.
"""

from __future__ import annotations

import math

import numpy as np

from ...core.counts import counted
from ...core.errors import InputError
from ...core.signature import Signature
from ...core.tensors import Array
from .v2 import OCTETS

TYPES = (OCTETS, "binary/octet-stream")
_TEXT = b'[{"'


def looks_bare(body: bytes | bytearray, mime: str) -> bool:
    """Whether a body of bytes without another sign is bare numbers: no JSON begins like it."""
    return mime in TYPES and body[:64].lstrip(b" \t\r\n")[:1] not in (*(bytes([sign]) for sign in _TEXT), b"")


def raw_numbers(body: bytes | bytearray, signature: Signature) -> dict[str, Array]:
    """The input of a model whose numbers are the body.

    Its shape is that of the signature; the size of one free axis follows from the number of bytes.

    Raises:
        InputError: the model has several inputs or several free axes, or the number of bytes fits no shape.
    """
    spec = signature.inputs[0]
    free = [axis for axis in spec.shape if isinstance(axis, str)]
    if len(signature.inputs) > 1 or len(free) > 1:
        inputs = counted(len(signature.inputs), "input")
        what = inputs if len(signature.inputs) > 1 else f"the free axes {', '.join(free)}"
        message = f"the body has only numbers, and this model has {what}"
        raise InputError(message, f"send npz or JSON with {signature.describe_inputs()}")
    dtype = np.dtype(spec.dtype)
    fixed = math.prod(axis for axis in spec.shape if isinstance(axis, int)) * dtype.itemsize
    count, left = divmod(len(body), fixed) if fixed else (0, 1)
    if left or (not free and count != 1):
        message = f"the body has {counted(len(body), 'byte')}, and {spec.describe()} needs {fixed}"
        remedy = f"send little-endian numbers{f', {fixed} bytes for each {free[0]}' if free else ''}"
        raise InputError(message + (f" for each {free[0]}" if free else ""), remedy, input=spec.name)
    shape = tuple(axis if isinstance(axis, int) else count for axis in spec.shape)
    if dtype.kind == "b":
        return {spec.name: np.frombuffer(body, np.uint8).reshape(shape) != 0}
    return {spec.name: np.frombuffer(body, dtype.newbyteorder("<")).astype(dtype, copy=False).reshape(shape)}
