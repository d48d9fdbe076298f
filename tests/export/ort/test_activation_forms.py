"""Activations without fast kernels in ONNX Runtime: other operators in the file, the same values."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from retort.compress.capture.capture_program import capture
from retort.compress.program import reexport
from retort.export.translate import to_onnx


class MishByHand(nn.Module):
    """The activation as people write it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Of any shape."""
        return x * torch.tanh(nn.functional.softplus(x))


class Root(nn.Module):
    """A power with the exponent one half."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Of any shape."""
        return torch.pow(x.abs(), 0.5)


def slopes(*values: float) -> Callable[[], nn.Module]:
    """PReLU with these slopes in turn."""

    def make() -> nn.Module:
        net = nn.PReLU(6)
        net.weight.data = torch.tensor((values * 6)[:6])
        return net

    return make


@pytest.mark.parametrize(
    ("make", "slow"),
    [
        (slopes(0.25, 0.0, -0.5, 1.0), "PRelu"),
        (slopes(1.5, 1.0), "PRelu"),
        (nn.Mish, "Mish"),
        (MishByHand, "Softplus"),
        (Root, "Pow"),
    ],
    ids=["slopes", "steep slopes", "mish", "mish by hand", "root"],
)
def test_the_file_has_faster_operators_and_equal_values(make: Callable[[], nn.Module], slow: str) -> None:
    """Also for zeros, huge and tiny values, infinity and NaN."""
    net = make().eval()
    x = torch.randn(4, 6, 5)
    x[1, :, 0], x[1, :, 1], x[1, :, 2], x[1, :, 3] = 0.0, 1e30, -1e30, 1e-30
    x[2, :, 0], x[2, :, 1] = float("inf"), float("nan")
    program = capture(net, {"x": torch.randn(4, 6, 5)})
    model = to_onnx(reexport(program), program.signature)
    assert slow not in {node.op_type for node in model.graph.node}
    found = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x.numpy()})[0]
    with torch.no_grad():
        np.testing.assert_allclose(found, net(x).numpy(), rtol=1e-5, atol=1e-7)


def test_slopes_on_both_sides_of_one_stay() -> None:
    """Neither the larger nor the smaller one is right for all channels."""
    program = capture(slopes(0.5, 2.0)().eval(), {"x": torch.randn(4, 6, 5)})
    model = to_onnx(reexport(program), program.signature)
    assert [node.op_type for node in model.graph.node] == ["PRelu"]


def test_tensorrt_keeps_the_operators() -> None:
    """Its builder has kernels for them."""
    program = capture(slopes(0.5)().eval(), {"x": torch.randn(4, 6, 5)})
    model = to_onnx(reexport(program), program.signature, "tensorrt")
    assert [node.op_type for node in model.graph.node] == ["PRelu"]
