"""A server under moderate load for hours: its memory does not grow, and no answer is wrong (goal G9)."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import psutil

from ...scenarios.request_load import Load, open_loop
from .findings import Finding, Report, at_most, figure
from .request_pool import RequestPool
from .running_server import RunningServer, serving
from .served_networks import WIDTHS, convolutions, packed

SLOPE_MB_PER_HOUR = 1.0
WARM_UP = 0.2
"""Share of the time before memory is judged."""
_EVERY_S = 5.0


def slope_mb_per_hour(moments_s: Sequence[float], sizes: Sequence[float]) -> float:
    """Slope of memory over time after the warm-up, by least squares.

    Args:
        sizes: in bytes.
    """
    first = int(len(sizes) * WARM_UP)
    if len(sizes) - first < 2:
        return 0.0
    return float(np.polyfit(moments_s[first:], sizes[first:], 1)[0]) * 3600 / 1e6


def judged(
    load: Load, moments_s: Sequence[float], workers: Sequence[float], everything: Sequence[float]
) -> list[Finding]:
    """The goals of a soak.

    Args:
        moments_s: when memory was read.
        workers: memory of the workers then, in bytes.
        everything: memory of all processes then, in bytes.
    """
    slope = slope_mb_per_hour(moments_s, workers)
    return [
        at_most("G9", "slope of the workers' memory", slope, SLOPE_MB_PER_HOUR, "MB/h"),
        at_most("G9", "failed requests", len(load.outcomes) - len(load.answered), 0),
        at_most("G9", "wrong answers", load.wrong, 0),
        figure("slope of all processes, Java's heap included", slope_mb_per_hour(moments_s, everything), "MB/h"),
        figure("memory of the workers at the end", workers[-1] / 1e6, "MB"),
        figure("memory of all processes at the end", everything[-1] / 1e6, "MB"),
        figure("p99", load.latency_ms(99), "ms"),
    ]


class Watch:
    """Reads the memory of a server every few seconds, in a thread of its own."""

    def __init__(self, server: RunningServer, every_s: float = _EVERY_S) -> None:
        self.moments_s: list[float] = []
        self.workers: list[float] = []
        self.everything: list[float] = []
        self._server, self._every_s, self._done = server, every_s, threading.Event()
        self._thread = threading.Thread(target=self._read)

    def _read(self) -> None:
        while not self._done.wait(self._every_s):
            pids = self._server.workers()
            self.workers.append(float(sum(psutil.Process(pid).memory_info().rss for pid in pids)))
            self.everything.append(float(self._server.resident_bytes()))
            self.moments_s.append(time.monotonic())

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()


def measure(folder: Path, hours: float = 1.0, rate: float = 100.0, seed: int = 0) -> Report:
    """An open loop against the light model.

    Args:
        folder: where the model and the archive are written.
        hours: length of the load.
        rate: requests per second.
        seed: other moments for another seed.
    """
    file = convolutions(folder / "light.onnx", WIDTHS["light"])
    pool = RequestPool.of(file)
    with serving([packed(file, folder / "light")], "--workers", "1") as server, Watch(server) as watch:
        load = open_loop(pool.ask(server.url), rate, 3600 * hours, clients=32, seed=seed)
    findings = judged(load, watch.moments_s, watch.workers, watch.everything)
    details = {"moments_s": watch.moments_s, "workers": watch.workers, "everything": watch.everything}
    told = f"open loop, Poisson, {rate:g} requests/s for {60 * hours:g} minutes, one worker"
    return Report("soak", told, len(load.outcomes), tuple(findings), {**details, "statuses": load.statuses})
