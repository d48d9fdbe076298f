"""The validation metric of a training: any metric, added up over batches, decides which epoch is kept."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import torch
from training_kit import net, splits, weights

from retort.compress.program import predict
from retort.compress.training.score import Score
from retort.compress.training.train import fit
from retort.core.context import Context
from retort.core.errors import UserError
from retort.core.metrics.task_metrics import evaluate
from retort.core.options.metric_names import Task
from retort.core.options.stage_options import TrainOptions
from retort.core.tensors import Array

torch.set_num_threads(1)
RNG = np.random.default_rng(0)
SCORES = RNG.normal(size=(50, 3)).astype(np.float32)
CLASSES = RNG.integers(0, 3, 50)
DENSE = RNG.normal(size=(50, 3, 4, 4)).astype(np.float32)
MASKS = np.where(RNG.random((50, 4, 4)) < 0.2, -100, RNG.integers(0, 3, (50, 4, 4)))
FRAMES = RNG.normal(size=(50, 8, 4)).astype(np.float32)
SYMBOLS = RNG.integers(1, 4, (50, 3))
CASES: list[tuple[Task, str, Array, Array]] = [
    ("classification", "accuracy", SCORES, CLASSES),
    ("classification", "f1", SCORES, CLASSES),
    ("classification", "top2", SCORES, CLASSES),
    ("classification", "roc_auc", SCORES, CLASSES),
    ("classification", "ece", SCORES, CLASSES),
    ("classification", "accuracy", DENSE, MASKS),
    ("classification", "miou", DENSE, MASKS),
    ("classification", "perplexity", DENSE, MASKS),
    ("multilabel", "average_precision", SCORES, np.eye(3, dtype=np.int64)[CLASSES]),
    ("multilabel", "f1_micro", SCORES, np.eye(3, dtype=np.int64)[CLASSES]),
    ("regression", "mse", SCORES, SCORES[::-1].copy()),
    ("regression", "spearman", SCORES, SCORES[::-1].copy()),
    ("embedding", "recall@3", SCORES, CLASSES),
    ("sequence", "cer", FRAMES, SYMBOLS),
]


@pytest.mark.parametrize(("task", "metric", "outputs", "targets"), CASES)
def test_batches_add_up_to_the_metric(task: Task, metric: str, outputs: Array, targets: Array) -> None:
    """The score of uneven batches is the metric of all samples, as it is measured later."""
    score = Score(task, metric)
    assert score.value is None
    for start, end in ((0, 20), (20, 49), (49, 50)):
        wanted = targets[start:end].astype(np.float32) if task == "multilabel" else targets[start:end]
        score.add({"output": torch.from_numpy(outputs[start:end])}, torch.from_numpy(wanted), None)
    assert score.value == pytest.approx(evaluate(metric, outputs, targets), rel=1e-6)
    assert score.higher_is_better == (metric not in ("mse", "ece", "cer", "perplexity"))


def test_a_metric_against_a_reference_cannot_keep_an_epoch() -> None:
    """Agreement needs a reference model, which a training does not have."""
    with pytest.raises(UserError, match="'agreement' compares with a reference model"):
        Score("classification", "agreement")


@pytest.mark.parametrize(
    ("task", "metric"), [("sequence", "accuracy"), ("regression", "accuracy"), ("classification", "mse")]
)
def test_a_metric_of_another_task_is_refused_before_the_first_epoch(task: Task, metric: str) -> None:
    """What does not fit the task is told with the metrics that do, and not after an epoch or by an exception."""
    with pytest.raises(UserError, match=f"'{metric}' does not fit `task: {task}`"):
        Score(task, metric)


def test_the_epoch_of_the_best_metric_is_kept(tmp_path: Path) -> None:
    """With `keep`, the history has that metric, and the kept weights have its best value; a user's metric works."""
    (tmp_path / "own_keeping.py").write_text(
        "def loss(outputs, targets):\n    return (outputs.argmax(1) != targets) * 1.0\n"
    )
    data = splits(120)
    for metric in ("f1", "own_keeping:loss:lower"):
        program = net()
        options = TrainOptions(epochs=4, keep=metric, learning_rate=0.01)
        result = fit(program, options, Context(data, tmp_path))
        values = [epoch.metric for epoch in result.history if epoch.metric is not None]
        best = max(values) if metric == "f1" else min(values)
        assert result.metric_name == metric
        assert result.best_metric == best == values[result.best_epoch - 1]
        outputs, targets = predict(program, data.validation)["output"], data.validation.read(range(40))[1]
        assert targets is not None
        wrong = 1 - evaluate("accuracy", outputs, targets)
        assert best == pytest.approx(wrong if metric != "f1" else evaluate("f1", outputs, targets))


def test_keep_of_the_default_changes_no_bit() -> None:
    """Naming the metric of the task gives the weights that leaving it out gives."""
    one, two = net(), net()
    fit(one, TrainOptions(epochs=3), Context(splits()))
    fit(two, TrainOptions(epochs=3, keep="accuracy"), Context(splits()))
    assert all(torch.equal(value, weights(two)[name]) for name, value in weights(one).items())
