"""What the largest legal request of a model contains; a body with more is refused before it is parsed (serve.md H13).

Part of the runtime half: standard library and numpy only.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ..core.errors import LimitError
from ..core.tensors import BATCH, Signature, TensorSpec
from .settings import Limits

COUNTED_FROM_BYTES = 1 << 15
"""Shorter bodies are parsed at once: they cost less than a millisecond."""
NUMBER_BYTES, NAME_BYTES, ENVELOPE_BYTES = 32, 512, 1 << 14
"""A float64 with its separator and some blanks, a name with its list, and headers or keys of any form."""
EXPANSION = 20
"""Bytes of memory per byte of an npz, or per megabyte of a shorter one."""
SPARE = 64
"""Keys and values beside the tensors: an id, parameters."""


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
            LimitError: it has.
        """
        if len(body) < COUNTED_FROM_BYTES:
            return
        text = np.frombuffer(body, np.uint8)
        commas, lists, objects, colons, quotes = (int(np.count_nonzero(text == ord(mark))) for mark in ',[{:"')
        values = commas + 1
        counts = {
            "objects": (objects, self.objects),
            "names": (colons, self.names),
            "texts": (quotes // 2, 2 * self.names + len(self.signature.outputs)),
            "lists": (lists, self._lists(values)),
        }
        if self.elements is not None:
            counts["values"] = (values, self.elements + self.names + lists)
        for what, (found, allowed) in counts.items():
            if found > allowed:
                raise self._refused(found, what)
        if self.elements is None and b'"datatype"' not in body:
            self._check_rows(text)

    def _refused(self, found: int, what: str) -> LimitError:
        message = f"the JSON body has {found} {what}, more than any request of this model"
        return LimitError(message, f"send {self.signature.describe_inputs()}, at most {self.limits.rows} rows")

    def _check_rows(self, text: NDArray[np.uint8]) -> None:
        """Count the values of the outermost lists, which are at most the rows, whatever the other axes are."""
        shapes = [spec.shape for spec in self.signature.inputs if spec.shape]
        first = [self.limits.rows if shape[0] == BATCH else shape[0] for shape in shapes]
        if any(isinstance(size, str) for size in first):
            return
        opened, closed = (text == ord(mark) for mark in "[]")
        depth = np.cumsum(opened.view(np.int8) - closed.view(np.int8), dtype=np.int32)
        found = int(np.count_nonzero((text == ord(",")) & (depth == 1)))
        if found > sum(map(int, first)) + self.names:
            raise self._refused(found + 1, "rows")

    def _lists(self, values: int) -> int:
        """Largest number of JSON lists in a text with so many values."""
        return (
            SPARE + 4 * len(self.signature.inputs) + sum(self._lists_of(spec, values) for spec in self.signature.inputs)
        )

    def _lists_of(self, spec: TensorSpec, values: int) -> int:
        """Lists of one tensor: those of each level hold the axes behind it, so there are not more than values allow."""
        sizes = [self.limits.rows if axis == BATCH else axis if isinstance(axis, int) else None for axis in spec.shape]
        found = 0
        for level in range(len(sizes)):
            inside = math.prod(size for size, axis in zip(sizes[level:], spec.shape[level:]) if size and axis != BATCH)
            by_values = -(-values // max(inside, 1))
            before = sizes[:level]
            found += min(by_values, math.prod(size or 0 for size in before)) if None not in before else by_values
        return found


@lru_cache(maxsize=64)
def allowance(signature: Signature, limits: Limits) -> Allowance:
    """The allowance of a model's requests."""
    inputs = len(signature.inputs)
    counts = [_elements(spec, limits) for spec in signature.inputs]
    known = [count for count in counts if count is not None]
    elements = sum(known) if len(known) == inputs else None
    body_bytes = limits.request_bytes
    if elements is not None:
        body_bytes = min(body_bytes, NUMBER_BYTES * elements + NAME_BYTES * inputs + ENVELOPE_BYTES)
    columns = any(BATCH in spec.shape for spec in signature.inputs)
    names = SPARE + 16 * (inputs + len(signature.outputs)) + limits.rows * inputs * columns
    objects = SPARE + 2 * (inputs + len(signature.outputs)) + limits.rows * columns
    return Allowance(signature, limits, body_bytes, elements, names, objects)


def _elements(spec: TensorSpec, limits: Limits) -> int | None:
    """Largest number of values of an input; None if it follows from nothing but the size of the body."""
    sizes = [limits.rows if axis == BATCH else axis for axis in spec.shape]
    return None if any(isinstance(size, str) for size in sizes) else math.prod(int(size) for size in sizes)


def most_expanded(compressed: int, limits: Limits) -> int:
    """Largest size of the arrays of an npz of so many bytes: what is small on the wire is small in memory."""
    return min(limits.expanded_bytes, EXPANSION * max(compressed, 1_000_000))


@contextmanager
def no_collections() -> Iterator[None]:
    """Pause Python's garbage collector: nested lists have no cycles, and it would visit them again and again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
