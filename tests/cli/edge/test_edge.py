"""`retort edge`: from model files to the table of a device, also in parts, by hand, and with faults."""

from __future__ import annotations

import json
import os
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from edge_devices import dense, fake_ssh, run_here
from onnx import helper

from retort.__main__ import main
from retort.benchmarks.edge import device_run
from retort.benchmarks.edge.ssh import Device
from retort.benchmarks.edge.store import Store
from retort.cli.edge import edge_commands
from retort.core.artifact import load_artifact

QUICK = ["--seconds", "0.4", "--starts", "1", "--block-ms", "2", "--precision", "0", "--noise", "off"]


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Two nets and samples in the current folder, and a home of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    draw = np.random.default_rng(0)
    splits = {f"x_{name}": draw.normal(size=(20, 8)).astype(np.float32) for name in ("train", "validation", "test")}
    targets = {f"y_{name}": draw.integers(0, 3, 20) for name in ("train", "validation", "test")}
    np.savez("data.npz", allow_pickle=False, **splits, **targets)
    dense(tmp_path / "wide.onnx", 1 << 15)  # so much more work that narrow is faster whatever else runs here
    dense(tmp_path / "narrow.onnx", 16)
    return ["wide.onnx", "narrow.onnx"]


def call(*given: str) -> int:
    """The exit code of a command."""
    with pytest.raises(SystemExit) as ended:
        main(["edge", *given])
    return int(ended.value.code or 0)


def said(capsys: pytest.CaptureFixture[str]) -> Any:
    """What a command printed as JSON."""
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_one_command_measures_behind_ssh(
    models: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`edge run` sends, measures, brings home and cleans up; the result is a file that `compare` and `report` read."""
    monkeypatch.setenv("PATH", f"{fake_ssh(tmp_path / 'bin')}{os.pathsep}{os.environ['PATH']}")
    options = ["--data", "data.npz", *QUICK, "--python", sys.executable]
    assert call("run", "pi@board", *models, *options, "--report", "shown.md", "--json") == 0
    found = said(capsys)
    page = Path("shown.md").read_text()
    assert "“narrow” is " in page
    assert "Starts of new processes:" in page
    assert (found["state"], len(found["results"])) == ("finished", 1)
    narrow = found["results"][0]["stages"][1]
    assert narrow["latency"]["1"]["ratio"]["reference"] == "wide"
    assert narrow["latency"]["1"]["ratio"]["value"] > 1
    assert not (tmp_path / "home/retort-edge").exists()
    assert call("table", "--json") == 0
    rows = said(capsys)["rows"]
    assert [(row["model"], row["precision"], row["verdict"]) for row in rows] == [
        ("wide", "FP32", rows[0]["verdict"]),
        ("narrow", "FP32", rows[0]["verdict"]),
    ]
    assert call("table", "--device", "no such", "--json") == 0
    assert said(capsys)["rows"] == []
    with pytest.raises(SystemExit) as ended:
        main(["report", found["files"][0], "--out", "page.html"])
    assert not ended.value.code
    assert "on pi@board" in Path("page.html").read_text()


@pytest.mark.slow
def test_the_noise_of_a_device_is_measured_once(models: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """At first use a model is compared with itself eight times; the next run takes the result from the store."""
    given = ["run", "local", *models, "--data", "data.npz", *QUICK[:-2], "--seconds", "1", "--python", sys.executable]
    assert call(*given, "--json") == 0
    first = said(capsys)["results"][0]
    floors = Store(Path("runs/edge.db")).floors()
    ((_, runtime, cores, threads),) = floors
    assert (runtime, cores, threads) == ("ONNX Runtime on the CPU", "all", 1)
    (floor,) = floors.values()
    assert 5 <= floor.comparisons <= 8
    assert any("a file differs from itself by up to" in note for note in first["notes"])
    assert first["stages"][1]["latency"]["1"]["ratio"]["noise_floor"] > 0
    assert call(*given, "--batch-sizes", "2", "--keep", "--json") == 0
    second = said(capsys)
    assert not list(Path(second["files"][0]).parent.glob("noise-*"))
    assert any("a file differs from itself" in note for note in second["results"][0]["notes"])
    assert list(Store(Path("runs/edge.db")).floors()) == list(floors)
    assert call(*given, "--batch-sizes", "4", "--noise", "off", "--json") == 0
    assert call("table", "--html", "page.html", "--markdown", "page.md") == 0
    assert "Devices side by side" in Path("page.html").read_text()
    assert "× \\[" in Path("page.md").read_text()


def test_parts_by_hand(models: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """A bundle is written once, run in its folder by its README, and read back; the table is shown."""
    given = ["bundle", *models, "--data", "data.npz", *QUICK, "--out", "made"]
    assert call(*given) == 0
    assert call(*given) == 0
    assert "is there already" in capsys.readouterr().err
    assert "python3 -m retort_edge" in Path("made/README.txt").read_text()
    assert call(*given, "--archive", "made.zip") == 2
    assert call(*given, "--archive", "carried.tar.gz") == 0
    assert call(*given, "--archive", "carried.tar.gz") == 2
    assert "carried.tar.gz" in capsys.readouterr().err
    with tarfile.open("carried.tar.gz") as archive:
        archive.extractall("stick", filter="data")
    assert run_here(load_artifact(Path("stick/carried"))).returncode == 0
    Path("stick/carried/out").rename("out")
    assert call("run", "local", "made", "--data", "data.npz") == 2
    assert "says itself what is measured" in capsys.readouterr().err
    assert call("pull", "made", "--by-hand", "out") == 0
    shown = capsys.readouterr().out
    assert "narrow" in shown
    assert "× faster" in shown


def test_a_run_of_which_a_part_failed_says_so_in_its_exit_code(
    models: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A model that fails on a sample leaves what was measured before it, and the command exits with 7."""
    dense(tmp_path / "broken.onnx", 16, fails_at=9.0)
    with np.load("data.npz") as file:
        arrays = {name: file[name].copy() for name in file.files}
    arrays["x_test"][7, 0] = 9.0
    np.savez("bad.npz", allow_pickle=False, **arrays)
    given = ["narrow.onnx", "broken.onnx", "--data", "bad.npz", *QUICK, "--python", sys.executable, "--json"]
    assert call("run", "local", *given) == 7
    found = said(capsys)
    assert any("broken" in part for part in found["failed"])
    assert not any("narrow" in part for part in found["failed"])
    assert found["results"][0]["stages"][0]["stage"] == "narrow"


def test_faults_are_sentences(models: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """No data, another kind of model, other inputs, no device and both forms of pull are one message each."""
    assert call("bundle", *models) == 2
    assert "Missing option '--data'" in capsys.readouterr().err
    np.save("other.npy", np.zeros(3))
    assert call("bundle", "other.npy", "--data", "data.npz") != 0
    assert call("pull", "data.npz", "pi@board") != 0
    capsys.readouterr()
    assert call("bundle", "wide.onnx", "--data", "data.npz", "--batch-sizes", "0") == 2
    assert call("bundle", "wide.onnx", "--data", "data.npz", *QUICK, "--out", "made") == 0
    assert call("pull", "made") == 2
    assert "give either a device or --by-hand" in capsys.readouterr().err
    assert call("pull", "made", "--by-hand", "nowhere") != 0
    assert "contains no result.json" in capsys.readouterr().err
    assert call("run", "local", "made", "--seconds", "3") == 2
    assert "says itself what is measured" in capsys.readouterr().err
    assert call("doctor", "-x") == 2


def test_a_bundle_is_measured_as_it_says(models: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """A bundle needs no options; kinds of cores and sensors that are not there are told, and files of a user stay."""
    odd = ["--cores", "big", "--celsius", "1000", "--no-accuracy", "--starts", "1", "--cold-file-starts", "0"]
    assert call("bundle", "narrow.onnx", "--data", "data.npz", *odd, "--cores", "all", *QUICK[:2], "--out", "made") == 0
    Path("mine").mkdir()
    Path("mine/result.json").write_text("{}")
    given = ["run", "local", "made", "--python", sys.executable, "--json"]
    assert call(*given, "--results", "mine") == 2
    assert "contains result.json, which is no result of a device" in said(capsys)["error"]["message"]
    assert Path("mine/result.json").read_text() == "{}"
    assert call(*given) == 0
    found = said(capsys)
    notes = " ".join(found["results"][0]["notes"])
    big = "big" in found["results"][0]["env"]["device"]["cpu"]["clusters"]
    assert big or "nothing was timed on big cores" in notes
    hot = any(Path("/sys/class/thermal").glob("thermal_zone*/temp"))
    assert hot or "the limit of 1000 °C was not watched" in notes
    assert found["files"]


INTERRUPTED = ["run", "local", "narrow.onnx", "--data", "data.npz", "--python", sys.executable, "--noise", "off"]


def _stopping(*given: object, **named: object) -> Any:
    raise KeyboardInterrupt


@pytest.mark.parametrize("where", ["push", "start", "wait", "pull"])
def test_an_interruption_leaves_nothing_on_the_device(
    where: str,
    models: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Ctrl-C while sending, starting, measuring or bringing back ends the run and deletes what was sent."""
    if where == "push":
        real = Device._send
        monkeypatch.setattr(Device, "_send", lambda *given: _stopping() if "models" in given[2] else real(*given))
    elif where == "pull":
        monkeypatch.setattr(device_run, "wait", lambda *given: {"state": "finished"})
        monkeypatch.setattr(device_run, where, _stopping)
    else:
        monkeypatch.setattr(device_run, where, _stopping)
    assert call(*INTERRUPTED) == 130
    told = " ".join(capsys.readouterr().err.split())
    assert "nothing is left on local" in told
    assert "nothing unfinished is kept" not in told
    assert not list((tmp_path / "home").glob("retort-edge*"))
    assert ("the run on local is ended" in told) == (where in ("wait", "pull"))


def test_an_interruption_with_keep_leaves_what_is_finished(
    models: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With --keep the run is ended, its folder stays, and the message says that the same command goes on."""
    monkeypatch.setattr(device_run, "wait", _stopping)
    assert call(*INTERRUPTED, "--keep") == 130
    told = " ".join(capsys.readouterr().err.split())
    assert "the run on local is ended, and what is finished there is kept" in told
    assert "go on with" in told
    (folder,) = (tmp_path / "home/retort-edge").iterdir()
    assert json.loads((folder / "out/status.json").read_text())["state"] == "ended"


def test_what_a_device_refuses_is_not_left_there(
    models: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A runtime that is installed and cannot be imported is told with its words, and nothing that was sent stays."""
    broken = tmp_path / "broken/onnxruntime"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise ImportError('libcudart.so.99: no such file')")
    monkeypatch.setenv("PYTHONPATH", str(broken.parent))
    assert call(*INTERRUPTED) != 0
    told = " ".join(capsys.readouterr().err.split())
    assert "libcudart.so.99: no such file" in told
    assert "nothing is left on local" in told
    assert not list((tmp_path / "home").glob("retort-edge*"))


def test_classes_that_a_model_does_not_have_are_told_before_it_is_measured(
    models: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Labels beyond the scores are one sentence, and the device is not touched."""
    with np.load("data.npz") as file:
        np.savez("many.npz", allow_pickle=False, **{n: file[n] + 3 if n[0] == "y" else file[n] for n in file.files})
    assert call("run", "local", "narrow.onnx", "--data", "many.npz") != 0
    assert "does not exist: 'narrow' knows 0 to 2" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "home").exists()


def test_samples_of_another_size_are_told_before_it_is_measured(
    models: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A model for wider rows than the data have is named, also if it is not the first; the device is not touched."""
    dense(tmp_path / "other.onnx", 16, inputs=9)
    assert call("run", "local", "wide.onnx", "other.onnx", "--data", "data.npz") == 2
    assert "the samples do not fit 'other': input 'x' has size 8 on axis 1" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "home").exists()


def test_a_device_without_python_keeps_nothing(
    models: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The folder that was made to look at it is deleted again."""
    assert call("run", "local", "wide.onnx", "--data", "data.npz", "--python", "/no/such/python") == 7
    assert "no working /no/such/python" in " ".join(capsys.readouterr().err.split())
    assert not list((tmp_path / "home").glob("retort-edge*"))


def test_models_with_other_batch_axes_are_refused(models: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """The same samples cannot be given to both, although name, type and rank agree."""
    shapes: dict[str, list[str | int | None]] = {"first": ["batch", 5, 8], "second": [5, "batch", 8]}
    for name, shape in shapes.items():
        ports = [helper.make_tensor_value_info(port, 1, shape) for port in "xy"]
        graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", ports[:1], ports[1:])
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), f"{name}.onnx")
    assert call("bundle", "first.onnx", "second.onnx", "--data", "data.npz") == 2
    assert "measure models with the same inputs" in capsys.readouterr().err


def test_homes_of_devices_are_different(models: list[str]) -> None:
    """Devices whose names differ in signs alone, or behind ports of one name, do not share a folder of results."""
    assert call("bundle", "narrow.onnx", "--data", "data.npz", "--out", "made") == 0
    made = load_artifact(Path("made"))
    given: list[tuple[str, list[str]]] = [("pi@a.b", []), ("pi@a-b", []), ("pi@a", ["-p 1"]), ("pi@a", ["-p 2"])]
    assert len({edge_commands._home(made, host, options, None) for host, options in given}) == 4


def test_a_device_is_looked_at(models: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """`doctor` shows what is there, and its exit code says whether it is enough."""
    assert call("doctor", "local", "--python", sys.executable, "--json") == 0
    found = said(capsys)
    assert found["faults"] == []
    assert found["onnxruntime"]
    assert not Path("home/retort-edge").exists()
    Path("mine").mkdir()
    assert call("doctor", "local", "--python", sys.executable, "--folder", str(Path("mine").resolve())) == 0
    assert Path("mine").is_dir()
    capsys.readouterr()
    assert call("doctor", "local", "--python", "no-such-python") != 0
    assert "has no working no-such-python" in capsys.readouterr().err


def test_bench_times_on_a_device(
    models: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`bench --timer edge:HOST` has the accuracy of this machine, and the times and the machine of the device."""
    monkeypatch.setenv("PATH", f"{fake_ssh(tmp_path / 'bin')}{os.pathsep}{os.environ['PATH']}")
    device = f"edge:pi@board,python={sys.executable}"
    given = [*models, "--data", "data.npz", "--timer", device, "--batch-sizes", "2", "--budget-s", "0.5", "--json"]
    with pytest.raises(SystemExit) as ended:
        main(["bench", *given])
    assert ended.value.code == 0
    result = said(capsys)
    narrow = result["stages"][1]
    assert narrow["latency"]["2"]["ratio"]["value"] > 1
    assert narrow["metric"]["name"] == "accuracy"
    assert narrow["memory"] is None
    assert result["env"]["device"]["host"]
    assert any("timed on pi@board" in note for note in result["notes"])
    assert not (tmp_path / "home/retort-edge").exists()
    with pytest.raises(SystemExit) as refused:
        main(["bench", *models, "--data", "data.npz", "--timer", "pi@board"])
    assert refused.value.code == 2
    assert "--timer" in capsys.readouterr().err


def test_what_a_device_cannot_time_is_refused_before_work(
    models: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`bench --as-is` with a program, and a device that is away, are told before a sample is computed."""
    import torch

    monkeypatch.setenv("PATH", f"{fake_ssh(tmp_path / 'bin')}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr("retort.benchmarks.accuracy.predict", lambda *given, **named: pytest.fail("it was computed"))
    torch.export.save(torch.export.export(torch.nn.Linear(8, 3), (torch.zeros(2, 8),)), "net.pt2")
    given = ["--data", "data.npz", "--timer", f"edge:pi@board,python={sys.executable}"]
    with pytest.raises(SystemExit) as refused:
        main(["bench", "wide.onnx", "net.pt2", "--as-is", *given])
    assert refused.value.code == 2
    assert "'net' is a program, and pi@board times ONNX files" in " ".join(capsys.readouterr().err.split())
    monkeypatch.setenv("FAKE_SSH_FAILS", "ssh: connect to host board port 22: Connection refused")
    with pytest.raises(SystemExit) as away:
        main(["bench", *models, *given])
    assert away.value.code not in (0, None)
    assert "nothing listens there" in capsys.readouterr().err


def test_asking_makes_nothing_on_the_device(
    models: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """`status`, `stop` and `clean` of a bundle that was not sent say so, and leave no folder; nor do missing models."""
    assert call("bundle", *models, "--data", "data.npz", "--out", "b") == 0
    for command in ("status", "stop", "clean"):
        assert call(command, "b", "local") == 2
        assert "local has no folder" in capsys.readouterr().err
    assert call("run", "local", "missing.onnx", "--data", "data.npz") != 0
    assert not (tmp_path / "home/retort-edge").exists()
