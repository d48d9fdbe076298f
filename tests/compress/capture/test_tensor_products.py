"""Contractions of any axes become matrix products: equal outputs, counted, prunable and without their own operator."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from retort.compress.capture.capture_program import capture
from retort.compress.program import cost, reexport
from retort.compress.pruning.coupling.groups import find_groups
from retort.compress.pruning.coupling.propagate import couple
from retort.core.aten_names import operator_name
from retort.export.translate import to_onnx

PRODUCTS: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], tuple[int, ...]]] = {
    "one axis": (lambda x, w: torch.tensordot(x, w, dims=([-1], [0])), (16, 4)),
    "turned": (lambda x, w: torch.tensordot(x, w, dims=([1], [1])), (4, 16)),
    "two axes": (lambda x, w: torch.tensordot(x.unflatten(-1, (2, 8)), w, dims=([2, 1], [0, 2])), (8, 4, 2)),
    "weight first": (lambda x, w: torch.tensordot(w, x, dims=([0], [1])).T, (16, 4)),
    "several columns": (lambda x, w: torch.tensordot(x, w, dims=([1], [0])).flatten(1), (16, 2, 2)),
    "a vector": (lambda x, w: torch.tensordot(x, w, dims=([1], [0]))[:, None].expand(-1, 4), (16,)),
    "inner": (lambda x, w: torch.inner(x, w), (4, 16)),
    "vecdot": (lambda x, w: torch.linalg.vecdot(x[:, None], w), (4, 16)),
}


class _Product(nn.Module):
    """A layer, a product with a parameter, and a layer."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.product, shape = PRODUCTS[name]
        self.first, self.weight, self.last = nn.Linear(8, 16), nn.Parameter(torch.randn(*shape)), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.last(self.product(torch.relu(self.first(x)), self.weight))
        return result


@pytest.mark.parametrize("name", PRODUCTS)
def test_a_contraction_is_a_matrix_product(name: str) -> None:
    """Outputs are equal at another batch size, the multiplications are counted, and the layer before can be pruned."""
    torch.manual_seed(0)
    model, x = _Product(name).eval(), torch.randn(7, 8)
    program = capture(model, {"x": torch.randn(4, 8)})
    torch.testing.assert_close(program.module(x)[0], model(x))
    operators = {operator_name(node) for node in program.module.graph.nodes}
    assert not operators & {"tensordot", "inner", "linalg_vecdot"}
    if name != "vecdot":
        assert cost(program).macs == 8 * 16 + 16 * model.weight.numel() // 16 + 4 * 3
    assert any(group.name == "first" for group in find_groups(couple(program)).free)


def test_what_no_matrix_product_computes_stays() -> None:
    """An outer product over two dynamic axes keeps its operator, with equal outputs."""

    class Outer(nn.Module):
        """The similarity of all samples."""

        def forward(self, x: Tensor) -> Tensor:
            """``[N, N, 4]``."""
            return torch.tensordot(x, x, dims=([2, 1], [2, 1]))[:, :, None].expand(-1, -1, 4)

    x = torch.randn(5, 3, 8)
    torch.testing.assert_close(capture(Outer(), {"x": torch.randn(4, 3, 8)}).module(x)[0], Outer()(x))


class _Prior(nn.Module):
    """The log-likelihood under a normal distribution with a learned covariance, as in normalising flows."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.factor = nn.Linear(8, 4), nn.Parameter(torch.eye(4) + 0.1 * torch.ones(4, 4).tril())

    def forward(self, x: Tensor) -> Tensor:
        prior = torch.distributions.MultivariateNormal(torch.zeros(4), scale_tril=self.factor.tril())
        result: Tensor = prior.log_prob(self.layer(x))
        return result


def test_a_triangular_system_of_parameters_is_a_product_with_a_constant() -> None:
    """The file has the inverse as a constant and gives the model's values; the program can be trained."""
    torch.manual_seed(0)
    model, x = _Prior().eval(), torch.randn(7, 8)
    program = capture(model, {"x": torch.randn(4, 8)})
    torch.testing.assert_close(program.module(x)[0], model(x))
    program.module(x)[0].sum().backward()
    assert program.module.get_parameter("factor").grad is not None
    session = onnxruntime.InferenceSession(to_onnx(reexport(program), program.signature).SerializeToString())
    np.testing.assert_allclose(session.run(None, {"x": x.numpy()})[0], model(x).detach().numpy(), rtol=1e-4)
