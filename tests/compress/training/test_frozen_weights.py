"""Transfer: weights that stay as they are, for some epochs or always, and learning rates by pattern."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from retort.compress.capture.capture_program import capture
from retort.compress.program import Program
from retort.compress.training.optimizers import FACTOR, make_optimizer, set_rate
from retort.compress.training.train import fit
from retort.core.context import Context
from retort.core.data.splits import ArraySplit, Splits
from retort.core.errors import ModelError, UserError
from retort.core.options.stage_options import TrainOptions

torch.set_num_threads(1)
State = dict[str, torch.Tensor]


class Net(nn.Module):
    """A body with BatchNorm, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU())
        self.head = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scores."""
        result: torch.Tensor = self.head(self.body(x))
        return result


def program() -> Program:
    """The captured net."""
    torch.manual_seed(0)
    return capture(Net(), {"x": torch.randn(4, 4)})


def state(made: Program) -> State:
    """Copies of all weights and buffers."""
    return {name: value.clone() for name, value in made.module.state_dict().items()}


def context() -> Context:
    """Twelve random samples of three classes."""
    draw = np.random.default_rng(0)
    split = ArraySplit({"x": draw.standard_normal((12, 4)).astype(np.float32)}, np.arange(12) % 3)
    return Context(Splits(split, split, split, split))


def trained(**options: Any) -> tuple[State, State, Program]:
    """Weights before and after a training, and the program."""
    made = program()
    before = state(made)
    given = {"epochs": 2, "batch_size": 4, "optimizer": "adam", "learning_rate": 0.05, "schedule": "constant"}
    fit(made, TrainOptions.model_validate({**given, **options}), context())
    return before, state(made), made


def changed(before: State, after: State) -> set[str]:
    """The names of what is not bit for bit as before."""
    return {name for name in before if not torch.equal(before[name], after[name])}


@pytest.mark.parametrize("more", [{}, {"ema": 0.9}, {"l1": 0.01, "l2": 0.01, "clip_norm": 0.1, "weight_decay": 0.1}])
def test_frozen_weights_and_their_statistics_stay(more: dict[str, Any]) -> None:
    """What is always frozen is bit for bit as before, with BatchNorm's statistics, and can be trained afterwards."""
    before, after, made = trained(freeze={"body.*": "always"}, **more)
    assert changed(before, after) == {"head.weight", "head.bias"}
    assert all(weight.requires_grad for weight in made.module.parameters())


def test_weights_are_frozen_for_the_first_epochs() -> None:
    """After one frozen epoch of one the body is as before; after a second epoch it has moved."""
    before, once, _ = trained(freeze={"body.*": 1}, epochs=1)
    _, twice, _ = trained(freeze={"body.*": 1}, epochs=2)
    assert changed(before, once) == {"head.weight", "head.bias"}
    assert changed(before, twice) >= {"body.0.weight", "body.1.weight", "body.1.running_mean", "head.weight"}


def test_the_first_pattern_decides() -> None:
    """A more special pattern that stands first is used for its weights."""
    before, after, _ = trained(freeze={"body.0.*": 1, "body.*": "always"})
    assert "body.0.weight" in changed(before, after)
    assert "body.1.weight" not in changed(before, after)


def test_rates_are_factors_of_the_learning_rate() -> None:
    """Groups have the factors of the first matching pattern, and a step of SGD is exactly so much smaller."""
    made = program()
    optimizer = make_optimizer(made.module, TrainOptions(rates={"body.0.*": 0.1, "body.*": 0.5}))
    set_rate(optimizer, 2.0)
    named = {id(weight): name for name, weight in made.module.named_parameters()}
    rates = {named[id(weight)]: group["lr"] for group in optimizer.param_groups for weight in group["params"]}
    assert rates == {
        "body.0.weight": 0.2, "body.0.bias": 0.2, "body.1.weight": 1.0, "body.1.bias": 1.0,
        "head.weight": 2.0, "head.bias": 2.0,
    }  # fmt: skip
    assert {group[FACTOR] for group in optimizer.param_groups} == {1.0, 0.5, 0.1}
    steps = []
    for factor in (1.0, 0.25):
        options = {"rates": {"body.*": factor}} if factor < 1 else {}
        before, after, _ = trained(epochs=1, batch_size=12, optimizer="sgd", momentum=0.0, weight_decay=0.0, **options)
        steps.append(after["body.0.weight"] - before["body.0.weight"])
    torch.testing.assert_close(steps[1], 0.25 * steps[0])


def test_without_patterns_there_are_two_groups_as_ever() -> None:
    """The default has one group of matrices and one of all others, in the model's order."""
    made = program()
    groups = make_optimizer(made.module, TrainOptions()).param_groups
    weights = list(made.module.parameters())
    for group, matrices in zip(groups, (True, False), strict=True):
        wanted = [weight for weight in weights if (weight.dim() >= 2) is matrices]
        assert [id(weight) for weight in group["params"]] == [id(weight) for weight in wanted]


@pytest.mark.parametrize("option", ["freeze", "rates"])
def test_a_pattern_without_a_weight_is_told(option: str) -> None:
    """A typo names the nearest module."""
    with pytest.raises(UserError, match=f"{option}: no weight is called 'bodi") as caught:
        trained(**{option: {"bodi.0.*": 1}})
    assert "did you mean 'body.0'" in str(caught.value)


def test_everything_frozen_is_an_error() -> None:
    """A training that could change nothing does not begin."""
    with pytest.raises(ModelError, match="no trainable parameter"):
        trained(freeze={"*": "always"})
