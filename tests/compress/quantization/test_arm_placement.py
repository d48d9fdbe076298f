"""What becomes INT8 for `arm`: the layers of `cpu`, except where only times of x86 speak for INT8."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from retort.compress.capture.capture_program import capture
from retort.compress.program import Program
from retort.compress.quantization import quantize_program
from retort.core.data.splits import ArraySplit
from retort.core.errors import UserError
from retort.core.options.stage_options import QuantizeOptions, Target


def quantized(net: nn.Module, shape: tuple[int, ...], target: Target = "arm", **options: Any) -> Program:
    """A network quantized on random samples."""
    torch.manual_seed(0)
    x = np.random.default_rng(0).normal(size=(8, *shape)).astype(np.float32)
    program = capture(net.eval(), {"x": torch.from_numpy(x[:4])})
    chosen = QuantizeOptions(method="minmax", correction=("none",), **options)
    return quantize_program(program, chosen, ArraySplit({"x": x}), target)


def reasons(program: Program) -> dict[str, str]:
    return {item["layer"]: item["reason"] for item in program.meta["quantization"]["float_nodes"]}


class Grouped(nn.Module):
    """A first convolution, a depthwise one, and groups of 16 and of 4 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.deep = nn.Conv2d(3, 32, 3, 1, 1), nn.Conv2d(32, 32, 3, 1, 1, groups=32)
        self.wide, self.narrow = nn.Conv2d(32, 32, 3, 1, 1, groups=2), nn.Conv2d(32, 32, 3, 1, 1, groups=8)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.narrow(self.wide(self.deep(self.stem(x)))).mean((2, 3)))


def test_depthwise_convolutions_are_integer_and_narrow_groups_are_not() -> None:
    """Arm has kernels for depthwise convolutions; a group of 4 channels would fill a quarter of a tile of others."""
    found = reasons(quantized(Grouped(), (3, 8, 8)))
    assert sorted(found) == ["narrow", "stem"]
    assert "16 channels at a time" in found["narrow"]


def test_a_first_layer_of_few_channels_stays_in_fp32_unless_it_is_asked_for() -> None:
    """No source tells whether INT8 is faster there, so that the more exact form is taken, and the reason says so."""
    assert "not known on Arm" in reasons(quantized(Grouped(), (3, 8, 8)))["stem"]
    assert "stem" not in reasons(quantized(Grouped(), (3, 8, 8), first_layer="int8"))


class Recurrent(nn.Module):
    """An LSTM that is wide enough for integer kernels on x86, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.LSTM(8, 96, batch_first=True), nn.Linear(96, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x)[0][:, -1])


@pytest.mark.parametrize("target", ["cpu", "arm"])
def test_recurrent_layers_have_int8_weights_and_fp32_kernels(target: Target) -> None:
    """Where integer kernels pay was measured on x86; for Arm, the reason names the option that takes them anyway."""
    made = quantized(Recurrent(), (5, 8), target)
    assert any("weight_hh" in item["parameter"] for item in made.meta["quantization"]["weights"].values())
    found = reasons(made).get("layer", "")
    assert ("export.recurrent: integer" in found) is (target == "arm")
    assert ("lstm" in made.meta["quantization"]["kinds"]) is (target == "cpu")


class Product(nn.Module):
    """A product of the last axis of ``[N, L, C]``."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


def test_products_may_get_their_scales_at_run_time() -> None:
    """`form: dynamic` is there for `arm` as for `cpu`, and not for `tensorrt`."""
    assert not quantized(Product(), (5, 16), form="dynamic").signature.batch_invariant
    with pytest.raises(UserError, match="does not support activations that are quantized at run time"):
        quantized(Product(), (5, 16), "tensorrt", form="dynamic")
