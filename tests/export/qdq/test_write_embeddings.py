"""Embedding tables in INT8: the file's nodes, agreement, size, and tables that are not quantized."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from retort.compress.capture.capture_program import capture
from retort.compress.program import Program, predict, reexport
from retort.compress.quantization import quantize_program
from retort.core.artifact import load_artifact
from retort.core.context import Place
from retort.core.data.splits import ArraySplit
from retort.core.metrics.task_metrics import sqnr_db
from retort.core.options.stage_options import EngineOptions, QuantizeOptions, Target
from retort.core.session import open_session
from retort.export.qdq.write_embeddings import pack
from retort.export.translate import to_onnx
from retort.export.trt.stage import build_engine

WORDS, WIDTH, STEPS = 800, 32, 6
OPTIONS = QuantizeOptions(method="minmax", correction=("none",))


class Text(nn.Module):
    """Words and positions, one layer, and scores over all words, whose weights may be the table itself."""

    def __init__(self, tied: bool, width: int = WIDTH) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(WORDS, width), nn.Embedding(STEPS, width)
        self.layer, self.head = nn.Linear(width, width), nn.Linear(width, WORDS, bias=False)
        if tied:
            self.head.weight = self.words.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.words(ids) + self.places(torch.arange(STEPS))
        return self.head(torch.relu(self.layer(x)).mean(1))


def _ids(rows: int) -> dict[str, np.ndarray]:
    return {"ids": np.random.default_rng(0).integers(0, WORDS, (rows, STEPS))}


@functools.cache
def _program(tied: bool = False, width: int = WIDTH) -> Program:
    torch.manual_seed(0)
    return capture(Text(tied, width), {"ids": torch.zeros(2, STEPS, dtype=torch.int64)})


def _quantized(target: Target = "cpu", tied: bool = False, width: int = WIDTH, **given: object) -> Program:
    options = QuantizeOptions.model_validate({**OPTIONS.model_dump(), **given})
    return quantize_program(_program(tied, width), options, ArraySplit(_ids(64), None), target)


def _file(program: Program, target: Target = "cpu") -> onnx.ModelProto:
    model = to_onnx(reexport(program), program.signature, target)
    onnx.checker.check_model(model, full_check=True)
    return model


def _outputs(program: Program) -> np.ndarray:
    return next(iter(predict(program, ArraySplit(_ids(5), None)).values()))


def _tables(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """The constant tables from which rows are looked up."""
    stored = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
    return {n.output[0]: stored[n.input[0]] for n in model.graph.node if n.op_type == "Gather" and n.input[0] in stored}


@pytest.mark.parametrize("tied", [False, True])
def test_rows_are_looked_up_as_codes_and_scaled(tied: bool) -> None:
    """The file has the large table in INT8 with one scale per row, and computes the same as the program."""
    program = _quantized(tied=tied)
    model = _file(program)
    kinds = sorted((str(table.dtype), table.shape) for table in _tables(model).values())
    assert kinds[:2] == [("float32", (WORDS, 1)), ("int8", (WORDS, WIDTH))]
    assert not any(kind == "float32" and shape == (WORDS, WIDTH) for kind, shape in kinds)
    large = [item for item in model.graph.initializer if WORDS in item.dims and WIDTH in item.dims]
    assert {onnx.TensorProto.DataType.Name(item.data_type) for item in large} == {"INT8"}
    session = open_session(model.SerializeToString(), signature=program.signature)
    found, wanted = next(iter(session.run(_ids(5)).values())), _outputs(program)
    assert sqnr_db(wanted, found) > 30
    assert sqnr_db(_outputs(_program(tied)), found) > 20


def test_a_small_table_an_excluded_one_and_the_option_stay_in_floating_point() -> None:
    """The table of positions is too small; a table is excluded by its name in the model, or all by the option."""
    facts = _quantized().meta["quantization"]["weights"]
    assert "words.weight" in {item["parameter"] for name, item in facts.items() if "_rows" in name}
    assert "places.weight" not in {item["parameter"] for item in facts.values()}
    for given in ({"exclude": ("words",)}, {"embeddings": "float"}):
        program = _quantized(**given)
        assert not any("_rows" in name for name in program.meta["quantization"]["weights"])
        assert not any(table.dtype == np.int8 for table in _tables(_file(program)).values())


@pytest.mark.parametrize("width", [WIDTH, 30])
def test_tensorrt_looks_up_words_of_four_codes(width: int) -> None:
    """For TensorRT, a row has a quarter as many INT32 words, for any width, and gives codes times scale."""
    program = _quantized("tensorrt", width=width)
    assert any("_rows" in name for name in program.meta["quantization"]["weights"])
    model = _file(program, "tensorrt")
    kinds = sorted((str(table.dtype), table.shape) for table in _tables(model).values())
    assert ("int32", (WORDS, -(-width // 4))) in kinds
    assert not any(kind == "float32" and shape == (WORDS, width) for kind, shape in kinds)
    found = next(iter(open_session(model.SerializeToString(), signature=program.signature).run(_ids(5)).values()))
    assert sqnr_db(_outputs(program), found) > 30
    assert sqnr_db(_outputs(_program(width=width)), found) > 20


def test_every_code_survives_its_word() -> None:
    """All 255 codes at all four places are unpacked unchanged, in exact integers."""
    codes = np.stack([np.roll(np.arange(-127, 128), number) for number in range(9)], 1).astype(np.int8)
    words, places = pack(codes), []
    for _ in range(3):
        places.append(words % 256 - 128)
        words = (words - words % 256) // 256
    np.testing.assert_array_equal(np.concatenate([*places, words], 1)[:, :9], codes)
    assert pack(codes).dtype == np.int32
    assert pack(codes).shape == (255, 3)


@pytest.mark.trt
def test_int8_tables_shrink_an_engine(tmp_path: Path) -> None:
    """In the plan of a text model, INT8 weights and tables have at most 0.30 of the FP32 bytes, FP16 ones 0.51."""
    pytest.importorskip("tensorrt_rtx")
    sizes = {}
    made: list[tuple[str, Program, Literal["file", "fp16"]]] = [
        ("fp32", _program(), "file"),
        ("fp16", _program(), "fp16"),
        ("int8", _quantized("tensorrt"), "file"),
        ("both", _quantized("tensorrt"), "fp16"),
    ]
    for name, program, precision in made:
        path = tmp_path / f"{name}.onnx"
        path.write_bytes(_file(program, "tensorrt").SerializeToString())
        options = EngineOptions(timing_cache="off", batch_sizes=(1, 4), precision=precision)
        sizes[name] = build_engine(options, load_artifact(path), Place(tmp_path / name)).facts["weights_bytes"]
    assert sizes["int8"] <= 0.30 * sizes["fp32"]
    assert sizes["both"] <= sizes["int8"]
    assert sizes["fp16"] <= 0.51 * sizes["fp32"]


def test_gradients_reach_the_table() -> None:
    """Quantization-aware training changes the table: gradients pass the fake-quantize."""
    program = _quantized()
    for item in program.module.parameters():
        item.requires_grad_(True)
    program.module(torch.from_numpy(_ids(4)["ids"]))[0].square().mean().backward()
    gradient = program.module.get_parameter("words.weight").grad
    assert gradient is not None
    assert float(gradient.abs().sum()) > 0


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_broken_table_is_named(bad: float) -> None:
    """A table with a value that is not finite is rejected with its name."""
    from retort.core.errors import RetortError

    torch.manual_seed(0)
    net = Text(tied=False)
    with torch.no_grad():
        net.words.weight[7, 3] = bad
    program = capture(net, {"ids": torch.zeros(2, STEPS, dtype=torch.int64)})
    with pytest.raises(RetortError, match=r"words\.weight"):
        quantize_program(program, OPTIONS, ArraySplit({"ids": np.zeros((8, STEPS), np.int64)}, None), "cpu")
