"""Servers of other projects as processes: started in a folder with all their files, and ended completely."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import psutil

from ...scenarios.request_load import Ask
from .peer_apps import Peer
from .running_server import RunningServer

READY_S = 180.0


@contextmanager
def started(peer: Peer, home: Path, model: Path, folder: Path, name: str = "model.onnx") -> Iterator[RunningServer]:
    """Another server in a folder of its own; all its processes end with this context.

    Args:
        home: environment with its programs.
        name: of the copy of the model in the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(model, folder / name)
    ports = free_ports(5)
    for name, text in {"app.py": peer.app(), **peer.files}.items():
        (folder / name).write_text(peer.filled(text, ports, str(folder)))
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([str(home / "bin"), *os.get_exec_path()]),
        "OMP_NUM_THREADS": "1",
        **{name: peer.filled(value, ports, str(folder)) for name, value in peer.variables.items()},
    }

    def command(parts: Sequence[str]) -> list[str]:
        return [str(home / "bin" / parts[0]), *(peer.filled(part, ports, str(folder)) for part in parts[1:])]

    with (folder / "log").open("wb") as log:
        if peer.before:
            subprocess.run(
                command(peer.before), cwd=folder, env=environment, stdout=log, stderr=log, check=True, timeout=READY_S
            )
        begun = time.monotonic()
        process = subprocess.Popen(
            command(peer.command), cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True
        )
        server = RunningServer(f"http://127.0.0.1:{ports[0]}", process.pid, folder, begun_s=begun)
        try:
            yield server
        finally:
            end(process, server)


def free_ports(number: int) -> list[int]:
    """Ports on which nothing listens."""
    with ExitStack() as stack:
        found = [stack.enter_context(closing(socket.socket())) for _ in range(number)]
        for one in found:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in found]


def end(process: subprocess.Popen[bytes], server: RunningServer) -> None:
    """End a server and everything that it started, in other process groups too."""
    family: list[psutil.Process] = []
    with suppress(psutil.Error):
        family = server.family()
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(15)
        for left in filter(is_alive, family):
            with suppress(psutil.Error):
                left.send_signal(number)
        deadline = time.monotonic() + 5
        while any(map(is_alive, family)) and time.monotonic() < deadline:
            time.sleep(0.05)


def is_alive(process: psutil.Process) -> bool:
    """Whether a process runs; one that has ended and waits for its parent does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def wait_for(ask: Ask, server: RunningServer) -> float:
    """Seconds from a server's start to its first right answer; NaN if it ends, or gives none within three minutes."""
    while time.monotonic() - server.begun_s < READY_S:
        if ask(0)[1]:
            return time.monotonic() - server.begun_s
        with suppress(psutil.Error):
            if is_alive(psutil.Process(server.pid)):
                time.sleep(0.05)
                continue
        break
    return float("nan")
