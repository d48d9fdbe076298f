"""The diagnosis of a model: each of ten planted faults is found, and a sound model has no finding."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from known import in_memory, known
from onnx import numpy_helper
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

from retort.compress.capture.capture_program import capture
from retort.compress.graph.module_edit import fetch
from retort.compress.graph.train_eval_mode import TRAINS
from retort.compress.program import Program, clone, load_program, reexport, save_program
from retort.compress.quantization import quantize_program
from retort.core.artifact import load_artifact
from retort.core.context import Context, Place
from retort.core.data.splits import ArraySplit, Splits
from retort.core.errors import UserError
from retort.core.options.stage_options import ExportOptions, QuantizeOptions
from retort.export.translate import to_onnx
from retort.pipeline import stages
from retort.pipeline.diagnosis.diagnose import diagnose, fix
from retort.pipeline.diagnosis.forms import Diagnosis

PLAIN = QuantizeOptions(correction=("none",), method="minmax")


class Net(nn.Module):
    """A CNN for 8x8 colour images with BatchNorm, hard-swish and a sigmoid gate."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        self.mid, self.mid_norm = nn.Conv2d(16, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        self.wide, self.wide_norm = nn.Conv2d(16, 32, 1, bias=False), nn.BatchNorm2d(32)
        self.gate, self.last = nn.Conv2d(32, 32, 1), nn.Conv2d(32, 32, 3, 2, 1)
        self.head = nn.Linear(32, 10)

    def forward(self, image: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(image)))
        x = torch.relu(self.mid_norm(self.mid(x)))
        x = functional.hardswish(self.wide_norm(self.wide(x)))
        x = x * torch.sigmoid(self.gate(x))
        return self.head(torch.relu(self.last(x)).mean((2, 3)))


@pytest.fixture(scope="module")
def data() -> Splits:
    """Digits in three different colours."""
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    grey, labels = (digits.images / 16).astype(np.float32)[order][:, None], digits.target[order]
    images = np.concatenate([grey, 1 - grey, 0.5 * grey + 0.2], 1)
    parts = [slice(0, 900), slice(900, 1200), slice(0, 128), slice(1200, None)]
    train, validation, calibration, test = (ArraySplit({"image": images[part]}, labels[part]) for part in parts)
    return Splits(train, validation, calibration, test)


def trained(data: Splits, seed: int) -> Program:
    torch.manual_seed(seed)
    model, images, labels = (
        Net(),
        *(torch.from_numpy(x) for x in (in_memory(data.train).inputs["image"], known(in_memory(data.train).targets))),
    )
    optimizer = torch.optim.AdamW(model.parameters(), 5e-3)
    for _ in range(8):
        for rows in torch.randperm(len(images)).split(64):
            optimizer.zero_grad()
            functional.cross_entropy(model(images[rows]), labels[rows]).backward()
            optimizer.step()
    return capture(model.eval(), {"image": images[:8]})


@pytest.fixture(scope="module")
def program(data: Splits) -> Program:
    """The trained network."""
    return trained(data, 0)


@pytest.fixture(scope="module")
def files(program: Program, data: Splits, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sound forms of the model: program, ONNX file, INT8 program, Q/DQ file."""
    folder = tmp_path_factory.mktemp("line")
    context = Context(data)
    save_program(program, folder / "fp32.pt2")
    save_program(quantize_program(program, PLAIN, data.calibration, "cpu"), folder / "int8.pt2")
    for name in ("fp32", "int8"):
        artifact = load_artifact(folder / f"{name}.pt2")
        stages.export(ExportOptions(), artifact, Place(folder / name), context)
    return folder


def named(found: Diagnosis) -> tuple[str, str]:
    """The first cause and its place."""
    assert found.findings, found.forms
    return found.findings[0].cause, found.findings[0].where


def saved(program: Program, path: Path) -> Path:
    save_program(program, path)
    return path


def test_a_sound_model_has_no_finding(files: Path, data: Splits) -> None:
    """All four forms agree, none is faulty, and there is no finding."""
    models = [files / "fp32.pt2", files / "fp32" / "model.onnx", files / "int8.pt2", files / "int8" / "model.onnx"]
    found = diagnose(models, Context(data))
    assert [form.name for form in found.forms] == ["program", "ONNX file", "INT8 program", "Q/DQ file"]
    assert found.first is None
    assert found.findings == []
    assert all(form.agreement is None or form.agreement > 0.97 for form in found.forms)
    assert min(known(form.accuracy) for form in found.forms) > 0.8


def test_fault_1_a_wrong_preprocessing_scale(program: Program, files: Path, data: Splits, tmp_path: Path) -> None:
    """Calibrated on 0 to 255 and used on 0 to 1: the finding has the input and the factor."""
    wild = ArraySplit({"image": in_memory(data.calibration).inputs["image"] * 255})
    int8 = saved(quantize_program(program, PLAIN, wild, "cpu"), tmp_path / "int8.pt2")
    found = diagnose([files / "fp32.pt2", int8], Context(data))
    assert known(found.first).name == "INT8 program"
    assert named(found) == ("preprocessing scale", "the inputs")
    assert "times too wide" in found.findings[0].detail


def test_a_wrong_scale_of_the_data_is_seen_without_int8(files: Path, data: Splits) -> None:
    """The samples are much larger than those of the capture."""
    train = in_memory(data.train)
    loud = ArraySplit({"image": train.inputs["image"] * 255}, train.targets)
    wild = Splits(loud, loud, loud, loud)
    assert named(diagnose([files / "fp32.pt2", files / "fp32" / "model.onnx"], Context(wild)))[0] == (
        "preprocessing scale"
    )


def test_fault_2_an_outlier_channel(program: Program, data: Splits, tmp_path: Path) -> None:
    """From the FP32 program alone, the finding has the layer with the planted channel and the channel."""
    broken = clone(program)
    fetch(broken.module, "wide_norm.bias").data[5] = 2000.0
    for name in ("gate.weight", "last.weight"):
        fetch(broken.module, name).data[:, 5] = 0.0
    found = diagnose([saved(broken, tmp_path / "fp32.pt2")], Context(data))
    assert known(found.first).name == "INT8 program"
    assert named(found)[0] == "outlier channel"
    assert "channel 5" in found.findings[0].detail


def test_fault_3_a_clipped_activation(files: Path, data: Splits, tmp_path: Path) -> None:
    """One grid is five times too small: the finding has its tensor, and there is no other."""
    broken = load_program(files / "int8.pt2")
    path = next(name for name, _ in broken.module.named_buffers() if "relu_1" in name and name.endswith("scale"))
    fetch(broken.module, path).div_(8)
    found = diagnose([files / "fp32.pt2", saved(broken, tmp_path / "int8.pt2")], Context(data))
    assert [item.cause for item in found.findings] == ["clipping"]
    assert found.findings[0].where == "relu_1"


def test_fault_4_a_calibration_set_of_one_class(program: Program, files: Path, data: Splits, tmp_path: Path) -> None:
    """A calibration split with only one class is found from its labels."""
    ones = np.flatnonzero(known(in_memory(data.train).targets) == 1)[:64]
    one_class = ArraySplit(
        {"image": in_memory(data.train).inputs["image"][ones]}, known(in_memory(data.train).targets)[ones]
    )
    context = Context(replace(data, calibration=one_class))
    int8 = saved(quantize_program(program, PLAIN, one_class, "cpu"), tmp_path / "int8.pt2")
    assert named(diagnose([files / "fp32.pt2", int8], context)) == ("calibration set", "the calibration split")


def test_ranges_of_one_kind_of_sample_are_found_without_labels(
    program: Program, files: Path, data: Splits, tmp_path: Path
) -> None:
    """If only pale images were used for calibration, most ranges are too narrow and none is too wide."""
    pale = in_memory(data.calibration).inputs["image"] * 0.45
    pale[:, 1] = 0.5
    int8 = saved(quantize_program(program, PLAIN, ArraySplit({"image": pale}), "cpu"), tmp_path / "int8.pt2")
    assert named(diagnose([files / "fp32.pt2", int8], Context(data)))[0] == "calibration set"


def test_fault_5_swapped_channels(program: Program, files: Path, data: Splits, tmp_path: Path) -> None:
    """For an ONNX file that expects BGR, the finding has the order of channels that corrects it."""
    broken = clone(program)
    stem = fetch(broken.module, "stem.weight").data
    stem.copy_(stem[:, [2, 1, 0]].clone())
    artifact = load_artifact(saved(broken, tmp_path / "bgr.pt2"))
    made = stages.export(ExportOptions(), artifact, Place(tmp_path / "bgr"), Context(data))
    found = diagnose([files / "fp32.pt2", made.path], Context(data))
    assert known(found.first).name == "ONNX file"
    assert named(found) == ("swapped channels", "image")
    assert "[2, 1, 0]" in found.findings[0].detail


def edited(path: Path, edit: Callable[[onnx.ModelProto], None], target: Path) -> Path:
    model = onnx.load(str(path))
    edit(model)
    onnx.save(model, str(target))
    return target


def test_fault_6_a_wrong_weight_axis(files: Path, data: Splits, tmp_path: Path) -> None:
    """For a square convolution whose scales are along its inputs, the finding has both axes."""

    def turn(model: onnx.ModelProto) -> None:
        names = {item.name: list(item.dims) for item in model.graph.initializer}
        for node in model.graph.node:
            if node.op_type == "DequantizeLinear" and names.get(node.input[0]) == [16, 16, 3, 3]:
                next(item for item in node.attribute if item.name == "axis").i = 1

    broken = edited(files / "int8" / "model.onnx", turn, tmp_path / "broken.onnx")
    found = diagnose([files / "fp32.pt2", broken], Context(data))
    assert known(found.first).name == "Q/DQ file"
    assert named(found)[0] == "weight axis"
    assert "along axis 1 of [16, 16, 3, 3]" in found.findings[0].detail


def test_fault_7_a_wrong_zero_point(files: Path, data: Splits, tmp_path: Path) -> None:
    """A ReLU's output quantized around 128 loses its upper half: the finding has the zero point."""

    def shift(model: onnx.ModelProto) -> None:
        relu = next(node for node in model.graph.node if node.op_type == "QuantizeLinear" and "relu" in node.input[0])
        readers = [node for node in model.graph.node if relu.input[2] in node.input]
        zero = numpy_helper.from_array(np.array(128, np.uint8), "planted_zero")
        model.graph.initializer.append(zero)
        for node in readers:
            if node.input[1] == relu.input[1]:
                node.input[2] = "planted_zero"

    broken = edited(files / "int8" / "model.onnx", shift, tmp_path / "broken.onnx")
    found = diagnose([files / "fp32.pt2", broken], Context(data))
    assert named(found)[0] == "zero point"


def test_fault_8_batch_norm_left_in_training(program: Program, files: Path, data: Splits, tmp_path: Path) -> None:
    """Outputs that depend on other samples of the batch are reported as such."""
    broken = clone(program)
    for node in broken.module.graph.nodes:
        if "batch_norm" in str(node.target):
            node.meta.pop(TRAINS, None)
            node.args = (*node.args[:5], True, *node.args[6:])
    broken.module.recompile()
    found = diagnose([files / "fp32.pt2", saved(broken, tmp_path / "training.pt2")], Context(data))
    assert named(found)[0] == "batch dependence"


def test_fault_9_a_saturated_sigmoid(program: Program, data: Splits, tmp_path: Path) -> None:
    """A gate whose inputs are so large that its output is always 0 or 1 is found."""
    broken = clone(program)
    fetch(broken.module, "gate.weight").data *= 400
    found = diagnose([saved(broken, tmp_path / "fp32.pt2")], Context(data))
    assert named(found)[0] == "saturation"
    assert "sigmoid" in found.findings[0].where


def test_fault_10_a_stale_calibration(files: Path, data: Splits, tmp_path: Path) -> None:
    """Scales from one training with the weights of another are found."""
    fresh, stale = trained(data, 7), load_program(files / "int8.pt2")
    made = quantize_program(fresh, PLAIN, data.calibration, "cpu")
    state = stale.module.state_dict()
    for name, value in made.module.state_dict().items():
        if not name.startswith("quantization"):
            state[name].copy_(value)
    found = diagnose([saved(fresh, tmp_path / "fp32.pt2"), saved(stale, tmp_path / "int8.pt2")], Context(data))
    assert named(found)[0] == "stale calibration"


@pytest.mark.slow
def test_a_broken_model_is_fixed_on_request(program: Program, data: Splits, tmp_path: Path) -> None:
    """Corrections, and layers in floating point if they are not enough, fix the planted outlier."""
    broken = clone(program)
    fetch(broken.module, "wide_norm.bias").data[5] = 2000.0
    for name in ("gate.weight", "last.weight"):
        fetch(broken.module, name).data[:, 5] = 0.0
    path = saved(broken, tmp_path / "fp32.pt2")
    result = fix(load_artifact(path), tmp_path / "mended", Context(data))
    assert result["sqnr_centred_db"] > 23
    assert known(diagnose([path, tmp_path / "mended"], Context(data)).forms[1].agreement) > 0.97


def test_no_model_is_refused(data: Splits) -> None:
    """Without a model, the message says what to give."""
    with pytest.raises(UserError, match="no model"):
        diagnose([], Context(data))


@pytest.mark.slow
def test_an_fp32_file_is_quantized_and_examined_as_its_program_is(
    program: Program, data: Splits, tmp_path: Path
) -> None:
    """From an ONNX file alone, the doctor makes the program, its INT8 form and its file, and names the same cause."""
    broken = clone(program)
    fetch(broken.module, "wide_norm.bias").data[5] = 2000.0
    for name in ("gate.weight", "last.weight"):
        fetch(broken.module, name).data[:, 5] = 0.0
    path = tmp_path / "fp32.onnx"
    onnx.save(to_onnx(reexport(broken), broken.signature), str(path))
    found = diagnose([path], Context(data))
    assert [form.name for form in found.forms] == ["ONNX file", "program", "INT8 program", "Q/DQ file"]
    assert named(found)[0] == named(diagnose([saved(broken, tmp_path / "fp32.pt2")], Context(data)))[0]
    assert found.findings


@pytest.mark.slow
def test_the_command_prints_its_findings_as_json(files: Path) -> None:
    """`retort doctor MODEL… --data … --json` prints one line with forms, the first faulty one and findings."""
    command = [sys.executable, "-m", "retort", "doctor", str(files / "fp32.pt2"), "--data", "digits", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    told = json.loads(done.stdout.splitlines()[-1])
    assert "error" in told or "findings" in told
