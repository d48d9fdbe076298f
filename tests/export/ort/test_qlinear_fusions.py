"""Forms for ONNX Runtime's CPU kernels: gates as sums, depthwise channels in whole vectors, equal outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from retort.compress.capture.capture_program import capture
from retort.compress.program import Program, predict, save_program
from retort.compress.quantization import quantize_program
from retort.core.data.splits import ArraySplit
from retort.core.options.stage_options import QuantizeOptions, Target
from retort.core.session import open_session
from retort.export.ort import qlinear_fusions
from retort.export.ort.depthwise_padding import widen_depthwise
from retort.export.ort.kernels import integer_kernels, optimized
from retort.export.simplify import Pass
from retort.export.translate import to_onnx

Form = tuple[NDArray[Any], Program, Path]
Made = Callable[..., Form]


class Mobile(nn.Module):
    """Expand, depthwise, squeeze-and-excite, project, with hard-swish; 40 channels do not fill whole vectors."""

    def __init__(self, tail: bool) -> None:
        super().__init__()
        self.expand, self.deep = nn.Conv2d(3, 40, 1), nn.Conv2d(40, 40, 3, 1, 1, groups=40)
        self.down, self.up, self.project = nn.Conv2d(40, 8, 1), nn.Conv2d(8, 40, 1), nn.Conv2d(40, 24, 1)
        self.tail, self.head = tail, nn.Linear(40 if tail else 24, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.hardswish(self.deep(functional.hardswish(self.expand(x))))
        y = y * functional.hardsigmoid(self.up(functional.relu(self.down(functional.adaptive_avg_pool2d(y, 1)))))
        return self.head((y if self.tail else self.project(y)).mean((2, 3)))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """For each form of the network: samples, the quantized program and its file's path."""

    @lru_cache
    def make(tail: bool, target: Target = "cpu", size: float = 1.0) -> Form:
        torch.manual_seed(0)
        x = size * torch.randn(16, 3, 12, 12)
        program = capture(Mobile(tail).eval(), {"x": x[:4]})
        options = QuantizeOptions(method="minmax", first_layer="int8", correction=("none",))
        result = quantize_program(program, options, ArraySplit({"x": x.numpy()}), target)
        path = tmp_path_factory.mktemp("forms") / "model.pt2"
        save_program(result, path)
        return x.numpy(), result, path

    return make


def write(path: Path, passes: Sequence[Pass], monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that a set of passes gives."""
    monkeypatch.setattr("retort.export.translate.CPU_FORMS", passes)
    target = path.with_name(f"{len(passes)}.onnx")
    onnx.save(to_onnx(path, target="cpu"), target)
    return target


def without(*names: str) -> tuple[Pass, ...]:
    return tuple(item for item in qlinear_fusions.CPU_FORMS if item.__name__ not in names)


def depthwise_groups(path: Path) -> list[int]:
    nodes = onnx.load(path).graph.node
    found = [a.i for node in nodes if node.op_type == "Conv" for a in node.attribute if a.name == "group"]
    return [group for group in found if group > 1]


def test_gates_as_sums_change_no_bit_and_leave_no_conversion(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hard-sigmoid of codes becomes an integer sum: the outputs are bit-identical, and nothing is dequantized."""
    x, _, path = made(False, size=0.3)
    plain, summed = (
        write(path, without("gates_by_sum"), monkeypatch),
        write(path, qlinear_fusions.CPU_FORMS, monkeypatch),
    )
    one, two = (open_session(item).run({"x": x})["output"] for item in (plain, summed))
    assert np.array_equal(one, two)
    assert integer_kernels(plain).conversions["DequantizeLinear"] == 2
    kernels = integer_kernels(summed)
    assert kernels.conversions == {"QuantizeLinear": 1}
    assert kernels.integer_light == {"QLinearAdd": 2, "QLinearGlobalAveragePool": 2, "QLinearMul": 3}


def test_hard_swish_multiplies_codes_with_their_own_clipped_codes(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """If its input goes below -3, the gate is a Clip of codes: the same outputs without a sum or conversion."""
    x, result, path = made(False, size=20.0)
    target = write(path, qlinear_fusions.CPU_FORMS, monkeypatch)
    kernels = integer_kernels(target)
    assert kernels.conversions == {"QuantizeLinear": 1}
    assert kernels.integer_light == {"QLinearGlobalAveragePool": 2, "QLinearMul": 3}
    assert [node.op_type for node in optimized(target).graph.node].count("Clip") == 2
    expected = predict(result, ArraySplit({"x": x}))["output"]
    assert np.abs(open_session(target).run({"x": x})["output"] - expected).max() <= 0.02 * np.abs(expected).max()


def test_the_last_pooling_stays_channels_last(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime transposes only before the first convolution, not before the pooling of the head."""
    _, _, path = made(False)
    counts = []
    for passes in (without("pools_channels_last"), qlinear_fusions.CPU_FORMS):
        nodes = optimized(write(path, passes, monkeypatch)).graph.node
        counts.append([node.op_type for node in nodes].count("Transpose"))
    assert counts == [2, 1]


def test_gates_of_a_program_placed_for_tensorrt_keep_their_numbers_on_cpu(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gate on the symmetric grid of another target is converted to the CPU's: file and program agree."""
    x, result, path = made(False, "tensorrt")
    found = open_session(write(path, qlinear_fusions.CPU_FORMS, monkeypatch)).run({"x": x})["output"]
    expected = predict(result, ArraySplit({"x": x}))["output"]
    assert np.abs(found - expected).max() <= 0.05 * np.abs(expected).max()


def test_depthwise_channels_are_widened_to_whole_vectors_without_changing_a_bit(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    """40 channels become 48 in the convolution that computes them and in the one that reads them; outputs are equal."""
    x, _, path = made(False)
    narrow, wide = (
        write(path, without("widen_depthwise"), monkeypatch),
        write(path, qlinear_fusions.CPU_FORMS, monkeypatch),
    )
    assert (depthwise_groups(narrow), depthwise_groups(wide)) == ([40], [48])
    one, two = (open_session(item).run({"x": x})["output"] for item in (narrow, wide))
    assert np.array_equal(one, two)
    onnx.checker.check_model(str(wide), full_check=True)


def test_channels_that_something_else_reads_stay_as_they_are(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a linear layer reads the depthwise channels, nothing is widened, and the file is the same."""
    x, result, path = made(True)
    wide = write(path, qlinear_fusions.CPU_FORMS, monkeypatch)
    assert depthwise_groups(wide) == [40]
    expected = predict(result, ArraySplit({"x": x}))["output"]
    assert np.abs(open_session(wide).run({"x": x})["output"] - expected).max() <= 0.02 * np.abs(expected).max()


def test_a_model_in_floating_point_is_not_widened(tmp_path: Path) -> None:
    """Only integer depthwise convolutions are faster with more channels; FP32 ones are not changed."""
    save_program(capture(Mobile(False).eval(), {"x": torch.randn(4, 3, 12, 12)}), tmp_path / "model.pt2")
    assert not widen_depthwise(ir.from_proto(to_onnx(tmp_path / "model.pt2", target="cpu")))[1]


@pytest.mark.parametrize(("policy", "stays"), [("auto", ["stem"]), ("int8", []), ("float", ["stem"])])
def test_the_first_layer_stays_in_fp32_where_integers_are_slower(
    policy: Literal["auto", "int8", "float"], stays: list[str]
) -> None:
    """`auto` leaves a 3x3 convolution from 3 to 16 channels in FP32, with the reason; `int8` and `float` decide."""
    model = nn.Sequential()
    model.stem, model.act, model.body = nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 16, 3)
    model.flat, model.head = nn.Flatten(), nn.Linear(256, 4)
    x = torch.randn(16, 3, 12, 12)
    options = QuantizeOptions(method="minmax", first_layer=policy, correction=("none",))
    result = quantize_program(capture(model.eval(), {"x": x[:4]}), options, ArraySplit({"x": x.numpy()}), "cpu")
    left = result.meta["quantization"]["float_nodes"]
    assert [item["layer"] for item in left] == stays
    assert all("first_layer" in item["reason"] or "slower than FP32" in item["reason"] for item in left)


def test_the_last_layer_can_stay_in_fp32() -> None:
    """`last_layer: float` leaves only the last layer in FP32."""
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4))
    x = torch.randn(16, 8)
    options = QuantizeOptions(method="minmax", last_layer="float", correction=("none",))
    result = quantize_program(capture(model.eval(), {"x": x[:4]}), options, ArraySplit({"x": x.numpy()}), "cpu")
    assert [item["layer"] for item in result.meta["quantization"]["float_nodes"]] == ["4"]
