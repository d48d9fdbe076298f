"""Running several requests as one batch without any influence on their results (serve.md H15 to H18).

Part of the runtime half: standard library and numpy only.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..core.errors import InputError, VerificationError
from ..core.session import Session
from ..core.signature import Signature
from ..core.tensors import BATCH, Array, Feeds
from .exact_sizes import batch_axis, exact_sizes, joined, order, timed
from .monitoring.recorder import Recorder
from .settings import Settings

Outputs = dict[str, Array]
Shapes = tuple[tuple[int, ...], ...]
_MEMORY_SIGNS = ("failed to allocate", "bad_alloc", "bad allocation")


@dataclass
class Plan:
    """Which requests may run together.

    Attributes:
        sizes: batch sizes at which every golden row was bit for bit equal to its result alone; always contains 1.
        by_shape: such sizes for each tested shape, without its batch axis.
        times_ms: time of one run at each tested size of the golden shape.
    """

    sizes: set[int] = field(default_factory=lambda: {1})
    by_shape: dict[Shapes, set[int]] = field(default_factory=dict)
    times_ms: dict[int, float] = field(default_factory=dict)


class Executor:
    """Runs validated feeds on a session: as a batch where that is safe, else one by one."""

    def __init__(self, session: Session, settings: Settings) -> None:
        self.session = session
        self.settings = settings
        self.signature = session.signature
        self.plan = Plan()
        self.rows = settings.limits.rows
        self.combines = settings.batching != "off" and combinable(session.signature)
        self._known: Feeds | None = None
        self.recorder = Recorder()

    def run(self, requests: Sequence[Feeds]) -> list[Outputs | Exception]:
        """Outputs of each request, or the error of that request."""
        results: dict[int, Outputs | Exception] = {}
        groups: dict[Shapes, list[int]] = {}
        for index, feeds in enumerate(requests):
            groups.setdefault(self._shapes(feeds), []).append(index)
        for shapes, members in groups.items():
            self._run(members, requests, shapes, results)
        return [results[index] for index in range(len(requests))]

    def _run(
        self, members: Sequence[int], requests: Sequence[Feeds], shapes: Shapes, results: dict[int, Outputs | Exception]
    ) -> None:
        rows = [self.signature.batch_size(requests[index]) for index in members]
        for start, stop in self._chunks(rows, shapes):
            chunk = members[start:stop]
            try:
                outputs = self._together([requests[index] for index in chunk], rows[start:stop], shapes)
            except Exception as error:  # any exception of the runtime concerns only this chunk
                if len(chunk) == 1:
                    results[chunk[0]] = self._alone_after(error, requests[chunk[0]])
                    continue
                self._note_memory(error, sum(rows[start:stop]))
                middle = len(chunk) // 2
                self._run(chunk[:middle], requests, shapes, results)
                self._run(chunk[middle:], requests, shapes, results)
            else:
                results.update(zip(chunk, outputs, strict=True))

    def _chunks(self, rows: Sequence[int], shapes: Shapes) -> Iterator[tuple[int, int]]:
        start = 0
        while start < len(rows):
            total, stop = rows[start], start + 1
            if self._fits(total, shapes):
                for end in range(start + 1, len(rows)):
                    total += rows[end]
                    if total > self.rows or not self._fits(rows[end], shapes):
                        break
                    if self._fits(total, shapes):
                        stop = end + 1
            yield start, stop
            start = stop

    def _fits(self, rows: int, shapes: Shapes) -> bool:
        if not self.combines:
            return False
        return self.settings.batching == "fast" or rows in self.plan.by_shape.get(shapes, ())

    def _together(self, members: Sequence[Feeds], rows: Sequence[int], shapes: Shapes) -> list[Outputs]:
        total = sum(rows)
        padded = self._bucket(total, shapes)
        if len(members) == 1 and padded == total:
            return [self._recorded(members[0], time.perf_counter(), total, 0)]
        begin = time.perf_counter()
        names = [spec.name for spec in self.signature.inputs]
        feeds = {name: joined(self.signature, name, members, padded - total) for name in names}
        outputs = self._recorded(feeds, begin, total, padded - total)
        stops = np.cumsum(rows)
        return [
            {name: self._rows_of(name, array, stop - count, stop, padded) for name, array in outputs.items()}
            for count, stop in zip(rows, stops.tolist(), strict=True)
        ]

    def _recorded(self, feeds: Feeds, begin: float, rows: int, padding: int) -> Outputs:
        middle = time.perf_counter()
        outputs = self.session.run(feeds)
        self.recorder.ran(middle - begin, time.perf_counter() - middle, rows, padding)
        return outputs

    def _rows_of(self, name: str, array: Array, start: int, stop: int, total: int) -> Array:
        axis = batch_axis(self.signature, name)
        if array.shape[axis] != total:
            message = f"output '{name}' has {array.shape[axis]} rows for {total} rows of input"
            raise VerificationError(message, "set batching to off in serving.json")
        return array[(slice(None),) * axis + (slice(start, stop),)]

    def _bucket(self, total: int, shapes: Shapes) -> int:
        if not self.combines:
            return total
        return next(
            (size for size in sorted(self.settings.buckets) if size >= total and self._fits(size, shapes)), total
        )

    def _alone_after(self, error: Exception, feeds: Feeds) -> Outputs | Exception:
        rows = self.signature.batch_size(feeds)
        if not is_memory(error):
            return self._judged(error, feeds)
        if rows == 1 or not combinable(self.signature):
            return MemoryError()
        self._note_memory(error, rows)
        try:
            first, second = (self.session.run(part) for part in self._halves(feeds, rows // 2))
            axes = {name: batch_axis(self.signature, name) for name in first}
            return {name: np.concatenate([first[name], second[name]], axis=axes[name]) for name in first}
        except Exception as again:  # halved once already: answer instead of retrying
            return MemoryError() if is_memory(again) else refused(again)

    def _judged(self, error: Exception, feeds: Feeds) -> Outputs | Exception:
        """The error of a request that fails alone: that of its values if it fails again and a known request does not.

        ONNX Runtime reports an index that is out of range in several classes, depending on the operator.
        """
        if isinstance(error, InputError) or refused(error) is not error or self._known is None:
            return refused(error)
        try:
            return self.session.run(feeds)
        except Exception as again:  # any exception of the runtime
            try:
                self.session.run(self._known)
            except Exception:  # the request is not at fault
                return again
            return _at_fault()

    def _halves(self, feeds: Feeds, middle: int) -> list[Feeds]:
        first, second = {}, {}
        for name, array in feeds.items():
            parts = np.split(array, [middle], axis=batch_axis(self.signature, name))
            first[name], second[name] = map(np.ascontiguousarray, parts)
        return [first, second]

    def _note_memory(self, error: Exception, rows: int) -> None:
        if is_memory(error):
            self.rows = max(1, min(self.rows, rows // 2))

    def _shapes(self, feeds: Feeds) -> Shapes:
        return shapes_of(self.signature, feeds)

    def measure(self, golden: Feeds, others: Sequence[Feeds] = ()) -> Plan:
        """Warm up, and find the batch sizes at which rows do not depend on their neighbours.

        See :func:`.exact_sizes.exact_sizes`. The test stops after ``settings.warmup_s``; sizes that were not tested are
        not used.

        Args:
            others: inputs of other shapes that requests will have, such as texts of other lengths.
        """
        begin = time.monotonic()
        end = begin + self.settings.warmup_s
        self._known = golden
        if not self.combines:
            self.plan.times_ms[self.signature.batch_size(golden)] = timed(self.session, golden)[1]
            return self.plan
        half = begin + self.settings.warmup_s / 2
        self.plan.sizes = self._exact_sizes(golden, half if others else end, self.plan.times_ms)
        self.plan.by_shape[self._shapes(golden)] = self.plan.sizes
        for left, feeds in zip(range(len(others), 0, -1), others, strict=True):
            if self._shapes(feeds) not in self.plan.by_shape:
                share = (end - time.monotonic()) / left  # what a fast shape leaves is for the others
                self.plan.by_shape[self._shapes(feeds)] = self._exact_sizes(feeds, time.monotonic() + share, {})
        return self.plan

    def _exact_sizes(self, known: Feeds, deadline: float, times_ms: dict[int, float]) -> set[int]:
        buckets = self.settings.buckets
        largest = min(self.settings.limits.rows, max(self.settings.batch_size, *buckets, 1))
        return exact_sizes(self.session, self.signature, known, order(largest, buckets), deadline, times_ms)


def combinable(signature: Signature) -> bool:
    """Whether rows of several requests may form a batch: every tensor has a batch axis, and rows are independent."""
    specs = (*signature.inputs, *signature.outputs)
    return signature.batch_invariant and all(spec.shape.count(BATCH) == 1 for spec in specs)


def shapes_of(signature: Signature, feeds: Mapping[str, Array]) -> Shapes:
    """Shapes of the inputs without their batch axes."""
    shapes = []
    for spec in signature.inputs:
        shape = np.shape(feeds[spec.name])
        shapes.append(tuple(size for size, axis in zip(shape, spec.shape, strict=True) if axis != BATCH))
    return tuple(shapes)


def is_memory(error: BaseException) -> bool:
    """Whether a runtime ran out of memory."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(sign in text for sign in _MEMORY_SIGNS)


def refused(error: Exception) -> Exception:
    """The error of a request that fails alone: onnxruntime reports wrong arguments when values are wrong."""
    return _at_fault() if type(error).__name__ == "InvalidArgument" else error


def _at_fault() -> InputError:
    return InputError("the model cannot compute this input", "check its values: an index may be out of range")
