"""Live objects do not change the user's module, are saved, opened and shown, and report errors."""

from __future__ import annotations

import gc
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from api_nets import Cnn, Gru, Texts, bert, images, loader, series
from torch import nn

import retort
from retort.core.errors import ArtifactError, CaptureError, DataError, MissingFileError, RetortError, UserError
from retort.pipeline.live.objects.comparison import Result
from retort.pipeline.live.objects.model_files import Archive, Graph
from retort.pipeline.live.objects.opening import Run
from retort.pipeline.live.objects.programs import Program
from retort.pipeline.run import run as run_recipe

QUICK: dict[str, Any] = {"timed": False, "correction": "none", "weight_bits": 7}
BRIEFLY: dict[str, Any] = {"batch_sizes": [1], "budget_s": 0.1, "blocks": 3, "block_ms": 1}


@pytest.fixture(scope="module")
def program() -> Program:
    """A captured CNN."""
    torch.manual_seed(0)
    return retort.capture(Cnn(), loader(images()))


@pytest.fixture(scope="module")
def int8(program: Program) -> Any:
    """The CNN in INT8."""
    return retort.quantize(program, data=images(), **QUICK)


@pytest.fixture(scope="module")
def graph(int8: Program) -> Graph:
    """The CNN in INT8 as a file."""
    return retort.export(int8)


@pytest.fixture(scope="module")
def result(program: Program, graph: Graph) -> Result:
    """The measurements of both."""
    return retort.compare({"before": program, "after": graph}, data=loader(images()), **BRIEFLY)


@pytest.mark.parametrize("training", [True, False])
def test_capture_leaves_the_module_as_it_was(training: bool) -> None:
    """Mode, parameters, buffers, gradients, hooks and random state of the user's module do not change."""
    net = Cnn().train(training)
    net.more.eval()
    calls: list[int] = []
    net.head.register_forward_hook(lambda *_: calls.append(1))
    state = {name: value.clone() for name, value in net.state_dict().items()}
    objects = [id(value) for value in (*net.parameters(), *net.buffers())]
    modes, seed = [child.training for child in net.modules()], torch.get_rng_state()
    retort.capture(net, torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(1)))
    assert [child.training for child in net.modules()] == modes
    assert [id(value) for value in (*net.parameters(), *net.buffers())] == objects
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert all(weight.grad is None for weight in net.parameters())
    assert torch.equal(torch.get_rng_state(), seed)
    before = len(calls)
    net(torch.zeros(2, 1, 8, 8))
    assert len(calls) == before + 1


class Mean(nn.Module):
    """``[N, 10, 6]`` series to three classes."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, 3)

    def forward(self, series: torch.Tensor) -> torch.Tensor:
        """Scores per class of the mean step."""
        scores: torch.Tensor = self.head(series.mean(1))
        return scores


def test_capture_takes_what_a_script_has() -> None:
    """A tensor, a tuple with targets, a mapping, a loader's batch and the loader itself give the same program."""
    data = series()
    x, y = data.tensors
    for example in (x[:1], {"series": x[:4]}, next(iter(loader(data))), loader(data), data):
        made = retort.capture(Mean(), example)
        assert [spec.describe() for spec in made.signature.inputs] == ["series: float32[batch, 10, 6]"]
    assert len(retort.capture(Gru(), (x, y)).signature.inputs) == 2  # a tuple is what the forward takes
    assert len(retort.capture(Cnn(), images()[:4]).signature.inputs) == 1
    made = retort.capture(bert(), loader(Texts()))
    assert [spec.name for spec in made.signature.inputs] == ["input_ids", "attention_mask"]
    assert made.signature.inputs[0].shape == ("batch", "sequence")
    assert made(input_ids=np.full((3, 5), 7), attention_mask=np.ones((3, 5))).shape == (3, 2)


def test_a_program_runs_on_tensors_and_arrays(program: Program) -> None:
    """Tensors give tensors and arrays give arrays, by position or by name, in any mode of the module."""
    x = torch.randn(3, 1, 8, 8)
    program.module.train()
    outputs = program(x), program(image=x), program({"image": x})
    assert program.module.training
    program.module.eval()
    assert all(torch.equal(value, outputs[0]) for value in outputs)
    assert not outputs[0].requires_grad
    assert isinstance(program(x.numpy()), np.ndarray)
    np.testing.assert_array_equal(program(x.double().numpy()), outputs[0].numpy())


def test_stages_never_change_what_they_are_given(program: Program) -> None:
    """After pruning and quantizing, the input computes the same bits and has the same facts."""
    x = torch.randn(3, 1, 8, 8)
    before, facts = program(x), program.facts.to_dict()
    small = retort.prune(program, macs=0.7, data=images(), recover=None)
    retort.quantize(program, data=images(), **QUICK)
    assert torch.equal(program(x), before)
    assert program.facts.to_dict() == facts
    assert small.facts.macs_before == facts["macs"]
    assert small.facts.groups[0].layers


def test_facts_are_attributes_and_keys(program: Program, int8: Program) -> None:
    """Facts are read as attributes and as keys and are constant; for a misspelt one there is the nearest name."""
    assert program.facts.macs == program.facts["macs"] > 0
    assert dict(program.facts)["macs"] == program.facts.macs
    assert int8.facts.against_fp32.samples == 7
    with pytest.raises(AttributeError, match="did you mean 'macs'"):
        _ = program.facts.mac
    with pytest.raises(AttributeError, match="read-only"):
        program.facts.macs = 0
    assert json.loads(json.dumps(int8.facts.to_dict()))


def test_data_are_remembered_from_stage_to_stage(program: Program) -> None:
    """A stage without data uses the data that its program was last given."""
    small = retort.prune(program, macs=0.8, data=images(), recover=None)
    int8 = retort.quantize(small, **QUICK)
    assert int8.data is small.data
    with pytest.raises(DataError, match="no data were given"):
        retort.quantize(program, **QUICK)


def test_a_work_folder_is_reused_and_a_temporary_one_goes(tmp_path: Path) -> None:
    """With a folder, equal calls find the earlier artifact; without one, no files are left."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))
    x = torch.randn(40, 6)
    made = [
        retort.quantize(
            retort.capture(net, x, folder=tmp_path), data=loader(torch.utils.data.TensorDataset(x)), **QUICK
        )
        for _ in range(2)
    ]
    assert made[0].path == made[1].path
    assert made[0].path.parent == tmp_path
    written = made[0].path.stat().st_mtime_ns
    retort.quantize(retort.load(tmp_path)["capture"], data=x, folder=tmp_path, **QUICK)
    assert made[0].path.stat().st_mtime_ns == written
    program = retort.capture(net, x)
    folder = program.path.parent
    child = retort.quantize(program, data=x, **QUICK)
    del program
    gc.collect()
    assert folder.is_dir()
    assert child(x).shape == (40, 3)
    del child
    gc.collect()
    assert not folder.exists()


def test_everything_written_is_opened(program: Program, int8: Program, graph: Graph, tmp_path: Path) -> None:
    """`load` gives the right live object for files, artifact folders, run folders and results."""
    x = torch.randn(3, 1, 8, 8)
    opened = retort.load(program.save(tmp_path / "net.pt2"))
    assert isinstance(opened, Program)
    assert torch.equal(opened(x), program(x))
    assert opened.facts.macs == program.facts.macs
    kept = retort.load(int8.save(tmp_path / "int8"))
    assert kept.facts.integer_macs_percent == int8.facts.integer_macs_percent
    assert torch.equal(kept(x), int8(x))
    file = retort.load(graph.save(tmp_path / "net.onnx"))
    np.testing.assert_array_equal(file(x), graph(x))
    archive = retort.pack(graph, tmp_path / "net.mar", name="net")
    assert isinstance(retort.load(tmp_path / "net.mar"), Archive)
    assert archive.path == tmp_path / "net.mar"
    run = retort.load(int8.path.parent)
    assert isinstance(run, Run)
    assert {"capture", "quantize", "export"} <= set(run)
    assert run["quantize"].facts.target == "cpu"
    session = retort.open_session(graph)
    np.testing.assert_array_equal(session.run({"image": x.numpy()})["output"], graph(x))


def test_an_onnx_file_goes_through_the_stages(program: Program, tmp_path: Path) -> None:
    """Functions for programs accept an ONNX file, as an object or by its path, and give an ONNX file again."""
    file = tmp_path / "net.onnx"
    retort.export(program, file)
    small = retort.prune(file, macs=0.7, data=images(), recover=None)
    assert isinstance(small, Graph)
    assert small.program is not None
    assert small.program.facts.macs_after < small.program.facts.macs_before
    again = retort.capture(file, data=loader(images()))
    x = torch.randn(3, 1, 8, 8)
    assert torch.allclose(again(x), program(x), atol=1e-5)


def test_a_student_of_any_kind_learns(program: Program) -> None:
    """Distillation accepts a module, which is not changed, or a program; without labels it requires `alpha=1`."""
    student = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    state = {name: value.clone() for name, value in student.state_dict().items()}
    made = retort.distill(program, student, data=images(), epochs=1)
    assert made.facts.teacher_parameters == program.facts.parameters
    assert all(torch.equal(value, state[name]) for name, value in student.state_dict().items())
    captured = retort.capture(student, torch.randn(2, 1, 8, 8))
    x = images().tensors[0]
    assert retort.distill(program, captured, data=x, epochs=1, alpha=1.0).facts.epochs == 1
    with pytest.raises(DataError, match="the data have none") as caught:
        retort.distill(program, captured, data=x, epochs=1)
    assert "alpha" in caught.value.remedy


def test_a_comparison_is_a_table_everywhere(result: Result, tmp_path: Path) -> None:
    """A result prints and shows the same table, and can be saved as JSON or as a report."""
    columns, rows = result.table()
    assert [row[0] for row in rows] == ["before", "after"]
    assert all(column in str(result) for column in columns)
    shown = result._repr_html_()
    assert shown.count("<tr>") == 3
    assert "before" in shown
    assert result.stage("after").metric is not None
    again = retort.load(result.save(tmp_path / "result.json"))
    assert again == result
    assert "<html" in result.save(tmp_path / "report.html").read_text()


def test_a_module_and_a_file_are_compared(graph: Graph, tmp_path: Path) -> None:
    """A module is captured for the comparison, a path is opened; without labels, agreement with the first counts."""
    file = graph.save(tmp_path / "net.onnx")
    found = retort.compare({"net": Cnn(), "file": file}, data=images().tensors[0], **BRIEFLY)
    assert [stage.kind for stage in found.stages] == ["program", "graph"]
    metrics = [stage.metric for stage in found.stages if stage.metric is not None]
    assert [(metric.name, metric.n) for metric in metrics] == [("agreement", len(images().tensors[0]))] * 2
    assert metrics[0].value == 1


def test_everything_shows_itself(program: Program, int8: Program, graph: Graph, result: Result, tmp_path: Path) -> None:
    """Every object has a short `repr` with its name, and HTML that is escaped and never fails."""
    archive = retort.pack(graph, name="net")
    run = retort.load(int8.path.parent)
    for item in (program, int8, graph, archive, run, program.facts, int8.facts):
        assert len(repr(item).splitlines()) <= 17
        assert item._repr_html_().startswith(("<table>", "<div>"))
    for item, told in ((program, "image: float32[batch, 1, 8, 8]"), (program, "MACs per sample"), (graph, "opset")):
        assert told in repr(item)
    gone = retort.load(graph.save(tmp_path / "gone.onnx"))
    os.remove(gone.path)
    assert "gone" in repr(gone)
    assert "gone" in gone._repr_html_()
    assert os.fspath(graph) == str(graph.path)


def test_what_a_stage_warns_of_is_kept_and_warned_of(program: Program) -> None:
    """Warnings of a stage become Python warnings and notes of its result."""
    with pytest.warns(UserWarning, match="but the budget is"):
        small = retort.prune(program, macs=0.7, data=images(), recover=None, align=16)
    assert any("but the budget is" in note for note in small.notes)


def test_the_run_of_a_recipe_is_opened(tmp_path: Path) -> None:
    """The folder of a run gives a live object for every stage: programs, files, the measurement and the report."""
    file = retort.capture(nn.Linear(4, 3), torch.randn(4, 4)).save(tmp_path / "net.pt2")
    bench = {"batch_sizes": [1], "blocks": 3, "block_ms": 1, "budget_s": 0.1}
    stages = [{"quantize": {"timed": False, "samples": 32, "correction": "none"}}, "export", {"bench": bench}, "report"]
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(json.dumps({"name": "tiny", "data": "iris", "model": str(file), "stages": stages}))
    run = retort.load(run_recipe(recipe, tmp_path / "runs").folder)
    kinds = {stage: type(item).__name__ for stage, item in run.items()}
    assert kinds["quantize"] == "Program"
    assert kinds["export"] == "Graph"
    assert kinds["bench"] == "Result"
    assert kinds["report"] == "Report"


class Branching(nn.Module):
    """A model whose control flow depends on its data."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """One way or the other."""
        return x if x.sum() > 0 else -x


face: Any = retort  # calls that a type checker refuses, too
FAULTS: dict[str, tuple[Callable[[Program], Any], type[RetortError], str]] = {
    "no example": (lambda p: face.capture(Cnn()), DataError, "needs an example"),
    "a class": (lambda p: face.capture(Cnn, torch.zeros(2, 1, 8, 8)), UserError, "the class Cnn"),
    "control flow": (lambda p: face.capture(Branching(), torch.randn(4, 2)), CaptureError, "line"),
    "no such file": (lambda p: face.prune("nothing.pt2", macs=0.5), MissingFileError, "nothing.pt2 does not exist"),
    "not captured": (lambda p: face.quantize(Cnn(), data=images()), UserError, "not captured yet"),
    "misspelt": (lambda p: face.prune(p, mac=0.5, data=images()), UserError, "did you mean 'macs'"),
    "misspelt inside": (
        lambda p: face.prune(p, macs=0.5, data=images(), recover={"epoch": 1}), UserError, "did you mean 'epochs'",
    ),
    "no budget": (lambda p: face.prune(p, data=images()), UserError, "exactly one of macs"),
    "a wrong word": (lambda p: face.quantize(p, data=images(), method="max"), UserError, "did you mean 'minmax'"),
    "a wrong target": (lambda p: face.quantize(p, data=images(), target="gpu"), UserError, "cpu or arm or tensorrt"),
    "no labels": (lambda p: face.train(p, epochs=1, data=images().tensors[0]), DataError, "needs labels"),
    "a wrong shape": (lambda p: p(torch.zeros(2, 1, 9, 9)), UserError, "size 9 on axis 2"),
    "a wrong name": (lambda p: p(picture=torch.zeros(2, 1, 8, 8)), UserError, "unknown picture"),
    "a wrong suffix": (lambda p: face.export(p, "net.pt"), UserError, "path of a .onnx file"),
    "packing a program": (lambda p: face.pack(p), UserError, "retort.export"),
    "no names": (lambda p: face.compare([p], data=images()), UserError, "by name"),
    "no metric": (lambda p: face.compare({"p": p}, data=images(), metric="acc", **BRIEFLY), UserError, "choose one"),
    "a foreign file": (lambda p: face.load(__file__), ArtifactError, "not a kind of file"),
    "a module as data": (lambda p: face.quantize(p, data=Cnn()), DataError, "not samples"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_errors_have_a_remedy(program: Program, fault: str) -> None:
    """Each error is one clear message with a remedy."""
    act, kind, message = FAULTS[fault]
    with pytest.raises(kind) as caught:
        act(program)
    assert message in str(caught.value)
    assert caught.value.remedy
