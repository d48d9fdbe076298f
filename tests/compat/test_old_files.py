"""Files of earlier versions: programs, graphs, archives, recipes, results and runs can still be used."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import yaml

import retort
from retort.__main__ import main
from retort.benchmarks.machine import cpu_features, int8_outlook
from retort.core.artifact import load_artifact
from retort.core.errors import VerificationError
from retort.core.options.stage_options import ServeOptions
from retort.serve.client import predict
from retort.serve.engine import Engine
from retort.serve.requests.request import Incoming
from retort.serve.requests.wire import NPZ, read_npz, write_npz
from retort.serve.settings import Limits
from retort.serve.torchserve.archives.archive import open_mar
from retort.serve.torchserve.server import serve

KEPT = Path(__file__).resolve().parents[1] / "old_files" / "fabcb72"
IMAGES = ["cnn", "trained", "pruned", "sparse", "int8", "lstm", "lstm-int8", "pruned-onnx", "int8-onnx"]
TOKENS = ["text", "text-int8"]
RECIPES = sorted(path.name for path in KEPT.glob("*.yaml"))


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the old files, so that the originals are not changed."""
    return Path(shutil.copytree(KEPT, tmp_path_factory.mktemp("old") / "files"))


@pytest.fixture(scope="module")
def answers() -> dict[str, np.ndarray]:
    """The first samples, and each model's outputs when it was written."""
    with np.load(KEPT / "outputs.npz") as stored:
        return dict(stored)


def _call(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    assert isinstance(stopped.value.code, int)
    return stopped.value.code


def assert_agrees(name: str, found: Any, answers: dict[str, np.ndarray]) -> None:
    """FP32 to rounding; INT8 to a hundredth of its range, because another processor may round differently."""
    expected = answers[name]
    allowed = np.abs(expected).max() * (1e-2 if "int8" in name else 1e-5)
    np.testing.assert_allclose(found, expected, rtol=0, atol=allowed)


def _samples(name: str, answers: dict[str, np.ndarray]) -> np.ndarray:
    return answers["tokens" if name in TOKENS else "images"]


@pytest.mark.parametrize("name", IMAGES + TOKENS)
def test_models_answer_as_they_did(name: str, old: Path, answers: dict[str, np.ndarray]) -> None:
    """Every program and every graph opens from its folder and computes the outputs of that time."""
    assert_agrees(name, retort.load(old / name)(_samples(name, answers)), answers)


@pytest.mark.parametrize("name", ["cnn", "int8"])
def test_a_program_file_alone_opens(name: str, old: Path, answers: dict[str, np.ndarray]) -> None:
    """A `.pt2` opens without the folder and the manifest with which it was written."""
    assert_agrees(name, retort.load(old / name / "model.pt2")(answers["images"]), answers)


@pytest.mark.parametrize("name", [*IMAGES, *TOKENS, "archive", "run"])
def test_show_verifies_every_artifact(name: str, old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`retort show` reads every manifest and verifies its hashes."""
    assert _call("show", old / name) == 0
    assert "key" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "operators"),
    [
        ("int8", {"QuantizeLinear", "DequantizeLinear"}),
        ("lstm-int8", {"LSTM", "Cast"}),
        ("text-int8", {"DynamicQuantizeLinear"}),
    ],
)
def test_int8_programs_export(name: str, operators: set[str], old: Path, answers: dict[str, np.ndarray]) -> None:
    """An INT8 program is exported to ONNX with its nodes and INT8 weights, and the file has the same outputs."""
    samples = _samples(name, answers)
    graph = retort.export(retort.load(old / name), data=samples)
    written = onnx.load(graph.path).graph
    assert operators <= {node.op_type for node in written.node}
    assert onnx.TensorProto.INT8 in {tensor.data_type for tensor in written.initializer}
    assert_agrees(name, graph(samples), answers)


def test_an_old_program_goes_on_through_the_stages(old: Path, answers: dict[str, np.ndarray]) -> None:
    """A trained program is pruned, quantized by an old plan and exported by the present stages."""
    data = (np.tile(answers["images"], (8, 1, 1, 1)), np.arange(56) % 3)
    pruned = retort.prune(retort.load(old / "trained"), data=data, macs=0.6, align=2, min_channels=2, recover=None)
    plan = old / "int8" / "plan.yaml"
    int8 = retort.quantize(pruned, data=data, plan=str(plan), first_layer="int8", timed=False, correction=("none",))
    made = yaml.safe_load((int8.artifact.path / "plan.yaml").read_text())
    assert made["layers"] == yaml.safe_load(plan.read_text())["layers"]
    assert retort.export(int8)(answers["images"]).shape == (7, 3)


def test_an_old_archive_is_verified_and_answers(old: Path, answers: dict[str, np.ndarray]) -> None:
    """An archive passes the present verification, and its bundle has the same outputs in the present engine."""
    assert open_mar(load_artifact(old / "archive")).name == "digits"
    engine = Engine.load(old / "archive" / "bundle")
    (answer,) = engine.answer([Incoming({"body": write_npz({"input": answers["images"]})}, {"body": NPZ})])
    assert_agrees("int8-onnx", read_npz(answer.body, Limits())["output"], answers)
    assert retort.pack(retort.load(old / "int8-onnx"), name="digits").path.is_file()


@pytest.mark.torchserve
@pytest.mark.slow
def test_an_old_archive_is_served(old: Path, answers: dict[str, np.ndarray], tmp_path: Path) -> None:
    """An old archive, which runs its own old runtime, is served, or refused where that runtime's INT8 sums saturate."""
    exact, _ = int8_outlook(cpu_features())
    if not exact:
        with pytest.raises(VerificationError, match="the golden outputs are off"):
            _served(old, answers, tmp_path)
        return
    _served(old, answers, tmp_path)


def _served(old: Path, answers: dict[str, np.ndarray], logs: Path) -> None:
    with serve(ServeOptions(), load_artifact(old / "archive"), logs=logs) as running:
        for form in ("npy", "npz", "json"):
            found = predict(running.url, running.name, {"input": answers["images"]}, form)
            assert_agrees("int8-onnx", found["output"], answers)


@pytest.mark.parametrize("name", RECIPES)
def test_old_recipes_are_valid(name: str, old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`retort check` accepts recipes that use every option of that version."""
    assert _call("check", old / name, "--fast") == 0
    assert "is valid" in capsys.readouterr().out


def test_old_results_are_reported_and_compared(old: Path, tmp_path: Path) -> None:
    """A result file and the measurement of an old run can be tabled, reported and compared."""
    for source in (old / "result.json", old / "run"):
        assert _call("report", source, "--out", tmp_path / "report.html") == 0
        assert "<html" in (tmp_path / "report.html").read_text()
    assert _call("compare", old / "run", old / "run") == 0


def test_an_old_run_opens_as_a_whole(old: Path, answers: dict[str, np.ndarray]) -> None:
    """The folder of an old run gives its stages as objects: programs, the graph and the measurement."""
    run = retort.load(old / "run")
    assert {"capture", "prune", "export", "bench"} <= set(run)
    assert_agrees("cnn", run["capture"](answers["images"]), answers)
    assert "prune" in str(run["bench"])
