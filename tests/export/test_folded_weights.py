"""Weights that are computed from parameters: their values stand in the file, and the program keeps the parameters."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from retort.compress.capture.capture_program import capture
from retort.compress.program import reexport, set_training
from retort.export.half_precision.check import computed_in
from retort.export.translate import to_onnx

X = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))


class Scaled(nn.Module):
    """A layer and a product with a normalised vector."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.gain = nn.Linear(6, 6), nn.Module()
        self.gain.weight = nn.Parameter(torch.randn(6))
        parametrizations.weight_norm(self.gain, "weight", 0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[N, 6]``."""
        gain = self.gain.weight
        assert isinstance(gain, torch.Tensor)
        return torch.relu(self.layer(x)) * gain


class Nearest(nn.Module):
    """The orthogonal matrix next to a matrix."""

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        left, _, right = torch.linalg.svd(weight)
        nearest: torch.Tensor = left @ right
        return nearest


def projected() -> nn.Module:
    """A layer with a parametrization of the user's own."""
    layer = nn.Linear(6, 6)
    parametrize.register_parametrization(layer, "weight", Nearest())
    return layer


def orthogonal(kind: str) -> Callable[[], nn.Module]:
    """A layer with an orthogonal weight."""
    return lambda: parametrizations.orthogonal(nn.Linear(6, 6), orthogonal_map=kind)


@pytest.mark.parametrize(
    "make",
    [Scaled, projected, *map(orthogonal, ("matrix_exp", "cayley", "householder"))],
    ids=["vector", "svd", "matrix_exp", "cayley", "householder"],
)
def test_computed_weights_are_values_in_the_file_and_train_in_the_program(make: Callable[[], nn.Module]) -> None:
    """The file has no operator for them and equals the model; after a step of training a new file equals again."""
    torch.manual_seed(0)
    program = capture(make(), {"x": X})
    for _ in range(2):
        file = to_onnx(reexport(program), program.signature)
        assert {node.op_type for node in file.graph.node} <= {"Gemm", "Relu", "Mul"}
        session = onnxruntime.InferenceSession(file.SerializeToString())
        with torch.no_grad():
            wanted = program.module(X)[0].numpy()
        np.testing.assert_allclose(session.run(None, {"x": X.numpy()})[0], wanted, atol=1e-5)
        set_training(program, True)
        program.module(X)[0].square().sum().backward()
        for weight in program.module.parameters():
            assert weight.grad is not None
            weight.data -= 0.1 * weight.grad
        set_training(program, False)


class Tied(nn.Module):
    """A scaled table of words, which the output reads unscaled, and a mask that is larger than its parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.slope = nn.Embedding(3000, 16), nn.Parameter(torch.ones(1))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Scores of all words."""
        scaled = nn.functional.embedding(ids, self.table.weight * 4.0)
        return scaled @ self.table.weight.T * (torch.arange(3000.0) * self.slope)


def test_what_would_make_the_file_larger_is_not_stored() -> None:
    """A scaled table whose parameter stays in the file is computed as before."""
    ids = torch.randint(0, 3000, (4, 2))
    program = capture(Tied(), {"ids": ids})
    file = to_onnx(reexport(program), program.signature)
    assert len(file.SerializeToString()) < 1.2 * 4 * 3000 * 16


class PatchedTable(nn.Module):
    """A bias that is looked up by an index whose first row and column are overwritten, as in BEiT, and scaled in place.

    The index is written through views, before and after other views of it are made.
    """

    def __init__(self) -> None:
        super().__init__()
        self.table, self.gain = nn.Parameter(torch.randn(40)), nn.Parameter(torch.randn(6, 6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[N, 6]``."""
        index = torch.zeros(6, 6, dtype=torch.int64)
        index[1:, 1:] = torch.arange(25).view(5, 5)
        index[0] = 37
        flat = index.view(-1)
        index[:, 0] = 38
        gain = self.gain * 2.0
        gain[0].mul_(3.0)
        return x @ (self.table[flat].view(6, 6) + gain)


def test_weights_that_are_changed_in_place_keep_their_final_value() -> None:
    """A value that is written through a view is not stored as it was before the write."""
    torch.manual_seed(0)
    net = PatchedTable()
    program = capture(net, {"x": X})
    file = to_onnx(reexport(program), program.signature)
    with torch.no_grad():
        wanted = net(X).numpy()
    session = onnxruntime.InferenceSession(file.SerializeToString())
    np.testing.assert_allclose(session.run(None, {"x": X.numpy()})[0], wanted, atol=1e-5)


class StateSpace(nn.Module):
    """A convolution whose kernel is computed from complex parameters, with the Fourier transform (S4D)."""

    def __init__(self) -> None:
        super().__init__()
        self.rate, self.turn = nn.Parameter(torch.rand(6, 4)), nn.Parameter(torch.arange(4.0).repeat(6, 1))
        self.mix = nn.Parameter(torch.randn(6, 4, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[N, 6, 16]``."""
        poles = (1j * self.turn - self.rate.exp())[..., None] * torch.arange(16)
        kernel = 2 * torch.einsum("hn,hnl->hl", torch.view_as_complex(self.mix), torch.exp(poles)).real
        product = torch.fft.rfft(x, n=32) * torch.fft.rfft(kernel, n=32)
        result: torch.Tensor = torch.fft.irfft(product, n=32)[..., :16]
        return result


def test_a_kernel_computed_with_complex_numbers_is_stored() -> None:
    """The real kernel is a constant of the file, because its complex operators have no ONNX form."""
    torch.manual_seed(0)
    x = torch.randn(3, 6, 16)
    program = capture(StateSpace(), {"x": x})
    file = to_onnx(reexport(program), program.signature)
    assert not {node.op_type for node in file.graph.node} & {"Exp", "Einsum", "Cos", "Sin"}
    session = onnxruntime.InferenceSession(file.SerializeToString())
    with torch.no_grad():
        np.testing.assert_allclose(session.run(None, {"x": x.numpy()})[0], program.module(x)[0].numpy(), atol=1e-5)


class Answers(nn.Module):
    """Returns a constant beside its result."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """``[N, 6]`` and a number."""
        return x * 2, torch.tensor(1.5)


def test_an_output_that_is_computed_from_constants_is_not_replaced() -> None:
    """A number that the model returns stays an output of the file."""
    program = capture(Answers(), {"x": X})
    session = onnxruntime.InferenceSession(to_onnx(reexport(program), program.signature).SerializeToString())
    doubled, number = session.run(None, {"x": X.numpy()})
    np.testing.assert_allclose(doubled, 2 * X.numpy())
    assert float(number) == 1.5


class HalfInside(nn.Module):
    """A layer in half precision between layers in single precision."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(6, 24), nn.Linear(24, 24).half(), nn.Linear(24, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[N, 3]``."""
        hidden = torch.relu(self.second(torch.relu(self.first(x)).half()))
        result: torch.Tensor = self.last(hidden.float())
        return result


def test_a_layer_in_half_precision_gets_the_tolerance_of_half_precision() -> None:
    """The check takes the precision in which the program computes."""
    program = reexport(capture(HalfInside(), {"x": X}))
    assert computed_in(program, "fp32") == "fp16"
    assert computed_in(reexport(capture(Scaled(), {"x": X})), "fp32") == "fp32"
