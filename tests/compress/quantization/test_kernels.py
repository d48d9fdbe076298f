"""ONNX Runtime's kernels for a placement: heavy nodes are integer, and excluded nodes are not quantized."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from retort.compress.capture.capture_program import capture
from retort.compress.program import Program, predict, save_program
from retort.compress.quantization import quantize_program
from retort.core.data.splits import ArraySplit
from retort.core.facts.export_facts import Kernels
from retort.core.options.stage_options import QuantizeOptions
from retort.core.session import open_session
from retort.export.ort.integer_share import integer_share
from retort.export.ort.kernels import integer_kernels
from retort.export.translate import to_onnx


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 and a shortcut."""

    def __init__(self, inputs: int, width: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.a, self.na = nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width)
        self.b, self.nb = nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.c, self.nc = nn.Conv2d(width, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        self.short = nn.Conv2d(inputs, outputs, 1, stride) if stride > 1 or inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.nb(self.b(functional.relu(self.na(self.a(x))))))
        return functional.relu(self.nc(self.c(y)) + self.short(x))


class ResNet(nn.Module):
    """A residual network with pooling between; images of one channel make PyTorch lay tensors out channels last."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, 32, 7, 2, 3, bias=False), nn.BatchNorm2d(32)
        self.body = nn.Sequential(Bottleneck(32, 16, 64), Bottleneck(64, 16, 64), Bottleneck(64, 32, 96, 2))
        self.head = nn.Linear(96, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.max_pool2d(functional.relu(self.norm(self.stem(x))), 3, 2, 1)
        return self.head(self.body(x).mean((2, 3)))


class Excited(nn.Module):
    """Depthwise convolution, ReLU6, SiLU, squeeze-and-excite."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.deep = nn.Conv2d(3, 16, 3, 2, 1), nn.Conv2d(16, 16, 3, 1, 1, groups=16)
        self.down, self.up, self.out = nn.Conv2d(16, 4, 1), nn.Conv2d(4, 16, 1), nn.Conv2d(16, 16, 1)
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu6(self.stem(x))
        y = functional.silu(self.deep(x))
        y = y * torch.sigmoid(self.up(functional.relu(self.down(y.mean((2, 3), keepdim=True)))))
        return self.head((self.out(y) + x).mean((2, 3)))


class Dense(nn.Module):
    """Concatenations with a BatchNorm and ReLU behind each, split and shuffled."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, 1, 1)
        self.norms = nn.ModuleList([nn.BatchNorm2d(16 + 8 * index) for index in range(4)])
        self.convs = nn.ModuleList([nn.Conv2d(16 + 8 * index, 8, 3, 1, 1) for index in range(3)])
        self.head = nn.Linear(20, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for norm, conv in zip(self.norms, self.convs, strict=False):
            x = torch.cat([x, conv(functional.relu(norm(x)))], 1)
        left, right = functional.relu(self.norms[3](x)).chunk(2, 1)
        return self.head(
            functional.adaptive_avg_pool2d(functional.interpolate(left + right, scale_factor=2), 1).flatten(1)
        )


class Signal(nn.Module):
    """A 1d network with average pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Conv1d(3, 16, 5), nn.Conv1d(16, 16, 3), nn.Linear(16 * 7, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.avg_pool1d(functional.hardtanh(self.a(x), -1, 1), 2)
        return self.head(functional.max_pool1d(functional.relu(self.b(x)), 4).flatten(1)[:, : 16 * 7])


class Mlp(nn.Module):
    """Linear layers with ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(32, 64), nn.Linear(64, 64), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(functional.relu(self.b(functional.relu(self.a(x)))))


class LeftOut(nn.Module):
    """Layers that stay in floating point between integer ones: excluded, narrow groups, transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.kept = nn.Conv2d(3, 32, 3, 1, 1), nn.Conv2d(32, 32, 3, 1, 1)
        self.bare, self.grouped = nn.Conv2d(32, 32, 1), nn.Conv2d(32, 32, 3, 1, 1, groups=8)
        self.up, self.out, self.hidden, self.head = (
            nn.ConvTranspose2d(32, 16, 2, 2),
            nn.Conv2d(16, 16, 3, 2, 1),
            nn.Linear(16, 16),
            nn.Linear(16, 10),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.kept(functional.relu(self.stem(x))))
        x = functional.relu6(self.grouped(self.bare(x)))
        x = self.out(functional.relu(self.up(x))).mean((2, 3))
        return self.head(functional.relu(self.hidden(x)))


EXCLUDED = ("kept", "bare", "hidden")
NETWORKS = {
    "residual": (ResNet, (1, 64, 64), {"QLinearConv": 12, "QGemm": 1, "QLinearAdd": 3, "QLinearGlobalAveragePool": 1}),
    "depthwise": (Excited, (3, 32, 32), {"QLinearConv": 5, "QGemm": 1, "QLinearMul": 2, "QLinearSigmoid": 2}),
    "dense": (Dense, (3, 16, 16), {"QLinearConv": 8, "QGemm": 1, "QLinearConcat": 3, "QLinearAdd": 1}),
    "signal": (Signal, (3, 70), {"QLinearConv": 2, "QGemm": 1, "QLinearAveragePool": 1}),
    "mlp": (Mlp, (32,), {"QGemm": 3}),
    "left out": (LeftOut, (3, 16, 16), {"QLinearConv": 2, "QGemm": 1, "QLinearGlobalAveragePool": 1}),
}


@dataclass(frozen=True)
class Case:
    """A network, its quantized program, its file for `cpu`, and data."""

    program: Program
    result: Program
    path: Path
    split: ArraySplit

    def kernels(self) -> Kernels:
        return integer_kernels(self.path)


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Case]:
    """Each network, built and exported at its first use."""

    @lru_cache
    def make(name: str) -> Case:
        torch.manual_seed(0)
        model, shape, _ = NETWORKS[name]
        x = np.random.default_rng(0).normal(size=(24, *shape)).astype(np.float32)
        program = capture(model().eval(), {"x": torch.from_numpy(x[:4])})
        left = EXCLUDED if name == "left out" else ()
        options = QuantizeOptions(method="minmax", exclude=left, first_layer="int8", correction=("none",))
        result = quantize_program(program, options, ArraySplit({"x": x}), "cpu")
        path = tmp_path_factory.mktemp("kernels") / "model.onnx"
        save_program(result, path.with_suffix(".pt2"))
        onnx.save(to_onnx(path.with_suffix(".pt2"), target="cpu"), path)
        return Case(program, result, path, ArraySplit({"x": x}))

    return make


@pytest.mark.parametrize("name", sorted(set(NETWORKS) - {"left out"}))
def test_every_heavy_node_runs_in_an_integer_kernel(cases: Callable[[str], Case], name: str) -> None:
    """No convolution or product is in floating point, and the nodes between them are integer too."""
    kernels = cases(name).kernels()
    wanted = NETWORKS[name][2]
    found = {**kernels.integer, **kernels.integer_light}
    assert kernels.floating == {}
    assert {key: found.get(key) for key in wanted} == wanted


@pytest.mark.parametrize("name", ["residual", "depthwise", "dense", "signal"])
def test_codes_flow_from_the_input_to_the_head(cases: Callable[[str], Case], name: str) -> None:
    """Values are quantized once, at the input, and dequantized once, after the last layer."""
    conversions = cases(name).kernels().conversions
    assert conversions == {"QuantizeLinear": 1}


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_nearly_all_products_run_in_integer_kernels(cases: Callable[[str], Case], name: str) -> None:
    """A profile shows at least 95 % of the multiply-accumulates in integer kernels; every other node has a reason."""
    case = cases(name)
    share = integer_share(case.path, {key: value[:2] for key, value in case.split.inputs.items()})
    named = case.result.meta["quantization"]["float_nodes"]
    assert case.kernels().unfused_names == ()
    if name == "left out":
        assert 0 < share.percent < 95
        assert len(share.floating_nodes) == len(named) == 5
    else:
        assert share.percent >= 95
        assert named == []


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_the_runtime_computes_what_the_program_says(cases: Callable[[str], Case], name: str) -> None:
    """ONNX Runtime's integer kernels agree with PyTorch's fake-quantization, and both are close to FP32."""
    case = cases(name)
    reference, expected = (predict(item, case.split)["output"] for item in (case.program, case.result))
    found = open_session(case.path).run(case.split.inputs)["output"]
    assert np.abs(found - expected).max() <= 0.02 * np.abs(expected).max()
    assert np.abs(found - reference).max() <= 0.1 * np.abs(reference).max()


def test_what_was_left_out_stays_in_floating_point_in_the_runtime(cases: Callable[[str], Case]) -> None:
    """ONNX Runtime quantizes FP32 weights between Q and DQ by itself; it must not do so for excluded layers."""
    case = cases("left out")
    kernels = case.kernels()
    reasons = {item["layer"]: item["reason"] for item in case.result.meta["quantization"]["float_nodes"]}
    assert sorted(reasons) == ["bare", "grouped", "hidden", "kept", "up"]
    assert kernels.floating_heavy == 5
    assert kernels.floating["ConvTranspose"] == 1
    assert {key: kernels.integer[key] for key in ("QLinearConv", "QGemm")} == {"QLinearConv": 2, "QGemm": 1}
