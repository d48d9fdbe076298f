"""CPU time and time from the command to the first verified answer, by process (goal G10)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import psutil

from .findings import Finding, Report, at_most, figure
from .running_server import RunningServer, serving
from .served_networks import WIDTHS, convolutions, packed

CPU_S = 2.0


@dataclass(frozen=True)
class Start:
    """One start; ``retort serve`` ends it when the golden requests have their answers.

    Attributes:
        command_s: CPU seconds of the command and its watchdog.
        java_s: CPU seconds of TorchServe's front end.
        worker_s: CPU seconds of the workers.
        wall_s: time from the command to its end.
    """

    command_s: float
    java_s: float
    worker_s: float
    wall_s: float

    @property
    def server_s(self) -> float:
        """CPU seconds of TorchServe: front end and workers."""
        return self.java_s + self.worker_s


def start_of(server: RunningServer, wall_s: float) -> Start:
    """The CPU time of a server's processes until now, by kind."""
    spent = {"command": 0.0, "java": 0.0, "worker": 0.0}
    workers = set(server.workers())
    for process in server.family():
        try:
            times, name = process.cpu_times(), process.name()
        except psutil.Error:  # it has ended since
            continue
        kind = "worker" if process.pid in workers else "java" if "java" in name else "command"
        spent[kind] += times.user + times.system
    return Start(spent["command"], spent["java"], spent["worker"], wall_s)


def judged(first: Start, starts: Sequence[Start], load_s: float) -> list[Finding]:
    """The goal of a cold start.

    Args:
        first: the first start of a server on the machine, after which Java writes its archive.
        load_s: CPU seconds to open the model alone.
    """
    server = median(one.server_s for one in starts)
    return [
        at_most("G10", "CPU of TorchServe and the worker, model load not counted", server - load_s, CPU_S, "s"),
        figure("the same of the first server on a machine", first.server_s - load_s, "s"),
        figure("CPU of Java", median(one.java_s for one in starts), "s"),
        figure("CPU of the worker", median(one.worker_s for one in starts), "s"),
        figure("CPU of `retort serve` itself", median(one.command_s for one in starts), "s"),
        figure("time from the command to the first verified answer", median(one.wall_s for one in starts), "s"),
        figure("CPU to open the model alone", load_s, "s"),
    ]


def measure(folder: Path, starts: int = 7) -> Report:
    """Start a server with one worker several times; the first on a machine has neither page cache nor Java's archive.

    Args:
        folder: where the model and the archive are written.
        starts: number of starts after the first one, of which the medians count.
    """
    from .request_pool import raw_session, samples

    file = convolutions(folder / "light.onnx", WIDTHS["light"])
    archive = packed(file, folder / "light")
    found = []
    for _ in range(1 + starts):
        with serving([archive], "--workers", "1", cache=folder / "cache") as server:
            found.append(start_of(server, server.verified_s))
    cpu = time.process_time()
    session = raw_session(file)
    session.run(samples(session.signature, 1, 0))
    findings = judged(found[0], found[1:], time.process_time() - cpu)
    details = {"starts": [asdict(one) for one in found]}
    return Report("cold-start", "", len(found), tuple(findings), details)
