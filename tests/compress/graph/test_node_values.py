"""Values inside a program: found by name and by path, and observed."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from retort.compress.capture.capture_program import capture
from retort.compress.graph.node_values import find_node, named_values, node_values, observing
from retort.compress.program import Program
from retort.core.errors import ModelError


class Stack(nn.Module):
    """Two convolutions in a stage, a GRU over the columns, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stage = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 6, 3, stride=2))
        self.rnn = nn.GRU(18, 5, batch_first=True)
        self.head = nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.stage(x)
        return self.head(self.rnn(y.transpose(1, 2).flatten(2))[0][:, -1])


@pytest.fixture(scope="module")
def program() -> Program:
    """The net, captured."""
    torch.manual_seed(0)
    return capture(Stack(), {"x": torch.randn(2, 1, 8, 8)})


def test_nodes_have_paths_operators_and_shapes_with_a_symbolic_batch(program: Program) -> None:
    """Every tensor that is computed is listed with the user's module and its shape; sizes and parameters are not."""
    found = {value.path: value for value in node_values(program)}
    assert found["stage.0"].shape == ("batch", 4, 8, 8)
    assert found["stage.2"].describe() == "stage.2 (conv2d_1): [batch, 6, 3, 3]"
    assert found["rnn"].shape == ("batch", 3, 5)
    assert found["head"].operator == "linear"
    assert all(value.floating for value in found.values())


def test_a_path_is_the_last_value_of_its_module(program: Program) -> None:
    """A node is found by its name, by the path of its module, and by that of a module around it."""
    assert find_node(program, "stage").name == find_node(program, "stage.2").name == "conv2d_1"
    assert find_node(program, "relu").name == "relu"
    assert find_node(program, "rnn").name == "getitem"


def test_an_unknown_layer_is_told_with_the_nearest(program: Program) -> None:
    """A layer that does not exist is refused with names like it."""
    with pytest.raises(ModelError, match=r"the student has no layer 'stage\.3'; nearest: stage\.[02]"):
        find_node(program, "stage.3", "the student")


def test_observed_values_are_those_of_the_modules(program: Program) -> None:
    """Within the context the program returns the inner values with gradients; afterwards it is as before."""
    x, before = torch.randn(5, 1, 8, 8), program.module.code
    with observing(program, ["conv2d_1", "relu"]):
        values = named_values(program, ("conv2d_1", "relu"), program.module(x))
    weight, bias = (program.module.get_parameter(f"stage.0.{name}") for name in ("weight", "bias"))
    wanted = nn.functional.conv2d(x, weight, bias, padding=1).relu()
    torch.testing.assert_close(values["node:relu"], wanted)
    assert values["node:conv2d_1"].shape == (5, 6, 3, 3)
    assert values["node:conv2d_1"].requires_grad
    assert program.module.code == before
    assert len(program.module(x)) == 1
