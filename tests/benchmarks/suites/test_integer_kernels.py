"""The suite of kernel limits: it measures what the code decides, and both sides of a row are what they say."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from retort.benchmarks.suites.integer_kernels import CASES, Case, Place, chain, contradicts
from retort.compress.capture.capture_program import capture
from retort.compress.graph.module_edit import shapes_of
from retort.compress.program import Program
from retort.compress.quantization.operator_classes import weighted
from retort.compress.quantization.placement import kernel_limits
from retort.core.aten_names import CONVOLUTIONS, name_of
from retort.core.metrics.ratio import Ratio


def one_layer(case: Case) -> Program:
    """The layer in question as a program."""
    layer = case.layers[case.tested]
    if len(layer.weight) == 2:
        return capture(nn.Linear(layer.weight[1], layer.weight[0]), {"x": torch.randn(2, layer.weight[1])})
    outputs, per_group, kernel, _ = layer.weight
    net = nn.Conv2d(per_group * layer.groups, outputs, kernel, layer.stride, kernel // 2, groups=layer.groups)
    return capture(net, {"x": torch.randn(2, per_group * layer.groups, 8, 8)})


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_suite_states_where_the_code_places_a_layer(case: Case) -> None:
    """The column `placed in` of every row is what the limits of `cpu` decide for such a layer."""
    program, layer = one_layer(case), case.layers[case.tested]
    shapes = shapes_of(program)
    node = next(node for node in program.module.graph.nodes if name_of(node) in (*CONVOLUTIONS, "linear"))
    if len(layer.weight) == 2:
        reason = kernel_limits.slow_last_layer(torch.Size(layer.weight))
    elif case.tested == 0:
        reason = kernel_limits.slow_first_layer(node, torch.Size(layer.weight))
    else:
        reason = kernel_limits.reason(node, weighted(node), "cpu", shapes)
    assert case.placed == ("int8" if reason is None else "fp32"), reason


@pytest.mark.parametrize(("place", "integer"), [("int8", 3), ("fp32", 2)])
def test_only_the_layer_in_question_is_in_floating_point(place: Place, integer: int, tmp_path: Path) -> None:
    """ONNX Runtime runs all of the chain in integer kernels, or all but that layer."""
    case = next(case for case in CASES if case.name == "8 channels per group, 3x3")
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(tmp_path / "run.onnx"), 4
    onnxruntime.InferenceSession(chain(case, place).SerializeToString(), options, ["CPUExecutionProvider"])
    counts = Counter(node.op_type for node in onnx.load(str(tmp_path / "run.onnx")).graph.node)
    assert counts["QLinearConv"] == integer
    assert sum(counts[name] for name in ("Conv", "FusedConv")) == 3 - integer


def test_only_a_sure_difference_contradicts_the_code() -> None:
    """A row is marked where this machine is surely faster with the layer elsewhere, and not where it cannot tell."""
    fp32 = next(case for case in CASES if case.placed == "fp32")
    int8 = next(case for case in CASES if case.placed == "int8")

    def ratio(low: float, high: float) -> Ratio:
        return Ratio((low * high) ** 0.5, low, high, 0.95, rounds=20)

    assert contradicts(fp32, ratio(1.2, 1.3))
    assert contradicts(int8, ratio(0.7, 0.8))
    assert not contradicts(fp32, ratio(0.7, 0.8))
    assert not contradicts(int8, ratio(0.9, 1.1))
