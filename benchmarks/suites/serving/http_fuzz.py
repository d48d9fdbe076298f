"""Hostile requests over HTTP to a TorchServe with a model of every kind: no worker dies, and none of our 5xx (goal G6).

TorchServe's front end refuses some of them itself, and has a few 500s of its own; both are counted apart.
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from ....core.errors import RetortError
from ....core.session import open_session
from ....core.signature import Signature
from ....serve.connection import Connections
from ...scenarios.request_load import NO_ANSWER
from .bundle_runtime import Call
from .findings import Finding, Report, at_most, figure
from .mutations import Seed, mutants, seeds
from .running_server import RunningServer, serving
from .served_networks import HOSTILE, hostile_network, packed

GROWTH_MB = 20.0
BOUNDARY = "retort-fuzz"
_KEPT, _GOOD_EVERY = 20, 50
_OF_PATHS = "url_path"
Send = Callable[[str, bytes, Mapping[str, str]], tuple[int, bytes]]
"""Sends a body with headers to a path; gives status and body of the answer."""


@dataclass
class Answers:
    """What a server answered to hostile requests.

    Attributes:
        statuses: number of answers by status; :data:`NO_ANSWER` where the connection was closed instead.
        theirs: 5xx that the front end gave by itself, by their type.
        faults: our 5xx, and refusals without a message: the first of them with what was sent.
        good: number of good requests among them.
        spoiled: those that had another answer than before all hostile ones.
    """

    statuses: Counter[int] = field(default_factory=Counter)
    theirs: Counter[str] = field(default_factory=Counter)
    faults: list[dict[str, Any]] = field(default_factory=list)
    faulty: int = 0
    good: int = 0
    spoiled: int = 0


def as_http(call: Call) -> tuple[str, bytes, dict[str, str]]:
    """The end of the path, the body and the headers of a request."""
    headers = dict(call.headers)
    path = headers.pop(_OF_PATHS, "")
    body = call.parts.get("body")
    if len(call.parts) == 1 and isinstance(body, bytes):
        return path, body, headers
    lines = []
    for name, value in call.parts.items():
        content = value if isinstance(value, bytes) else str(value).encode()
        head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'.encode()
        lines.append(head + content + b"\r\n")
    lines.append(f"--{BOUNDARY}--\r\n".encode())
    kind = headers.get("content-type", "")
    if not kind or kind == "multipart/form-data":
        headers["content-type"] = f"multipart/form-data; boundary={BOUNDARY}"
    return path, b"".join(lines), headers


def ours(body: bytes) -> bool:
    """Whether an error is the handler's, and not the front end's, whose ``type`` is a Java class."""
    try:
        found = json.loads(body)
    except ValueError:
        return False
    return not (isinstance(found, dict) and str(found.get("type", "")).endswith("Exception"))


def fuzz(send: Send, name: str, chosen: Sequence[Seed], count: int, seed: int, found: Answers) -> None:
    """Send so many hostile requests to a model, and a good one after every few of them."""
    good = as_http(chosen[0].call)
    _, usual = send(f"/predictions/{name}", *good[1:])
    for number, (form, call) in zip(range(count), mutants(chosen, seed), strict=False):
        path, body, headers = as_http(call)
        status, content = send(f"/predictions/{name}" + (f"/{path.strip('/')}" if path else ""), body, headers)
        found.statuses[status] += 1
        if status >= 500 and status != 501:
            if ours(content):
                found.faulty += 1
                if len(found.faults) < _KEPT:
                    found.faults.append(
                        {
                            "form": form,
                            "status": status,
                            "said": str(content[:300]),
                            "sent": str(body[:2000]),
                            **headers,
                        }
                    )
            else:
                found.theirs[str(json.loads(content).get("type"))] += 1
        if number % _GOOD_EVERY == 0:
            answer = send(f"/predictions/{name}", *good[1:])
            found.good += 1
            found.spoiled += answer != (200, usual)


def sender(url: str, timeout_s: float = 60.0) -> Send:
    """Sends over connections that stay open; a connection that is closed without an answer is :data:`NO_ANSWER`."""
    connections = Connections(url, timeout_s)

    def send(path: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, bytes]:
        try:
            status, _, content = connections.request("POST", path, body, dict(headers))
        except (RetortError, ValueError):  # http.client refuses some headers itself
            return NO_ANSWER, b""
        return status, content

    return send


def judged(found: Answers, deaths: int, growth_mb: Mapping[str, float]) -> list[Finding]:
    """The goals of hostile requests over HTTP.

    Args:
        deaths: number of workers that were replaced.
        growth_mb: growth of the memory of each model's worker after the first tenth, in megabytes.
    """
    most = max(growth_mb, key=lambda name: growth_mb[name])
    return [
        at_most("G6", "deaths of workers", deaths, 0),
        at_most("G6", "our answers of 500 and above", found.faulty, 0),
        at_most("G6", f"largest growth of a worker after the first tenth ({most})", growth_mb[most], GROWTH_MB, "MB"),
        at_most("G6", "good requests with another answer than before", found.spoiled, 0),
        figure("good requests compared", found.good),
        figure("5xx of TorchServe's front end", sum(found.theirs.values())),
        figure("connections closed without an answer", found.statuses[NO_ANSWER]),
    ]


def measure(folder: Path, requests: int = 100_000, clients: int = 4, seed: int = 0) -> Report:
    """Hostile requests to a model of every kind in one TorchServe with a worker each.

    Args:
        folder: where models and archives are written; those that are there are used.
        requests: number of hostile requests, of all models together.
        clients: number of connections that send at the same time.
        seed: other requests for another seed.
    """
    archives, signatures = [], {}
    for kind, options in HOSTILE.items():
        out = folder / f"{kind}-mar"
        archives.append(out / "model.mar" if out.is_dir() else packed(hostile_network(kind, folder), out, *options))
        signatures[kind] = _signature(out, folder / f"{kind}.onnx")
    found, memory = Answers(), []
    with serving(archives, "--workers", "1") as server:
        workers, send = server.workers(), sender(server.url)
        for turn, share in enumerate((requests // 10, requests - requests // 10)):
            _all(send, signatures, share, clients, 1000 * seed + 100 * turn, found)
            memory.append(_memory_mb(server, signatures))
        deaths = len(set(workers) - set(server.workers()))
    details = {"statuses": dict(found.statuses), "front end": dict(found.theirs), "faults": found.faults}
    details["memory_mb"] = memory
    load = f"closed loop over HTTP, {clients} clients, {len(HOSTILE)} models with a worker each, seed {seed}"
    growth_mb = {name: after - memory[0].get(name, after) for name, after in memory[1].items()}
    findings = judged(found, deaths, growth_mb)
    return Report("fuzz-http", load, sum(found.statuses.values()), tuple(findings), details)


def _signature(out: Path, model: Path) -> Signature:
    stored = out / "bundle" / "signature.json"
    return Signature.from_json(stored.read_text()) if stored.is_file() else open_session(model).signature


def _all(send: Send, signatures: Mapping[str, Signature], count: int, clients: int, seed: int, found: Answers) -> None:
    """Hostile requests to all models in turns, from several threads."""
    parts = [Answers() for _ in range(clients)]

    def work(client: int) -> None:
        for index, (name, signature) in enumerate(signatures.items()):
            share = count // (clients * len(signatures))
            fuzz(send, name, seeds(signature), share, 7919 * (seed + 10 * client + index), parts[client])

    threads = [threading.Thread(target=work, args=(client,)) for client in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for part in parts:
        found.statuses.update(part.statuses)
        found.theirs.update(part.theirs)
        found.faults += part.faults
        found.faulty, found.good = found.faulty + part.faulty, found.good + part.good
        found.spoiled += part.spoiled


def _memory_mb(server: RunningServer, names: Iterable[str]) -> dict[str, float]:
    """Resident memory of the worker of each model."""
    found = {name: server.ready(name) for name in names}
    return {name: sum(psutil.Process(pid).memory_info().rss for pid in pids) / 1e6 for name, pids in found.items()}
