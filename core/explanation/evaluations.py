"""Runs a model on changed copies of one sample, in batches and within a budget.

Part of the runtime half: standard library and numpy only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice

import numpy as np

from ..counts import counted
from ..errors import VerificationError
from ..signature import Signature
from ..tensors import BATCH, Array, Feeds, TensorSpec
from .explained_value import Explained

Run = Callable[[Feeds], Mapping[str, Array]]
Sample = Mapping[str, Array]
_AT_ONCE_BYTES = 1 << 26


class Evaluations:
    """A model, and one sample of which it computes changed copies.

    Args:
        run: computes the outputs of a batch.
        sample: one array per input, without batch axes.
        rows: largest number of copies in one batch.
        done: called with the number of copies that were computed.

    Attributes:
        used: number of copies that were computed.
        seen: their scores.
    """

    def __init__(
        self,
        run: Run,
        signature: Signature,
        sample: Sample,
        rows: int,
        done: Callable[[int], None] = lambda count: None,
    ) -> None:
        self.run = run
        self.signature = signature
        self.sample = sample
        self.fixed = signature.fixed_batch
        bytes_each = max(1, sum(array.nbytes for array in sample.values()))
        together = signature.batch_invariant and any(BATCH in spec.shape for spec in signature.inputs)
        self.rows = max(1, min(rows, _AT_ONCE_BYTES // bytes_each)) if together else 1
        if self.fixed and signature.batch_invariant:
            self.rows = self.fixed
        self.done = done
        self.used = 0
        self.seen: list[float] = []

    def outputs(self, copies: Iterable[Sample]) -> Iterator[dict[str, Array]]:
        """The outputs of changed copies, batch by batch, with the batch axis first.

        Args:
            copies: for each copy the inputs that are changed.
        """
        waiting = iter(copies)
        while chunk := list(islice(waiting, self.rows)):
            feeds = {spec.name: self._joined(spec, chunk) for spec in self.signature.inputs}
            found = self.run(feeds)
            self.used += len(chunk)
            self.done(len(chunk))
            yield {spec.name: self._rows(spec, found[spec.name], len(chunk)) for spec in self.signature.outputs}

    def scores(self, copies: Iterable[Sample], explained: Explained) -> Array:
        """The score of each changed copy as float64 ``[N]``."""
        parts = [self.seen_scores(found[explained.output], explained) for found in self.outputs(copies)]
        return np.concatenate(parts) if parts else np.zeros(0)

    def seen_scores(self, outputs: Array, explained: Explained) -> Array:
        """The scores of outputs as float64 ``[N]``; they are remembered in :attr:`seen`."""
        found = explained.scores(outputs)
        self.seen += found.tolist()
        return found

    def _joined(self, spec: TensorSpec, chunk: Sequence[Sample]) -> Array:
        axis = batch_axis_of(self.signature, spec)
        arrays = [copy.get(spec.name, self.sample[spec.name]) for copy in chunk]
        if axis is None:
            return arrays[0]
        if self.fixed:
            arrays += [arrays[0]] * (self.fixed - len(arrays))
        return np.stack(arrays, axis=axis)

    def _rows(self, spec: TensorSpec, array: Array, count: int) -> Array:
        axis = batch_axis_of(self.signature, spec)
        if axis is None:
            return np.asarray(array)[None]
        rows = np.moveaxis(np.asarray(array), axis, 0)
        if len(rows) < count:
            message = f"output '{spec.name}' has {counted(rows, 'row')} for {counted(count, 'row')} of input"
            raise VerificationError(message, "capture or export the model with a batch axis")
        return rows[:count]


def batch_axis_of(signature: Signature, spec: TensorSpec) -> int | None:
    """The batch axis of an input or output, also of a model that was made for one batch size; None without one."""
    if BATCH in spec.shape:
        return spec.shape.index(BATCH)
    fixed = signature.fixed_batch
    return 0 if fixed is not None and spec.shape[:1] == (fixed,) else None


def samples_of(signature: Signature, feeds: Feeds) -> list[dict[str, Array]]:
    """The samples of a batch, without batch axes."""
    axes = {spec.name: batch_axis_of(signature, spec) for spec in signature.inputs}
    sizes = [np.shape(feeds[name])[axis] for name, axis in axes.items() if axis is not None]
    return [
        {
            name: np.asarray(feeds[name]) if axis is None else np.take(feeds[name], row, axis=axis)
            for name, axis in axes.items()
        }
        for row in range(min(sizes, default=1))
    ]
