"""`retort bench gate` on real files: they are measured together with the baseline's own file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retort.__main__ import main
from retort.benchmarks.small_networks import make_nets
from retort.cli.benching.bench_gate import percent_of
from retort.core.errors import UserError

QUICK = ["--budget-s", "0.6"]


def exit_code(*arguments: str) -> object:
    """Run a command; its exit code."""
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return ended.value.code


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with networks, images, and a baseline that measured the narrow one."""
    folder = tmp_path_factory.mktemp("project")
    narrow = make_nets(folder)[1]
    images = np.random.default_rng(0).standard_normal((12, 3, 32, 32)).astype(np.float32)
    np.savez(folder / "data.npz", image=images)
    (folder / "same.onnx").write_bytes(narrow.read_bytes())
    out, data = str(folder / "base.json"), str(folder / "data.npz")
    command = ["bench", str(narrow), "--data", data, "--batch-sizes", "1", "--budget-s", "0.3", "--out", out]
    assert exit_code(*command) == 0
    return folder


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A work folder and a cache of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RETORT_CACHE", str(tmp_path / "cache"))


def gate(project: Path, model: str, *more: str) -> object:
    """The exit code of a gate."""
    files = [str(project / model), "--baseline", str(project / "base.json"), "--data", str(project / "data.npz")]
    return exit_code("bench", "gate", *files, *QUICK, *more)


def test_an_unchanged_model_passes(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A copy of the baseline's file is as fast: exit code 0, and the JSON has the check with its interval."""
    assert gate(project, "same.onnx", "--slower", "60%", "--size", "0%", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["outcome"], found["together"]) == ("passed", True)
    assert [(check["quantity"], check["batch"]) for check in found["checks"]] == [("latency", 1), ("size", None)]
    assert found["checks"][0]["low"] < 60 < 100


def test_a_slower_file_of_the_same_answer_fails(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The narrow network with all of its work done twice is found to be slower, in text, in JSON and in the page."""
    doubled(project / "narrow.onnx", project / "doubled.onnx")
    assert gate(project, "doubled.onnx", "--json", "--markdown", "comment.md", "--accuracy-drop", "0.01") == 6
    error: dict[str, Any] = json.loads(capsys.readouterr().out)["error"]
    assert (error["code"], error["gate"]["outcome"]) == ("GateError", "failed")
    assert "longer" in error["message"]
    lines = Path("comment.md").read_text().splitlines()
    assert lines[1].startswith("**❌ Failed (1 of 2 checks passed): doubled at batch 1 takes ")
    assert lines[-1].startswith("Command: `")
    Path("comment.md").write_text("mine")
    assert gate(project, "same.onnx", "--markdown", "comment.md") == 2
    assert Path("comment.md").read_text() == "mine"
    assert gate(project, "doubled.onnx", "--no-latency", "--size", "5%") == 6
    assert "only 5 % are allowed" in capsys.readouterr().err


def doubled(source: Path, target: Path) -> None:
    """Write a network that computes everything twice and adds half of each."""
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.load(str(source))
    graph = model.graph
    first = list(graph.node)
    names = {name for node in first for name in node.output}
    second = []
    for node in first:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        for values in (copy.input, copy.output):
            values[:] = [f"{name}_again" if name in names else name for name in values]
        second.append(copy)
    half = numpy_helper.from_array(np.array(0.49, np.float32), "half")
    rest = numpy_helper.from_array(np.array(0.51, np.float32), "rest")
    end = graph.output[0].name
    for node in first:
        node.output[:] = ["first_output" if name == end else name for name in node.output]
    scaled = [
        helper.make_node("Mul", ["first_output", "half"], ["one_half"]),
        helper.make_node("Mul", [f"{end}_again", "rest"], ["other_half"]),
        helper.make_node("Add", ["one_half", "other_half"], [end]),
    ]
    for kernel in list(graph.initializer):  # its own weights, or the runtime merges equal nodes
        own = numpy_helper.from_array(numpy_helper.to_array(kernel) * np.float32(1.0000001), f"{kernel.name}_own")
        graph.initializer.append(own)
        for node in second:
            node.input[:] = [f"{name}_own" if name == kernel.name else name for name in node.input]
    graph.initializer.extend([half, rest])
    del graph.node[:]
    graph.node.extend([*first, *second, *scaled])
    onnx.save(model, str(target))


@pytest.mark.parametrize(
    ("model", "more", "told"),
    [
        ("same.onnx", ["--baseline-model", "{project}/wide.onnx"], "is not the file that the baseline measured"),
        ("same.onnx", ["--slower", "5"], "--slower 5 is no share"),
        ("base.json", [], "is a result, so nothing is measured"),
        ("nothing.onnx", [], "no such artifact or model"),
        ("same.onnx", ["--stage", "other"], "--stage other"),
    ],
)
def test_bad_arguments_have_one_message(
    project: Path, model: str, more: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """What cannot be gated is said before anything is measured, with exit code 2."""
    assert gate(project, model, *(word.format(project=project) for word in more)) == 2
    assert told in capsys.readouterr().err


def test_without_the_file_two_runs_are_compared(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A baseline without its model file is compared across runs, which is told, and undecided gates pass on request."""
    alone = Path("alone.json")
    alone.write_text((project / "base.json").read_text())
    command = ["bench", "gate", str(project / "same.onnx"), "--baseline", str(alone), *QUICK]
    command += ["--data", str(project / "data.npz"), "--slower", "0.1%", "--cannot-tell"]
    code, told = exit_code(*command, "fail"), capsys.readouterr()
    assert "two runs are compared" in told.err
    # the machine may be faster or slower now than when the baseline was measured
    assert code == (0 if "✅ Passed" in told.out else 6)
    command = ["bench", "gate", str(alone), "--baseline", str(alone), "--slower", "0.1%", "--cannot-tell"]
    assert exit_code(*command, "fail") == 6
    assert exit_code(*command, "pass") == 0
    assert "Cannot tell" in capsys.readouterr().out


def test_percentages_are_read_with_their_sign() -> None:
    """5% and 0.05 are five percent; a bare 5 is refused, because it may mean either."""
    assert [percent_of(text, "--size") for text in ("5%", "0.05", "2.5 %", "0", ".5%")] == [5, 5, 2.5, 0, 0.5]
    for text in ("5", "-1%", "five", "", "1e-2"):
        with pytest.raises(UserError, match="is no share"):
            percent_of(text, "--size")


def test_an_edited_result_passes_no_gate(project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Times that do not follow from the raw ones are refused on both sides, and `compare` warns of them."""
    base, edited = project / "base.json", tmp_path / "edited.json"
    raw = json.loads(base.read_text())
    times = raw["stages"][0]["latency"]["1"]["median_ms"]
    times |= {name: times[name] / 2 for name in ("value", "low", "high")}
    edited.write_text(json.dumps(raw))
    for before, after in ((base, edited), (edited, base)):
        assert exit_code("bench", "gate", str(after), "--baseline", str(before), "--slower", "90%") == 3
        assert "edited.json is INVALID, so no decision can be based on it" in " ".join(capsys.readouterr().err.split())
    assert exit_code("compare", str(base), str(edited)) == 0
    assert "edited.json is INVALID" in " ".join(capsys.readouterr().err.split())
