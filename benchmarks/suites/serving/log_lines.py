"""Lines in the logs of a server per request, good and bad ones, beside TorchServe's own logging (goal G12)."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ....core.errors import RetortError
from ....serve.connection import Connections
from ...scenarios.request_load import NO_ANSWER, Ask, closed_loop
from .findings import Finding, Report, at_least, at_most, figure
from .peer_apps import Peer
from .peer_processes import started, wait_for
from .request_pool import TYPES, RequestPool
from .running_server import RunningServer, serving
from .served_networks import WIDTHS, convolutions, packed

CLIENTS, WARM_UP = 16, 200
QUIET, DEFAULT, STOCK = "retort serve --no-metrics", "retort serve", "torchserve"
_WRITTEN_S = 1.0
_STOCK = Peer(
    "",
    ("torchserve", "--start", "--foreground", "--ncs", "--disable-token-auth", "--ts-config", "config.properties"),
    "/predictions/light",
    "npy",
    {
        "config.properties": """
inference_address=http://127.0.0.1:PORT
management_address=http://127.0.0.1:PORT1
metrics_address=http://127.0.0.1:PORT2
grpc_inference_port=PORT3
grpc_management_port=PORT4
model_store=.
load_models=light=model.mar
decode_input_request=false
"""
    },
    variables={"TEMP": "FOLDER", "TMPDIR": "FOLDER"},
)
"""The same archive in TorchServe with the logging of its wheel; only what the archive needs is configured."""


@dataclass(frozen=True)
class Logged:
    """What a server wrote while it answered.

    Attributes:
        requests: number of requests.
        right: those with the wanted status, and the right answer if it is 200.
        lines: that were added to the files of its logs meanwhile.
        size_bytes: of these lines.
        cpu_ms: CPU time of one request, of all processes of the server.
        rate: answers per second.
    """

    requests: int
    right: int
    lines: int
    size_bytes: int
    cpu_ms: float
    rate: float

    @property
    def per_request(self) -> float:
        """Lines per request."""
        return self.lines / self.requests


def written(folder: Path) -> tuple[int, int]:
    """Lines and bytes of all files in a folder and below it."""
    contents = [path.read_bytes() for path in sorted(folder.rglob("*log*")) if path.is_file()]
    return sum(content.count(b"\n") for content in contents), sum(map(len, contents))


def logged(server: RunningServer, ask: Ask, requests: int, wanted: Sequence[int] = (200,)) -> Logged:
    """What a server writes for some requests in a closed loop.

    Args:
        wanted: statuses of right answers.
    """
    lines, size = written(server.folder)
    before = server.cpu_s()
    load = closed_loop(ask, CLIENTS, requests)
    cpu_ms = 1000 * (server.cpu_s() - before) / requests
    time.sleep(_WRITTEN_S)
    more, larger = written(server.folder)
    right = sum(one.status in wanted and (one.right or one.status != 200) for one in load.outcomes)
    return Logged(requests, right, more - lines, larger - size, cpu_ms, requests / load.wall_s)


def asking_badly(url: str, path: str) -> Ask:
    """Sends requests that must be refused: no array, another shape, another type."""
    connections = Connections(url, 60)
    bodies = ((b"no array", TYPES["npy"]), (b'{"inputs":[]}', TYPES["json"]), (b"<html/>", "text/html"))

    def ask(index: int) -> tuple[int, bool]:
        body, kind = bodies[index % len(bodies)]
        try:
            return connections.request("POST", path, body, {"Content-Type": kind})[0], False
        except RetortError:
            return NO_ANSWER, False

    return ask


def judged(good: dict[str, Logged], bad: Logged) -> list[Finding]:
    """The goals of logs.

    Args:
        good: what each profile wrote for good requests.
        bad: what the default profile wrote for bad ones.
    """
    findings = [
        at_most("G12", f"lines per good request, `{DEFAULT}`", good[DEFAULT].per_request, 1),
        at_most("G12", f"lines per good request, `{QUIET}`", good[QUIET].per_request, 0),
        at_most("G12", f"lines per bad request, `{DEFAULT}`", bad.per_request, 1),
    ]
    for name, one in good.items():
        findings.append(figure(f"{name}: CPU of a request", one.cpu_ms, "ms"))
        findings.append(figure(f"{name}: requests/s", one.rate))
    if STOCK in good:
        stock = good[STOCK]
        findings.append(figure(f"lines per good request, `{STOCK}` with its own logging", stock.per_request))
        findings.append(figure(f"bytes per good request, `{STOCK}`", stock.size_bytes / stock.requests))
        findings.append(figure(f"CPU of a request, `{STOCK}` ÷ `{DEFAULT}`", stock.cpu_ms / good[DEFAULT].cpu_ms, "×"))
        findings.append(figure(f"requests/s, `{DEFAULT}` ÷ `{STOCK}`", good[DEFAULT].rate / stock.rate, "×"))
    asked = sum(one.requests for one in (*good.values(), bad))
    right = sum(one.right for one in (*good.values(), bad))
    findings.append(at_least("G12", "right answers and refusals", right, asked))
    return findings


def measure(folder: Path, requests: int = 4000) -> Report:
    """One archive in a server with metrics, in one without, and in TorchServe with the logging that it comes with.

    Args:
        folder: where the model and the archive are written.
        requests: number of requests to each server, and as many bad ones to the first.
    """
    file = convolutions(folder / "light.onnx", WIDTHS["light"])
    pool, archive = RequestPool.of(file), packed(file, folder / "light")
    good: dict[str, Logged] = {}
    for name, options in ((DEFAULT, ()), (QUIET, ("--no-metrics",))):
        with serving([archive], "--workers", "1", *options) as server:
            closed_loop(pool.ask(server.url), CLIENTS, WARM_UP)
            good[name] = logged(server, pool.ask(server.url), requests)
            if name == DEFAULT:
                bad = logged(server, asking_badly(server.url, f"/predictions/{file.stem}"), requests, (400, 415))
    home = Path(sys.prefix)
    if (home / "bin" / _STOCK.command[0]).exists():
        with started(_STOCK, home, archive, folder / "stock", "model.mar") as server:
            ask = pool.ask(server.url)
            wait_for(ask, server)
            closed_loop(ask, CLIENTS, WARM_UP)
            good[STOCK] = logged(server, ask, requests)
    details = {**{name: asdict(one) for name, one in good.items()}, "bad": asdict(bad)}
    told = f"closed loop, {CLIENTS} clients, one worker with one thread"
    return Report("logs", told, requests * (len(good) + 1), tuple(judged(good, bad)), details)
