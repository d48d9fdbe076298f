"""Real ssh on loopback, to sshd where it is and to asyncssh everywhere: links that are cut, and faults of ssh."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from edge_devices import bundle, dense
from other_servers import free_port

from retort.benchmarks.edge import device_run
from retort.benchmarks.edge.device_readiness import look, require_ready
from retort.benchmarks.edge.pulled_results import read_results
from retort.benchmarks.edge.ssh import Device, LinkLost, device_of
from retort.core.artifact import Artifact
from retort.core.console import SILENT

SSHD = shutil.which("sshd") or "/usr/sbin/sshd"
SERVER = Path(__file__).resolve().parents[2] / "ssh_server.py"
SERVERS = ["OpenSSH", "asyncssh"]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="there is no ssh client here"),
]


class Daemon:
    """A server of this user that the real ssh client connects to, with keys of its own."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.folder, self.kind, self.port, self.let_in = folder, kind, 0, False
        for name in ("host", "user"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
        shutil.copyfile(folder / "user.pub", folder / "authorized")
        self.start()

    def start(self) -> None:
        """Start it, the first time at another port if that was taken meanwhile, and wait until it lets its user in."""
        end = time.monotonic() + 60
        self._begin()
        while time.monotonic() < end:
            if self.process.poll() is not None:
                self.port = self.port if self.let_in else 0
                self._begin()
            found = subprocess.run(self.device().command("true"), capture_output=True, check=False)
            if found.returncode == 0 and self.process.poll() is None:
                self.let_in = True
                return
            time.sleep(0.2)
        raise AssertionError((self.folder / "log").read_text())

    def _begin(self) -> None:
        self.port = self.port or free_port()
        keys = [str(self.folder / name) for name in ("host", "authorized")]
        command = [sys.executable, str(SERVER), str(self.port), *keys]
        if self.kind == "OpenSSH":
            Path("/run/sshd").mkdir(exist_ok=True)
            (self.folder / "config").write_text(
                f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {self.folder / 'host'}\nPidFile none\n"
                f"StrictModes no\nAuthorizedKeysFile {keys[1]}\nPasswordAuthentication no\nUsePAM no\n"
            )
            command = [SSHD, "-D", "-e", "-f", str(self.folder / "config")]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stderr=log, start_new_session=True)

    def cut(self) -> None:
        """End it with all its connections, as a cable that is pulled out."""
        with suppress(psutil.NoSuchProcess):
            root = psutil.Process(self.process.pid)
            for one in (root, *root.children(recursive=True)):
                # what measures has a session of its own and no longer belongs to it
                with suppress(psutil.NoSuchProcess):
                    if "sshd" in one.name() or one.pid == self.process.pid:
                        one.kill()
        self.process.wait()

    def device(self, key: str = "user", folder: str = "~/retort-edge-test") -> Device:
        """The device that it is."""
        known = "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o IdentitiesOnly=yes -F none"
        options = [f"-p {self.port} -i {self.folder / key} {known}"]
        user = os.environ.get("USER") or "root"
        return device_of(f"{user}@127.0.0.1", folder, options, sys.executable)


@pytest.fixture(scope="module", params=SERVERS)
def daemon(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A server that listens on loopback."""
    if request.param == "OpenSSH" and not Path(SSHD).is_file():
        pytest.skip("there is no sshd here")
    made = Daemon(tmp_path_factory.mktemp("sshd"), request.param)
    yield made
    made.cut()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A bundle whose model takes a moment to send."""
    folder = tmp_path_factory.mktemp("made")
    models = {"wide": dense(folder / "wide.onnx", 200_000), "narrow": dense(folder / "narrow.onnx", 64)}
    return bundle(folder / "bundle", models, seconds=3.0)


def test_a_run_over_real_ssh_survives_cut_links(daemon: Daemon, made: Artifact, tmp_path: Path) -> None:
    """The server is killed while it gets files, while it measures and while it sends results; everything goes on."""
    device = daemon.device(folder=str(tmp_path / "there")).absolute()
    require_ready(device, look(device))
    sent: list[int] = []

    def cutting(size: int) -> None:
        sent.append(size)
        if sum(sent) > 2_000_000 and daemon.process.poll() is None:
            daemon.cut()

    described = json.loads((made.path / "edge.json").read_text())
    device_run.claim(device)
    with pytest.raises(LinkLost):
        device.push(made.path, described["files"], cutting)
        device.present(["x"])
    daemon.start()
    device_run.push(device, made.path, SILENT)
    device_run.start(device)
    daemon.cut()
    time.sleep(1.0)
    daemon.start()
    assert device_run.wait(device, SILENT)["state"] == "finished"
    files = json.loads(Path(device.folder, "out/result.json").read_text())["files"]
    received: list[int] = []

    def cutting_back(size: int) -> None:
        received.append(size)
        daemon.cut()

    with pytest.raises(LinkLost):
        device.pull(tmp_path / "home", files, cutting_back)
    daemon.start()
    out = device_run.pull(device, tmp_path / "home", SILENT)
    pulled = read_results(made.path, out)
    assert pulled.state == "finished"
    assert all(not part.error for part in pulled.parts.values())
    device_run.clean(device)
    assert not Path(device.folder).exists()


def test_another_key_is_refused_in_one_sentence(daemon: Daemon, tmp_path: Path) -> None:
    """A key that the device does not know is said so, without a question for a password."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(daemon.folder / "other")], check=True)
    with pytest.raises(LinkLost, match="the key or the user is refused"):
        daemon.device("other", str(tmp_path / "x")).absolute()
