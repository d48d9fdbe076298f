"""Accuracy of a model on a split, with its interval, and its comparison with a reference on the same samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..core.console import SILENT, Console
from ..core.data.splits import Split, batches
from ..core.data.target_rows import joined_targets
from ..core.errors import DataError, ModelError
from ..core.metrics.intervals import Interval
from ..core.metrics.task_metrics import evaluate, is_labelled, metric_interval, metric_of, paired_difference
from ..core.metrics.tasks.judged_outputs import judged_outputs
from ..core.options.metric_names import MetricName, is_function
from ..core.session import Session, model_faults
from ..core.tensors import BATCH, Array, Feeds, TensorSpec
from .class_figures import ClassAccuracy, class_figures

ROWS = 64
"""Number of samples per batch for accuracy."""


@dataclass(frozen=True)
class Predictions:
    """The outputs of a model for every sample of a split, and the targets.

    Attributes:
        outputs: one array ``[N, …]`` per output of the signature, in order.
        targets: ``[N]`` or ``[N, …]``; None if the split has none.
    """

    outputs: Mapping[str, Array]
    targets: Array | None

    def main(self, name: str | None = None) -> Array:
        """The evaluated output: the named one, or the prediction."""
        if name is not None and name not in self.outputs:
            raise DataError(f"there is no output '{name}'", f"choose one of {', '.join(self.outputs)}")
        return self.outputs[self.prediction if name is None else name]

    @property
    def prediction(self) -> str:
        """The name of the output that is the prediction; see :func:`prediction_of`."""
        return prediction_of(self.outputs, self.scores())

    def scores(self) -> bool:
        """Whether the targets are indices of classes, and an output has scores of classes."""
        indices = self.targets is not None and self.targets.dtype.kind in "iu"
        return indices and any(has_classes(values) for values in self.outputs.values())

    def first(self, count: int) -> Predictions:
        """The predictions of the first samples, for a comparison with a stage that used only those."""
        outputs = {name: value[:count] for name, value in self.outputs.items()}
        return Predictions(outputs, None if self.targets is None else self.targets[:count])


def prediction_of(outputs: Mapping[str, Array], scores: bool = False) -> str:
    """The name of the output that is the prediction, as in training: the first of floating point, otherwise the first.

    A model may have others before it, such as positions, indices or masks.

    Args:
        scores: whether it must have a score for each of several classes; a value per sample may come before it then.
    """
    floats = [name for name, values in outputs.items() if values.dtype.kind == "f"]
    chosen = [name for name in floats if has_classes(outputs[name])] if scores else floats
    return next(iter(chosen or floats or outputs))


def has_classes(values: Array) -> bool:
    """Whether an output can be scores of classes, as in training: it has an axis of more than one class."""
    return values.dtype.kind == "f" and values.ndim > 1 and values.shape[2 if values.ndim == 3 else 1] > 1


@dataclass(frozen=True)
class Accuracy:
    """A metric with its interval, and its comparison with the reference.

    Attributes:
        metric: name of the metric.
        interval: its value and interval.
        n: number of samples.
        drop: loss against the reference, positive is worse; None without a reference.
        agreement: share of samples with the same decision as the reference; None for values.
        sqnr_db: centred SQNR against the reference's outputs, in dB; None without a reference or if not finite.
        classes: the figures of each class that has samples; empty without names or targets.
        confusion: how often each class (row) is predicted as each class (column).
    """

    metric: MetricName
    interval: Interval
    n: int
    drop: Interval | None = None
    agreement: Interval | None = None
    sqnr_db: float | None = None
    classes: tuple[ClassAccuracy, ...] = ()
    confusion: tuple[tuple[int, ...], ...] = ()


def predict(
    session: Session,
    split: Split,
    *,
    batch_size: int = ROWS,
    limit: int | None = None,
    console: Console = SILENT,
    label: str = "accuracy",
) -> Predictions:
    """Run a session over a split, batch by batch.

    Args:
        batch_size: rows per run; a model with a fixed batch size uses that size, and the last batch is padded.
        limit: use only this number of samples.

    Raises:
        DataError: the split is empty.
        InputError: the samples do not fit the session.
        ModelError: an output does not have one row per sample.
    """
    fixed = session.signature.fixed_batch
    size = fixed or batch_size
    total = min(len(split), limit) if limit is not None else len(split)
    specs = {spec.name: spec for spec in session.signature.outputs}
    outputs: dict[str, list[Array]] = {name: [] for name in specs}
    targets: list[Array] = []
    with console.progress(label, total) as bar:
        for inputs, wanted in batches(split, size, limit):
            rows = _row_count(session, inputs)
            with model_faults("the model"):
                found = session.run(session.signature.whole_batch(inputs))
            for name, values in found.items():
                outputs[name].append(_rows_of(values, specs[name], rows, fixed))
            if wanted is not None:
                targets.append(np.asarray(wanted))
            bar.advance(rows)
    joined = {name: np.concatenate(parts) for name, parts in outputs.items()}
    return Predictions(joined, joined_targets(targets) if targets else None)


def measure_accuracy(
    metric: MetricName,
    predictions: Predictions,
    reference: Predictions | None = None,
    *,
    output: str | None = None,
    confidence: float = 0.95,
    seed: int = 0,
    classes: Sequence[str] = (),
) -> Accuracy:
    """Evaluate a metric on predictions, with interval, drop, agreement and SQNR against a reference.

    Args:
        metric: ``agreement``, ``cosine`` and ``sqnr`` use the reference's outputs as targets.
        reference: predictions of the reference for the same split in the same order.
        output: name of the evaluated output; by default the prediction, see :func:`prediction_of`.
        classes: names of the classes, in index order.

    Raises:
        DataError: there are no targets, lengths differ, or values are not finite.
    """
    given = predictions.main(output)
    before = None if reference is None else reference.main(output)
    targets = _truth(metric, predictions, given, before)
    judged = judged_outputs(metric, predictions.outputs, given)
    interval = metric_interval(metric, judged, targets, confidence, seed)
    named = class_figures(metric, given, predictions.targets, classes, confidence)
    if reference is None or before is None:
        return Accuracy(metric, interval, len(given), classes=named.classes, confusion=named.confusion)
    drop = None
    if metric != "sqnr":
        theirs = judged_outputs(metric, reference.outputs, before)
        drop = paired_difference(metric, theirs, judged, targets, confidence, seed)
    same, ratio = None, None
    if before.shape == given.shape:
        ratio = evaluate("sqnr", given, before)
        decides = metric_of(metric).decides  # otherwise outputs are no scores of classes
        same = metric_interval("agreement", given, before, confidence, seed) if decides else None
    sqnr_db = ratio if ratio is not None and np.isfinite(ratio) else None
    return Accuracy(metric, interval, len(given), drop, same, sqnr_db, named.classes, named.confusion)


def _truth(metric: MetricName, predictions: Predictions, given: Array, before: Array | None) -> Array | None:
    if not is_labelled(metric):
        return given if before is None else before
    if predictions.targets is None and not is_function(metric):
        raise DataError(
            f"'{metric}' needs targets, but these samples have none",
            "add targets, or choose agreement (`metric: agreement` at the top of a recipe, `--metric agreement`)",
        )
    return predictions.targets


def _row_count(session: Session, inputs: Feeds) -> int:
    """The number of samples in a batch, whose axis need not be the first."""
    spec = next((spec for spec in session.signature.inputs if BATCH in spec.shape), None)
    if spec is None:
        return len(next(iter(inputs.values())))
    return int(np.shape(inputs[spec.name])[spec.shape.index(BATCH)])


def _rows_of(values: Array, spec: TensorSpec, rows: int, fixed: int | None) -> Array:
    """The rows of the samples, first where the model has its batch axis elsewhere."""
    if BATCH in spec.shape and spec.shape.index(BATCH) < values.ndim:
        values = np.moveaxis(values, spec.shape.index(BATCH), 0)
    expected = fixed or rows
    if values.ndim == 0 or len(values) != expected:
        raise ModelError(
            f"output '{spec.name}' has shape {list(values.shape)} for a batch of {expected}, which is not one row per "
            "sample",
            "give the model outputs with a leading batch axis",
        )
    return values[:rows]
