"""Canonical form: aliases of operators and recurrent cells are replaced during capture, with equal outputs."""

import pytest
import torch
from torch import Tensor, nn

from retort.compress.capture.canonicalize import _CELLS, _usual
from retort.compress.capture.capture_program import capture
from retort.compress.graph.devices import as_array
from retort.compress.program import Program, reexport
from retort.compress.pruning.coupling.groups import find_groups
from retort.compress.pruning.coupling.propagate import couple
from retort.core.aten_names import SYNONYMS, operator_name
from retort.export.verify.pruned_file import check_outputs


class _Named(nn.Module):
    """Aliases in functional, method, keyword and in-place form between two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.out = nn.Linear(6, 12), nn.Linear(6, 12), nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.one(x), self.two(x)
        left = torch.multiply(torch.subtract(left, right, alpha=2), torch.absolute(right))
        right = torch.divide(right, 3.0, rounding_mode=None).clip(-1.0, 2.0).multiply_(torch.special.expit(left))
        result: Tensor = self.out(torch.concat([left, torch.negative(right)], dim=-1))
        return result


class _Loop(nn.Module):
    """A cell in a Python loop over five steps."""

    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.cell, self.out = cell, nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        state = x.new_zeros(x.shape[0], 16)
        states = (state, state)
        for step in x.unbind(1):
            if isinstance(self.cell, nn.LSTMCell):
                states = self.cell(step, states)
            else:
                states = (self.cell(step, states[0]),) * 2
        result: Tensor = self.out(states[0])
        return result


CELLS = {
    "lstm": lambda: nn.LSTMCell(6, 16),
    "gru": lambda: nn.GRUCell(6, 16, bias=False),
    "tanh": lambda: nn.RNNCell(6, 16),
    "relu": lambda: nn.RNNCell(6, 16, nonlinearity="relu"),
}


def _operators(program: Program) -> set[str]:
    return {
        node.target._schema.name.removeprefix("aten::")
        for node in program.module.graph.nodes
        if isinstance(node.target, torch._ops.OpOverload)
    }


def test_every_alias_has_a_canonical_operator() -> None:
    """Each alias in the table has an operator of this PyTorch with the same arguments."""
    for name in SYNONYMS:
        packet = getattr(torch.ops.aten, name)
        assert any(_usual(getattr(packet, key)) is not None for key in packet.overloads()), name


def test_aliases_are_replaced_and_lock_nothing() -> None:
    """A network with aliases computes the same, and the layers between them can be pruned."""
    torch.manual_seed(0)
    model, x = _Named().eval(), torch.randn(4, 6)
    program = capture(model, {"x": x})
    assert not _operators(program) & {*SYNONYMS}
    assert torch.equal(program.module(x)[0], model(x))
    coupling = couple(program)
    assert not coupling.unknown
    assert {"one", "two"} <= {name for group in find_groups(coupling).free for name in group.layers}


@pytest.mark.parametrize("kind", CELLS)
def test_a_loop_over_cells_is_made_of_sums(kind: str) -> None:
    """A cell becomes linear layers and elementwise operators: equal outputs, and a state that can be pruned."""
    torch.manual_seed(0)
    model, x = _Loop(CELLS[kind]()).eval(), torch.randn(4, 5, 6)  # type: ignore[no-untyped-call]
    program = capture(model, {"x": x})
    assert not _operators(program) & {item._schema.name.removeprefix("aten::") for item in _CELLS}
    assert torch.allclose(program.module(x)[0], model(x), atol=1e-6)
    coupling = couple(program)
    assert not coupling.unknown
    assert any("cell" in group.layers for group in find_groups(coupling).free)


class _Masked(nn.Module):
    """An integer mask that is converted to large negative numbers, as in encoders."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(6, 3)

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        return self.out(x) + (1.0 - mask)[:, :, None] * -1e4, 2 - mask


def test_an_integer_mask_taken_from_one_is_written() -> None:
    """`1.0 - mask` has an ONNX form for an integer mask, and `2 - mask` stays an integer."""
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    program = capture(_Masked(), {"x": torch.randn(2, 3, 6), "mask": mask})
    wanted = program.module(program.example["x"], mask)
    assert [value.dtype for value in wanted] == [torch.float32, torch.int64]
    assert check_outputs(
        reexport(program),
        program.signature,
        [({name: value.numpy() for name, value in program.example.items()}, [as_array(value) for value in wanted])],
    ) == pytest.approx(0.0, abs=1e-5)


class _Numbers(nn.Module):
    """Values that become Python numbers, in several operators."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last, self.scale = nn.Linear(6, 12), nn.Linear(12, 3), nn.Parameter(torch.tensor(0.7))

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(self.first(x)) / x.abs().max().item() - x.mean().item()
        result: Tensor = self.last(hidden * self.scale.item())
        return result


def test_numbers_read_from_tensors_stay_tensors() -> None:
    """`x / x.max().item()` is computed with the tensor, so that its cost is known and its layers can be pruned."""
    torch.manual_seed(0)
    model, x = _Numbers().eval(), torch.randn(5, 6)
    program = capture(model, {"x": torch.randn(4, 6)})
    torch.testing.assert_close(program.module(x)[0], model(x))
    assert "item" not in {operator_name(node) for node in program.module.graph.nodes}
    assert any(group.name == "first" for group in find_groups(couple(program)).free)
