"""Activations in files: finite for large numbers, and as in evaluation if training is random."""

from collections.abc import Callable

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from retort.compress.capture.capture_program import capture
from retort.compress.program import reexport
from retort.export.translate import to_onnx


def test_a_random_slope_is_its_mean() -> None:
    """`RReLU` is a LeakyReLU with the middle of its range, as PyTorch evaluates it."""
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(4, 8), nn.RReLU(0.1, 0.4)).eval(), torch.randn(5, 4)
    program = capture(model, {"input": torch.randn(3, 4)})
    file = to_onnx(reexport(program), program.signature)
    assert {node.op_type for node in file.graph.node} <= {"Gemm", "LeakyRelu"}
    found = onnxruntime.InferenceSession(file.SerializeToString()).run(None, {"input": x.numpy()})[0]
    np.testing.assert_allclose(found, model(x).detach().numpy(), atol=1e-6)


@pytest.mark.parametrize(
    "activation",
    [nn.LogSigmoid(), nn.Softplus(2.0, 10.0), nn.Mish(), nn.SiLU(), nn.GELU(), nn.ELU(), nn.CELU(1.2), nn.Softsign()],
    ids=lambda item: type(item).__name__,
)
def test_activations_of_large_numbers_are_those_of_pytorch(activation: nn.Module) -> None:
    """No activation overflows where PyTorch's does not."""
    x = torch.tensor([[-1000.0, -90.0, -1.0, 0.0, 1.0, 90.0, 1000.0]])
    program = capture(activation, {"input": x.expand(3, -1).contiguous()})
    file = to_onnx(reexport(program), program.signature)
    found = onnxruntime.InferenceSession(file.SerializeToString()).run(None, {"input": x.numpy()})[0]
    np.testing.assert_allclose(found, activation(x).numpy(), rtol=1e-5, atol=1e-6)


class Function(nn.Module):
    """A function of a tensor as a module."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Its values."""
        return self.function(x)


@pytest.mark.parametrize("function", [torch.log1p, torch.expm1], ids=["log1p", "expm1"])
def test_small_numbers_keep_their_digits(function: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """`log1p` and `expm1` are exact to a few units in the last place from 1e-36 to the largest number."""
    sizes = torch.logspace(-36, 38, 400)
    edges = torch.tensor([0.0, -1.0, -0.999, 88.0, 89.0, -200.0, float("inf"), float("-inf"), float("nan"), -2.0])
    x = torch.cat([sizes, -sizes[sizes < 1], edges])[None]
    program = capture(Function(function), {"input": torch.rand(3, x.shape[1])})
    file = to_onnx(reexport(program), program.signature)
    found = onnxruntime.InferenceSession(file.SerializeToString()).run(None, {"input": x.numpy()})[0]
    np.testing.assert_allclose(found, function(x).numpy(), rtol=1e-6)
