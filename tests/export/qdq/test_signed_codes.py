"""Files for `arm` have INT8 activations, the numbers of the files for `cpu`, and as many integer kernels."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from retort.compress.capture.capture_program import capture
from retort.compress.program import save_program
from retort.compress.quantization import quantize_program
from retort.core.data.splits import ArraySplit
from retort.core.options.stage_options import QuantizeOptions, Target
from retort.core.session import SessionOptions, open_session
from retort.core.tensors import Array
from retort.export.ort.kernels import integer_kernels
from retort.export.translate import to_onnx

SHAPE = (3, 16, 16)


class Mobile(nn.Module):
    """Depthwise convolutions of 3x3 and 5x5, hard-swish, a gate, a sum, a concatenation and a maximum pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.deep = nn.Conv2d(3, 24, 3, 2, 1), nn.Conv2d(24, 24, 3, 1, 1, groups=24)
        self.wide, self.gate = nn.Conv2d(24, 24, 5, 1, 2, groups=24), nn.Conv2d(24, 24, 1)
        self.out, self.head = nn.Conv2d(48, 16, 1), nn.Linear(16, 5)
        for layer in (self.stem, self.deep, self.wide):  # hard-swish gets values below -3
            layer.weight.data *= 6

    def forward(self, x: Tensor) -> Tensor:
        x = functional.max_pool2d(functional.relu6(self.stem(x)), 2)
        y = functional.hardswish(self.deep(x)) + x
        y = functional.hardswish(self.wide(y))
        y = y * functional.hardsigmoid(self.gate(y.mean((2, 3), keepdim=True)))
        return self.head(self.out(torch.cat((x, y), 1)).mean((2, 3)))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Target], tuple[Path, Array]]:
    """The file of the network for a target, and samples."""

    @lru_cache
    def make(target: Target) -> tuple[Path, Array]:
        torch.manual_seed(0)
        x = np.random.default_rng(0).normal(scale=2, size=(12, *SHAPE)).astype(np.float32)
        program = capture(Mobile().eval(), {"x": torch.from_numpy(x[:4])})
        options = QuantizeOptions(method="minmax", first_layer="int8", correction=("none",))
        path = tmp_path_factory.mktemp("signed") / f"{target}.onnx"
        save_program(quantize_program(program, options, ArraySplit({"x": x}), target), path.with_suffix(".pt2"))
        onnx.save(to_onnx(path.with_suffix(".pt2"), target=target), path)
        return path, x

    return make


def types(path: Path) -> set[int]:
    """The types of all constants."""
    return {item.data_type for item in onnx.load(path).graph.initializer}


def test_nothing_is_unsigned_in_a_file_for_arm(made: Callable[[Target], tuple[Path, Array]]) -> None:
    """All codes are INT8; in the file for `cpu`, those of activations are UINT8."""
    assert onnx.TensorProto.UINT8 in types(made("cpu")[0])
    assert onnx.TensorProto.UINT8 not in types(made("arm")[0])


@pytest.mark.parametrize("signed", [False, True])
def test_arm_has_the_numbers_of_cpu(made: Callable[[Target], tuple[Path, Array]], signed: bool) -> None:
    """Both files give the same outputs bit for bit, in the kernels for INT8 and in those that x86 takes instead."""
    (cpu, x), (arm, _) = made("cpu"), made("arm")
    wanted = open_session(cpu).run({"x": x})["output"]
    found = open_session(arm, SessionOptions(signed=signed)).run({"x": x})["output"]
    assert np.array_equal(found, wanted)
    assert np.ptp(found) > 0


def test_arm_has_the_integer_kernels_of_cpu(made: Callable[[Target], tuple[Path, Array]]) -> None:
    """Every heavy node is integer, gates are clipped codes, and values are quantized once, at the input."""
    cpu, arm = integer_kernels(made("cpu")[0]), integer_kernels(made("arm")[0], signed=True)
    assert arm == cpu
    assert arm.floating == {}
    assert arm.integer == {"QGemm": 1, "QLinearConv": 5}
    assert arm.conversions == {"QuantizeLinear": 1}
    graph = onnx.load(made("arm")[0]).graph
    codes = {item.name for item in graph.initializer if item.data_type == onnx.TensorProto.INT8}
    assert sum(node.op_type == "Clip" and node.input[1] in codes for node in graph.node) == 2
