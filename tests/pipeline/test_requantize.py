"""INT8 programs for another target: quantized again from their FP32 program, or rejected with the command."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from retort.compress.capture.capture_program import capture
from retort.compress.program import save_program
from retort.core.artifact import Artifact, load_artifact, new_artifact
from retort.core.context import Context, Place
from retort.core.data.splits import ArraySplit, Splits
from retort.core.errors import UserError
from retort.core.facts.quantize_facts import QuantizeFacts
from retort.core.options.stage_options import ExportOptions, QuantizeOptions, Target
from retort.export.lint import lint
from retort.pipeline import dispatch
from retort.pipeline.requantize import origin_of, quantized_for

ROUGH = QuantizeOptions(method="minmax", correction=("none",), smooth=False, samples=8, timed=False)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A captured program and its INT8 form for cpu, in one folder."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("runs")
    net = nn.Sequential(nn.Conv2d(3, 16, 3, 3), nn.Hardswish(), nn.Conv2d(16, 16, 1), nn.Flatten(), nn.Linear(256, 4))
    with new_artifact(Place(folder / "capture", "fp32"), "program", "capture") as draft:
        save_program(capture(net.eval(), {"x": torch.randn(2, 3, 12, 12)}), draft.folder / "model.pt2")
    parent = load_artifact(folder / "capture")
    dispatch.run_stage("quantize", ROUGH, parent, Place(folder / "int8", "int8", ("fp32",)), _context(folder))
    return folder


def _context(folder: Path, target: Target = "cpu") -> Context:
    values = np.random.default_rng(0).normal(size=(8, 3, 12, 12)).astype(np.float32)
    split = ArraySplit({"x": values}, np.zeros(8, np.int64))
    return Context(Splits(split, split, split, split), target=target, scratch=folder / ".scratch")


def _copied(runs: Path, folder: Path, *names: str) -> list[Artifact]:
    return [load_artifact(shutil.copytree(runs / name, folder / name)) for name in names]


def test_a_program_has_its_target_and_its_origin(runs: Path, tmp_path: Path) -> None:
    """The target is in the artifact and in a bare file; the FP32 program is found by its key, in the same folder."""
    int8 = load_artifact(runs / "int8")
    assert quantized_for(int8) == "cpu"
    assert quantized_for(load_artifact(int8.main)) == "cpu"
    assert quantized_for(load_artifact(runs / "capture")) is None
    found = origin_of(int8)
    assert found is not None
    assert found.key == "fp32"
    assert origin_of(_copied(runs, tmp_path, "int8")[0]) is None
    assert origin_of(load_artifact(int8.main)) is None


def test_an_export_for_another_target_is_quantized_again(runs: Path, tmp_path: Path) -> None:
    """From a program for cpu, it gives the file that quantizing for TensorRT would have given, without a fault."""
    _, int8 = _copied(runs, tmp_path, "capture", "int8")
    options = ExportOptions(target="tensorrt", batch_sizes=(2,), golden=1)
    made = dispatch.run_stage("export", options, int8, Place(tmp_path / "file"), _context(tmp_path))
    model = onnx.load(made.main)
    assert lint(model) == []
    direct = dispatch.run_stage(
        "quantize", ROUGH, load_artifact(tmp_path / "capture"), Place(tmp_path / "gpu"), _context(tmp_path, "tensorrt")
    )
    wanted = dispatch.run_stage("export", options, direct, Place(tmp_path / "wanted"), _context(tmp_path))
    assert [node.op_type for node in model.graph.node] == [node.op_type for node in onnx.load(wanted.main).graph.node]


def test_quantizing_an_int8_program_for_another_target_starts_from_its_origin(runs: Path, tmp_path: Path) -> None:
    """`retort quantize INT8 --target tensorrt` quantizes the FP32 program; for the same target it is rejected."""
    _, int8 = _copied(runs, tmp_path, "capture", "int8")
    place = Place(tmp_path / "gpu", parents=("int8",))
    made = dispatch.run_stage("quantize", ROUGH, int8, place, _context(tmp_path, "tensorrt"))
    assert quantized_for(made) == "tensorrt"
    assert made.manifest.parents == ("fp32",)
    with pytest.raises(UserError, match="already quantized for cpu") as caught:
        dispatch.run_stage("quantize", ROUGH, int8, Place(tmp_path / "twice"), _context(tmp_path))
    assert "retort quantize" in caught.value.remedy
    assert str(tmp_path / "capture") in caught.value.remedy


@pytest.mark.parametrize("name", ["quantize", "export"])
def test_without_its_origin_it_is_refused_with_the_command(runs: Path, tmp_path: Path, name: str) -> None:
    """An INT8 program for cpu without its FP32 program is not converted: the message has the command to run."""
    (int8,) = _copied(runs, tmp_path, "int8")
    options = ROUGH if name == "quantize" else ExportOptions()
    for given in (int8, load_artifact(int8.main)):
        with pytest.raises(UserError, match="quantized") as caught:
            dispatch.run_stage(name, options, given, Place(tmp_path / "out"), _context(tmp_path, "tensorrt"))
        assert "`retort quantize FP32_PROGRAM --data … --target tensorrt`" in caught.value.remedy
    assert not (tmp_path / "out").exists()


def test_a_trained_int8_program_is_not_trained_again_unasked(runs: Path, tmp_path: Path) -> None:
    """Quantization-aware training depends on the target; exporting the result for another target is rejected."""
    capture_, int8 = _copied(runs, tmp_path, "capture", "int8")
    told = QuantizeOptions.model_validate({**int8.manifest.options, "qat": {"epochs": 1}})
    place = Place(tmp_path / "trained", "trained", (capture_.key,))
    with new_artifact(place, "program", "quantize", options=told) as draft:
        draft.facts = int8.facts_as(QuantizeFacts)
        shutil.copyfile(int8.main, draft.folder / "model.pt2")
    with pytest.raises(UserError, match="trained in INT8 for cpu"):
        dispatch.run_stage(
            "export", ExportOptions(target="tensorrt"), load_artifact(tmp_path / "trained"), Place(tmp_path / "out"),
            _context(tmp_path),
        )  # fmt: skip
