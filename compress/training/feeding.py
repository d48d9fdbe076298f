"""Feeding: the rows of every training step as tensors, in an order that only the seed and the epoch determine."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ...core.data.augmentation.draws import Seeds
from ...core.data.augmentation.mixing import View
from ...core.data.augmentation.views import Views, views_of
from ...core.data.sampling import Order, Sampler, sampler_of
from ...core.data.splits import Split, Splits
from ...core.data.workers.loader import Loader
from ...core.errors import DataError
from ...core.options.stage_options import Task, TrainOptions
from ...core.tensors import Array
from ..graph.devices import as_tensor
from ..program import Program
from .losses import Tensors
from .mixed_targets import mixed_targets
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


@dataclass(frozen=True)
class _Planned:
    """A batch that is not read yet; see :class:`Batch`."""

    indices: NDArray[np.int64]
    seeds: Seeds
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
        return self.tensors(View(*split.read(indices)), indices, where, check)

    def tensors(self, view: View, indices: Indices, where: str, check: bool) -> tuple[Tensors, torch.Tensor | None]:
        """Views as tensors; see :meth:`read`. Classes of mixed samples become probabilities."""
        feeds = self.program.signature.validate(view.inputs)
        if check:
            check_samples(feeds, indices, where)
        targets = as_targets(view.targets, self.program, self.task, where)
        others = as_targets(view.partners, self.program, self.task, where)
        if targets is not None and others is not None and view.shares is not None:
            targets = mixed_targets(targets, others, torch.from_numpy(view.shares), self.program)
        inputs = {name: as_tensor(value, self.device) for name, value in feeds.items()}
        return inputs, None if targets is None else targets.to(self.device)


class Feeding:
    """The training batches of one process.

    Args:
        views: of the training split.
        sampler: determines the order of the samples of every epoch.
        options: sizes of batches and steps, and the number of worker processes.

    Attributes:
        spans: places in the order of an epoch at which batches begin and end.
        steps: number of optimizer steps per epoch.
        changes: the transforms of the samples in words.
    """

    def __init__(
        self, views: Views, sampler: Sampler, reader: Reader, options: TrainOptions, share: Share = Share()
    ) -> None:
        self.sampler, self.reader, self.share = sampler, reader, share
        self.accumulate = options.accumulate
        self.spans = plan(sampler.count, options.batch_size)
        self.steps = math.ceil(len(self.spans) / self.accumulate)
        self.changes = views.augmentation.describe() if views.augmentation else ()
        self.loader = Loader(views, options.workers, options.epochs * len(self.spans), share.processes)

    def rows_before(self, step: int) -> int:
        """Number of samples in the first steps of an epoch."""
        return self.spans[min(step * self.accumulate, len(self.spans)) - 1][1] if step else 0

    def groups(self, epoch: int, step: int = 0) -> Iterator[list[Order]]:
        """The samples of the batches of every optimizer step of an epoch, over all processes, from ``step`` on."""
        order = self.sampler.order(epoch)
        for start in range(step * self.accumulate, len(self.spans), self.accumulate):
            yield [order.part(range(*span)) for span in self.spans[start : start + self.accumulate]]

    def batches(self, epoch: int, step: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, from an optimizer step of that epoch on; each is read when it is asked for.

        Raises:
            DataError: samples are not finite, or targets do not fit.
        """
        planned = [one for group in self.groups(epoch, step) for one in self._planned(group)]
        views = self.loader.stream([(one.indices, one.seeds) for one in planned])
        for one, view in zip(planned, views, strict=True):
            inputs, targets = self.reader.tensors(view, one.indices, "the training split", check=epoch == 0)
            yield Batch(inputs, targets, one.rows, one.all_rows, one.step_rows, one.last)

    def _planned(self, group: Sequence[Order]) -> Iterator[_Planned]:
        step_rows = sum(len(order.indices) for order in group)
        for place, order in enumerate(group):
            own = self.share.of(np.arange(len(order.indices)))
            read = order.part(own if len(own) else [0])
            last = place == len(group) - 1
            yield _Planned(read.indices, read.seeds, len(own), len(order.indices), step_rows, last)

    def close(self) -> None:
        """End the worker processes."""
        self.loader.close()


def feeding_of(data: Splits, options: TrainOptions, reader: Reader, seed: int, share: Share = Share()) -> Feeding:
    """The training batches of a data set, with its augmentation and sampling.

    Raises:
        UserError: a transform is not made for the inputs, or weights do not fit the classes.
        DataError: samples are to be drawn by their class, and have none.
    """
    model = reader.program.signature
    views = views_of(data.train, options.augment, model.preprocessing, data.tokenizer, model.inputs, reader.task)
    return Feeding(views, sampler_of(data.train, options.sampling, seed), reader, options, share)


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
