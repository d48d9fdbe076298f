"""A student has the dynamic axes of its teacher: from a factory by name, and from a module in memory."""

from __future__ import annotations

import json
import re
import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import retort
from retort.__main__ import main
from retort.compress.capture.capture_program import capture
from retort.compress.program import load_program, store
from retort.core.console import SILENT, Console
from retort.core.context import Context, Place
from retort.core.data.splits import ArraySplit, Splits
from retort.core.options.stage_options import DistillOptions, ModelSpec
from retort.core.signature import Signature
from retort.core.tensors import TensorSpec
from retort.pipeline.dispatch import run_stage
from retort.pipeline.student_axes import missing_axes
from retort.serve.engine import Engine
from retort.serve.requests.request import Incoming

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


def test_capture_says_that_a_length_is_fixed(nets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Token inputs of one length get the option for others, which is silent when it is used."""
    np.savez("words.npz", x_train=DATA.train.read(range(48))[0]["tokens"])
    command = ("capture", "student_nets:small", "--data", "words.npz")
    _retort(*command, "--out", "stiff")
    told = capsys.readouterr().err
    option = re.search(r"always has 6 values per sample; .* use `--set (dynamic\.\w+\.1=length)`", told)
    assert option is not None, told
    _retort(*command, "--set", option[1], "--out", "free")
    assert "always has" not in capsys.readouterr().err
    assert load_program(Path("free/model.pt2")).signature.inputs[0].shape == ("batch", "length")


def test_a_file_keeps_its_axes(nets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A student's .pt2 file with a free length keeps it; of one with a fixed length the command to make it is told."""
    small = runpy.run_path(str(nets / "student_nets.py"))["small"]
    example = {"tokens": torch.from_numpy(DATA.train.read(range(4))[0]["tokens"])}
    for name, axes in (("free", {"tokens": {1: "words"}}), ("stiff", None)):
        store(capture(small(), example, dynamic=axes), Place(nets / f"{name}-student"), "capture")
    assert _of_file(nets, "free").inputs[0].shape == ("batch", "words")
    assert "keeps a fixed size" not in capsys.readouterr().err
    assert _of_file(nets, "stiff").inputs[0].shape == ("batch", 6)
    assert "capture it with --set dynamic.tokens.1=length" in capsys.readouterr().err


def _of_file(nets: Path, name: str) -> Signature:
    parent = nets / f"teacher-of-{name}"
    program = capture(teacher(), {"tokens": torch.zeros(4, 6, dtype=torch.int64)}, dynamic={"tokens": {1: "length"}})
    (file,) = (nets / f"{name}-student").glob("*.pt2")
    options = DistillOptions(student=ModelSpec(source=str(file)), epochs=1)
    context = Context(DATA, base=nets, console=Console("text"))
    made = run_stage("distill", options, store(program, Place(parent), "train"), Place(nets / f"of-{name}"), context)
    return load_program(made.main).signature


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


@pytest.mark.slow
@pytest.mark.parametrize("form", ["folder", "pt2"])
def test_a_pretrained_student_is_served_at_other_lengths(
    form: str, nets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From two Hugging Face folders to a packed student that answers requests of four tokens, of forty, and of one."""
    _pretrained(nets / "teacher-bert", 32, 2)
    _pretrained(nets / "student-bert", 16, 1)
    tokens = {name: words(rows, 1) for name, rows in (("train", 48), ("validation", 16), ("calibration", 16))}
    arrays = {f"input_ids_{name}": split.inputs["tokens"] for name, split in (*tokens.items(), ("test", words(16, 2)))}
    masks = {key.replace("input_ids", "attention_mask"): np.ones_like(ids) for key, ids in arrays.items()}
    labels = {key.replace("input_ids", "y"): np.arange(len(ids)) % 3 for key, ids in arrays.items()}
    given: dict[str, Any] = {**arrays, **masks, **labels}
    np.savez(nets / "words.npz", **given)
    student = "student-bert"
    if form == "pt2":
        _retort("capture", "--hf", "student-bert", "--data", "words.npz", "--out", "student-program")
        (student,) = (str(path) for path in Path("student-program").glob("*.pt2"))
    _retort("capture", "--hf", "teacher-bert", "--data", "words.npz", "--out", "captured")
    _retort("distill", "captured", "--student", student, "--data", "words.npz", "--epochs", "1", "--out", "distilled")
    assert "keeps a fixed size" not in capsys.readouterr().err
    _retort("export", "distilled", "--data", "words.npz", "--out", "exported")
    _retort("pack", "exported", "--out", "packed")
    engine = Engine.load(Path("packed") / "bundle")
    for length in (4, 40, 1):
        body = json.dumps({"input_ids": [[5] * length], "attention_mask": [[1] * length]}).encode()
        answer = engine.answer([Incoming({"body": body}, {}, {"content-type": "application/json"})])[0]
        assert answer.status == 200, answer.body
        assert len(json.loads(answer.body)["logits"][0]) == 3
    engine.close()


def _pretrained(folder: Path, width: int, layers: int) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": 2, "intermediate_size": width}
    config = transformers.BertConfig(vocab_size=20, num_labels=3, max_position_embeddings=64, **sizes)
    transformers.BertForSequenceClassification(config).save_pretrained(folder)


def _retort(*arguments: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    assert ended.value.code == 0
