"""Training and evaluation: every node with a mode is found, and only layers that train in the model train."""

from __future__ import annotations

import os
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from torch import nn

from retort.compress.capture.capture_program import capture
from retort.compress.graph import train_eval_mode
from retort.compress.program import set_training

torch.set_num_threads(1)


def every_mode() -> nn.Module:
    """One module of each operator that has a training mode."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(
                nn.Conv2d(1, 4, 1),
                nn.BatchNorm2d(4),
                nn.InstanceNorm2d(4, track_running_stats=True),
                nn.RReLU(),
                nn.Dropout2d(0.3),
                nn.AlphaDropout(0.3),
                nn.FeatureAlphaDropout(0.3),
                nn.Dropout(0.3, inplace=True),
                nn.Flatten(2),
            )
            self.rnn = nn.RNN(16, 4, num_layers=2, dropout=0.3, batch_first=True)
            self.attention = nn.MultiheadAttention(4, 2, dropout=0.3, batch_first=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.rnn(self.net(x))[0]
            return self.attention(x, x, x, need_weights=False)[0]

    return Model()


def test_all_operators_with_a_mode_are_switched() -> None:
    """Each operator that behaves differently in training is marked and switched in both directions."""
    program = capture(every_mode(), {"x": torch.randn(2, 1, 4, 4)})
    marked = {mark["op"].split(".")[1].rstrip("_") for mark in train_eval_mode.to_json(program.module)}
    assert marked == {
        "batch_norm",
        "instance_norm",
        "rrelu",
        "feature_dropout",
        "alpha_dropout",
        "feature_alpha_dropout",
        "dropout",
        "rnn_tanh",
        "scaled_dot_product_attention",
    }
    for training in (True, False):
        set_training(program, training)
        values = [
            train_eval_mode.argument(node, str(train_eval_mode.mode_argument(node)))
            for node in train_eval_mode.mode_nodes(program.module)
        ]
        assert all(bool(value) is training for value in values)


def test_frozen_norm_stays_frozen() -> None:
    """A BatchNorm in evaluation inside a model in training keeps its statistics; another one updates them."""
    model = nn.Sequential(nn.BatchNorm1d(4), nn.BatchNorm1d(4), nn.Linear(4, 2)).train()
    model[0].eval()
    program = capture(model, {"x": torch.randn(8, 4) + 3})
    set_training(program, True)
    program.module(torch.randn(8, 4) + 3)
    state = program.module.state_dict()
    assert torch.equal(state["0.running_mean"], torch.zeros(4))
    assert not torch.equal(state["1.running_mean"], torch.zeros(4))


class Stochastic(nn.Module):
    """Drops its branch in training, which a scale initialised with zero hides."""

    def __init__(self) -> None:
        super().__init__()
        self.branch, self.norm, self.drop = nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5)
        self.scale, self.head = nn.Parameter(torch.zeros(4)), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.drop(self.norm(self.branch(x)))
        if self.training:
            y = y * 0.5 * x.new_empty(x.shape[0], 1).bernoulli_(0.5)
        return self.head(x + self.scale * y)


class Auxiliary(nn.Module):
    """Returns a second output in training."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.norm, self.head = nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> Any:
        x = self.norm(self.body(x))
        return (self.head(x), x) if self.training else self.head(x)


class QuietBranch(nn.Module):
    """Adds a branch in training only, whose scale is initialised with zero: equal outputs, but another model."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.scale, self.head = nn.BatchNorm1d(4), nn.Parameter(torch.zeros(4)), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(x)
        return self.head(x + self.scale * x.flip(0) if self.training else x)


@pytest.mark.parametrize("kind", [Stochastic, Auxiliary, QuietBranch])
def test_branches_on_training_fall_back_to_the_evaluation_graph(kind: type[nn.Module]) -> None:
    """If training has another branch, the program is that of evaluation; its norms and dropouts still train."""
    model = kind()
    program = capture(model, {"x": torch.randn(4, 4)})
    assert not train_eval_mode.random_nodes(program.module)
    assert len(program.signature.outputs) == 1
    marks = {mark["op"] for mark in train_eval_mode.to_json(program.module)}
    assert "aten.batch_norm.default" in marks
    assert ("aten.dropout.default" in marks) is (kind is Stochastic)
    model.eval()
    for name, weight in program.module.named_parameters():
        weight.data.add_(0.3)
        model.get_parameter(name).data.add_(0.3)
    x = torch.randn(5, 4)
    torch.testing.assert_close(program.module(x)[0], model(x))
