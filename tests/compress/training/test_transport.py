"""What is sent to other processes arrives whole: programs compute the same, and large arrays are sent once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from training_kit import blobs, net

from retort.compress.capture.capture_program import capture
from retort.compress.program import Program, set_training
from retort.compress.training.distributed.transport import LARGE_BYTES, Packer, Unpacker
from retort.core.data.splits import ArraySplit, Subset
from retort.core.errors import UserError


class _Recurrent(nn.Module):
    """An LSTM with attention and a weight that two layers share."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(6, 2, dropout=0.1, batch_first=True)
        self.recurrent = nn.LSTM(6, 5, bidirectional=True, batch_first=True)
        self.one, self.other = nn.Linear(10, 10), nn.Linear(10, 10)
        self.other.weight = self.one.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        attended, _ = self.attention(x, x, x)
        found: torch.Tensor = self.other(self.one(self.recurrent(attended)[0][:, -1]))
        return found


def _programs() -> list[Program]:
    torch.manual_seed(0)
    return [net(), capture(_Recurrent(), {"x": torch.randn(2, 4, 6)})]


def test_a_program_arrives_whole() -> None:
    """Outputs in training and evaluation, code, names and shared weights are those of the program that was sent."""
    packer, unpacker = Packer(), Unpacker()
    for program in _programs():
        other: Program = unpacker.unpack(*packer.pack(program))
        assert other.module.code == program.module.code
        assert list(other.module.state_dict()) == list(program.module.state_dict())
        assert len(list(other.module.parameters())) == len(list(program.module.parameters()))
        for training in (True, False):
            outputs = []
            for each in (program, other):
                set_training(each, training)
                torch.manual_seed(1)
                outputs.append(each.module(*each.example.values())[0])
            assert torch.equal(*outputs)


def test_large_arrays_are_sent_once() -> None:
    """An array that was sent before is not sent again, also inside another split."""
    packer, unpacker = Packer(), Unpacker()
    split = ArraySplit({"x": np.zeros((LARGE_BYTES, 1), np.uint8)}, np.arange(LARGE_BYTES))
    content, arrays = packer.pack(split)
    assert (len(arrays), len(content) < 10_000) == (2, True)
    unpacker.unpack(content, arrays)
    content, arrays = packer.pack(Subset(split, np.array([5, 3])))
    assert arrays == []
    found = unpacker.unpack(content, arrays).read([0, 1])[1]
    assert found is not None
    assert found.tolist() == [5, 3]


def test_what_cannot_be_sent_is_named() -> None:
    """A data set with a lambda function gives one message that says what to change."""
    with pytest.raises(UserError, match=r"cannot be sent to the other processes.*lambda"):
        Packer().pack((blobs(3, 1), lambda: 0))
