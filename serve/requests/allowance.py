"""What the largest legal request of a model contains; a body with more is refused before it is parsed (serve.md H13).

Part of the runtime half: standard library and numpy only.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ...core.errors import InputError, LimitError
from ...core.preprocessing.specs import ImageInput
from ...core.signature import Signature
from ...core.tensors import BATCH, TensorSpec
from ..settings import Limits

COUNTED_FROM_BYTES = 1 << 15
"""Shorter bodies are parsed at once: they cost less than a millisecond."""
NUMBER_BYTES = 32
"""A float64 as text with its separator, the end of its line and some blanks."""
INDENT_BYTES, BRACKET_BYTES = 4, 4
"""Blanks of each level in a text for people, and a bracket with its separator and the end of its line."""
FIELD_BYTES = 512
"""What a tensor has besides its name and its values: an npy header, the keys of V2, the entries of a zip file."""
ENVELOPE_BYTES = 1 << 14
"""What a request has besides its tensors: an id, parameters, and headers of any form."""
SPARE = 64
"""Keys and values beside the tensors: an id, parameters."""
_NO_MARKS = bytes(set(range(256)) - set(b'[]{},:"'))
Shape = tuple[int | str, ...]


@dataclass(frozen=True)
class Allowance:
    """The largest counts of one request, which follow from the signature and the limits.

    Attributes:
        body_bytes: size of the body.
        elements: number of values of all inputs together; None if an axis besides the batch is dynamic.
        names: number of keys of all JSON objects.
        objects: number of JSON objects.
    """

    signature: Signature
    limits: Limits
    body_bytes: int
    elements: int | None
    names: int
    objects: int

    def check_size(self, size: int) -> None:
        """Refuse a body that is longer than the largest legal one.

        Raises:
            LimitError: it is.
        """
        if size > self.body_bytes:
            remedy = f"at most {self.body_bytes} are allowed; send fewer rows at once"
            raise LimitError(f"the request has {size} bytes", remedy)

    def check_json(self, body: bytes | bytearray) -> None:
        """Refuse a JSON text that has more values, lists, keys or objects than any legal request.

        Raises:
            InputError: the text cannot be decoded.
            LimitError: it has.
        """
        if len(body) < COUNTED_FROM_BYTES:
            return
        structure = _structure(body)
        commas, lists, objects, colons, texts = (int(np.count_nonzero(structure == ord(mark))) for mark in ',[{:"')
        values = commas + 1
        counts = {
            "objects": (objects, self.objects),
            "names": (colons, self.names),
            "texts": (texts, 2 * self.names + len(self.signature.outputs)),
            "lists": (lists, self._lists(values)),
        }
        if self.elements is not None:
            counts["values"] = (values, self.elements + self.names + lists)
        for what, (found, allowed) in counts.items():
            if found > allowed:
                raise self._refused(found, what)
        if self.elements is None:
            self._check_rows(structure)

    def _refused(self, found: int, what: str) -> LimitError:
        message = f"the JSON body has {found} {what}, more than any request of this model"
        return LimitError(message, f"send {self.signature.describe_inputs()}, at most {self.limits.rows} rows")

    def _check_rows(self, structure: NDArray[np.uint8]) -> None:
        """Count the values of the outermost lists, which are at most the rows, whatever the other axes are."""
        shapes = [spec.shape for spec in self.signature.inputs if spec.shape]
        first = [self.limits.rows if shape[0] == BATCH else shape[0] for shape in shapes]
        if any(isinstance(size, str) for size in first):
            return
        opened, closed = (structure == ord(mark) for mark in "[]")
        depth = np.cumsum(opened.view(np.int8) - closed.view(np.int8), dtype=np.int32)
        found = int(np.count_nonzero((structure == ord(",")) & (depth == 1)))
        if found > sum(map(int, first)) + self.names:
            raise self._refused(found + 1, "rows")

    def _lists(self, values: int) -> int:
        """Largest number of JSON lists in a text with so many values."""
        shapes = [spec.shape for spec in self.signature.inputs]
        forms = [shapes, [_rows_first(shape) for shape in shapes]]
        most = max(sum(_lists_of(shape, self.limits, values) for shape in form) for form in forms)
        return SPARE + 4 * len(shapes) + most


def _rows_first(shape: Shape) -> Shape:
    """The axes in the order of ``instances``, where the rows are the outermost list."""
    return tuple(sorted(shape, key=lambda axis: axis != BATCH))


def _lists_of(shape: Shape, limits: Limits, values: int) -> int:
    """Lists of one tensor: on each level as many as the axes before it say, and as the values behind it allow."""
    sizes = _sizes(shape, limits)
    found = 0
    for level in range(len(sizes)):
        before, behind = sizes[:level], zip(sizes[level:], shape[level:], strict=True)
        inside = math.prod(size for size, axis in behind if size and axis != BATCH)
        by_values = -(-values // max(inside, 1))
        found += by_values if None in before else min(by_values, math.prod(size or 0 for size in before))
    return found


def _sizes(shape: Shape, limits: Limits) -> list[int | None]:
    """The largest size of each axis, None where it is free."""
    return [limits.rows if axis == BATCH else axis if isinstance(axis, int) else None for axis in shape]


def _structure(body: bytes | bytearray) -> NDArray[np.uint8]:
    """The marks of a JSON text that are no part of a name or text, in order; each text leaves its closing quote."""
    encoding = json.detect_encoding(body)
    if not encoding.startswith("utf-8"):
        body = _recoded(body, encoding)
    if b"\\" in body:
        body = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    marks = np.frombuffer(body.translate(None, _NO_MARKS), np.uint8)
    return marks[~np.logical_xor.accumulate(marks == ord('"'))]


def _recoded(body: bytes | bytearray, encoding: str) -> bytes:
    try:
        return body.decode(encoding, "surrogatepass").encode("utf-8", "surrogatepass")
    except UnicodeDecodeError as error:
        raise InputError(f"the body is not JSON: it cannot be read as {encoding}", "send JSON in UTF-8") from error


@lru_cache(maxsize=64)
def allowance(signature: Signature, limits: Limits) -> Allowance:
    """The allowance of a model's requests."""
    inputs = len(signature.inputs)
    counts = [_elements(spec, limits) for spec in signature.inputs]
    known = [count for count in counts if count is not None]
    elements = sum(known) if len(known) == inputs else None
    body_bytes = limits.request_bytes
    if elements is not None and not signature.preprocessing:
        body_bytes = min(body_bytes, _text_bytes(signature, limits))
    columns = any(BATCH in spec.shape for spec in signature.inputs)
    names = SPARE + 16 * (inputs + len(signature.outputs)) + limits.rows * inputs * columns
    objects = SPARE + 2 * (inputs + len(signature.outputs)) + limits.rows * columns
    fields = sum(len(spec.fields) for spec in signature.preprocessing)
    names, objects = names + 2 * limits.rows * fields, objects + limits.rows * fields
    return Allowance(signature, limits, body_bytes, elements, names, objects)


def _elements(spec: TensorSpec, limits: Limits) -> int | None:
    """Largest number of values of an input; None if it follows from nothing but the size of the body."""
    sizes = [size for size in _sizes(spec.shape, limits) if size is not None]
    return math.prod(sizes) if len(sizes) == len(spec.shape) else None


def _text_bytes(signature: Signature, limits: Limits) -> int:
    """Largest size of a request whose axes are known: JSON with indentation, and every name once in each row."""
    rows = limits.rows if any(BATCH in spec.shape for spec in signature.inputs) else 1
    found = ENVELOPE_BYTES + rows * 2 * _bracket_bytes(2)
    for spec in signature.inputs:
        values, depth = _elements(spec, limits) or 0, 3 + max(len(spec.shape), 1)
        lists = max(_lists_of(shape, limits, max(values, 1)) for shape in (spec.shape, _rows_first(spec.shape)))
        found += values * (NUMBER_BYTES + INDENT_BYTES * depth) + lists * 2 * _bracket_bytes(depth)
        found += FIELD_BYTES + rows * (_name_bytes(spec.name) + _bracket_bytes(3))
    return found + sum(FIELD_BYTES + _name_bytes(spec.name) for spec in signature.outputs)


def _bracket_bytes(depth: int) -> int:
    return BRACKET_BYTES + INDENT_BYTES * depth


def _name_bytes(name: str) -> int:
    """Size of a name in JSON, where each of its UTF-16 units may be written as ``\\u0061``."""
    return 6 * (len(name.encode("utf-16-le", "surrogatepass")) // 2) + len('"": ')


def check_expanded(counts: Mapping[str, int], signature: Signature, limits: Limits) -> None:
    """Refuse many small pictures that become larger tensors than a compressed request may have.

    Args:
        counts: number of samples of each field.

    Raises:
        LimitError: they do.
    """
    for spec in signature.preprocessing:
        rows = counts.get(spec.input, 0) if isinstance(spec, ImageInput) else 0
        one = 4 * len(spec.mode) * math.prod(spec.size) if isinstance(spec, ImageInput) else 1
        if rows > 1 and rows * one > limits.expanded_bytes:
            message = f"the request has {rows} pictures, which become tensors of {rows * one} bytes"
            raise LimitError(message, f"send at most {max(1, limits.expanded_bytes // one)} at once")
