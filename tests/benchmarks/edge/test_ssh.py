"""A device behind ssh: files that go on where they were, faults in words, and a run from its start to its end."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from edge_devices import bundle, dense, fake_ssh

from retort.benchmarks.edge import device_run
from retort.benchmarks.edge.device_readiness import Readiness, look, require_ready
from retort.benchmarks.edge.device_wheels import NO_WHEELS
from retort.benchmarks.edge.pulled_results import read_results
from retort.benchmarks.edge.ssh import Device, LinkLost, device_of
from retort.core.artifact import Artifact
from retort.core.console import SILENT
from retort.core.errors import MachineError, UserError


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Device:
    """A device that is this machine, behind a program `ssh`."""
    folder = fake_ssh(tmp_path / "bin")
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return Device("pi@board", str(tmp_path / "there"), (), os.sys.executable).absolute()  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A bundle of one net."""
    folder = tmp_path_factory.mktemp("made")
    return bundle(folder / "bundle", {"net": dense(folder / "net.onnx", 3000)}, starts=0, accuracy=False)


def test_only_what_is_missing_is_sent(device: Device, made: Artifact) -> None:
    """All files at first, none the second time, and one that was altered there."""
    count = len(json.loads((made.path / "edge.json").read_text())["files"]) + 1
    assert device_run.push(device, made.path, SILENT) == count
    assert device_run.push(device, made.path, SILENT) == 0
    Path(device.folder, "data/input-0.npy").write_bytes(b"other")
    assert device_run.push(device, made.path, SILENT) == 1


def test_a_cut_link_goes_on(device: Device, made: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    """What has arrived of a file stays, and the next push sends the rest of it alone."""
    model = made.path / "models/0/model.onnx"
    monkeypatch.setenv("FAKE_SSH_CUT", "70000")
    with pytest.raises(LinkLost, match="connection to pi@board failed"):
        device.push(made.path, {"models/0/model.onnx": "0" * 64}, lambda size: None)
    part = Path(device.folder, "models/0/model.onnx.part")
    assert part.read_bytes() == model.read_bytes()[:70000]
    monkeypatch.delenv("FAKE_SSH_CUT")
    told: list[int] = []
    files = {"models/0/model.onnx": json.loads((made.path / "edge.json").read_text())["files"]["models/0/model.onnx"]}
    assert device.push(made.path, files, told.append) == 1
    assert told[0] == 70000
    assert sum(told) == model.stat().st_size
    assert Path(device.folder, "models/0/model.onnx").read_bytes() == model.read_bytes()
    assert not part.exists()


def test_an_unfinished_file_of_something_else_is_sent_anew(device: Device, made: Artifact) -> None:
    """A part that is no beginning of the file is replaced."""
    device_run.claim(device)
    home = Path(device.folder, "models/0")
    home.mkdir(parents=True)
    (home / "model.onnx.part").write_bytes(b"something else")
    device_run.push(device, made.path, SILENT)
    assert (home / "model.onnx").read_bytes() == (made.path / "models/0/model.onnx").read_bytes()


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("pi@board: Permission denied (publickey).", "the key or the user is refused"),
        ("ssh: Could not resolve hostname board: Name or service not known", "no host of this name"),
        ("ssh: connect to host board port 22: Connection refused", "nothing listens there"),
        ("ssh: connect to host board port 22: Connection timed out", "it does not answer"),
        ("Host key verification failed.", "its key is not the known one"),
        ("kex_exchange_identification: banner line", "kex_exchange_identification"),
    ],
)
def test_faults_of_ssh_are_sentences(device: Device, said: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What ssh says becomes one sentence with what to do."""
    monkeypatch.setenv("FAKE_SSH_FAILS", said)
    with pytest.raises(LinkLost, match=told) as caught:
        look(device)
    assert caught.value.remedy


def test_names_that_are_no_devices_are_refused() -> None:
    """A name cannot be an option of ssh."""
    for name in ("-oProxyCommand=x", "", "a b"):
        with pytest.raises(UserError, match="is no name of a device"):
            device_of(name, "~/x", (), "python3")
    with pytest.raises(UserError, match="--ssh-option cannot be read: No closing quotation"):
        device_of("pi", "~/x", ("-i 'key",), "python3")
    assert device_of("pi", "~/x", ("-p 2222", "-i key"), "python3").options == ("-p", "2222", "-i", "key")


def test_a_device_without_python_is_told(device: Device) -> None:
    """An interpreter that is not there is named."""
    with pytest.raises(MachineError, match="has no working no-such-python"):
        look(Device(device.host, device.folder, (), "no-such-python"))


READY = {
    "python": "3.11.2", "new": True, "machine": "aarch64", "bits": "64bit", "libc": "glibc 2.36", "system": "Linux",
    "numpy": "2.1", "onnxruntime": "1.31", "free": 10 << 30, "available": 4 << 30, "executable": "/usr/bin/python3",
}  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"new": False, "python": "3.7.3"}, "Python 3.7.3 is too old"),
        ({"onnxruntime": ""}, "onnxruntime is missing"),
        ({"onnxruntime": "", "machine": NO_WHEELS[0], "bits": "32bit"}, "there are no wheels for armv7l"),
        ({"free": 100 << 20}, "100 MB of the disk are free"),
        ({"available": 50 << 20}, "50 MB of memory are free, and the models need about 300 MB"),
    ],
)
def test_a_device_that_cannot_measure_is_told_before_anything_is_sent(
    device: Device, changed: dict[str, object], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each thing that is missing is one sentence with its remedy; a device that has all is ready."""
    monkeypatch.setattr(Device, "ask", lambda *given, **named: {**READY, **changed})
    found = look(device, 1 << 20, 300 << 20)
    with pytest.raises(MachineError) as caught:
        require_ready(device, found)
    assert told in f"{caught.value.message}: {caught.value.remedy}"
    require_ready(device, Readiness(READY))


def test_foreign_folders_stay(device: Device) -> None:
    """A folder without a bundle is not deleted."""
    Path(device.folder, "mine").write_text("x")
    with pytest.raises(UserError, match="is no folder of ours"):
        device_run.clean(device)
    assert Path(device.folder, "mine").exists()


def test_only_an_empty_folder_is_used(device: Device, made: Artifact) -> None:
    """Files of a user are neither replaced by a bundle nor deleted with it, also those that came later."""
    mine = Path(device.folder, "README.txt")
    mine.write_text("mine")
    with pytest.raises(UserError, match=r"contains README\.txt, which is not of Retort"):
        device_run.push(device, made.path, SILENT)
    assert [path.name for path in Path(device.folder).iterdir()] == ["README.txt"]
    mine.unlink()
    device_run.push(device, made.path, SILENT)
    Path(device.folder, "notes.txt").write_text("mine")
    device_run.clean(device)
    assert [path.name for path in Path(device.folder).iterdir()] == ["notes.txt"]


def _as_running(device: Device) -> subprocess.Popen[bytes]:
    """A process that looks like a run in the folder, with its state."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", "retort_edge"])
    Path(device.folder, "out").mkdir()
    state = {"state": "running", "pid": process.pid, "done": 1, "of": 3, "part": "x"}
    Path(device.folder, "out/status.json").write_text(json.dumps(state))
    return process


def test_a_run_that_goes_on_is_left_alone(device: Device, made: Artifact, tmp_path: Path) -> None:
    """The same command while it runs changes nothing there; another bundle and `clean` are refused."""
    device_run.push(device, made.path, SILENT)
    process = _as_running(device)
    try:
        state = Path(device.folder, "out/status.json")
        before = state.read_bytes()
        device_run.start(device)
        assert state.read_bytes() == before
        assert not Path(device.folder, "out/run.log").exists()
        other = bundle(tmp_path / "other", {"net": dense(tmp_path / "net.onnx", 8)}, starts=0)
        with pytest.raises(MachineError, match=r"measures another bundle in .* now"):
            device_run.push(device, other.path, SILENT)
        with pytest.raises(MachineError, match=r"measures in .* now"):
            device_run.clean(device)
    finally:
        process.kill()
        process.wait()
    assert device_run.status(device)["state"] == "vanished"


def test_another_program_with_the_number_of_a_run_is_no_run(device: Device, made: Artifact) -> None:
    """After a restart of the device the number may be that of any program, which is not ended."""
    Path(device.folder, "out").mkdir()
    state = {"state": "running", "pid": os.getppid(), "done": 1, "of": 3, "part": "x"}
    Path(device.folder, "out/status.json").write_text(json.dumps(state))
    assert device_run.status(device)["state"] == "vanished"
    assert not device_run.stop(device)


def test_the_end_of_a_cut_link_is_no_end_of_a_file(device: Device, made: Artifact) -> None:
    """What came before a link was cut keeps the name of an unfinished file, with which the next push goes on."""
    model = "models/0/model.onnx"
    shell = device.command

    class Short(Device):
        def command(self, script: str) -> list[str]:
            return shell(f"head -c 70000 | ({script})" if "cat >" in script else script)

    with pytest.raises(MachineError):
        Short(device.host, device.folder, (), device.python).push(made.path, {model: "0" * 64}, lambda size: None)
    there = Path(device.folder, "models/0")
    assert [(path.name, path.stat().st_size) for path in there.iterdir()] == [("model.onnx.part", 70000)]


def test_folders_and_interpreters_are_words_of_a_shell(
    device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blanks and quotes mean nothing, and only a leading ~ is the home, also alone and of an interpreter."""
    monkeypatch.setenv("HOME", str(tmp_path / "my home"))
    Path(tmp_path / "my home").mkdir()
    Path(tmp_path / "my home/py'thon").symlink_to(sys.executable)
    for folder, place in (("~", ""), ("~/it's $HOME", "it's $HOME"), (f"{tmp_path}/my home/-x", "-x")):
        found = Device(device.host, folder, (), "~/py'thon").absolute()
        assert Path(found.folder) == Path(tmp_path, "my home", place)
        assert found.present(["x"]) == {}


@pytest.mark.slow
def test_a_run_behind_ssh(device: Device, made: Artifact, tmp_path: Path) -> None:
    """Send, start, wait, bring back and clean up: the results are whole and the folder is gone."""
    assert device_run.status(device)["state"] == "absent"
    device_run.push(device, made.path, SILENT)
    device_run.start(device)
    assert device_run.wait(device, SILENT)["state"] == "finished"
    out = device_run.pull(device, tmp_path / "home", SILENT)
    (part,) = read_results(made.path, out).of_kind("latency")
    assert part.said["rounds"] > 5
    shutil.rmtree(out)
    device_run.clean(device)
    assert not Path(device.folder).exists()
    with pytest.raises(MachineError, match="has no results"):
        device_run.pull(device, out, SILENT)
