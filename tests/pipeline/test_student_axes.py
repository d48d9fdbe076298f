"""A student has the dynamic axes of its teacher: from a factory by name, and from a module in memory."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import retort
from retort.compress.capture.capture_program import capture
from retort.compress.program import load_program, store
from retort.core.console import SILENT, Console
from retort.core.context import Context, Place
from retort.core.data.splits import ArraySplit, Splits
from retort.core.options.stage_options import DistillOptions, ModelSpec
from retort.core.tensors import Signature, TensorSpec
from retort.pipeline.dispatch import run_stage
from retort.pipeline.student_axes import missing_axes

NET = """
import torch
from torch import nn

class Words(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.table, self.head = nn.Embedding(20, width), nn.Linear(width, 3)
        self.body = nn.GRU(width, width, batch_first=True)

    def forward(self, tokens):
        return self.head(self.body(self.table(tokens))[0].mean(1))

class Fixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.head = nn.Embedding(20, 4), nn.Linear(6 * 4, 3)

    def forward(self, tokens):
        return self.head(self.table(tokens).flatten(1))

def small():
    return Words(8)

def fixed():
    return Fixed()
"""


def words(rows: int, seed: int) -> ArraySplit:
    draw = np.random.default_rng(seed)
    return ArraySplit({"tokens": draw.integers(0, 20, (rows, 6))}, draw.integers(0, 3, rows))


DATA = Splits(words(48, 0), words(16, 1), words(16, 2), words(16, 3))


@pytest.fixture
def nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module with nets, and the current folder."""
    (tmp_path / "student_nets.py").write_text(NET)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("student_nets", None)
    return tmp_path


def teacher() -> nn.Module:
    torch.manual_seed(0)
    table, head = nn.Embedding(20, 16), nn.Linear(16, 3)

    class Mean(nn.Module):
        """The mean of embedded words."""

        def __init__(self) -> None:
            super().__init__()
            self.table, self.head = table, head

        def forward(self, tokens: Tensor) -> Tensor:
            found: Tensor = self.head(self.table(tokens).mean(1))
            return found

    return Mean().eval()


def distilled(nets: Path, student: str, console: Console = SILENT) -> Signature:
    example = {"tokens": torch.from_numpy(DATA.train.read(range(4))[0]["tokens"])}
    program = capture(teacher(), example, dynamic={"tokens": {1: "length"}})
    parent = store(program, Place(nets / "teacher"), "train")
    context = Context(DATA, base=nets, console=console)
    options = DistillOptions(student=ModelSpec(source=f"student_nets:{student}"), epochs=1)
    made = run_stage("distill", options, parent, Place(nets / student), context)
    return load_program(made.main).signature


def test_a_student_takes_other_lengths_as_its_teacher_does(nets: Path) -> None:
    """A factory's student is captured with the teacher's free length."""
    assert distilled(nets, "small").inputs[0].shape == ("batch", "length")


told: list[str] = []


class Listening(Console):
    """Stores warnings."""

    def warn(self, text: str) -> None:
        """Store one."""
        told.append(text)


def test_a_student_whose_code_needs_a_fixed_length_keeps_it(nets: Path) -> None:
    """The distillation goes on, with a warning that names the axis."""
    console = Listening("silent")
    assert distilled(nets, "fixed", console).inputs[0].shape == ("batch", 6)
    assert any("keeps a fixed size for length" in text for text in told)


def test_a_module_in_memory(nets: Path) -> None:
    """The Python interface gives the axes, too, and the student's program runs at another length."""
    small = runpy.run_path(str(nets / "student_nets.py"))["small"]
    example = torch.from_numpy(DATA.train.read(range(4))[0]["tokens"])
    program = retort.capture(teacher(), example, dynamic={"tokens": {1: "length"}})
    student = retort.distill(program, small(), data=DATA, epochs=1)
    assert student(torch.zeros(2, 11, dtype=torch.int64)).shape == (2, 3)


def test_axes_belong_together_by_name_or_in_order() -> None:
    """Inputs of other ranks are left alone, and nothing is asked for if all axes are there."""

    def signature(*inputs: tuple[str, tuple[int | str, ...]]) -> Signature:
        return Signature(tuple(TensorSpec(name, "int64", shape) for name, shape in inputs), ())

    one = signature(("ids", ("batch", "s")), ("mask", ("batch", "s")))
    assert missing_axes(one, signature(("ids", ("batch", 8)), ("mask", ("batch", 8)))) == {
        "ids": {1: "s"},
        "mask": {1: "s"},
    }
    assert missing_axes(one, signature(("a", ("batch", 8)), ("b", ("batch",)))) == {"a": {1: "s"}}
    assert missing_axes(
        one,
        signature(
            ("mask", ("batch", 8)),
        ),
    ) == {"mask": {1: "s"}}
    assert missing_axes(one, one) == {}
