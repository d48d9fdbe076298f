"""The same model behind Retort and behind other servers by their documented ways, in one run.

Each other server has an environment of its own outside the repository: ``--environments FOLDER`` has a folder for each,
such as ``FOLDER/mosec``. Those that are not there are reported as not installed.
"""

from __future__ import annotations

import io
import json
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import psutil

from ....core.errors import RetortError
from ....core.tensors import Array
from ....serve.connection import Connections
from ...scenarios.request_load import NO_ANSWER, Ask, closed_loop
from .findings import Finding, Report
from .peer_apps import PEERS, Peer
from .peer_processes import started, wait_for
from .request_pool import TYPES, RequestPool, npy, v2_json
from .running_server import RunningServer, serving
from .served_networks import WIDTHS, convolutions, packed

TOLERANCE = 1e-4
BATCH, ROUNDS = 8, 8
"""Good neighbours: rounds of eight requests at once, of which one has an image of another size."""
CLIENTS = 16


@dataclass(frozen=True)
class Served:
    """What one server did.

    Attributes:
        memory_mb: of all processes, in which pages that several share count once.
        cold_s: seconds from its start to the first right answer.
        cold_cpu_s: CPU seconds until then, of all processes.
        good: good requests with the right answer, of those that had a bad one beside them.
    """

    rate: float
    p50_ms: float
    p99_ms: float
    cpu_ms: float
    memory_mb: float
    cold_s: float
    cold_cpu_s: float
    wrong: int
    good: int

    def row(self, name: str, form: str) -> list[str]:
        """Its row in the table."""
        return [
            f"{name} ({form})",
            f"{self.rate:.0f}",
            f"{self.p50_ms:.1f}",
            f"{self.p99_ms:.1f}",
            f"{self.cpu_ms:.2f}",
            f"{self.memory_mb:.0f}",
            f"{self.cold_s:.1f}",
            f"{self.cold_cpu_s:.1f}",
            f"{self.good} of {ROUNDS * (BATCH - 1)}",
        ]


Call = Callable[[Array], tuple[int, Array | None]]
"""Sends an image; gives the status, and the scores of an answer with 200 that can be read."""


def caller(url: str, path: str, form: str, name: str = "image") -> Call:
    """What asks a server in npy, in JSON as ``{name: lists}``, or in KServe's V2; each body is made once."""
    connections, bodies = Connections(url, 60), dict[bytes, bytes]()
    headers = {"Content-Type": TYPES["npy" if form == "npy" else "json"]}

    def made(image: Array) -> bytes:
        if form == "npy":
            return npy(image)
        return v2_json({name: image}) if form == "v2" else json.dumps({name: image.tolist()}).encode()

    def call(image: Array) -> tuple[int, Array | None]:
        key = image.tobytes()
        body = bodies[key] = bodies.get(key) or made(image)
        try:
            status, _, content = connections.request("POST", path, body, headers)
        except RetortError:
            return NO_ANSWER, None
        return status, _scores(content, form) if status == 200 else None

    return call


def _scores(content: bytes, form: str) -> Array | None:
    try:
        if form == "npy":
            return np.asarray(np.load(io.BytesIO(content)))
        found = json.loads(content)
        if form == "v2":
            (item,) = found["outputs"]
            return np.array(item["data"], np.float32).reshape(item["shape"])
        return np.asarray(found["scores"] if isinstance(found, dict) else found, np.float32)
    except (ValueError, KeyError, TypeError):
        return None


def asking(call: Call, pool: RequestPool) -> Ask:
    """Sends the requests of a pool; an answer is right within a small tolerance, because others batch as they like."""

    def ask(index: int) -> tuple[int, bool]:
        at = index % len(pool.inputs)
        status, scores = call(pool.inputs[at])
        return status, scores is not None and _near(scores, pool.outputs[at])

    return ask


def _near(found: Array, wanted: Array) -> bool:
    return bool(found.shape == wanted.shape and np.allclose(found, wanted, atol=TOLERANCE, rtol=TOLERANCE))


def good_neighbours(call: Call, pool: RequestPool) -> int:
    """Good requests that are answered right although one of the eight sent at once has an image of another size."""
    bad = np.zeros((1, 3, 16, 16), np.float32)

    def one(index: int) -> bool:
        status, scores = call(pool.inputs[index])
        return status == 200 and scores is not None and _near(scores, pool.outputs[index])

    good = 0
    with ThreadPoolExecutor(BATCH) as threads:
        for number in range(ROUNDS):
            spoiler = threads.submit(call, bad)
            good += sum(threads.map(one, ((number * BATCH + at) % len(pool.inputs) for at in range(BATCH - 1))))
            spoiler.result()
    return good


def measured(server: RunningServer, call: Call, pool: RequestPool, requests: int, cold_s: float) -> Served:
    """Load and figures of one server that has just given its first right answer."""
    ask, cold_cpu_s = asking(call, pool), server.cpu_s()
    closed_loop(ask, CLIENTS, requests // 2)
    before = server.cpu_s()
    load = closed_loop(ask, CLIENTS, requests)
    cpu_ms = 1000 * (server.cpu_s() - before) / len(load.outcomes)
    memory_mb = server.proportional_bytes() / 1e6
    latency = (load.latency_ms(50), load.latency_ms(99))
    start = (cold_s, cold_cpu_s)
    return Served(load.rate, *latency, cpu_ms, memory_mb, *start, load.wrong, good_neighbours(call, pool))


def of_peer(peer: Peer, home: Path | None, file: Path, pool: RequestPool, folder: Path, requests: int) -> Served | str:
    """What one other server did, or why there are no figures.

    Args:
        home: its environment.
        file: the model.
    """
    if home is None or not (home / "bin" / peer.command[0]).exists():
        return "not installed"
    try:
        with started(peer, home, file, folder) as server:
            call = caller(server.url, peer.path, peer.form)
            cold_s = wait_for(asking(call, pool), server)
            if cold_s == cold_s:
                return measured(server, call, pool, requests, cold_s)
    except (subprocess.SubprocessError, psutil.Error) as error:
        return f"failed: {error}"
    last = (folder / "log").read_text(errors="replace").strip().splitlines()[-1:]
    return f"gave no right answer: {' '.join(last)[-200:]}"


def measure(folder: Path, environments: str = "", model: str = "light", requests: int = 3000) -> Report:
    """Retort and all other servers that are installed, one after another, each with one worker and one thread.

    Args:
        folder: where models and applications are written.
        environments: folder with an environment for each other server, such as FOLDER/mosec.
        model: light or heavy.
        requests: number of requests that each server is measured with, after half as many to warm it up.
    """
    file = convolutions(folder / f"{model}.onnx", WIDTHS[model])
    pool = RequestPool.of(file)
    found: dict[str, Served | str] = {}
    with serving([packed(file, folder / "mar")], "--workers", "1") as server:
        call = caller(server.url, f"/predictions/{model}", "npy")
        found["retort"] = measured(server, call, pool, requests, server.verified_s)
    for name, peer in PEERS.items():
        home = Path(environments) / name if environments else None
        found[name] = of_peer(peer, home, file, pool, folder / name, requests)
    told = f"closed loop, {CLIENTS} clients, one worker with one thread each, the {model} model"
    details = {name: one if isinstance(one, str) else asdict(one) for name, one in found.items()}
    total = requests * sum(isinstance(one, Served) for one in found.values())
    return Report("peers", told, total, tuple(findings(found)), details)


def findings(found: dict[str, Served | str]) -> list[Finding]:
    """A line for each server, and whether Retort keeps all good neighbours."""
    lines = []
    for name, one in found.items():
        if isinstance(one, str):
            lines.append(Finding("", name, one))
            continue
        form = PEERS[name].form if name in PEERS else "npy"
        columns = ("requests/s", "p50", "p99 ms", "CPU ms", "MB", "s", "CPU s to the first answer", "good neighbours")
        row = one.row(name, form)
        text = ", ".join(f"{value} {column}" for value, column in zip(row[1:], columns, strict=True))
        reached = one.good == ROUNDS * (BATCH - 1) if name == "retort" else None
        lines.append(Finding("", row[0], text, "all good neighbours" if name == "retort" else "", reached))
    return lines
