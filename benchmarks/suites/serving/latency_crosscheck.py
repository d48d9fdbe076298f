"""Percentiles of our open loop beside those of MLPerf's LoadGen, against the same server at the same time.

Each sends Poisson arrivals at half the rate. Together these are Poisson arrivals at the whole rate, of which each sees
a random half: whatever else the machine does, both meet the same, so that their percentiles must agree.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from statistics import median

import numpy as np

from ....core.errors import MachineError, ServingError
from ...scenarios.request_load import Ask, Load, open_loop
from .findings import Finding, Report, at_most, figure
from .independent_load import PERCENTILES, READY
from .offered_load import capacity
from .request_pool import RequestPool
from .running_server import serving
from .served_networks import WIDTHS, convolutions, packed

CLIENTS = 64
WITHIN = 0.1
"""How far apart the medians and the 90th percentiles may be; the 99th depend on few requests."""
OURS, LOADGEN = "open loop", "LoadGen"
Percentiles = Mapping[int, float]


def asked_by_loadgen(
    url: str, pool: RequestPool, rate: float, seconds: float, seed: int, folder: Path, meanwhile: Callable[[], None]
) -> tuple[Percentiles, int]:
    """What LoadGen measures in a process of its own, and the number of answers without status 200.

    Args:
        url: of the predictions.
        folder: for the inputs and LoadGen's logs.
        meanwhile: is called when LoadGen begins to send.

    Raises:
        MachineError: LoadGen is not installed.
        ServingError: it failed.
    """
    if find_spec("mlperf_loadgen") is None:
        raise MachineError("LoadGen is not installed", "pip install mlcommons-loadgen")
    inputs = folder / "inputs.npy"
    np.save(inputs, np.stack(pool.inputs))
    given = {"url": url, "inputs": str(inputs), "rate": rate, "seconds": seconds, "clients": CLIENTS}
    argument = json.dumps({**given, "seed": seed, "logs": str(folder)})
    command = [sys.executable, "-m", f"{__package__}.independent_load", argument]
    with (folder / "loadgen.log").open("w+") as errors:
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as process:
            assert process.stdout is not None
            if process.stdout.readline().strip() == READY:
                meanwhile()
            lines = process.stdout.read().splitlines()
        if process.returncode:
            errors.seek(0)
            raise ServingError(f"LoadGen failed: {errors.read().strip()[-500:]}", "see what it says")
    found = json.loads(lines[-1])
    failed = sum(number for status, number in found["statuses"].items() if status != "200")
    return {int(percent): value for percent, value in found["percentiles_ms"].items()}, failed


def percentiles(load: Load) -> Percentiles:
    """Those of our open loop, in milliseconds."""
    return {percent: load.latency_ms(percent) for percent in PERCENTILES}


def judged(found: Sequence[Mapping[str, Percentiles]], failed: int) -> list[Finding]:
    """The percentiles of both, and their ratio: medians over the rounds.

    Args:
        found: percentiles by name, for each round.
        failed: number of requests of both without a right answer.
    """
    findings = []
    for percent in PERCENTILES:
        for name in (OURS, LOADGEN):
            findings.append(figure(f"p{percent}, {name}", median(one[name][percent] for one in found), "ms"))
        ratio = median(one[OURS][percent] / one[LOADGEN][percent] for one in found)
        findings.append(figure(f"p{percent}, {OURS} ÷ {LOADGEN}", ratio, "×"))
        if percent != PERCENTILES[-1]:
            findings.append(at_most("", f"difference of p{percent}", 100 * abs(ratio - 1), 100 * WITHIN, "%"))
    return [*findings, at_most("", "requests of both that were not answered rightly", failed, 0)]


def measure(folder: Path, model: str = "heavy", share: float = 0.6, seconds: int = 30, rounds: int = 5) -> Report:
    """One server, asked by our open loop and by LoadGen's server scenario at the same time.

    Args:
        folder: where the model, the archive and LoadGen's logs are written.
        model: light or heavy.
        share: rate of both together as a share of the capacity, which is measured first.
        seconds: length of each load.
        rounds: number of times, of which the medians count.
    """
    file = convolutions(folder / f"{model}.onnx", WIDTHS[model])
    pool, found, failed = RequestPool.of(file), list[Mapping[str, Percentiles]](), 0
    with serving([packed(file, folder / model)], "--workers", "1") as server:
        ask, url = pool.ask(server.url), f"{server.url}/predictions/{model}"
        rate = share * capacity(ask, 1000, 1)
        for seed in range(rounds):
            loads: list[Load] = []
            ours = partial(_keep, loads, ask, rate / 2, seconds, seed)
            other, lost = asked_by_loadgen(url, pool, rate / 2, seconds, seed + 1000, folder, ours)
            found.append({OURS: percentiles(loads[0]), LOADGEN: other})
            failed += lost + sum(one.status != 200 or not one.right for one in loads[0].outcomes)
    told = f"Poisson at {rate:.0f} requests/s, half of each, {rounds} times {seconds} s, the {model} model, one worker"
    findings = (figure("rate of both together", rate, "requests/s"), *judged(found, failed))
    return Report("loadgen", told, int(rounds * rate * seconds), findings, {"rounds": found})


def _keep(loads: list[Load], ask: Ask, rate: float, seconds: float, seed: int) -> None:
    loads.append(open_loop(ask, rate, seconds, CLIENTS, seed))
