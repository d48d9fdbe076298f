"""The loss of each task by hand, and what is told of targets that do not fit."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import math

import numpy as np
import pytest
import torch
from torch import nn
from training_kit import net, splits

from retort.compress.capture.capture_program import capture
from retort.compress.program import Program
from retort.compress.training.embedding_loss import TEMPERATURE, EmbeddingLoss, contrastive
from retort.compress.training.losses import CrossEntropy
from retort.compress.training.sequence_loss import ctc_loss
from retort.compress.training.targets import as_targets
from retort.compress.training.task_losses import BinaryCrossEntropy, balanced_weights, plain_loss, task_loss
from retort.core.data.splits import ArraySplit
from retort.core.errors import DataError, UserError
from retort.core.options.metric_names import DEFAULT_METRICS, Task
from retort.core.options.stage_options import TrainOptions
from retort.core.tensors import Array

torch.set_num_threads(1)


def outputs(*values: torch.Tensor) -> dict[str, torch.Tensor]:
    """Outputs of a model by name."""
    return {f"output{place}": value for place, value in enumerate(values)}


def test_positions_that_do_not_count_have_no_part_in_the_loss() -> None:
    """Tokens of class -100 give no loss and no gradient; a batch without any other gives 0, not NaN."""
    scores = torch.randn(2, 4, 3, requires_grad=True)
    targets = torch.tensor([[0, 1, -100, -100], [2, -100, 1, 0]])
    loss = CrossEntropy()(outputs(scores), {}, targets)
    counted = scores[targets >= 0]
    torch.testing.assert_close(loss, nn.functional.cross_entropy(counted, targets[targets >= 0]))
    nothing = CrossEntropy()(outputs(scores), {}, torch.full((2, 4), -100))
    nothing.backward()
    assert float(nothing.detach()) == 0
    assert scores.grad is not None
    assert float(scores.grad.abs().sum()) == 0


def test_binary_cross_entropy_by_hand() -> None:
    """One logit of 0 is log 2; a positive weight counts positives more, and unknown labels do not count."""
    logits = torch.tensor([[0.0, 0.0], [0.0, 5.0]])
    targets = torch.tensor([[1.0, 0.0], [0.0, -100.0]])
    assert float(BinaryCrossEntropy()(outputs(logits), {}, targets)) == pytest.approx(math.log(2))
    weighted = BinaryCrossEntropy(torch.tensor([3.0, 1.0]))(outputs(logits), {}, targets)
    assert float(weighted) == pytest.approx(math.log(2) * (3 + 1 + 1) / 3)
    smooth = BinaryCrossEntropy(smoothing=0.2)(outputs(torch.tensor([[2.0, -2.0]])), {}, torch.tensor([[1.0, 0.0]]))
    wanted = -(0.9 * math.log(1 / (1 + math.exp(-2))) + 0.1 * math.log(1 / (1 + math.exp(2))))
    assert float(smooth) == pytest.approx(wanted)


def test_balanced_weights_of_labels_and_masks() -> None:
    """Labels are weighted by negatives per positive; pixels of class 255 count for no class."""
    labels = ArraySplit({"x": np.zeros((4, 1), np.float32)}, np.array([[1, 0], [0, 0], [0, 0], [-100, 0]]))
    assert balanced_weights(labels, 2, "multilabel").tolist() == [2.0, 1.0]
    masks = ArraySplit({"x": np.zeros((1, 1), np.float32)}, np.array([[[0, 0, 0], [1, 255, -100]]]))
    assert balanced_weights(masks, 2).tolist() == pytest.approx([4 / (2 * 3), 4 / (2 * 1)])


def test_contrastive_loss_by_hand() -> None:
    """Two of a class that are equal and one that is opposite: the loss is nearly 0; alone in a class is no loss."""
    rows = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    loss = contrastive(rows, torch.tensor([0, 0, 1]))
    assert float(loss) == pytest.approx(math.log(1 + math.exp(-1 / TEMPERATURE)), rel=1e-4, abs=1e-6)
    mixed = contrastive(rows, torch.tensor([0, 1, 0]))
    assert float(mixed) == pytest.approx((1 / TEMPERATURE + math.log(2)) / 2, rel=1e-4)
    assert float(contrastive(rows, torch.tensor([0, 1, 2]))) == 0


def test_embeddings_with_values_and_with_pairs() -> None:
    """Wanted embeddings are reached at cosine 1; rows of two outputs with the same number are pairs."""
    rows = torch.eye(3)
    assert float(EmbeddingLoss()(outputs(2 * rows), {}, rows)) == pytest.approx(0, abs=1e-6)
    assert float(EmbeddingLoss()(outputs(-rows), {}, rows)) == pytest.approx(2)
    paired = float(EmbeddingLoss()(outputs(rows, 3 * rows), {}, None))
    shuffled = float(EmbeddingLoss()(outputs(rows, rows.roll(1, 0)), {}, None))
    assert paired < 1e-4
    assert shuffled == pytest.approx(1 / TEMPERATURE, rel=1e-3)
    with pytest.raises(DataError, match="does not have two outputs of one shape"):
        EmbeddingLoss()(outputs(rows), {}, None)


def test_sequence_loss_is_that_of_pytorch_and_tells_short_ones() -> None:
    """Filled-up targets and lengths of frames are understood; too few frames are named with what is needed."""
    torch.manual_seed(0)
    scores = torch.randn(2, 6, 4)
    targets = torch.tensor([[1, 2, -100], [3, 3, 1]])
    lengths = torch.tensor([4, 6])
    given = {"scores": scores, "lengths": lengths}
    logs = scores.log_softmax(2).transpose(0, 1)
    wanted = nn.functional.ctc_loss(logs, torch.tensor([[1, 2, 0], [3, 3, 1]]), lengths, torch.tensor([2, 3]), blank=0)
    torch.testing.assert_close(ctc_loss(given, {}, targets), wanted)
    with pytest.raises(DataError, match="a target of 3 symbols needs at least 4 frames, and the model gives 3"):
        ctc_loss({"scores": scores[:, :3]}, {}, targets)


def program(shape: tuple[int, ...], classes: int) -> Program:
    """A captured linear layer on the last axis of an input of that shape."""
    return capture(nn.Linear(shape[-1], classes), {"x": torch.randn(2, *shape)})


@pytest.mark.parametrize(
    ("task", "targets", "words"),
    [
        ("multilabel", np.zeros((2, 2), int), r"targets have shape \[2, 2\], and the model has 3 labels"),
        ("multilabel", np.full((2, 3), 2), "the target 2 is neither 0 nor 1"),
        ("sequence", np.zeros(2, int), r"targets are int64\[2\], not sequences"),
        ("sequence", np.array([[1, 0], [1, 2]]), "the symbol 0 is out of range: class 0 is the blank"),
        ("classification", np.array([[0, 3, 0], [0, -100, 0]]), "target class 3 is out of range"),
    ],
)
def test_targets_that_do_not_fit_are_told(task: Task, targets: Array, words: str) -> None:
    """Each task says what is wrong with its targets, and what to give."""
    shape = (5,) if task == "multilabel" else (4, 5)
    with pytest.raises(DataError, match=words) as caught:
        as_targets(targets, program(shape, 3), task, "the training split")
    assert caught.value.remedy


def test_there_is_no_loss_for_detection() -> None:
    """That is said with what can be done; every other task has one."""
    with pytest.raises(UserError, match="no loss for detection") as caught:
        task_loss(TrainOptions(), splits(), "detection", net())
    assert "quantized" in caught.value.remedy
    assert [task for task in DEFAULT_METRICS if task != "detection" and plain_loss(task) is None] == []


def test_a_batch_of_classes_without_weight_has_no_loss() -> None:
    """With the weight 0 for a class, a batch of that class alone has the loss 0 with gradients of 0, and not NaN."""
    loss, scores = CrossEntropy(torch.tensor([0.0, 1.0, 2.0])), torch.randn(4, 3, requires_grad=True)
    found = loss({"y": scores}, {}, torch.zeros(4, dtype=torch.int64))
    found.backward()
    assert float(found.detach()) == 0
    assert scores.grad is not None
    assert not scores.grad.any()
    some = loss({"y": scores}, {}, torch.tensor([0, 0, 1, 2]))
    rows = nn.functional.cross_entropy(scores[2:], torch.tensor([1, 2]), weight=torch.tensor([0.0, 1.0, 2.0]))
    torch.testing.assert_close(some, rows)
