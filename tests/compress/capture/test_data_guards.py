"""Branches on data: those that only save work or only check inputs are captured, all others are refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import retort
from retort.compress.capture.capture_program import capture
from retort.compress.program import NOTES
from retort.core.errors import CaptureError


class _Branch(nn.Module):
    """A layer, and one branch on data."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(6, 8)


class _Any(_Branch):
    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        value = self.layer(x)
        if mask.any():
            value = value.masked_fill(mask.unsqueeze(-1), 0.0)
        return value.sum(1)


class _All(_Branch):
    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        if not mask.all():
            x = x * mask.unsqueeze(-1)
        return self.layer(x).sum(1)


class _Repaired(_Branch):
    def forward(self, x: Tensor) -> Tensor:
        value: Tensor = self.layer(x)
        if torch.isnan(value).any() or torch.isinf(value).any():
            value = torch.nan_to_num(value, 0.0, 9.0, -9.0)
        return value


class _Checked(_Branch):
    def forward(self, x: Tensor) -> Tensor:
        assert not torch.isnan(x).any(), "undefined values"
        torch._assert((x.abs() < 1e6).all(), "too large")
        if x.max() > 1e5:
            raise ValueError("large")
        found: Tensor = self.layer(x)
        return found


class _Two(_Branch):
    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.layer(x if x.mean() > 0 else -x)
        return found


class _Rare(_Branch):
    def forward(self, x: Tensor) -> Tensor:
        value: Tensor = self.layer(x)
        return value * 0 if x.max() > 100 else value


class _Picked(_Branch):
    def forward(self, x: Tensor) -> Tensor:
        value: Tensor = self.layer(x)
        large = value[:, 0] > 100
        if large.any():
            value = value + value[int(large.nonzero()[0, 0])]
        return value


class _Loop(_Branch):
    def forward(self, x: Tensor) -> Tensor:
        value: Tensor = self.layer(x)
        while value.abs().max() > 0.5:
            value = value / 2
        return value


@pytest.mark.parametrize("model", [_Any(), _All()], ids=["any", "all"])
def test_a_condition_that_saves_work_has_one_value(model: nn.Module) -> None:
    """The program is the model for masks of every kind, although the samples show one value of the condition."""
    x, mask = torch.randn(8, 5, 6), torch.rand(8, 5) < 0.4
    program = capture(model, {"x": x, "mask": mask})
    for kind in (mask, torch.zeros_like(mask), torch.ones_like(mask)):
        torch.testing.assert_close(program.module(x, kind)[0], model.eval()(x, kind))
    assert any("test_data_guards.py line" in note and "is always" in note for note in program.meta[NOTES])


def test_a_repair_that_no_sample_needs_is_kept() -> None:
    """A branch that the samples never take is in the program and in its file, since it changes nothing for them."""
    program = retort.capture(_Repaired(), torch.randn(4, 6))
    graph, x = retort.export(program), torch.randn(3, 6)
    x[1, 2], x[2, 0] = np.nan, np.inf
    np.testing.assert_allclose(graph(x), _Repaired().eval()(x).detach(), rtol=1e-5)


def test_checks_of_values_are_left_out_and_named() -> None:
    """What only raises an error is not in the program, and a note has its line."""
    program = capture(_Checked(), {"x": torch.randn(4, 6)})
    x = torch.full((2, 6), 1e7)
    torch.testing.assert_close(program.module(x)[0], _Checked().eval().layer(x))
    assert sum("the check of values at" in note for note in program.meta[NOTES]) == 3


@pytest.mark.parametrize("model", [_Two(), _Rare(), _Picked(), _Loop()], ids=["two sides", "rare", "picked", "loop"])
def test_a_branch_that_matters_is_refused(model: nn.Module) -> None:
    """Other outputs, another error than that of a check, and a loop that ends by data are refused with the line."""
    torch.manual_seed(1)
    with pytest.raises(CaptureError, match=r"branches on the values of its data at .*test_data_guards\.py line"):
        capture(model, {"x": torch.randn(4, 6)})


def test_conditions_are_answered_by_pytorch_afterwards() -> None:
    """A capture leaves the truth of tensors as it was."""
    capture(_Any(), {"x": torch.randn(4, 5, 6), "mask": torch.rand(4, 5) < 0.4})
    assert "__bool__" not in vars(torch.Tensor)
    assert bool(torch.tensor(2.0)) is True
