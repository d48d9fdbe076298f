"""The validation metric of a training, added up batch by batch."""

from __future__ import annotations

import numpy as np
import torch

from ...core.data.target_rows import joined_targets
from ...core.errors import UserError
from ...core.metrics.task_metrics import evaluate, evidence_of, higher_is_better, metric_of, value_of
from ...core.metrics.tasks.classification import IGNORED
from ...core.metrics.tasks.judged_outputs import judged_outputs
from ...core.metrics.tasks.metric_table import unfit_to_keep
from ...core.options.metric_names import DEFAULT_METRICS, MetricName, is_function
from ...core.options.stage_options import Task
from ...core.tensors import Array
from .losses import Tensors, classes_second, first, shaped_like


class Score:
    """The validation metric of all batches; the mean loss without targets.

    Accuracy and errors are sums. All other metrics keep what they need of each sample, which is less than its outputs
    where that is possible.

    Args:
        task: determines the metric, unless one is given.
        metric: any metric that needs targets.

    Raises:
        UserError: the metric compares with a reference model, or is for other tasks.
    """

    def __init__(self, task: Task, metric: MetricName | None = None) -> None:
        self.name = metric or DEFAULT_METRICS[task]
        wrong = unfit_to_keep(self.name, task)
        if wrong is not None:
            raise UserError(*wrong)
        self._total = 0.0
        self._count = 0
        self._kept: list[tuple[Array, ...]] = []
        self._names: tuple[str, ...] = ()
        self._labels = task == "multilabel"

    @property
    def higher_is_better(self) -> bool:
        """Whether a larger value is a better one."""
        return self.name != "loss" and higher_is_better(self.name)

    @property
    def value(self) -> float | None:
        """The metric of all batches so far; None before the first.

        Raises:
            DataError: the metric is not defined on these samples.
        """
        if not self._kept:
            return self._total / self._count if self._count else None
        joined = tuple(joined_targets(parts) for parts in zip(*self._kept, strict=True))
        if is_function(self.name):
            outputs = dict(zip(self._names, joined[1:], strict=True))
            return evaluate(self.name, judged_outputs(self.name, outputs, joined[1]), joined[0])
        return value_of(self.name, metric_of(self.name).statistic(joined), len(joined[0]))

    def add(self, outputs: Tensors, targets: torch.Tensor | None, loss: torch.Tensor | None) -> None:
        """Add one batch; ``loss`` (its mean) is used if there are no targets."""
        prediction = first(outputs).float()
        if targets is None or loss is not None:
            self.name = "loss"
            self._total += float(loss if loss is not None else 0.0) * len(prediction)
            self._count += len(prediction)
        elif self.name == "accuracy" and not targets.is_floating_point():
            correct = classes_second(prediction).argmax(1) == targets
            self._total += int(correct.sum())
            self._count += correct.numel() - int((targets == IGNORED).sum())
        elif self.name == "mse":
            error = (prediction - shaped_like(targets, prediction)).double()
            self._total += float(error.square().sum())
            self._count += error.numel()
        else:
            self._keep(outputs, prediction, targets)

    def _keep(self, outputs: Tensors, prediction: torch.Tensor, targets: torch.Tensor) -> None:
        arrays = {name: _array(value) for name, value in outputs.items() if not name.startswith("node:")}
        wanted, main = _array(targets), _array(prediction)
        wanted = wanted.astype(np.int64) if self._labels else wanted  # rows with a single 1 are no scores of classes
        if is_function(self.name):
            self._names = tuple(arrays)
            self._kept.append((wanted, *arrays.values()))
            return
        judged = judged_outputs(self.name, arrays, main)
        assert isinstance(judged, np.ndarray), f"'{self.name}' judges an array"
        self._kept.append(evidence_of(self.name, judged, wanted))


def _array(value: torch.Tensor) -> Array:
    found = value.detach()
    return np.asarray((found.float() if found.is_floating_point() else found).cpu().numpy())
