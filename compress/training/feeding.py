"""Feeding: the rows of every training step as tensors, in an order that only the seed and the epoch determine."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ...core.data.splits import Split
from ...core.errors import DataError
from ...core.options.stage_options import Task
from ...core.tensors import Array
from ..graph.devices import as_tensor
from ..program import Program
from .losses import Tensors
from .targets import as_targets

Span = tuple[int, int]
Indices = Sequence[int] | NDArray[np.int64]


@dataclass(frozen=True)
class Share:
    """The part of every batch that one process of a training reads.

    Attributes:
        rank: number of the process, from 0.
        processes: number of processes.
    """

    rank: int = 0
    processes: int = 1

    def of(self, indices: Indices) -> Indices:
        """The consecutive rows of a batch that this process reads; none if there are fewer rows than processes."""
        edges = [len(indices) * place // self.processes for place in (self.rank, self.rank + 1)]
        return indices[edges[0] : edges[1]]


@dataclass(frozen=True)
class Batch:
    """One forward and backward pass.

    Attributes:
        inputs: tensors by name. A process without rows gets the first row of the batch, whose loss does not count.
        targets: targets of the rows, or None.
        rows: number of rows of this process that count.
        all_rows: number of rows of all processes.
        step_rows: number of rows of all batches of the optimizer step.
        last: whether the optimizer step follows.
    """

    inputs: Tensors
    targets: torch.Tensor | None
    rows: int
    all_rows: int
    step_rows: int
    last: bool


class Reader:
    """Reads rows of a split as checked tensors on one device."""

    def __init__(self, program: Program, task: Task, device: torch.device) -> None:
        self.program, self.task, self.device = program, task, device

    def read(self, split: Split, indices: Indices, where: str, check: bool) -> tuple[Tensors, torch.Tensor | None]:
        """Inputs by name, and targets or None.

        Args:
            where: name of the split for messages.
            check: whether to look for values that are not finite.

        Raises:
            DataError: samples are not finite, or targets do not fit.
        """
        raw, values = split.read(indices)
        feeds = self.program.signature.validate(raw)
        if check:
            check_samples(feeds, indices, where)
        targets = as_targets(values, self.program, self.task, where)
        inputs = {name: as_tensor(value, self.device) for name, value in feeds.items()}
        return inputs, None if targets is None else targets.to(self.device)


class Feeding:
    """The training batches of one process.

    Args:
        accumulate: number of batches per optimizer step.

    Attributes:
        spans: places in the order of an epoch at which batches begin and end.
        steps: number of optimizer steps per epoch.
    """

    def __init__(
        self, split: Split, reader: Reader, batch_size: int, accumulate: int, seed: int, share: Share = Share()
    ) -> None:
        self.split, self.reader, self.accumulate, self.seed, self.share = split, reader, accumulate, seed, share
        self.spans = plan(len(split), batch_size)
        self.steps = math.ceil(len(self.spans) / accumulate)

    def rows_before(self, step: int) -> int:
        """Number of samples in the first steps of an epoch."""
        return self.spans[min(step * self.accumulate, len(self.spans)) - 1][1] if step else 0

    def order(self, epoch: int) -> NDArray[np.int64]:
        """The order of all samples in an epoch."""
        return np.random.default_rng([self.seed, epoch]).permutation(len(self.split))

    def groups(self, epoch: int, step: int = 0) -> Iterator[list[NDArray[np.int64]]]:
        """Sample numbers of the batches of every optimizer step of an epoch, over all processes, from ``step`` on."""
        order = self.order(epoch)
        for start in range(step * self.accumulate, len(self.spans), self.accumulate):
            yield [order[begin:end] for begin, end in self.spans[start : start + self.accumulate]]

    def batches(self, epoch: int, step: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, from an optimizer step of that epoch on; each is read when it is asked for.

        Raises:
            DataError: samples are not finite, or targets do not fit.
        """
        for group in self.groups(epoch, step):
            step_rows = sum(map(len, group))
            for place, indices in enumerate(group):
                own = self.share.of(indices)
                read = own if len(own) else indices[:1]
                inputs, targets = self.reader.read(self.split, read, "the training split", check=epoch == 0)
                yield Batch(inputs, targets, len(own), len(indices), step_rows, place == len(group) - 1)


def plan(count: int, size: int) -> list[Span]:
    """Spans of batches of ``size``; a last batch with a single sample is joined to the previous one for BatchNorm."""
    spans = [(start, min(start + size, count)) for start in range(0, count, size)]
    if len(spans) > 1 and size > 1 and spans[-1][1] - spans[-1][0] == 1:
        spans[-2:] = [(spans[-2][0], count)]
    return spans


def check_samples(feeds: Mapping[str, Array], indices: Indices, where: str) -> None:
    """Reject NaN and infinite values.

    Raises:
        DataError: there is such a value; the message names the input and the first bad sample of the split.
    """
    for name, values in feeds.items():
        if values.dtype.kind != "f":
            continue
        good = np.isfinite(values).reshape(len(values), -1).all(axis=1)
        if not good.all():
            raise DataError(
                f"{where}: input '{name}' has NaN or infinite values in sample {int(indices[int(np.argmin(good))])}",
                "clean the data, or drop those samples",
            )
