"""A server that a suite asks: its address, the CPU time and the memory of all its processes, and its workers."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import psutil

from ....core.errors import RetortError
from ....serve.connection import Connections
from .served_networks import retort

WORKER = "model_service_worker.py"
"""The program of TorchServe's workers."""
CACHE = "RETORT_CACHE"
_MANAGEMENT_S = 10.0


@dataclass(frozen=True)
class RunningServer:
    """A running server.

    Attributes:
        url: its address, without a model.
        pid: the process that started all its others.
        folder: its logs.
        management_url: ``unix:`` and the socket of TorchServe's management interface.
        begun_s: when its command was started, in seconds of the monotonic clock.
        verified_s: seconds from then until ``retort serve`` had compared its answers; NaN for other servers.
    """

    url: str
    pid: int
    folder: Path
    management_url: str = ""
    begun_s: float = 0.0
    verified_s: float = float("nan")

    def family(self) -> list[psutil.Process]:
        """The process and all below it."""
        root = psutil.Process(self.pid)
        return [root, *root.children(recursive=True)]

    def cpu_s(self) -> float:
        """CPU seconds of all processes, and of those that ended and were waited for."""
        return sum(_cpu_s(process) for process in self.family())

    def resident_bytes(self) -> int:
        """Resident memory of all processes."""
        found = 0
        for process in self.family():
            with suppress(psutil.Error):
                found += process.memory_info().rss
        return found

    def proportional_bytes(self) -> int:
        """Memory of all processes, in which pages that several share count once (Linux)."""
        found = 0
        for process in self.family():
            with suppress(psutil.Error):
                found += process.memory_full_info().pss
        return found

    def workers(self) -> list[int]:
        """Process ids of the workers, in order."""
        found = []
        for process in self.family():
            with suppress(psutil.Error):
                if any(WORKER in part for part in process.cmdline()):
                    found.append(process.pid)
        return sorted(found)

    def ready(self, name: str) -> list[int]:
        """Process ids of a model's workers that take requests; none if the server cannot tell."""
        try:
            with closing(Connections(self.management_url, _MANAGEMENT_S)) as connections:
                _, _, body = connections.request("GET", f"/models/{name}")
            workers = json.loads(body)[0]["workers"]
        except (RetortError, ValueError, LookupError):
            return []
        return [int(worker["pid"]) for worker in workers if worker.get("status") == "READY"]


def _cpu_s(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.Error:  # it has ended since
        return 0.0
    return float(sum(times[:4]))


@contextmanager
def serving(archives: Sequence[Path], *options: str, cache: Path | None = None) -> Iterator[RunningServer]:
    """Serve archives with ``retort serve --detach`` within this context, apart from the user's other servers.

    Args:
        options: further options of the command.
        cache: cache folder, which keeps what makes later starts fast; by default a new one.
    """
    folder = Path(tempfile.mkdtemp(prefix="retort-served-"))
    with patch.dict(os.environ, {CACHE: str(cache or folder / "cache")}):
        try:
            given, begun = [str(path) for path in archives], time.monotonic()
            url = str(retort("serve", "--detach", "--logs", str(folder / "logs"), *options, *given)["url"])
            verified_s = time.monotonic() - begun
            (note,) = retort("status")["servers"]
            where = (folder / "logs", str(note["management_url"]))
            yield RunningServer(url, int(note["pid"]), *where, begun, verified_s)
        finally:
            retort("stop", "--all")
            shutil.rmtree(folder, ignore_errors=True)
