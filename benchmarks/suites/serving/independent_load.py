"""Poisson arrivals by MLPerf's LoadGen, whose schedule, clock and percentiles are not ours, in a process of its own.

It is called as ``python -m retort.benchmarks.suites.serving.independent_load`` with one argument in JSON. It writes one
line when it begins to send, and its result in a second one.
"""

from __future__ import annotations

import io
import json
import queue
import re
import sys
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from ....core.errors import ServingError
from ....serve.connection import Connections

PERCENTILES = (50, 90, 99)
READY = "ready"
_TIMEOUT_S = 60.0
_HEADERS = {"Content-Type": "application/x-npy", "Accept": "application/x-npy"}
_LINE = re.compile(r"^(\d+\.\d+) percentile latency \(ns\)\s*: (\d+)", re.MULTILINE)


def percentiles_ms(summary: str) -> dict[int, float]:
    """The percentiles in LoadGen's summary, in milliseconds."""
    found = {float(percent): int(value) / 1e6 for percent, value in _LINE.findall(summary)}
    return {percent: found[percent] for percent in PERCENTILES}


def senders(
    url: str, bodies: Sequence[bytes], clients: int, todo: queue.SimpleQueue[Any], done: Callable[[int, int], None]
) -> list[threading.Thread]:
    """Threads with a connection each, which send the requests that are put into a queue, until they get None.

    Args:
        done: is told the id of a request and the status of its answer; 0 without one.
    """
    connections, path = Connections(url, _TIMEOUT_S), urlsplit(url).path

    def work() -> None:
        while (sample := todo.get()) is not None:
            try:
                status, _, _ = connections.request("POST", path, bodies[sample.index % len(bodies)], _HEADERS)
            except ServingError:
                status = 0
            done(sample.id, status)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(clients)]
    for thread in threads:
        thread.start()
    return threads


def loaded(url: str, inputs: Path, rate: float, seconds: float, clients: int, seed: int, logs: Path) -> dict[str, Any]:
    """Ask a server with LoadGen's server scenario.

    Args:
        url: of the predictions.
        inputs: npy file of all inputs, one along the first axis.
        rate: mean number of requests per second.
        clients: number of connections.
        logs: folder for LoadGen's own.

    Returns:
        Percentiles of the latency in milliseconds, and the number of answers by status.
    """
    import mlperf_loadgen as loadgen

    bodies, statuses = [], Counter[int]()
    for array in np.load(inputs):
        stream = io.BytesIO()
        np.save(stream, array)
        bodies.append(stream.getvalue())
    todo: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def done(sample: int, status: int) -> None:
        statuses[status] += 1
        loadgen.QuerySamplesComplete([loadgen.QuerySampleResponse(sample, 0, 0)])

    threads = senders(url, bodies, clients, todo, done)
    settings = loadgen.TestSettings()
    settings.scenario, settings.mode = loadgen.TestScenario.Server, loadgen.TestMode.PerformanceOnly
    settings.server_target_qps, settings.schedule_rng_seed = rate, seed
    settings.min_query_count, settings.min_duration_ms = max(1, int(rate * seconds)), 0
    output, log = loadgen.LogOutputSettings(), loadgen.LogSettings()
    output.outdir, output.copy_summary_to_stdout, log.log_output = str(logs), False, output
    samples = loadgen.ConstructQSL(len(bodies), len(bodies), lambda _: None, lambda _: None)

    def issue(queries: Sequence[Any]) -> None:
        for query in queries:
            todo.put(query)

    sut = loadgen.ConstructSUT(issue, lambda: None)
    sys.stdout.write(f"{READY}\n")
    sys.stdout.flush()
    loadgen.StartTestWithLogSettings(sut, samples, settings, log)
    for _ in threads:
        todo.put(None)
    loadgen.DestroyQSL(samples)
    loadgen.DestroySUT(sut)
    summary = (logs / "mlperf_log_summary.txt").read_text()
    return {"percentiles_ms": percentiles_ms(summary), "statuses": dict(statuses)}


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    found = loaded(**{**given, "inputs": Path(given["inputs"]), "logs": Path(given["logs"])})
    sys.stdout.write(f"{json.dumps(found)}\n")
