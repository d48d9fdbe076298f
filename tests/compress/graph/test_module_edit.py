"""Edits of modules by path: names that every module has are never taken for free."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from retort.compress.capture.capture_program import capture
from retort.compress.graph.module_edit import fetch, free_path, has, put
from retort.compress.quantization import quantize_program
from retort.core.data.splits import ArraySplit
from retort.core.options.stage_options import QuantizeOptions


@pytest.mark.parametrize(
    "name", ["to", "train", "eval", "half", "state_dict", "register_buffer", "training", "T_destination"]
)
def test_a_free_path_can_be_set_and_read(name: str) -> None:
    """Whatever a node is called, the free path that is made of its name takes a tensor, the second time as well."""
    module = nn.Module()
    paths = []
    for number in range(2):
        path = free_path(module, f"quantization.{name}")
        put(module, f"{path}.scale", torch.tensor(float(number)))
        paths.append(path)
    assert [float(fetch(module, f"{path}.scale")) for path in paths] == [0.0, 1.0]
    assert callable(module.to)


def test_what_is_there_is_taken() -> None:
    """Parameters, submodules and absent biases are taken; new names are not, at any depth."""
    module = nn.Sequential(nn.Linear(2, 2, bias=False))
    assert all(has(module, path) for path in ("0", "0.weight", "0.bias", "0.to", "new.to"))
    assert not any(has(module, path) for path in ("1", "0.new", "new", "new.weight", "new.deeper.weight"))


class Cast(nn.Module):
    """Its graph has a node that is called `to`."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(16, 8), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x.float()).relu())


def test_a_model_with_bytes_as_input_is_quantized() -> None:
    """A UINT8 input that the model converts (node `to`) can be quantized, and the classes stay."""
    torch.manual_seed(0)
    x = np.random.default_rng(0).integers(0, 255, (64, 16)).astype(np.uint8)
    program = capture(Cast(), {"x": torch.from_numpy(x[:4])})
    int8 = quantize_program(program, QuantizeOptions(), ArraySplit({"x": x}), "cpu")
    feeds = torch.from_numpy(x)
    same = int8.module(feeds)[0].argmax(1) == program.module(feeds)[0].argmax(1)
    assert same.float().mean() > 0.9
