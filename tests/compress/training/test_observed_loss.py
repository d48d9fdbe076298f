"""Losses that read values inside the program and have parameters of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional
from training_kit import Killed, Unplugged, blobs, net, same, splits, weights

from retort.compress.program import Program
from retort.compress.training.losses import Tensors
from retort.compress.training.train import FitResult, fit
from retort.core.context import Context
from retort.core.options.stage_options import TrainOptions


class Hinted:
    """Cross entropy, and the squared distance between a projection of the hidden layer and the inputs."""

    def __init__(self, weight: float = 1.0) -> None:
        self.identity = f"hinted {weight}"
        self.observes = ("relu",)
        self.module = nn.Linear(16, 6)
        self.weight = weight
        with torch.no_grad():
            self.module.weight.fill_(0.1)
            self.module.bias.zero_()

    def __call__(self, outputs: Tensors, inputs: Tensors, targets: torch.Tensor | None) -> torch.Tensor:
        hint = (self.module(outputs["node:relu"]) - inputs["x"]).square().mean()
        hard = 0 if targets is None else functional.cross_entropy(outputs["output"], targets)
        return self.weight * hint + hard


def run(program: Program, loss: Any, data: Any = None, scratch: Path | None = None, **options: Any) -> FitResult:
    """Train with a loss."""
    chosen = TrainOptions(**{"epochs": 4, "batch_size": 16, "learning_rate": 0.01, **options})
    return fit(program, chosen, Context(data or splits(), task="classification", seed=3, scratch=scratch), loss)


def test_projections_are_trained_and_stay_out_of_the_program() -> None:
    """The loss gets the value of its node, its parameters learn, and the program returns what it returned before."""
    program, loss = net(), Hinted()
    names, before = set(program.module.state_dict()), loss.module.weight.clone()
    code = program.module.code
    run(program, loss)
    assert not torch.equal(before, loss.module.weight)
    assert set(program.module.state_dict()) == names
    assert program.module.code == code
    assert len(program.module(torch.randn(2, 6))) == 1


def test_a_hint_changes_the_weights_before_its_layer() -> None:
    """Gradients flow from an inner value into the program."""
    hinted, plain = net(), net()
    run(hinted, Hinted())
    run(plain, Hinted(0.0))
    assert not same(weights(hinted), weights(plain))


@pytest.mark.parametrize("extra", [{}, {"ema": 0.9, "optimizer": "sgd", "accumulate": 2, "clip_norm": 1.0}])
def test_a_loss_with_parameters_resumes_bit_for_bit(extra: dict[str, Any], tmp_path: Path) -> None:
    """Stopped in the third epoch and run again, the program and the projection end with the same bits."""
    whole, wanted = net(), Hinted()
    run(whole, wanted, **extra)
    original = blobs(65, 1)
    data = splits(train=Unplugged(original.inputs, original.targets))
    Unplugged.reads, Unplugged.limit = 0, 11
    with pytest.raises(Killed):
        run(net(), Hinted(), data, tmp_path, **extra)
    Unplugged.limit = 10**9
    resumed, loss = net(), Hinted()
    run(resumed, loss, data, tmp_path, **extra)
    assert same(weights(whole), weights(resumed))
    assert torch.equal(wanted.module.weight, loss.module.weight)
