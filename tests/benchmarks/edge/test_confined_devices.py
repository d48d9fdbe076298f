"""Devices that allow little: one core, no network, a disk that is read-only or full, a clock that is set back."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from edge_devices import bundle, dense, run_here

from retort.benchmarks.edge import device_run
from retort.benchmarks.edge.device_readiness import look, require_ready
from retort.benchmarks.edge.device_result import results_of
from retort.benchmarks.edge.pulled_results import read_results
from retort.benchmarks.edge.runner.device import available_bytes
from retort.benchmarks.edge.ssh import Device, device_of
from retort.core.artifact import Artifact
from retort.core.console import SILENT
from retort.core.errors import MachineError

CONFINED = """#!/bin/sh
# an ssh to a device with one core, no network, and a disk on which only one folder can be written
while [ $# -gt 2 ]; do shift; done
COMMAND="$2" exec unshare --user --map-root-user --mount --net sh -c '
  mount --bind "$DEVICE_FOLDER" "$DEVICE_FOLDER" && mount -o remount,bind,ro / &&
  exec taskset -c "$DEVICE_CORE" sh -c "$COMMAND"'
"""
SMALL_DISK = """
import json, sys
from pathlib import Path
from retort.benchmarks.edge import device_run
from retort.benchmarks.edge.ssh import device_of
from retort.core.console import SILENT
from retort.core.errors import RetortError
device = device_of("local", sys.argv[1] + "/there", (), sys.executable).absolute()
try:
    device_run.push(device, Path(sys.argv[2]), SILENT)
except RetortError as error:
    print(json.dumps([type(error).__name__, str(error)]))
print(json.dumps(sorted(path.name for path in Path(sys.argv[1], "there").rglob("*.onnx*"))))
"""
FULL = """
import json, subprocess, sys, threading, time
from pathlib import Path
folder, python = Path(sys.argv[1]), sys.executable
def fill():
    while not (folder / "out/cold-0-0-wide.json").exists():
        time.sleep(0.01)
    with open(folder.parent / "filler", "wb", 0) as file:
        try:
            while True:
                file.write(bytes(1024))
        except OSError:
            return
thread = threading.Thread(target=fill)
thread.start()
command = [python, "-m", "retort_edge"]
full = subprocess.run(command, cwd=folder, capture_output=True, text=True)
thread.join()
state = json.loads((folder / "out/status.json").read_text())
(folder.parent / "filler").unlink()
again = subprocess.run(command, cwd=folder, capture_output=True, text=True)
print(json.dumps([full.returncode, full.stderr, state, again.returncode, again.stdout]))
"""
"""Runs a bundle whose disk becomes full after the first part, and again when there is room."""
BACK = """
import os, time
_real, _calls = time.time, []
def _back():
    _calls.append(None)
    return _real() - 3600.0 * len(_calls)
time.time = _back
"""


def _can(*command: str) -> bool:
    return subprocess.run(["unshare", *command, "true"], capture_output=True, check=False).returncode == 0


namespaces = pytest.mark.skipif(
    shutil.which("unshare") is None or not _can("--user", "--map-root-user", "--mount", "--net"),
    reason="this machine allows no user namespaces",
)


@pytest.fixture
def made(tmp_path: Path) -> Artifact:
    """A bundle of two nets."""
    models = {"wide": dense(tmp_path / "wide.onnx", 40_000), "narrow": dense(tmp_path / "narrow.onnx", 16)}
    return bundle(tmp_path / "bundle", models, threads=(0,))


@pytest.fixture
def confined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Device:
    """A device behind the ssh of :data:`CONFINED`."""
    there, programs = tmp_path / "device", tmp_path / "bin"
    there.mkdir()
    programs.mkdir()
    (programs / "ssh").write_text(CONFINED)
    (programs / "ssh").chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("DEVICE_FOLDER", str(there))
    monkeypatch.setenv("DEVICE_CORE", str(min(os.sched_getaffinity(0))))
    return device_of("pi@board", str(there / "here"), (), sys.executable).absolute()


@namespaces
def test_a_run_needs_one_core_no_network_and_its_folder(confined: Device, made: Artifact, tmp_path: Path) -> None:
    """With everything else read-only and without a network it measures, on the one core that there is."""
    with pytest.raises(MachineError, match="Read-only file system"):
        confined.run(f"touch {tmp_path / 'elsewhere'}")
    require_ready(confined, look(confined, 1 << 20))
    device_run.push(confined, made.path, SILENT)
    device_run.start(confined)
    assert device_run.wait(confined, SILENT, 0.2)["state"] == "finished"
    pulled = read_results(made.path, device_run.pull(confined, tmp_path / "home", SILENT))
    assert all(not part.error for part in pulled.parts.values())
    (part,) = pulled.of_kind("latency")
    assert (part.said["threads"], len(part.said["cpus"])) == (1, 1)
    (result,) = results_of(pulled)
    ratio = result.stage("narrow").latency[1].ratio
    assert ratio is not None
    assert ratio.low is not None
    assert ratio.low > 1.5
    device_run.clean(confined)
    assert not Path(confined.folder).exists()


@namespaces
def test_a_full_disk_is_one_message(made: Artifact, tmp_path: Path) -> None:
    """On a disk of one megabyte the model does not arrive; the message says so, and no part of it counts as whole."""
    disk = tmp_path / "disk"
    disk.mkdir()
    script = f'mount -t tmpfs -o size=1m tmpfs "{disk}" && exec "$0" -c "$1" "{disk}" "{made.path}"'
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, sys.executable, SMALL_DISK]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told, left = (json.loads(line) for line in done.stdout.splitlines())
    assert told[0] == "MachineError"
    assert "the disk of local is full" in told[1]
    assert "→ free some space there" in told[1]
    assert left == ["model.onnx.part"]


@namespaces
def test_a_disk_that_becomes_full_ends_the_run_and_nothing_is_lost(tmp_path: Path) -> None:
    """The state names the disk, in the place where it stood; with room again, the run goes on with what is left."""
    models = {"wide": dense(tmp_path / "wide.onnx", 400), "narrow": dense(tmp_path / "narrow.onnx", 16)}
    made, disk = bundle(tmp_path / "bundle", models, starts=3), tmp_path / "disk"
    disk.mkdir()
    script = (
        f'mount -t tmpfs -o size=4m tmpfs "{disk}" && cp -r "{made.path}" "{disk}/b" && exec "$0" -c "$1" "{disk}/b"'
    )
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, sys.executable, FULL]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    code, told, state, again, said = json.loads(done.stdout)
    assert (code, state["state"]) == (2, "refused")
    assert "No space left on device" in told
    assert "No space left on device" in state["why"]
    assert again == 0
    first = int(said.split(" of ")[0])
    assert first >= 1
    assert "finished" in said


def test_a_clock_that_is_set_back_changes_nothing(made: Artifact, tmp_path: Path) -> None:
    """A device whose clock goes back an hour at each look measures as always, and readings belong to their parts."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site/sitecustomize.py").write_text(BACK)
    done = run_here(made, PYTHONPATH=str(tmp_path / "site"))
    assert done.returncode == 0, done.stdout + done.stderr
    pulled = read_results(made.path, made.path / "out")
    (part,) = pulled.of_kind("latency")
    assert part.said["rounds"] > 5
    assert pulled.during(part.name)
    (result,) = results_of(pulled)
    assert result.stage("narrow").latency[1].ratio is not None


@pytest.mark.parametrize(
    ("groups", "files", "wanted"),
    [
        ("0::/box\n", {"box/memory.max": "300", "box/memory.current": "100"}, 200),
        ("0::/\n", {"memory.max": "300", "memory.current": "290", "memory.stat": "anon 9\ninactive_file 40\n"}, 50),
        ("0::/box\n", {"box/memory.max": "max", "box/memory.current": "100"}, 4096),
        (
            "4:memory:/box\n0::/\n",
            {"memory/box/memory.limit_in_bytes": "700", "memory/box/memory.usage_in_bytes": "200"},
            500,
        ),
        ("4:cpu:/box\n", {"memory/box/memory.limit_in_bytes": "1", "memory/box/memory.usage_in_bytes": "1"}, 4096),
    ],
)
def test_the_limit_of_a_container_counts(groups: str, files: dict[str, str], wanted: int, tmp_path: Path) -> None:
    """The memory that is free is that of the machine, or less where a control group has a limit, of either version."""
    known: dict[str, Any] = {"proc/meminfo": "MemAvailable: 4 kB\n", "proc/self/cgroup": groups}
    for name, text in {**known, **{f"sys/fs/cgroup/{name}": text for name, text in files.items()}}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert available_bytes(tmp_path) == wanted
