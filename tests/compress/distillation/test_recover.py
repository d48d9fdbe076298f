"""Recovery after a cut, without labels."""

from __future__ import annotations

import torch
from torch import nn

from retort.compress.capture.capture_program import capture
from retort.compress.distillation.distill import recover
from retort.compress.program import clone
from retort.core.context import Context
from retort.core.data.splits import ArraySplit, Splits
from retort.core.options.distill_options import RecoverOptions


def test_samples_without_labels_are_enough() -> None:
    """The outputs of the original alone bring a damaged program nearer to it."""
    torch.manual_seed(0)
    x = torch.randn(64, 6)
    teacher = capture(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)), {"x": x[:4]})
    student = clone(teacher)
    with torch.no_grad():
        next(student.module.parameters()).mul_(0.5)
    before = (student.module(x)[0] - teacher.module(x)[0]).square().mean()
    split = ArraySplit({"x": x.numpy()})
    options = RecoverOptions(epochs=5, batch_size=16, learning_rate=0.05)
    recover(student, teacher, options, Context(Splits(split, split, split, split), task="regression"), "recover")
    assert (student.module(x)[0] - teacher.module(x)[0]).square().mean() < 0.8 * before
