"""Weights computed from parameters become parameters, and their layers INT8."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations

from retort.compress.capture.capture_program import capture
from retort.compress.program import Program, clone, predict
from retort.compress.quantization import quantize_program
from retort.compress.quantization.prepare.constant_weights import store_computed
from retort.core.data.splits import ArraySplit
from retort.core.options.stage_options import QuantizeOptions

OPTIONS = QuantizeOptions(method="minmax", correction=("none",), first_layer="int8")


class Normed(nn.Module):
    """A convolution and a linear layer under weight normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = parametrizations.weight_norm(nn.Conv2d(3, 16, 3))
        self.head = parametrizations.weight_norm(nn.Linear(16, 5))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(functional.relu(self.conv(x)).mean((2, 3)))


class Crossed(nn.Module):
    """Attention to another tensor: the projections are slices of one packed weight."""

    def __init__(self) -> None:
        super().__init__()
        self.attention, self.head = nn.MultiheadAttention(32, 4, batch_first=True), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.attention(x, x.flip(1), x.flip(1), need_weights=False)[0])


def both(model: nn.Module, *shape: int) -> tuple[Program, Program, ArraySplit]:
    """The program, its INT8 form and the data."""
    torch.manual_seed(0)
    x = torch.randn(16, *shape)
    program, split = capture(model.eval(), {"x": x[:4]}), ArraySplit({"x": x.numpy()})
    return program, quantize_program(program, OPTIONS, split, "cpu"), split


def test_weight_normalisation_is_computed_once() -> None:
    """Both layers are INT8, and the program with stored weights gives the outputs of the one that computes them."""
    program, result, split = both(Normed(), 3, 8, 8)
    assert result.meta["quantization"]["kinds"] == {"conv2d": 1, "linear": 1, "pool": 1}
    stored = clone(program)
    assert len(store_computed(stored)) == 2
    one, two = (predict(item, split)["output"] for item in (program, stored))
    assert np.array_equal(one, two)


def test_projections_cut_out_of_a_packed_weight_are_integer() -> None:
    """Queries, keys, values, the output and the head are five INT8 layers; none is excluded for a computed weight."""
    program, result, split = both(Crossed(), 6, 32)
    reasons = [item["reason"] for item in result.meta["quantization"]["float_nodes"]]
    assert not any("computed" in reason for reason in reasons)
    assert result.meta["quantization"]["kinds"]["linear"] >= 4
    one, two = (predict(item, split)["output"] for item in (program, result))
    assert np.abs(one - two).max() <= 0.1 * np.abs(one).max()


def test_weights_that_depend_on_an_input_stay() -> None:
    """A weight that is computed from the input is not a parameter, and nothing is stored."""

    class Dynamic(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(5, 8))

        def forward(self, x: Tensor) -> Tensor:
            return functional.linear(x, self.weight * x.mean())

    program = capture(Dynamic().eval(), {"x": torch.randn(4, 8)})
    assert store_computed(program) == []


def test_weights_that_are_changed_in_place_after_they_are_computed_stay() -> None:
    """A row of the weight is scaled through a view; the value before that is not stored."""

    class Patched(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(5, 8))

        def forward(self, x: Tensor) -> Tensor:
            weight = self.weight * 2.0
            weight[0].mul_(3.0)
            return functional.linear(x, weight)

    net, x = Patched().eval(), torch.randn(4, 8)
    program = capture(net, {"x": x})
    store_computed(program)
    with torch.no_grad():
        np.testing.assert_allclose(program.module(x)[0].numpy(), net(x).numpy(), rtol=1e-5)
