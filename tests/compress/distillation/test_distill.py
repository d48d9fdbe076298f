"""Distillation: its formula, its checks, and what it does on real data."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import torch
from known import in_memory
from sklearn.datasets import load_digits
from torch import nn

from retort.compress.capture.capture_program import capture
from retort.compress.distillation.combined_loss import soft_target_loss
from retort.compress.distillation.distill import check_pair, distill
from retort.compress.program import Program, clone, load_program, predict, store
from retort.compress.training.train import fit
from retort.core.artifact import load_artifact
from retort.core.console import Console
from retort.core.context import Context, Place
from retort.core.data.splits import ArraySplit, Splits
from retort.core.errors import ArtifactError, DataError, ModelError
from retort.core.options.stage_options import DistillOptions, ModelSpec, TrainOptions

torch.set_num_threads(1)

ANY = ModelSpec(source="a:b")


def linear(classes: int = 3, width: int = 6, name: str = "x", drop: float = 0.0) -> Program:
    """A linear classifier, optionally with dropout."""
    model = nn.Sequential(nn.Linear(width, classes), nn.Dropout(drop))
    return capture(model, {name: torch.randn(2, width)})


def test_soft_loss_is_hintons_formula() -> None:
    """The loss equals T²·KL of the softened distributions, mixed with cross entropy by alpha; no teacher gradient."""
    torch.manual_seed(0)
    teacher, x, targets = linear(drop=0.5), torch.randn(5, 6), torch.tensor([0, 1, 2, 1, 0])
    student = torch.randn(5, 3, requires_grad=True)
    with torch.no_grad():
        p = (teacher.module(x)[0] / 4).softmax(1).double().numpy()
    q = (student / 4).softmax(1).detach().double().numpy()
    soft = 16 * float((p * (np.log(p) - np.log(q))).sum(1).mean())
    hard = float(nn.functional.cross_entropy(student.detach(), targets))
    for alpha in (0.0, 0.3, 1.0):
        loss = soft_target_loss(teacher, 4.0, alpha, "classification")
        value = loss({"output": student}, {"x": x}, None if alpha == 1 else targets)
        assert float(value.detach()) == pytest.approx(alpha * soft + (1 - alpha) * hard, rel=1e-5)
    value.backward()
    assert student.grad is not None
    assert all(weight.grad is None for weight in teacher.module.parameters())


def test_regression_distils_the_teachers_values() -> None:
    """For regression the soft loss is the mean squared error to the teacher."""
    teacher, x, prediction = linear(1), torch.randn(5, 6), torch.randn(5, 1)
    with torch.no_grad():
        wanted = 0.75 * (prediction - teacher.module(x)[0]).square().mean() + 0.25 * prediction.square().mean()
    loss = soft_target_loss(teacher, 4.0, 0.75, "regression")
    torch.testing.assert_close(loss({"output": prediction}, {"x": x}, torch.zeros(5)), wanted)


def test_teacher_and_student_must_fit() -> None:
    """Other classes and other inputs are rejected before training; equal inputs may have other names."""
    check_pair(linear().signature, linear(name="other").signature)
    with pytest.raises(ModelError, match=r"batch, 3\].*batch, 7\]"):
        check_pair(linear(3).signature, linear(7).signature)
    with pytest.raises(ModelError, match=r"batch, 6\].*batch, 5\]"):
        check_pair(linear(width=6).signature, linear(width=5).signature)


def test_loss_knows_its_teacher() -> None:
    """Losses with another teacher, temperature or weight have another identity, so checkpoints are not confused."""
    teacher = linear()
    other = clone(teacher)
    with torch.no_grad():
        next(other.module.parameters()).add_(1)
    makes = [(teacher, 4.0, 0.5), (other, 4.0, 0.5), (teacher, 3.0, 0.5), (teacher, 4.0, 0.6)]
    assert len({soft_target_loss(*make, "classification").identity for make in makes}) == 4
    assert soft_target_loss(clone(teacher), 4.0, 0.5, "classification").identity in {
        soft_target_loss(teacher, 4.0, 0.5, "classification").identity
    }


class Net(nn.Module):
    """A small CNN for 8x8 digits."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(width, 2 * width, 3, padding=1), nn.BatchNorm2d(2 * width), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Flatten(), nn.Dropout(0.1), nn.Linear(8 * width, 10)),
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.body(image)


def digits(labelled: bool = True) -> Splits:
    """Scikit-learn's handwritten digits."""
    raw = load_digits()
    order = np.random.default_rng(0).permutation(len(raw.target))
    images = (raw.images[order, None] / 16).astype(np.float32)
    targets = raw.target[order].astype(np.int64)

    def part(start: int, stop: int, keep: bool = True) -> ArraySplit:
        return ArraySplit({"image": images[start:stop]}, targets[start:stop] if keep else None)

    return Splits(part(0, 1100, labelled), part(1100, 1300, labelled), part(0, 64), part(1300, 1797))


def accuracy(program: Program, split: ArraySplit) -> float:
    """Share of samples that are right."""
    return float((predict(program, split)["output"].argmax(1) == split.targets).mean())


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A teacher trained on the digits, as an artifact."""
    torch.manual_seed(0)
    program = capture(Net(16), {"image": torch.randn(2, 1, 8, 8)})
    fit(program, TrainOptions(epochs=10, learning_rate=5e-3), Context(digits(), task="classification", seed=0))
    return store(program, Place(tmp_path_factory.mktemp("teacher") / "artifact"), "train")


def student() -> Program:
    """A student of a sixth of the teacher's parameters."""
    torch.manual_seed(1)
    return capture(Net(5), {"image": torch.randn(2, 1, 8, 8)})


def test_student_learns_the_digits_from_its_teacher(teacher: Any, tmp_path: Path) -> None:
    """On real data, a student below a fifth of the size has at most six points less accuracy than its teacher."""
    data, options = digits(), DistillOptions(student=ANY, epochs=15, learning_rate=5e-3)
    arguments: dict[str, Any] = {"data": data, "task": "classification", "seed": 0, "scratch": tmp_path / "scratch"}
    artifact = distill(options, teacher, Place(tmp_path / "student"), Context(**arguments), student())
    theirs, ours = (accuracy(load_program(made.main), in_memory(data.test)) for made in (teacher, artifact))
    assert theirs > 0.96
    assert ours > theirs - 0.06
    facts = artifact.facts
    assert facts["parameters"] < facts["teacher_parameters"] / 5
    assert (facts["metric"], facts["epochs"], facts["doubt"]) == ("accuracy", 15, "")
    assert list((tmp_path / "scratch").iterdir()) == []


def test_labels_are_not_needed_when_alpha_is_one(teacher: Any, tmp_path: Path) -> None:
    """Without labels, a student still learns the task; with alpha below one, this is rejected."""
    data = digits(labelled=False)
    arguments: dict[str, Any] = {"data": data, "task": "classification", "seed": 0, "scratch": tmp_path / "scratch"}
    options = DistillOptions(student=ANY, epochs=8, learning_rate=5e-3, alpha=1.0)
    artifact = distill(options, teacher, Place(tmp_path / "student"), Context(**arguments), student())
    assert artifact.facts["metric"] == "loss"
    assert accuracy(load_program(artifact.main), in_memory(data.test)) > 0.9
    with pytest.raises(DataError, match="needs targets"):
        distill(
            options.model_copy(update={"alpha": 0.5}), teacher, Place(tmp_path / "no"), Context(**arguments), student()
        )


def test_only_a_program_teaches(tmp_path: Path) -> None:
    """An artifact of another kind is rejected with the command that makes a program."""
    (tmp_path / "model.onnx").write_bytes(b"x")
    with pytest.raises(ArtifactError, match="needs a program"):
        distill(
            DistillOptions(student=ANY),
            load_artifact(tmp_path / "model.onnx"),
            Place(tmp_path / "out"),
            Context(data=digits(), task="classification", seed=0, scratch=tmp_path),
            linear(),
        )


def test_a_student_that_learned_nothing_is_told(
    teacher: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A student that is hardly trained is at chance: there is a warning, and the facts say it; a sound one has none."""
    options = DistillOptions(student=ANY, epochs=1, learning_rate=1e-12)
    context = Context(digits(), task="classification", seed=0, scratch=tmp_path, console=Console("text"))
    artifact = distill(options, teacher, Place(tmp_path / "student"), context, student())
    assert "`distill`: it " in capsys.readouterr().err
    assert artifact.facts["doubt"]
