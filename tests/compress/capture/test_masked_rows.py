"""Updates of rows that a mask selects become a choice between old and new rows; other selections are refused."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import retort
from retort.compress.capture.capture_program import capture
from retort.compress.program import cost
from retort.core.errors import CaptureError


class _Experts(nn.Module):
    """A mixture of experts that each get the tokens that a router chose."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(8, 3)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8)) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        weights, chosen = functional.softmax(self.router(x), -1).max(-1)
        result = torch.zeros_like(x)
        for place, expert in enumerate(self.experts):
            mask = chosen == place
            result[mask] = expert(x[mask]) * weights[mask].unsqueeze(-1)
        return result


class _Nearest(nn.Module):
    """Distances that are lowered where a new one is smaller (farthest point sampling)."""

    def forward(self, x: Tensor) -> Tensor:
        distance = x[:, :, 0].clone()
        for column in range(1, x.shape[2]):
            mask = x[:, :, column] < distance
            distance[mask] = x[:, :, column][mask]
        return distance


class _Assigned(nn.Module):
    """Assigns numbers and parameters where masks are true, in whole rows, single values, columns and views."""

    def __init__(self) -> None:
        super().__init__()
        self.row = nn.Parameter(torch.randn(4))

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        small = x.clone()
        small[small < 0.1] = 0
        small[:, torch.tensor([True, False, True])] = -3.0
        rows = x * 2
        rows[mask] = self.row
        rows[~mask] = self.row[None] + 1
        first = rows[:, :, 0]
        first[mask & (x[:, :, 1] > 0)] = 5
        return small, rows


class _Selected(nn.Module):
    """Returns as many values as are positive."""

    def forward(self, x: Tensor) -> Tensor:
        return x[x > 0]


@pytest.mark.parametrize(
    ("model", "shape"),
    [(_Experts(), (8,)), (_Experts(), (5, 8)), (_Nearest(), (6, 4))],
    ids=["rows", "tokens", "values"],
)
def test_an_update_of_masked_rows_is_a_choice(model: nn.Module, shape: tuple[int, ...]) -> None:
    """Outputs and gradients are those of the model at another batch size, and the cost is known."""
    x = torch.randn(7, *shape)
    program = capture(model, {"x": torch.randn(4, *shape)})
    torch.testing.assert_close(program.module(x)[0], model.eval()(x))
    assert cost(program).macs >= 0
    program.module(x)[0].sum().backward() if isinstance(model, _Experts) else None
    assert all(item.grad is not None for item in program.module.parameters())


def test_a_selection_of_unknown_size_is_refused_at_capture() -> None:
    """If the number of selected values depends on data, the message has the line and the remedy."""
    with pytest.raises(CaptureError, match=r"depends on its data \(`return x\[x > 0\]`\)") as caught:
        capture(_Selected(), {"x": torch.randn(4, 8)})
    assert "torch.where" in caught.value.remedy


def test_assigned_values_are_a_choice() -> None:
    """What all selected places get is chosen by the mask, without a list of places in the program or in the file."""
    model = _Assigned()
    program = retort.capture(model, (torch.randn(4, 3, 4), torch.rand(4, 3) < 0.5))
    graph, inputs = retort.export(program), (torch.randn(5, 3, 4), torch.rand(5, 3) < 0.5)
    for got, wanted in zip(graph(*inputs).values(), model(*inputs), strict=True):
        np.testing.assert_allclose(got, wanted.detach(), atol=1e-6)
    used = {node.op_type for node in onnx.load(graph.path).graph.node}
    assert not used & {"NonZero", "ScatterND"}, used
