"""Matrix products quantized at run time: the kernels of the file, agreement with the program, dependent rows."""

from __future__ import annotations

import functools

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from retort.compress.capture.capture_program import capture
from retort.compress.program import Program, load_program, predict, reexport, save_program
from retort.compress.quantization import quantize_program
from retort.compress.quantization.mixed_precision.partial_quantization import units_of
from retort.compress.quantization.mixed_precision.sensitivity import sensitivity
from retort.core.backends.fake_quantize import dynamic_qdq
from retort.core.data.splits import ArraySplit
from retort.core.errors import ArtifactError, UserError
from retort.core.metrics.task_metrics import sqnr_db
from retort.core.options.stage_options import QuantizeOptions
from retort.core.session import open_session
from retort.export.translate import to_onnx

WIDTH, STEPS = 32, 9
OPTIONS = QuantizeOptions(method="minmax", correction=("none",), form="dynamic")


class Encoder(nn.Module):
    """One Transformer layer, two projections that read the same tensor, and a head of rank 2."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(WIDTH, 4, 64, dropout=0.0, batch_first=True, activation="gelu")
        self.left, self.right = nn.Linear(WIDTH, 16, bias=False), nn.Linear(WIDTH, 16)
        self.head = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.layer(x)
        return self.head((self.left(y) + self.right(y)).mean(1))


def _series(rows: int, seed: int = 0) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(seed).normal(size=(rows, STEPS, WIDTH)).astype(np.float32)}


@functools.cache
def _programs() -> tuple[Program, Program]:
    torch.manual_seed(0)
    program = capture(Encoder(), {"x": torch.zeros(2, STEPS, WIDTH)})
    return program, quantize_program(program, OPTIONS, ArraySplit(_series(32), None), "cpu")


@functools.cache
def _file() -> bytes:
    _, quantized = _programs()
    model = to_onnx(reexport(quantized), quantized.signature)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def _one(outputs: dict[str, np.ndarray]) -> np.ndarray:
    return next(iter(outputs.values()))


def test_the_op_is_onnx_dynamic_quantize_linear() -> None:
    """Codes, scale and zero point follow the standard: 0 is on the grid; constants and zeros are correct."""
    values = torch.tensor([[0.5, -1.0, 2.0], [0.1, 0.0, 1.99]])
    scale = 3.0 / 255
    zero = round(1.0 / scale)
    wanted = ((values / scale).round() + zero).clamp(0, 255).sub(zero) * scale
    torch.testing.assert_close(dynamic_qdq(values), wanted)
    torch.testing.assert_close(dynamic_qdq(torch.zeros(3)), torch.zeros(3))
    torch.testing.assert_close(dynamic_qdq(torch.full((3,), -2.0)), torch.full((3,), -2.0))
    values.requires_grad_()
    dynamic_qdq(values).sum().backward()
    assert values.grad is not None
    assert bool((values.grad == 1).all())


def test_every_product_with_a_weight_is_integer_and_quantizes_its_input_once() -> None:
    """There are six products that read five tensors, and only attention's two products are floating-point."""
    operators = [node.op_type for node in onnx.load_from_string(_file()).graph.node]
    assert operators.count("MatMulIntegerToFloat") == 7
    assert operators.count("DynamicQuantizeLinear") == 6
    assert operators.count("MatMul") == 2
    assert "Gemm" not in operators
    assert _programs()[1].meta["quantization"]["kinds"] == {"linear": 7}


def test_the_file_equals_the_program_and_is_near_fp32() -> None:
    """The program rounds as the kernels do: equal to 80 dB, and within 25 dB of FP32, at another batch size too."""
    program, quantized = _programs()
    for rows in (1, 7):
        feeds = _series(rows, 3)
        split = ArraySplit(feeds, None)
        found = _one(open_session(_file()).run(feeds))
        assert np.abs(found - _one(predict(quantized, split))).max() < 1e-3 * np.abs(found).max()
        assert np.abs(found - _one(predict(program, split))).max() < 0.1 * np.abs(found).max()


def test_rows_depend_on_each_other_and_every_signature_says_so(tmp_path: object) -> None:
    """Next to a row of large values, a row's result changes; program, saved program and file all state this."""
    calm, loud = _series(1, 5)["x"], 30 * _series(1, 6)["x"]
    session = open_session(_file())
    alone, beside = (_one(session.run({"x": np.concatenate(rows)}))[0] for rows in ((calm,), (calm, loud)))
    assert np.abs(alone - beside).max() > 1e-3 * np.abs(alone).max()
    program, quantized = _programs()
    save_program(quantized, tmp_path / "net.pt2")  # type: ignore[operator]
    loaded = load_program(tmp_path / "net.pt2")  # type: ignore[operator]
    assert not any(item.signature.batch_invariant for item in (quantized, loaded, session))
    assert program.signature.batch_invariant


def test_the_corrections_and_the_analysis_know_the_form() -> None:
    """Corrections work, every layer is a unit with its input's rounding, and sensitivity measures each alone."""
    program, quantized = _programs()
    split = ArraySplit(_series(32), None)
    units = units_of(quantized)
    assert [unit.kind for unit in units] == ["linear"] * 7
    assert all(len(unit.quantizers) == 2 for unit in units)
    lines = sensitivity(quantized, quantized, split)
    assert all(line.sqnr_db is None or line.sqnr_db > 20 for line in lines)
    corrected = quantize_program(program, QuantizeOptions(form="dynamic", correction=("hessian", "bias")), split, "cpu")
    assert {rung["rung"] for rung in corrected.meta["quantization"]["correction"]} >= {"hessian", "bias"}
    wanted, before, after = (_one(predict(item, split)) for item in (program, quantized, corrected))
    assert sqnr_db(wanted, after) > sqnr_db(wanted, before) - 1


def test_other_targets_refuse_the_form() -> None:
    """TensorRT has no such kernels: quantizing for it and exporting to it are rejected."""
    program, quantized = _programs()
    with pytest.raises(UserError, match="quantized at run time"):
        quantize_program(program, OPTIONS, ArraySplit(_series(8), None), "tensorrt")
    with pytest.raises(ArtifactError, match="quantizes activations at run time"):
        to_onnx(reexport(quantized), quantized.signature, "tensorrt")
