"""Which sizes of batches leave every row as it is alone, by measurement (serve.md H17).

Part of the runtime half: standard library and numpy only.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import numpy as np

from ..core.errors import InputError
from ..core.session import Session
from ..core.signature import Signature
from ..core.tensors import BATCH, Array, Feeds

_NUMBERS, _ROWS = 256, 64
"""A size is compared until so many numbers of each output, or so many rows, had the same bits as alone."""


def exact_sizes(
    session: Session,
    signature: Signature,
    known: Feeds,
    sizes: Sequence[int],
    deadline: float,
    times_ms: dict[int, float],
) -> set[int]:
    """The sizes at which rows of one shape equal their results alone, bit for bit.

    Kernels choose their order of summation by shape and not by value, so any row can show that a size is not exact; but
    another order often rounds to the same bits. So each size is compared with as many different rows as it takes: known
    ones, and copies of them with exchanged places and smaller numbers.

    Args:
        known: inputs that the model can compute, with at least one row.
        sizes: the sizes to try, in this order.
        deadline: time of ``time.monotonic`` after which no size is begun, and none compared further.
        times_ms: gets the time of a run of each size that was tried, in milliseconds.

    Returns:
        The sizes that were exact, and 1.
    """
    rows, alone = _Rows(signature, known), list[Mapping[str, Array]]()
    exact = {1}
    for size in sizes:
        if time.monotonic() > deadline:
            break
        begin = compared = 0
        while True:
            members = [rows[index] for index in range(begin, begin + size)]
            while len(alone) < begin + size:
                alone.append(session.run(rows[len(alone)]))
            feeds = {name: joined(signature, name, members) for name in known}
            try:
                outputs = session.run(feeds)
            except InputError:  # a plan has no profile for so many rows of this shape
                break
            if not begin:
                outputs, times_ms[size] = timed(session, feeds)
            if not _same(signature, outputs, alone[begin : begin + size]):
                break
            begin += size
            compared += _least_evidence(outputs)
            if compared >= _NUMBERS or begin >= _ROWS or time.monotonic() > deadline:
                exact.add(size)
                break
    return exact


class _Rows:
    """Different inputs of one row each, by index: those that are known, then copies of them."""

    def __init__(self, signature: Signature, known: Feeds) -> None:
        self._signature, self._known = signature, known
        self._count = signature.batch_size(known)
        self._made: list[Feeds] = []

    def __getitem__(self, index: int) -> Feeds:
        while len(self._made) <= index:
            copy, row = divmod(len(self._made), self._count)
            self._made.append({name: self._row(name, array, row, copy) for name, array in self._known.items()})
        return self._made[index]

    def _row(self, name: str, array: Array, row: int, copy: int) -> Array:
        axis = batch_axis(self._signature, name)
        taken = np.take(array, [row], axis=axis)
        last = taken.ndim - 1
        if copy and last > axis:
            places = np.random.default_rng(copy).permutation(taken.shape[last])
            taken = np.ascontiguousarray(np.take(taken, places, axis=last))
        shrink = _ROWS / (_ROWS + copy)  # another one for each copy, and none is tiny
        return np.multiply(taken, shrink, dtype=taken.dtype) if taken.dtype.kind == "f" and shrink != 1 else taken


def _least_evidence(outputs: Mapping[str, Array]) -> int:
    """How many numbers of the smallest output can round in another way: floats, and whole numbers only without any."""
    floats = [array.size for array in outputs.values() if array.dtype.kind == "f"]
    return min(floats or [array.size for array in outputs.values()])


def timed(session: Session, feeds: Feeds) -> tuple[dict[str, Array], float]:
    """The outputs of a run, and the time that it takes after one before it, in milliseconds."""
    session.run(feeds)
    begin = time.perf_counter()
    outputs = session.run(feeds)
    return outputs, 1000 * (time.perf_counter() - begin)


def _same(signature: Signature, outputs: Mapping[str, Array], alone: Sequence[Mapping[str, Array]]) -> bool:
    for name, array in outputs.items():
        expected = np.concatenate([row[name] for row in alone], axis=batch_axis(signature, name))
        if array.shape != expected.shape or array.tobytes() != expected.tobytes():
            return False
    return True


def joined(signature: Signature, name: str, members: Sequence[Feeds], padding: int = 0) -> Array:
    """One input of several requests as a batch.

    Args:
        padding: how many copies of the last row follow.
    """
    axis = batch_axis(signature, name)
    parts = [feeds[name] for feeds in members]
    if padding:
        last = np.take(parts[-1], [-1], axis=axis)
        parts.append(np.repeat(last, padding, axis=axis))
    return np.concatenate(parts, axis=axis)


def order(largest: int, buckets: Sequence[int]) -> list[int]:
    """The sizes to try: powers of two, those to which batches are padded, the largest, and then all."""
    powers = [1 << power for power in range(largest.bit_length()) if 1 << power <= largest]
    wanted = [size for size in buckets if size <= largest]
    return list(dict.fromkeys([*powers, *wanted, largest, *range(1, largest + 1)]))


def batch_axis(signature: Signature, name: str) -> int:
    """The batch axis of an input or output."""
    return next(s.shape.index(BATCH) for s in (*signature.inputs, *signature.outputs) if s.name == name)
