"""The quantize stage on trained networks: accuracy, facts, and programs that can be saved, loaded and trained."""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from known import in_memory, known
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

from retort.compress.capture.capture_program import capture
from retort.compress.program import Program, load_program, predict, save_program, set_training
from retort.compress.quantization import quantize, quantize_program
from retort.compress.quantization.calibration import calibrate
from retort.compress.quantization.calibration.observers import MinMax
from retort.compress.quantization.operator_classes import is_qdq
from retort.core.artifact import Artifact, load_artifact, new_artifact
from retort.core.console import Console
from retort.core.context import Context, Place
from retort.core.data.splits import ArraySplit, Batch, Split, Splits
from retort.core.errors import ArtifactError, DataError, InputError, UserError
from retort.core.options.stage_options import QuantizeOptions, Target

Method = Literal["auto", "minmax", "moving", "percentile", "mse", "entropy"]


class Block(nn.Module):
    """Two convolutions and a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.a, self.na = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)
        self.b, self.nb = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)
        self.short = nn.Conv2d(inputs, outputs, 1, stride) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.nb(self.b(functional.relu(self.na(self.a(x)))))
        return functional.relu(y + self.short(x))


class Digits(nn.Module):
    """A residual CNN for 8x8 images."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        self.body, self.head = nn.Sequential(Block(16, 16, 1), Block(16, 32, 2)), nn.Linear(32, 10)

    def forward(self, image: Tensor) -> Tensor:
        x = self.body(functional.relu(self.norm(self.stem(image))))
        return self.head(functional.adaptive_avg_pool2d(x, 1).flatten(1))


class Gated(nn.Module):
    """A depthwise CNN with hard-swish and squeeze-and-excite."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, 24, 3, 1, 1, bias=False), nn.BatchNorm2d(24)
        self.deep, self.deep_norm = nn.Conv2d(24, 24, 3, 2, 1, groups=24, bias=False), nn.BatchNorm2d(24)
        self.down, self.up = nn.Conv2d(24, 8, 1), nn.Conv2d(8, 24, 1)
        self.wide, self.wide_norm = nn.Conv2d(24, 48, 1, bias=False), nn.BatchNorm2d(48)
        self.head = nn.Linear(48, 10)

    def forward(self, image: Tensor) -> Tensor:
        x = functional.hardswish(self.norm(self.stem(image)))
        x = functional.hardswish(self.deep_norm(self.deep(x)))
        x = x * functional.hardsigmoid(self.up(functional.relu(self.down(x.mean((2, 3), keepdim=True)))))
        return self.head(functional.hardswish(self.wide_norm(self.wide(x))).mean((2, 3)))


def trained(model: nn.Module, images: Tensor, labels: Tensor, epochs: int) -> nn.Module:
    torch.manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(images)).split(64):
            optimizer.zero_grad()
            functional.cross_entropy(model(images[rows]), labels[rows]).backward()
            optimizer.step()
    return model.eval()


@pytest.fixture(scope="module")
def data() -> Splits:
    """Digits, split in a fixed order."""
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    images = (digits.images / 16).astype(np.float32)[order][:, None]
    parts = [slice(0, 1000), slice(1000, 1200), slice(0, 256), slice(1200, None)]
    train, validation, calibration, test = (
        ArraySplit({"image": images[part]}, digits.target[order][part]) for part in parts
    )
    return Splits(train, validation, calibration, test, classes=tuple("0123456789"))


@pytest.fixture(scope="module")
def programs(data: Splits) -> dict[str, Program]:
    """Both networks, trained for a few epochs and captured."""
    images, labels = (
        torch.from_numpy(in_memory(data.train).inputs["image"]),
        torch.from_numpy(known(in_memory(data.train).targets)),
    )
    torch.manual_seed(0)
    models = {"residual": (Digits(), 4), "gated": (Gated(), 10)}
    return {
        name: capture(trained(model, images, labels, epochs), {"image": images[:4]})
        for name, (model, epochs) in models.items()
    }


@pytest.fixture
def artifact(programs: dict[str, Program], tmp_path: Path) -> Artifact:
    """The residual network as a program artifact."""
    with new_artifact(Place(tmp_path / "fp32", "parent"), "program", "train") as draft:
        save_program(programs["residual"], draft.folder / "model.pt2")
    return load_artifact(tmp_path / "fp32")


def accuracy(program: Program, split: Split) -> float:
    return float((predict(program, split)["output"].argmax(1) == known(in_memory(split).targets)).mean())


@pytest.mark.parametrize("target", ["cpu", "tensorrt"])
@pytest.mark.parametrize("method", ["auto", "percentile"])
@pytest.mark.parametrize("name", ["residual", "gated"])
def test_a_trained_network_keeps_its_accuracy(
    programs: dict[str, Program], data: Splits, name: str, method: Method, target: Target
) -> None:
    """INT8 costs at most one percentage point of accuracy on the test set, for every method and target."""
    program = quantize_program(programs[name], QuantizeOptions(method=method), data.calibration, target)
    before, after = accuracy(programs[name], data.test), accuracy(program, data.test)
    assert before > 0.9
    assert after >= before - 0.01


def test_the_stage_writes_a_program_and_its_facts(artifact: Artifact, data: Splits, tmp_path: Path) -> None:
    """The artifact has a quantized program; its facts list kinds, floating-point nodes, noise and agreement."""
    options = QuantizeOptions(samples=64, exclude=("body.1.short",), first_layer="int8")
    result = quantize(
        options, artifact, Place(tmp_path / "int8", "k", ("parent",)), Context(data=data, target="cpu", seed=0)
    )
    assert (result.kind, result.key, result.manifest.stage) == ("program", "k", "quantize")
    assert result.manifest.parents == ("parent",)
    facts = result.facts
    assert facts["method"] in ("minmax", "mse")
    assert facts["quantized_nodes"] == {"add": 2, "conv2d": 5, "linear": 1, "pool": 1}
    assert [(node["layer"], node["reason"]) for node in facts["float_nodes"]] == [
        ("body.1.short", "excluded by the recipe")
    ]
    assert 90 < facts["integer_macs_percent"] < 100
    assert facts["against_fp32"]["sqnr_db"] >= facts["against_fp32"]["sqnr_centred_db"] > 25
    assert facts["against_fp32"]["agreement"] > 0.97
    assert facts["macs"] > 0
    loaded = load_program(result.main)
    assert loaded.meta["quantization"]["target"] == "cpu"
    assert sum(map(is_qdq, loaded.module.graph.nodes)) == sum(
        map(is_qdq, quantize_program(load_program(artifact.main), options, data.calibration, "cpu").module.graph.nodes)
    )


def test_quantizing_is_deterministic(programs: dict[str, Program], data: Splits) -> None:
    """The same program and data give the same scales, bit for bit."""
    one, two = (quantize_program(programs["residual"], QuantizeOptions(), data.calibration, "cpu") for _ in range(2))
    first, second = one.module.state_dict(), two.module.state_dict()
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert one.meta == two.meta


def test_the_batch_size_of_calibration_does_not_change_the_ranges(programs: dict[str, Program], data: Splits) -> None:
    """The ranges depend on the samples, not on their batches."""
    found = []
    for size in (1, 7, 256):
        options = QuantizeOptions(method="minmax", samples=60, batch_size=size)
        found.append(quantize_program(programs["residual"], options, data.calibration, "cpu").meta["quantization"])
    for other in found[1:]:
        for name, span in found[0]["activations"].items():
            assert other["activations"][name]["low"] == pytest.approx(span["low"], rel=1e-4, abs=1e-5)
            assert other["activations"][name]["high"] == pytest.approx(span["high"], rel=1e-4, abs=1e-5)


def test_the_program_given_is_left_untouched(programs: dict[str, Program], data: Splits) -> None:
    """Quantizing works on a copy."""
    before = {key: value.clone() for key, value in programs["residual"].module.state_dict().items()}
    quantize_program(programs["residual"], QuantizeOptions(samples=8), data.calibration, "cpu")
    after = programs["residual"].module.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert "quantization" not in programs["residual"].meta


def test_a_quantized_program_is_saved_and_loaded_bit_for_bit(
    programs: dict[str, Program], data: Splits, tmp_path: Path
) -> None:
    """Scales and zero points are stored as buffers of the program, and the ranges in its meta."""
    program = quantize_program(programs["gated"], QuantizeOptions(samples=32), data.calibration, "cpu")
    save_program(program, tmp_path / "int8.pt2")
    loaded = load_program(tmp_path / "int8.pt2")
    assert np.array_equal(predict(loaded, data.test)["output"], predict(program, data.test)["output"])
    assert loaded.meta == program.meta
    assert set(loaded.meta["quantization"]["activations"]) <= set(dict(loaded.module.named_buffers()))


def test_a_quantized_program_trains_on(programs: dict[str, Program], data: Splits) -> None:
    """Gradients reach the FP32 master weights through the fake-quantize nodes, and a few steps lower the loss."""
    program = quantize_program(programs["residual"], QuantizeOptions(samples=32), data.calibration, "cpu")
    set_training(program, True)
    images, labels = (
        torch.from_numpy(in_memory(data.train).inputs["image"][:128]),
        torch.from_numpy(known(in_memory(data.train).targets)[:128]),
    )
    optimizer = torch.optim.SGD(program.module.parameters(), 0.02)
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        loss = functional.cross_entropy(program.module(images)[0], labels)
        loss.backward()
        assert all(value.grad is not None for value in program.module.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_a_program_is_not_quantized_twice(programs: dict[str, Program], data: Splits) -> None:
    """A second quantization is rejected with a remedy."""
    program = quantize_program(programs["residual"], QuantizeOptions(samples=8), data.calibration, "cpu")
    with pytest.raises(UserError, match="already quantized"):
        quantize_program(program, QuantizeOptions(), data.calibration, "cpu")


def test_an_empty_calibration_set_is_refused(programs: dict[str, Program]) -> None:
    """Without samples, ranges cannot be computed."""
    empty = ArraySplit({"image": np.zeros((0, 1, 8, 8), np.float32)})
    with pytest.raises(DataError, match="calibration set is empty"):
        quantize_program(programs["residual"], QuantizeOptions(), empty, "cpu")


def test_samples_that_are_not_finite_are_refused(programs: dict[str, Program]) -> None:
    """The message has the input and the first bad sample."""
    images = np.zeros((10, 1, 8, 8), np.float32)
    images[7, 0, 3, 3] = np.nan
    with pytest.raises(DataError, match="'image' has NaN or infinite values"):
        quantize_program(programs["residual"], QuantizeOptions(), ArraySplit({"image": images}), "cpu")


def test_samples_of_another_shape_are_refused(programs: dict[str, Program]) -> None:
    """Calibration data of a wrong shape is an input error, not an exception in the graph."""
    wrong = ArraySplit({"image": np.zeros((4, 3, 8, 8), np.float32)})
    with pytest.raises(InputError, match="image"):
        quantize_program(programs["residual"], QuantizeOptions(), wrong, "cpu")


class Logarithm(nn.Module):
    """Overflows for some inputs, in the middle of the network or at its end."""

    def __init__(self, at_the_end: bool) -> None:
        super().__init__()
        self.a, self.b, self.at_the_end = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3), at_the_end

    def forward(self, image: Tensor) -> Tensor:
        if self.at_the_end:
            return torch.log(self.b(self.a(image)).mean((2, 3)) + image.mean((1, 2, 3)).unsqueeze(1))
        return self.b(self.a(torch.log(image)))


@pytest.mark.parametrize("at_the_end", [False, True])
def test_an_activation_that_is_not_finite_is_named(at_the_end: bool) -> None:
    """The message has the first node that overflows, not a later node that its values reach."""
    program = capture(Logarithm(at_the_end), {"image": torch.rand(4, 1, 8, 8) + 1})
    bad = ArraySplit({"image": np.full((6, 1, 8, 8), -50.0, np.float32)})
    with pytest.raises(DataError, match=r"'log' .* has NaN or infinite values"):
        quantize_program(program, QuantizeOptions(), bad, "cpu")


def test_a_constant_activation_is_quantized() -> None:
    """A network whose ReLU is always 0 on the calibration set gets finite scales and finite outputs."""
    first, second = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3)
    model = nn.Sequential(first, nn.ReLU(), second, nn.ReLU())
    with torch.no_grad():
        known(first.bias).fill_(-100.0)
        known(second.bias).fill_(0.5)
        second.weight.zero_()
    images = np.random.default_rng(0).random((16, 1, 8, 8)).astype(np.float32)
    program = capture(model.eval(), {"image": images[:4]})
    result = quantize_program(program, QuantizeOptions(), ArraySplit({"image": images}), "cpu")
    scales = [value for name, value in result.module.named_buffers() if name.endswith("scale")]
    assert all(bool((value > 0).all()) and bool(torch.isfinite(value).all()) for value in scales)
    output = predict(result, ArraySplit({"image": images}))["output"]
    assert np.allclose(output, 0.5, atol=1e-2)


def test_calibration_holds_no_activation_beyond_its_batch(
    programs: dict[str, Program], data: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Activations of a batch are freed before the next batch."""
    seen: list[weakref.ref[Tensor]] = []
    alive: list[int] = []

    class Spy(MinMax):
        def update(self, value: Tensor) -> bool:
            alive.append(sum(ref() is not None for ref in seen[: -len(watched) or None]))
            seen.append(weakref.ref(value))
            return super().update(value)

    made = quantize_program(programs["residual"], QuantizeOptions(samples=8), data.calibration, "cpu")
    watched = made.meta["quantization"]["activations"]
    monkeypatch.setattr(calibrate, "new_observer", lambda options, scheme: Spy())
    options = QuantizeOptions(samples=80, batch_size=8, method="minmax", correction=("none",))
    quantize_program(programs["residual"], options, data.calibration, "cpu")
    assert len(seen) == 10 * len(watched)
    assert max(alive) == 0


def test_at_most_the_asked_number_of_samples_is_read(programs: dict[str, Program], data: Splits) -> None:
    """Calibration reads exactly `samples` samples."""
    read: list[int] = []

    class Counting(ArraySplit):
        def read(self, indices: Sequence[int] | NDArray[np.integer[Any]]) -> Batch:
            read.extend(indices)
            return super().read(indices)

    split = Counting(in_memory(data.calibration).inputs, known(in_memory(data.calibration).targets))
    options = QuantizeOptions(samples=50, batch_size=16, method="minmax", correction=("none",))
    quantize_program(programs["residual"], options, split, "cpu")
    assert sorted(read) == list(range(50))
    quantize_program(programs["residual"], options.model_copy(update={"method": "auto"}), split, "cpu")
    assert set(read) == set(range(50))


@pytest.mark.parametrize(("method", "samples"), [("entropy", 8), ("mse", 2), ("percentile", 3)])
def test_too_few_samples_for_a_method_are_refused(
    programs: dict[str, Program], data: Splits, method: Method, samples: int
) -> None:
    """A histogram of a few samples is meaningless: one sentence has the method and the number that it needs."""
    options = QuantizeOptions(method=method, samples=samples, correction=("none",))
    with pytest.raises(DataError, match=rf"{samples} calibration samples are too few for the method '{method}'"):
        quantize_program(programs["residual"], options, data.calibration, "cpu")


def test_constant_activations_are_warned_of_by_name(
    programs: dict[str, Program], data: Splits, capsys: pytest.CaptureFixture[str]
) -> None:
    """Blank images give activations with a single value: a warning lists the first, and calibration continues."""
    images = np.zeros_like(in_memory(data.calibration).inputs["image"])
    options = QuantizeOptions(method="minmax", correction=("none",), first_layer="int8")
    quantize_program(programs["residual"], options, ArraySplit({"image": images}), "cpu", Console())
    assert "calibration saw only one value" in " ".join(capsys.readouterr().err.split())


def test_only_programs_are_quantized(tmp_path: Path, data: Splits) -> None:
    """A graph is rejected with the command that makes a program."""
    with new_artifact(Place(tmp_path / "graph"), "graph", "export") as draft:
        (draft.folder / "model.onnx").write_bytes(b"x")
    with pytest.raises(ArtifactError, match="needs a program"):
        quantize(
            QuantizeOptions(),
            load_artifact(tmp_path / "graph"),
            Place(tmp_path / "out"),
            Context(data=data, target="cpu"),
        )
    assert not (tmp_path / "out").exists()


def test_a_network_without_layers_to_quantize_passes_through(data: Splits) -> None:
    """No layer becomes INT8, the outputs are the same, and the facts state it."""
    program = capture(nn.Sequential(nn.Flatten(), nn.Softmax(1)), {"image": torch.rand(4, 1, 8, 8)})
    result = quantize_program(program, QuantizeOptions(), data.calibration, "cpu")
    assert result.meta["quantization"]["kinds"] == {}
    assert np.array_equal(predict(result, data.test)["output"], predict(program, data.test)["output"])
    assert math.isclose(result.meta["quantization"]["integer_macs_percent"], 0)
