"""Placement by time: segments, the solver, the choice between timed candidates, and the resulting program."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import yaml
from torch import nn

from retort.compress.capture.capture_program import capture
from retort.compress.program import Program, reexport, save_program
from retort.compress.quantization import quantize_program
from retort.compress.quantization.mixed_precision.partial_quantization import units_of
from retort.compress.quantization.mixed_precision.plan import _prices
from retort.compress.quantization.mixed_precision.segments import Segment, fastest, placements, segments, weights_of
from retort.core.artifact import Artifact, load_artifact
from retort.core.context import Context, Place
from retort.core.data.splits import ArraySplit, Splits
from retort.core.metrics.ratio import Ratio
from retort.core.options.stage_options import ExportOptions, QuantizeOptions
from retort.export.ort import layer_times as layer_times_module
from retort.export.ort.layer_times import conversion_ms, layer_times
from retort.export.translate import to_onnx
from retort.pipeline import stages
from retort.pipeline.tuning import mixed_precision

ROUGH = QuantizeOptions(method="minmax", correction=("none",), smooth=False, samples=8, batch_size=8, timed=False)


def ratio(value: float, low: float | None, high: float | None) -> Ratio:
    """A measured ratio to FP32."""
    return Ratio(value, low, high, 0.95)


class Net(nn.Module):
    """A residual block between two convolutions, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.left = nn.Conv2d(3, 16, 3, 3), nn.Conv2d(16, 16, 3, 1, 1)
        self.right, self.out = nn.Conv2d(16, 16, 3, 1, 1), nn.Conv2d(16, 24, 1)
        self.head = nn.Linear(24, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        x = torch.relu(x + self.right(torch.relu(self.left(x))))
        return self.head(torch.relu(self.out(x)).mean((2, 3)))


@pytest.fixture(autouse=True)
def few_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers are timed with few repetitions."""
    monkeypatch.setattr(layer_times_module, "_MOST_RUNS", 20)


@pytest.fixture(scope="module")
def program() -> Program:
    torch.manual_seed(0)
    return capture(Net().eval(), {"x": torch.randn(2, 3, 12, 12)})


@pytest.fixture(scope="module")
def splits() -> Splits:
    values = np.random.default_rng(0).normal(size=(16, 3, 12, 12)).astype(np.float32)
    split = ArraySplit({"x": values}, np.zeros(16, np.int64))
    return Splits(split, split, split, split)


@pytest.fixture(scope="module")
def quantized(program: Program, splits: Splits) -> Program:
    return quantize_program(program, ROUGH, splits.calibration, "cpu")


@pytest.fixture(scope="module")
def parent(program: Program, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    path = tmp_path_factory.mktemp("placing") / "net.pt2"
    save_program(program, path)
    return load_artifact(path)


def test_a_program_is_cut_where_one_tensor_passes(quantized: Program) -> None:
    """A residual block is one segment, and so are the layers before and after it; sizes are of boundary tensors."""
    parts = segments(quantized)
    assert [part.layers for part in parts] == [("stem",), ("left", "right"), ("out",), ("head",)]
    assert [part.values for part in parts] == [16 * 16, 16 * 16, 24, 0]
    assert {name for part in parts for name in part.units} == {unit.name for unit in units_of(quantized)}
    assert "add" in parts[1].units


def test_the_solver_finds_what_trying_everything_finds() -> None:
    """Dynamic programming finds the minimum of times and conversions over all 2^n placements."""
    random = np.random.default_rng(0)
    for _ in range(30):
        floating, integer, crossing = random.uniform(0, 3, (3, 6))

        def cost(
            floats: tuple[int, ...],
            times: tuple[np.ndarray, np.ndarray] = (floating, integer),
            change: np.ndarray = crossing,
        ) -> float:
            spent = sum(times[0][i] if i in floats else times[1][i] for i in range(6))
            return float(spent + sum(change[i] for i in range(5) if (i in floats) != (i + 1 in floats)))

        every = [tuple(c) for size in range(7) for c in itertools.combinations(range(6), size)]
        assert cost(tuple(fastest(list(floating), list(integer), list(crossing)))) == pytest.approx(
            min(map(cost, every))
        )


def test_choices_leave_out_what_needs_no_search() -> None:
    """A slow segment is proposed for floating point; a placement of all or nothing is not proposed."""
    parts = [Segment(("a",), ("a",), 4), Segment(("b",), ("b", "add"), 4), Segment(("c",), (), 0)]
    exact = {1: {"a": 1.0, "b": 1.0, "c": 1.0}, 32: {"a": 9.0, "b": 9.0, "c": 9.0}}
    mixed = {1: {"a": 0.5, "b": 3.0, "c": 1.0}, 32: {"a": 3.0, "b": 20.0, "c": 9.0}}
    crossing = {1: [0.1, 0.1, 0.0], 32: [0.1, 0.1, 0.0]}
    assert placements(parts, exact, mixed, crossing) == [["b", "add"]]
    assert placements(parts, exact, exact, crossing) == []
    assert placements(parts, exact, {1: {"a": 0.1, "b": 0.1}, 32: {"a": 0.1, "b": 0.1}}, crossing) == []


@pytest.mark.parametrize(
    ("speeds", "kept"),
    [
        (
            {
                "int8": {1: ratio(0.9, 0.88, 0.92), 32: ratio(1.5, 1.4, 1.6)},
                "0": {1: ratio(1.0, 0.98, 1.02), 32: ratio(1.2, 1.1, 1.3)},
            },
            "0",
        ),
        (
            {
                "int8": {1: ratio(1.1, 1.0, 1.2), 32: ratio(1.5, 1.4, 1.6)},
                "0": {1: ratio(1.2, 1.1, 1.3), 32: ratio(1.1, 1.0, 1.2)},
            },
            "int8",
        ),
        ({"int8": {1: ratio(0.9, 0.8, 0.95)}, "0": {1: ratio(0.93, 0.9, 0.96)}}, "int8"),
        ({"int8": {1: ratio(0.9, 0.8, 0.95)}, "0": {1: ratio(1.003, 0.99, 1.01)}}, "int8"),
        ({"int8": {1: ratio(0.9, 0.8, 0.95)}, "0": {1: ratio(1.8, 1.7, 1.9), 32: ratio(0.7, None, None)}}, "int8"),
        ({"int8": {1: ratio(0.9, 0.8, 0.95)}, "0": {1: replace(ratio(1.8, 1.7, 1.9), doubts=("busy",))}}, "int8"),
        ({"int8": {1: ratio(0.9, 0.8, 0.95)}, "0": {1: ratio(1.2, 1.1, 1.3)}, "1": {1: ratio(1.3, 1.2, 1.4)}}, "1"),
    ],
)
def test_nowhere_slower_comes_before_faster_on_average(speeds: Mapping[str, Mapping[int, Ratio]], kept: str) -> None:
    """A placement that is slower somewhere is rejected; of the others the mean decides; a tie or noise is no gain."""
    assert mixed_precision.decide(speeds) == kept


def owning(*layers: str) -> dict[str, str]:
    """Layers whose weights' names begin with theirs."""
    return {name: f"{name}." for name in layers}


def test_layers_are_timed_under_their_own_names(program: Program, quantized: Program) -> None:
    """Every layer of the FP32 and of the INT8 file has a time, and no other node has one."""
    feeds = {"x": np.zeros((2, 3, 12, 12), np.float32)}
    for item in (program, quantized):
        times = layer_times(
            to_onnx(reexport(item), item.signature, "cpu"), owning("stem", "left", "right", "out", "head"), feeds
        )
        assert set(times) == {"stem", "left", "right", "out", "head"}
        assert all(np.isfinite(value) and value >= 0 for value in times.values())
    assert all(value >= 0 for value in conversion_ms())


class Fused(nn.Module):
    """A file of it has a Gemm that ONNX Runtime fuses with a Relu under a name of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.wide, self.head = nn.Conv2d(3, 8, 3), nn.Linear(800, 64), nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[N, 3, 12, 12]`` to ``[N, 10]``."""
        hidden: torch.Tensor = self.head(torch.relu(self.wide(torch.relu(self.conv(x)).flatten(1))))
        return hidden


def test_a_fused_layer_has_its_time() -> None:
    """A Gemm with a Relu is timed as its layer, not as the layer before it."""
    net = capture(Fused(), {"x": torch.randn(2, 3, 12, 12)})
    model = to_onnx(reexport(net), net.signature, "cpu")
    times = layer_times(model, owning("conv", "wide", "head"), {"x": np.zeros((32, 3, 12, 12), np.float32)})
    assert set(times) == {"conv", "wide", "head"}
    assert times["wide"] > times["head"]


class Bare(nn.Module):
    """Its weights are its own, and have no layer in their names, as in files of other exporters."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel, self.matrix = nn.Parameter(torch.randn(8, 8, 3, 3)), nn.Parameter(torch.randn(10, 288))
        self.stem = nn.Conv2d(3, 8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[N, 3, 12, 12]`` to ``[N, 10]``."""
        hidden = torch.relu(nn.functional.conv2d(torch.relu(self.stem(x)), self.kernel))
        return nn.functional.linear(hidden.flatten(1), self.matrix)


def test_weights_without_the_name_of_a_layer_are_known() -> None:
    """A layer without a module of its own is timed by the whole name of its weight."""
    net = capture(Bare(), {"x": torch.randn(2, 3, 12, 12)})
    split = ArraySplit({"x": np.random.default_rng(0).normal(size=(16, 3, 12, 12)).astype(np.float32)})
    made = quantize_program(net, QuantizeOptions(), split, "cpu")
    layers = weights_of(segments(made))
    assert layers == {"stem": "stem.", "conv2d_1": "kernel", "linear": "matrix"}
    feeds = {"x": np.zeros((2, 3, 12, 12), np.float32)}
    for item in (net, made):
        assert set(layer_times(to_onnx(reexport(item), item.signature, "cpu"), layers, feeds)) == set(layers)


def test_weights_without_the_name_of_a_layer_are_found(quantized: Program) -> None:
    """Other exporters call weights onnx::Conv_29; the layer is then found by the name of its weight, in INT8, too."""
    model = to_onnx(reexport(quantized), quantized.signature, "cpu")
    text = model.SerializeToString().replace(b"left.weight", b"onnx__Con29")
    layers = {**owning("stem", "left", "right", "out", "head"), "left": "onnx__Con29"}
    found = layer_times(onnx.load_from_string(text), layers, {"x": np.zeros((2, 3, 12, 12), np.float32)})
    assert set(found) == {"stem", "left", "right", "out", "head"}


@pytest.mark.parametrize(
    ("exact", "integer", "words"),
    [
        ({"a": 0.004}, {"a": 0.006}, "its segment takes 0.006 ms in INT8 and 0.004 ms in FP32 at batch 1"),
        ({"a": 0.0}, {"a": 0.006}, "its segment takes 0.006 ms in INT8 and less than 0.001 ms in FP32 at batch 1"),
        ({}, {"a": 0.006}, "the model is faster with its segment in FP32, which could not be timed alone"),
    ],
)
def test_no_time_is_told_that_was_not_measured(exact: dict[str, float], integer: dict[str, float], words: str) -> None:
    """Zero is below what can be told apart, and a layer without a time is no layer of 0 ms."""
    parts = [Segment(("a",), ("a",), 4, ("a.",))]
    assert mixed_precision._reason("a", parts, ({1: exact}, {1: integer})) == f"for speed: {words}"


def test_the_reason_is_told_at_the_batch_size_where_it_holds() -> None:
    """If INT8 is faster at batch 1 and slower at batch 32, the times are those at batch 32."""
    parts = [Segment(("a",), ("a",), 4, ("a.",))]
    times = ({1: {"a": 0.004}, 32: {"a": 0.1}}, {1: {"a": 0.002}, 32: {"a": 0.2}})
    assert mixed_precision._reason("a", parts, times).endswith("0.200 ms in INT8 and 0.100 ms in FP32 at batch 32")


@pytest.mark.slow
def test_recurrent_layers_are_told_by_their_order() -> None:
    """The exporter packs their weights under new names; their times are still assigned to them."""
    net = nn.Sequential(nn.LSTM(4, 6, batch_first=True))
    net_program = capture(net, {"x": torch.randn(2, 3, 4)})
    model = to_onnx(reexport(net_program), net_program.signature, "cpu")
    assert set(layer_times(model, owning("0"), {"x": np.zeros((2, 3, 4), np.float32)})) == {"0"}


def test_a_search_names_what_is_faster_in_floating_point(
    parent: Artifact, splits: Splits, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """On a machine on which the block is slow in INT8, it stays in FP32, with the reason, in a plan for later runs."""
    context = Context(splits, scratch=tmp_path / "scratch")
    _pretend(monkeypatch, slow="left")
    found = mixed_precision.search(parent, ROUGH, splits, context.console)
    assert {"left", "right"} <= set(found.float) < {"left", "right", "add", "stem"}
    assert "in INT8 and" in found.float["left"]
    made = stages.quantize(
        ROUGH.model_copy(update={"float_layers": found.float}), parent, Place(tmp_path / "int8"), context
    )
    reasons = {node["layer"]: node["reason"] for node in made.facts["float_nodes"]}
    assert reasons["right"].startswith("for speed")
    assert made.facts["float_for_speed"] == found.float
    plan = yaml.safe_load((made.path / "plan.yaml").read_text())["layers"]
    assert {name for name, form in plan.items() if form == "float"} == set(found.float)
    again = ROUGH.model_copy(update={"plan": str(made.path / "plan.yaml")})
    replayed = stages.quantize(again, parent, Place(tmp_path / "replayed"), context)
    assert [node["layer"] for node in replayed.facts["float_nodes"]] == [*reasons]
    graph = stages.export(ExportOptions(), made, Place(tmp_path / "file"), context)
    assert graph.facts["kernels"]["integer"] == {"QLinearConv": 2, "QGemm": 1}
    assert graph.facts["kernels"]["unfused_names"] in ([], ())


class Pooled(nn.Module):
    """A first convolution that usually stays in FP32, in front of a MaxPool that is slow in INT8 behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.out, self.head = nn.Conv2d(3, 16, 3, 1, 1), nn.Conv2d(16, 24, 3), nn.Linear(24, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.max_pool2d(torch.relu(self.stem(x)), 2)
        return self.head(torch.relu(self.out(x)).mean((2, 3)))


@pytest.mark.parametrize(("faster", "chosen"), [(1.3, "int8"), pytest.param(0.8, "auto", marks=pytest.mark.slow)])
def test_the_first_layer_is_tried_in_int8_where_int8_is_slow(
    splits: Splits, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, faster: float, chosen: str
) -> None:
    """The rule for first layers is only where the search starts: the measured time decides, also for the program."""
    torch.manual_seed(0)
    save_program(capture(Pooled().eval(), {"x": torch.randn(2, 3, 12, 12)}), tmp_path / "net.pt2")
    parent = load_artifact(tmp_path / "net.pt2")

    def compared(files: Mapping[str, onnx.ModelProto], *_: object) -> dict[str, dict[int, Ratio]]:
        found: dict[str, dict[int, Ratio]] = {}
        for name, model in files.items():
            integer = any(node.op_type == "QuantizeLinear" and node.input[0] == "x" for node in model.graph.node)
            value = faster if integer else 0.7
            found |= {name: {1: ratio(value, value - 0.05, value + 0.05)}} if name != "fp32" else {}
        return found

    monkeypatch.setattr(mixed_precision, "_compared", compared)
    found = mixed_precision.search(parent, ROUGH, splits, Context(splits).console)
    assert found.first_layer == chosen
    assert {tried.first_layer for tried in found.tried} == {"auto", "int8"}
    options = found.applied_to(ROUGH)
    assert options.first_layer == chosen
    made = stages.quantize(options, parent, Place(tmp_path / "int8"), Context(splits))
    assert ("stem" in {node["layer"] for node in made.facts["float_nodes"]}) is (chosen == "auto")
    kept = ROUGH.model_copy(update={"first_layer": "float"})
    assert found.applied_to(kept).first_layer == "float", "what the user chose stays"


def _pretend(monkeypatch: pytest.MonkeyPatch, slow: str) -> None:
    """A simulated machine on which one layer takes three times as long in INT8, and all others half as long."""

    def times(model: onnx.ModelProto, layers: list[str], feeds: Mapping[int, object]) -> dict[int, dict[str, float]]:
        if not any(node.op_type == "QuantizeLinear" for node in model.graph.node):
            return {batch: dict.fromkeys(layers, 1.0) for batch in feeds}
        return {batch: dict.fromkeys(layers, 0.5) | {slow: 3.0} for batch in feeds}

    def compared(files: Mapping[str, object], *_: object) -> dict[str, dict[int, Ratio]]:
        fast, lost = ratio(1.5, 1.4, 1.6), ratio(0.7, 0.6, 0.8)
        return {name: {1: lost if name == "int8" else fast, 32: fast} for name in files if name != "fp32"}

    monkeypatch.setattr(mixed_precision, "_times", times)
    monkeypatch.setattr(mixed_precision, "_compared", compared)


def test_prices_are_measured_where_they_can_be(quantized: Program) -> None:
    """A layer that is not faster in INT8 costs almost nothing; a layer without a time costs by its operations."""
    units = units_of(quantized)
    prices = _prices(units, {"stem": 0.4, "left": -0.1, "right": 0.2})
    assert prices["left"] < 0.01 * prices["right"] < prices["stem"]
    assert prices["add"] > prices["left"]
    replaced = _prices([replace(units[0], cost=7)], {})
    assert replaced == {units[0].name: 7}


def test_few_samples_are_enough_for_the_prices_of_layers(parent: Artifact, program: Program) -> None:
    """Mixed precision times layers with a calibration set that is smaller than its batch."""
    values = np.random.default_rng(0).normal(size=(4, 3, 12, 12)).astype(np.float32)
    few = ArraySplit({"x": values}, np.zeros(4, np.int64))
    made = mixed_precision._quick(program, ROUGH, Splits(few, few, few, few), ())
    prices = mixed_precision.gains_of(parent, ROUGH, Splits(few, few, few, few))(made)
    assert prices
    assert all(math.isfinite(value) for value in prices.values())
