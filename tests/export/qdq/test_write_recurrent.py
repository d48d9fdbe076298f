"""Recurrent networks in INT8: the kernels of their files, their outputs, and rows that depend on each other."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from torch import nn

from retort.compress.capture.capture_program import capture
from retort.compress.onnx_import import import_onnx
from retort.compress.program import Program, load_program, predict, reexport, save_program
from retort.compress.quantization import quantize_program
from retort.compress.quantization.mixed_precision.partial_quantization import units_of
from retort.compress.quantization.mixed_precision.sensitivity import sensitivity
from retort.compress.quantization.operator_classes import is_qdq
from retort.core.artifact import load_artifact
from retort.core.console import Console
from retort.core.context import Place
from retort.core.data.splits import ArraySplit
from retort.core.dynamic_kernels import RecurrentForm
from retort.core.metrics.task_metrics import sqnr_db
from retort.core.options.serving_options import PackOptions
from retort.core.options.stage_options import ExportOptions, QuantizeOptions, Target
from retort.core.session import open_session
from retort.core.signature import Signature
from retort.export.lint import lint
from retort.export.ort.kernels import optimized
from retort.export.stage import write_graph
from retort.export.translate import build, to_onnx
from retort.serve.engine import Engine
from retort.serve.torchserve.archives.archive import write_archive

WIDTH, STEPS = 12, 9
PLAIN = QuantizeOptions(method="minmax", correction=("none",))


class Series(nn.Module):
    """A recurrent classifier of ``[N, T, 12]``."""

    def __init__(self, kind: Callable[..., nn.Module], hidden: int, layers: int = 1, both: bool = False) -> None:
        super().__init__()
        self.body = kind(WIDTH, hidden, layers, batch_first=True, bidirectional=both)
        self.head = nn.Linear(hidden * (2 if both else 1), 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x)[0].mean(1))


def _series(rows: int, steps: int = STEPS, seed: int = 0) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(seed).normal(size=(rows, steps, WIDTH)).astype(np.float32)}


@functools.cache
def _captured(kind: Callable[..., nn.Module], hidden: int, layers: int = 1, both: bool = False) -> Program:
    torch.manual_seed(0)
    net = Series(kind, hidden, layers, both)
    return capture(net, {"x": torch.zeros(2, STEPS, WIDTH)}, dynamic={"x": {1: "time"}})


def _quantized(
    kind: Callable[..., nn.Module],
    hidden: int,
    layers: int = 1,
    both: bool = False,
    options: QuantizeOptions = PLAIN,
    target: Target = "cpu",
) -> Program:
    return _quantized_once(kind, hidden, layers, both, options.model_dump_json(), target)


@functools.cache
def _quantized_once(
    kind: Callable[..., nn.Module], hidden: int, layers: int, both: bool, given: str, target: Target
) -> Program:
    options = QuantizeOptions.model_validate_json(given)
    return quantize_program(_captured(kind, hidden, layers, both), options, ArraySplit(_series(32), None), target)


def _file(program: Program, form: RecurrentForm = "auto") -> bytes:
    return ir.to_proto(build(reexport(program), program.signature, "cpu", None, form)).SerializeToString()


def _run(file: bytes, feeds: dict[str, np.ndarray]) -> np.ndarray:
    return next(iter(open_session(file).run(feeds).values()))


def _operators(file: bytes) -> list[str]:
    return [node.op_type for node in onnx.load_from_string(file).graph.node]


NETS = [
    pytest.param(nn.LSTM, 96, 2, True, "DynamicQuantizeLSTM", id="lstm-two-layers-both-ways"),
    pytest.param(nn.GRU, 384, 1, True, "Scan", id="gru-both-ways"),
]


@pytest.mark.parametrize(("kind", "hidden", "layers", "both", "kernel"), NETS)
def test_wide_layers_compute_in_integers(
    kind: Callable[..., nn.Module], hidden: int, layers: int, both: bool, kernel: str
) -> None:
    """The file has one integer kernel per layer, accepts any length and batch, and has about a quarter of the size."""
    program, quantized = _captured(kind, hidden, layers, both), _quantized(kind, hidden, layers, both)
    plain, file = _file(program), _file(quantized)
    assert _operators(file).count(kernel) == layers * (2 if kernel == "Scan" and both else 1)
    assert len(file) < 0.3 * len(plain)
    for rows, steps in ((1, 1), (5, 23)):
        feeds = _series(rows, steps, 3)
        wanted = _run(plain, feeds)
        assert np.abs(_run(file, feeds) - wanted).max() < 0.03 * np.abs(wanted).max()
    facts = quantized.meta["quantization"]
    assert facts["integer_macs_percent"] == 100.0
    assert facts["kinds"] == {kind.__name__.lower(): 1, "linear": 1}


@pytest.mark.parametrize(("kind", "hidden"), [(nn.LSTM, 32), (nn.GRU, 32), (nn.RNN, 128)])
def test_the_others_keep_fp32_kernels_and_pack_weights(
    kind: Callable[..., nn.Module], hidden: int, tmp_path: Path
) -> None:
    """Their file equals the program to rounding, has INT8 weights, and unpacks them once, when it is loaded."""
    program, quantized = _captured(kind, hidden), _quantized(kind, hidden)
    path = tmp_path / "model.onnx"
    path.write_bytes(_file(quantized))
    feeds = _series(4, 9, 5)
    wanted = next(iter(predict(quantized, ArraySplit(feeds, None)).values()))
    assert sqnr_db(wanted, _run(path.read_bytes(), feeds)) > 40  # the head's integers round on their own
    assert path.stat().st_size < 0.6 * len(_file(program))
    stored = [tensor for tensor in onnx.load(path).graph.initializer if tensor.data_type == onnx.TensorProto.INT8]
    assert sorted(tensor.dims[0] for tensor in stored if len(tensor.dims) == 3) == [1, 1]
    loaded = [node.op_type for node in optimized(path).graph.node]
    assert kind.__name__ in loaded
    assert "Cast" not in loaded
    reason = quantized.meta["quantization"]["float_nodes"][0]
    assert reason["layer"] == "body"
    assert "weights are INT8 in the file and FP32 at run time" in reason["reason"]


def test_the_form_can_be_chosen() -> None:
    """`weights` keeps a wide LSTM in FP32, `integer` makes a narrow one integer; a plain RNN has no such kernel."""
    assert "LSTM" in _operators(_file(_quantized(nn.LSTM, 128), "weights"))
    assert "DynamicQuantizeLSTM" in _operators(_file(_quantized(nn.LSTM, 32), "integer"))
    assert "RNN" in _operators(_file(_quantized(nn.RNN, 128), "integer"))


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_integers_make_rows_depend_on_each_other_and_the_signature_says_so(
    kind: Callable[..., nn.Module],
) -> None:
    """A row of large values changes the result of a row of small values; with FP32 kernels it does not."""
    quantized = _quantized(kind, 32, 1, False, PLAIN.model_copy(update={"exclude": ("head",)}))
    calm, loud = _series(1, 9, 7)["x"], 20 * _series(1, 9, 8)["x"]
    forms: dict[RecurrentForm, bool] = {"integer": True, "weights": False}
    for form, moved in forms.items():
        file = _file(quantized, form)
        alone, beside = (_run(file, {"x": np.concatenate(rows)})[0] for rows in ((calm,), (calm, loud)))
        shift = float(np.abs(alone - beside).max() / np.abs(alone).max())
        assert (shift > 1e-3) == moved, shift
        assert open_session(file).signature.batch_invariant is not moved


def test_old_signatures_are_read_as_independent() -> None:
    """A signature of an earlier version has no entry for this and is read as independent."""
    assert Signature.from_json('{"inputs": [], "outputs": []}').batch_invariant
    told = Signature((), (), batch_invariant=False)
    assert Signature.from_json(told.to_json()) == told


def test_every_stage_states_that_rows_depend_on_each_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Quantized, saved, exported with parity and packed: facts, signature and archive state that rows depend."""
    quantized = _quantized(nn.LSTM, 128)
    save_program(quantized, tmp_path / "net.pt2")
    assert load_program(tmp_path / "net.pt2").meta["quantization"]["kinds"]["lstm"] == 1
    graph = write_graph(ExportOptions(), load_artifact(tmp_path / "net.pt2"), Place(tmp_path / "graph"), _series(16))
    assert graph.facts["batch_invariant"] is False
    assert graph.facts["kernels"]["integer"]["DynamicQuantizeLSTM"] == 1
    assert not Signature.from_json(graph.file("signature.json").read_bytes()).batch_invariant
    archive = write_archive(PackOptions(name="series"), graph, Place(tmp_path / "archive"), console=Console())
    assert archive.facts["batch_invariant"] is False
    assert "influence each other" in capsys.readouterr().err
    engine = Engine.load(archive.path / "bundle")
    assert engine.describe()["signature"]["batch_invariant"] is False
    engine.close()


def test_an_onnx_file_with_an_lstm_is_quantized_as_well(tmp_path: Path) -> None:
    """Imported, quantized and exported, the LSTM of a file has the integer kernel and nearly the same outputs."""
    path = tmp_path / "plain.onnx"
    path.write_bytes(_file(_captured(nn.LSTM, 96, 2, True)))
    imported = import_onnx(path, _series(8))
    file = _file(quantize_program(imported, PLAIN, ArraySplit(_series(32), None), "cpu"))
    assert "DynamicQuantizeLSTM" in _operators(file)
    wanted = _run(path.read_bytes(), _series(3))
    assert sqnr_db(wanted, _run(file, _series(3))) > 25


def test_tensorrt_gets_floating_point_recurrence() -> None:
    """Quantized for TensorRT, recurrent layers are not changed; a program for the CPU is exported there in FP32."""
    made = _quantized(nn.LSTM, 128, target="tensorrt")
    assert "lstm" not in made.meta["quantization"]["kinds"]
    assert "no integer kernel for lstm" in made.meta["quantization"]["float_nodes"][0]["reason"]
    for item in (made, _quantized(nn.LSTM, 128)):
        model = to_onnx(reexport(item), item.signature, "tensorrt")
        assert [finding for finding in lint(model) if finding.verdict != "advice"] == []
        assert "LSTM" in [node.op_type for node in model.graph.node]


def test_inside_the_program_it_is_one_layer_among_others() -> None:
    """Sensitivity, exclusion and fewer bits work for a recurrent layer as for any other layer."""
    quantized = _quantized(nn.LSTM, 128)
    assert [(unit.name, unit.kind) for unit in units_of(quantized)] == [("body", "lstm"), ("head", "linear")]
    assert units_of(quantized)[0].cost == STEPS * 4 * 128 * (WIDTH + 128)
    lines = sensitivity(quantized, quantized, ArraySplit(_series(8), None))
    assert all(line.sqnr_db is not None and line.sqnr_db > 20 for line in lines)
    without = _quantized(nn.LSTM, 128, options=QuantizeOptions(exclude=("body",)))
    assert "lstm" not in without.meta["quantization"]["kinds"]
    narrow = _quantized(nn.LSTM, 128, options=PLAIN.model_copy(update={"weight_bits": 4}))
    limits = {node.args[5] for node in narrow.module.graph.nodes if is_qdq(node) and node.args[3] == 0}
    assert limits == {7}
