"""What can be reached of a running server, and that nothing of it registers, changes or ends a model (goal G18).

Every route of TorchServe that registers a model or a workflow is tried on every port, also by disguised paths, with
the address of a listener that notices whether anything is fetched from it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from socket import AF_INET, AF_INET6, create_connection

import psutil

from ....core.errors import RetortError, ServingError
from ....serve.connection import UNIX, Connections
from ...scenarios.request_load import NO_ANSWER
from .findings import Finding, Report, at_least, at_most, figure
from .request_pool import RequestPool
from .running_server import RunningServer, serving
from .served_networks import WIDTHS, convolutions, packed, retort

OPTIONS: tuple[tuple[str, ...], ...] = ((), ("--swaps",), ("--grpc",))
"""How the servers are started that are looked at."""
MANAGEMENT = "management socket"
_CONNECT_S, _ANSWER_S = 2.0, 30.0
_STRANGER = "import os, socket, sys; os.setuid(65534); socket.socket(socket.AF_UNIX).connect(sys.argv[1])"


@dataclass(frozen=True)
class Attempt:
    """One request that must not succeed.

    Attributes:
        where: what it was sent to.
        status: of the answer; 0 without one.
    """

    where: str
    method: str
    path: str
    status: int

    @property
    def succeeded(self) -> bool:
        """Whether the server did, or told, what was asked."""
        return 200 <= self.status < 400


@dataclass(frozen=True)
class Reached:
    """What was found of one server.

    Attributes:
        listeners: hosts and ports that listen, but for addresses to which nothing can connect.
        accepted: connections to them from addresses of this machine that are not loopback.
        attempts: requests on every port.
        owned: the same requests through the management socket, which only this user can open.
        fetched: number of requests that came to the listener with the model.
        changed: whether the models or their workers are others than before.
        strangers: number of other users who could open the management socket; None where that cannot be tried.
        safe: whether ``retort audit`` finds nothing.
    """

    listeners: tuple[tuple[str, int], ...]
    accepted: tuple[str, ...]
    attempts: tuple[Attempt, ...]
    owned: tuple[Attempt, ...]
    fetched: int
    changed: bool
    strangers: int | None
    safe: bool


def listeners(server: RunningServer) -> list[tuple[str, int]]:
    """Every address on which a process of a server listens for TCP."""
    found = set()
    for process in server.family():
        with suppress(psutil.Error):
            for one in process.net_connections("tcp"):
                if one.status == psutil.CONN_LISTEN:
                    found.add((one.laddr.ip.removeprefix("::ffff:"), one.laddr.port))
    return sorted(found)


def is_outside(host: str) -> bool:
    """Whether others than this machine may reach an address; nothing can connect to a multicast address."""
    address = ip_address(host)
    return not (address.is_loopback or address.is_multicast)


def accepting(ports: Sequence[int]) -> list[str]:
    """Ports that accept a connection to an address of this machine other than loopback."""
    hosts = [
        one.address for card in psutil.net_if_addrs().values() for one in card if one.family in (AF_INET, AF_INET6)
    ]
    found = []
    for host in (host.partition("%")[0] for host in hosts):
        for port in ports if is_outside(host) else ():
            with suppress(OSError), create_connection((host, port), _CONNECT_S):
                found.append(f"{host}:{port}")
    return found


class Bait:
    """A listener with what could be a model; it counts who asks for it."""

    def __init__(self) -> None:
        self.fetched = 0

    @contextmanager
    def laid(self) -> Iterator[str]:
        """Its address, while it listens."""
        bait = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                bait.fetched += 1
                self.send_error(404)

            def do_HEAD(self) -> None:
                self.do_GET()

            def log_message(self, *args: object) -> None:
                """Nothing."""

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
            threading.Thread(target=http.serve_forever, args=(0.05,), daemon=True).start()
            yield f"http://127.0.0.1:{http.server_address[1]}/model"
            http.shutdown()


def requests_of(name: str, bait: str) -> list[tuple[str, str]]:
    """Methods and paths that register, change, end or list models and workflows."""
    sources = [f"{bait}.mar", f"{bait}.war", "file:///tmp/model.mar", "../model.mar", f"https{bait[4:]}.mar"]
    found = []
    for kind in ("models", "workflows"):
        found += [("POST", f"/{kind}?url={url}") for url in sources]
        found += [("POST", f"/{kind}?{kind[:-1]}_name=x&url={sources[0]}&initial_workers=1&synchronous=true")]
        found += [("GET", f"/{kind}"), ("GET", f"/{kind}/{name}"), ("DELETE", f"/{kind}/{name}")]
    found += [("PUT", f"/models/{name}?min_worker=0&max_worker=0&synchronous=true")]
    found += [("PUT", f"/models/{name}/1.0/set-default"), ("DELETE", f"/models/{name}/1.0")]
    found += [("POST", f"/v2/repository/models/{name}/{verb}") for verb in ("load", "unload")]
    return found


def disguises(path: str) -> list[str]:
    """A path in forms that a lax server takes for the same."""
    head, mark, query = path.partition("?")
    first = head[1:2]
    forms = [head, f"/{head}", f"/.{head}", f"/predictions/..{head}", f"/predictions/%2e%2e{head}", f"{head}/"]
    forms += [f"/%{ord(first):x}{head[2:]}", f"/{first.upper()}{head[2:]}", f"http://127.0.0.1:8081{head}"]
    return [f"{form}{mark}{query}" for form in forms]


def attempted(where: str, url: str, requests: Sequence[tuple[str, str]]) -> list[Attempt]:
    """What a server answers to requests.

    Args:
        where: the name of its address.
    """
    found = []
    with closing(Connections(url, _ANSWER_S)) as connections:
        for method, path in requests:
            status = NO_ANSWER
            with suppress(RetortError):
                status = connections.request(method, path)[0]
            found.append(Attempt(where, method, path, status))
    return found


def strangers(socket: str) -> int | None:
    """Whether another user can open a socket: 1 if so; None if this user cannot become another."""
    if os.geteuid() != 0:
        return None
    command = [sys.executable, "-I", "-S", "-c", _STRANGER, socket]
    return int(subprocess.run(command, capture_output=True, check=False).returncode == 0)


def audited() -> bool:
    """Whether ``retort audit`` finds nothing unsafe in the running servers."""
    try:
        retort("audit")
    except ServingError:
        return False
    return True


def explored(server: RunningServer, name: str) -> Reached:
    """Everything that can be tried on a running server."""
    socket = server.management_url.removeprefix(UNIX)
    open_ports = [one for one in listeners(server) if not ip_address(one[0]).is_multicast]
    before, bait = server.ready(name), Bait()
    with bait.laid() as url:
        plain = requests_of(name, url)
        disguised = [(method, form) for method, path in plain for form in disguises(path)]
        attempts = [
            attempt
            for host, port in open_ports
            for attempt in attempted(_named(server, port), f"http://{host}:{port}", disguised)
        ]
        register = [(method, path) for method, path in plain if method == "POST"]
        owned = attempted(MANAGEMENT, server.management_url, register)
    return Reached(
        tuple(open_ports),
        tuple(accepting([port for _, port in listeners(server)])),
        tuple(attempts),
        tuple(owned),
        bait.fetched,
        server.ready(name) != before or not before,
        strangers(socket),
        audited(),
    )


def _named(server: RunningServer, port: int) -> str:
    return "inference port" if server.url.endswith(f":{port}") else f"port {port}"


def judged(found: Sequence[Reached]) -> list[Finding]:
    """The goals of what can be reached."""
    attempts = [attempt for one in found for attempt in (*one.attempts, *one.owned)]
    outside = sum(is_outside(host) for one in found for host, _ in one.listeners)
    tried = [one.strangers for one in found if one.strangers is not None]
    findings = [
        figure("servers", len(found)),
        figure("ports that listen", sum(len(one.listeners) for one in found)),
        at_most("G18", "of them on other addresses than loopback", outside, 0),
        at_most("G18", "connections from other addresses", sum(len(one.accepted) for one in found), 0),
        at_least("G18", "attempts to register, change, end or list models and workflows", len(attempts), 100),
        at_most("G18", "attempts that succeeded", sum(one.succeeded for one in attempts), 0),
        at_most(
            "G18", "models or workflows that were fetched from their address", sum(one.fetched for one in found), 0
        ),
        at_most("G18", "servers whose models or workers changed", sum(one.changed for one in found), 0),
        at_most("G18", "servers that `retort audit` refuses", sum(not one.safe for one in found), 0),
    ]
    if tried:
        findings.append(at_most("G18", "management sockets that another user could open", sum(tried), 0))
    for (where, status), number in sorted(Counter((one.where, one.status) for one in attempts).items()):
        findings.append(figure(f"{where}: attempts answered with {status or 'nothing'}", number))
    return findings


def measure(folder: Path) -> Report:
    """Servers in their default form, with swaps, and with gRPC.

    Args:
        folder: where the model and the archive are written.
    """
    file = convolutions(folder / "light.onnx", WIDTHS["light"])
    archive, pool, found = packed(file, folder / "light"), RequestPool.of(file, 20), []
    answers = []
    for options in OPTIONS:
        with serving([archive], "--workers", "1", *options) as server:
            found.append(explored(server, file.stem))
            answers.append(pool.ask(server.url)(0))
    right = sum(answer == (200, True) for answer in answers)
    findings = (*judged(found), at_least("G18", "servers that answer rightly afterwards", right, len(found)))
    names = [" ".join(options) or "default" for options in OPTIONS]
    details = {name: asdict(one) for name, one in zip(names, found, strict=True)}
    total = sum(len(one.attempts) + len(one.owned) for one in found)
    return Report("exposure", "", total, findings, json.loads(json.dumps(details)))
