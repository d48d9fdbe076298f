"""Costs of programs compared with counts by hand."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from torch import nn
from torch.nn import functional

from retort.compress.capture.capture_program import capture
from retort.compress.graph.cost import node_macs
from retort.compress.program import cost, set_training

torch.set_num_threads(1)


class Block(nn.Module):
    """A residual block with a strided shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(4, 8, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.short = nn.Conv2d(4, 8, 1, stride=2)
        self.head = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv2(torch.relu(self.norm(self.conv1(x)))) + self.short(x)
        return self.head(y.mean((2, 3)))


class Attend(nn.Module):
    """Projections and scaled dot-product attention of 2 heads over 5 tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(x).reshape(-1, 5, 3, 2, 4).permute(2, 0, 3, 1, 4)
        y = functional.scaled_dot_product_attention(q, k, v)
        return self.out(y.transpose(1, 2).reshape(-1, 5, 8))


class Products(nn.Module):
    """Matrix products of every kind, and one between weights alone, which is computed once per batch."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.randn(6, 7)), nn.Parameter(torch.randn(7, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x @ (self.a @ self.b)
        z = torch.einsum("bij,bkj->bik", y, y)
        with torch.no_grad():
            z = z + torch.bmm(y.detach(), y.detach().transpose(1, 2))
        return torch.addmm(self.b[0, :1], z.flatten(1), self.a.flatten()[:16].reshape(16, 1))


def _lstm() -> nn.Module:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(4, 6, num_layers=2, bidirectional=True, batch_first=True)
            self.gru = nn.GRU(12, 5, batch_first=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.gru(self.lstm(x)[0])[0]

    return Model()


LSTM_STEP = 2 * 24 * (4 + 6) + 2 * 24 * (12 + 6)
CASES = [
    (Block, (4, 8, 8), 16 * 8 * 4 * 9 + 16 * 8 * 8 * 9 + 16 * 8 * 4 + 8 * 3),
    (lambda: nn.Conv2d(6, 6, 3, padding=1, groups=6), (6, 5, 5), 25 * 6 * 9),
    (lambda: nn.Conv2d(6, 4, 3, groups=2), (6, 5, 5), 9 * 4 * 3 * 9),
    (lambda: nn.Conv1d(3, 5, 4, dilation=2), (3, 20), 14 * 5 * 3 * 4),
    (lambda: nn.Conv3d(2, 3, 2), (2, 4, 4, 4), 27 * 3 * 2 * 8),
    (lambda: nn.ConvTranspose2d(4, 6, 2, stride=2, groups=2), (4, 5, 5), 25 * 4 * 3 * 4),
    (Attend, (5, 8), 5 * 8 * 24 + 2 * (5 * 5 * 4) * 2 + 5 * 8 * 8),
    (_lstm, (3, 4), 3 * (LSTM_STEP + 15 * (12 + 5))),
    (Products, (4, 6), 6 * 7 * 3 + 4 * 6 * 3 + 4 * 4 * 3 + 4 * 4 * 3 + 16),
    (lambda: nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)), (7, 4), 7 * (4 * 3 + 3 * 2)),
    (lambda: nn.Bilinear(3, 3, 2), None, 2 * 3 * 3),
]


@pytest.mark.parametrize(("make", "shape", "macs"), CASES)
def test_macs_equal_a_count_by_hand(make: type[nn.Module], shape: tuple[int, ...] | None, macs: int) -> None:
    """Multiply-accumulates per sample equal those of textbooks, for any mode and any example batch."""
    names = ["x"] if shape else ["left", "right"]
    program = capture(make(), {name: torch.randn(3, *(shape or (3,))) for name in names})
    assert cost(program).macs == macs
    set_training(program, True)
    assert cost(program).macs == macs


def test_parameters_are_counted_once_and_in_their_bytes() -> None:
    """Tied weights count once, unused ones not at all, and half precision takes two bytes."""

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.unused = nn.Linear(4, 4), nn.Linear(4, 4, bias=False), nn.Linear(9, 9)
            self.two.weight = self.one.weight

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.two(self.one(x))

    assert (cost(program := capture(Tied(), {"x": torch.randn(2, 4)})).parameters, cost(program).macs) == (20, 32)
    assert cost(program).parameter_bytes == 80
    half = capture(Tied().half(), {"x": torch.randn(2, 4).half()})
    assert cost(half).parameter_bytes == 40


def test_the_more_expensive_branch_counts() -> None:
    """Of two branches of torch.cond the one with more multiply-accumulates is counted."""

    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cond(x.sum() > 0, lambda x: self.two(self.one(x)), lambda x: self.two(x), (x,))

    assert cost(capture(Branches(), {"x": torch.randn(2, 4)})).macs == 32


def test_macs_are_counted_by_node() -> None:
    """Each heavy node has its own count, and their sum is the total."""
    program = capture(Block(), {"x": torch.randn(2, 4, 8, 8)})
    counts = node_macs(program.module, program.example)
    assert counts == {"conv2d": 16 * 8 * 4 * 9, "conv2d_1": 16 * 8 * 8 * 9, "conv2d_2": 16 * 8 * 4, "linear": 24}


class Clamped(nn.Module):
    """A bound that is computed from a size as a tensor, and read back as a number."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """See the class."""
        bound = torch.scalar_tensor(x.size(1), dtype=torch.int64) * 2 - 1
        return torch.clamp(self.layer(x), -1, bound.item())


def test_numbers_read_from_tensors_do_not_stop_the_count() -> None:
    """DeBERTa computes a bound from a dynamic length and reads it with `.item()`: real tensors are used."""
    program = capture(Clamped(), {"x": torch.randn(4, 5, 4)}, dynamic={"x": {1: "sequence"}})
    assert cost(program).macs == 5 * 4 * 6
