"""A TorchServe on loopback for one archive: it is started, tested with a golden request, and stopped completely."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ...core.artifact import Artifact, raise_if_not
from ...core.console import SILENT, Console
from ...core.errors import MachineError, ServingError
from ...core.options.stage_options import ServeOptions
from ...core.system.atomic_files import storage_errors
from ...core.system.java import Java, find_java
from ...core.tensors import Feeds, Signature
from ..client import Client
from ..connection import UNIX, Connections
from ..engine import GOLDEN, SIGNATURE, golden_error, smallest_golden, split_golden
from ..settings import TRUSTED, Limits
from ..wire import read_npz
from .archive import Mar, open_mar
from .config import FrontEnd, Ports, config_properties, exposure, hides_grpc, java_flags, log4j_config, unix_sockets
from .log_folder import log_folder
from .mar import read_member
from .process import Process, torchserve_home
from .queue_length import length_for
from .startup import has_started, port_taken, startup_failure

_ATTEMPTS = 3
_POLL_S = 0.1
_LONGEST_SOCKET_PATH = 80


@dataclass(frozen=True)
class Server:
    """A running server.

    Attributes:
        name: the model's name.
        host: the loopback address.
        logs: folder with ``server.log``, ``worker.log`` and ``console.log``.
        startup_s: seconds from the start to the first golden answer.
        java: the Java on which it runs.
        signature: inputs and outputs of the model.
        sample: golden inputs of one sample, which the server has answered.
        limits: what one request may contain.
        management_url: address of the management interface: ``unix:`` and a socket in a folder of this user, who alone
            can open it, or a URL where TorchServe has no Unix sockets.
        queue_length: number of requests that may wait.
        grpc: address of the gRPC interface; empty if nothing can connect to it.
    """

    name: str
    host: str
    ports: Ports
    logs: Path
    process: Process
    startup_s: float
    java: Java
    signature: Signature
    sample: Feeds
    limits: Limits
    management_url: str
    queue_length: int
    grpc: str = ""

    @property
    def url(self) -> str:
        """Address of the inference API."""
        return _url(self.host, self.ports.inference)

    def client(self, timeout_s: float = 120.0) -> Client:
        """A client for the served model."""
        return Client(self.url, self.name, timeout_s=timeout_s)

    def describe(self) -> dict[str, Any]:
        """TorchServe's description of the model and its workers, with the handler's own description.

        Raises:
            ServingError: the server does not answer.
        """
        return _describe(self.management_url, self.name, "?customized=true")

    def worker_pids(self) -> list[int]:
        """Process ids of the model's workers."""
        workers = _describe(self.management_url, self.name)["workers"]
        return [int(worker["pid"]) for worker in workers if worker.get("pid")]


@dataclass(frozen=True)
class _Installation:
    """What runs the server: Java, the folder with TorchServe's jar, and the interpreter of the workers."""

    java: Java
    home: Path
    python: Path | None


@contextmanager
def serve(
    options: ServeOptions,
    artifact: Artifact,
    *,
    logs: Path,
    console: Console = SILENT,
    python: Path | None = None,
) -> Iterator[Server]:
    """Serve an archive within this context.

    Args:
        artifact: an archive, or a bare ``.mar`` written by Retort.
        logs: folder for the server's logs; it is created if it does not exist, and if a running server has it, the
            logs are in a numbered folder in it.
        python: interpreter of the workers, by default this one; it needs TorchServe and the runtime.

    Raises:
        ArtifactError: the archive is truncated or altered.
        MachineError: Java or TorchServe is missing, or the port is in use.
        ServingError: the server did not become ready; the message states the cause.
    """
    raise_if_not(artifact, "archive")
    installed = _Installation(find_java(options.java), torchserve_home(python), python)
    mar = open_mar(artifact)
    with ExitStack() as stack:
        own = stack.enter_context(log_folder(logs))
        if own != logs.resolve():
            console.warn(f"another server writes its logs to {logs}, so those of this one are in {own}")
        queue_length = length_for(mar, options.p99_ms, console)
        server = _start_with_retries(options, mar, installed, queue_length, own, stack)
        if open_to_all := exposure():
            console.warn(open_to_all)
        console.stage("serve", f"{server.name} on {server.url} (Java {server.java.version}, {server.startup_s:.1f} s)")
        yield server


def _start_with_retries(
    options: ServeOptions, mar: Mar, installed: _Installation, queue_length: int, logs: Path, stack: ExitStack
) -> Server:
    for attempt in range(1, _ATTEMPTS + 1):
        ports = pick_ports(options.host, options.port)
        begin = time.monotonic()
        for name in ("server.log", "worker.log", "console.log"):
            (logs / name).unlink(missing_ok=True)
        process, management = _launch(mar, installed, queue_length, logs, ports, options)
        stack.callback(process.stop)
        try:
            _wait_until_ready(process, mar, management, options, logs, begin)
            signature, sample = _ask_golden(mar, _url(options.host, ports.inference), options.startup_timeout_s)
        except ServingError:
            # another process can take a free port before Java binds it
            if options.port or attempt == _ATTEMPTS or not port_taken(logs):
                raise
            process.stop()
            continue
        startup_s, limits = time.monotonic() - begin, mar.settings.limits
        grpc = f"{options.host}:{ports.grpc_inference}" if options.grpc or not hides_grpc() else ""
        facts = (startup_s, installed.java, signature, sample, limits, management, queue_length, grpc)
        return Server(mar.name, options.host, ports, logs, process, *facts)
    raise ServingError("no free ports were found", "try again")


def pick_ports(host: str, port: int) -> Ports:
    """Free ports on a loopback address.

    Args:
        port: the requested inference port; 0 takes a free port.

    Raises:
        MachineError: the requested port is in use.
    """
    if ":" in host:
        raise MachineError(f"TorchServe cannot listen on {host}, because it does not support IPv6", "use 127.0.0.1")
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(6)]
        for index, item in enumerate(sockets):
            _bind(item, host, port if index == 0 else 0)
        numbers = [int(item.getsockname()[1]) for item in sockets]
    # workers use consecutive ports; below the ephemeral range they are least likely to be in use
    inference, management, metrics, grpc, grpc_management, seed = numbers
    return Ports(inference, management, metrics, grpc, grpc_management, 10000 + seed % 20000)


def _bind(item: socket.socket, host: str, port: int) -> None:
    try:
        # without this a port cannot be used for a minute after its server has stopped
        item.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        item.bind((host, port))
    except OSError as error:
        message = f"port {port} on {host} cannot be used: {error.strerror}"
        remedy = "stop the process that uses it, or choose another port with --port (0 takes a free port)"
        raise MachineError(message, remedy, port=port) from error


def _launch(
    mar: Mar, installed: _Installation, queue_length: int, logs: Path, ports: Ports, options: ServeOptions
) -> tuple[Process, str]:
    """The started process, and the address of its management interface."""
    scratch = _scratch()
    # mkdtemp gives the folder to this user alone, and with it the socket
    management = f"{UNIX}{scratch / 'management'}" if unix_sockets() else _url(options.host, ports.management)
    store, config, log4j = scratch / "store", scratch / "config.properties", scratch / "log4j2.xml"
    front = FrontEnd(os.cpu_count() or 2, management, queue_length, options.grpc)
    properties = config_properties(mar.settings, ports, options.host, store, front)
    with storage_errors(str(scratch)):
        store.mkdir()
        _place(mar.path, store / "model.mar")
        config.write_bytes(properties)
        log4j.write_bytes(log4j_config(logs))
    heap = (256 << 20) + 16 * mar.settings.limits.request_bytes
    command = [
        *(str(installed.java.path), *java_flags(installed.java, heap)),
        f"-Dmodel_server_home={installed.home}",
        f"-Djava.io.tmpdir={scratch}",
        f"-Dlog4j.configurationFile={log4j.as_uri()}",
        *("-cp", f"{installed.home}/ts/frontend/*", "org.pytorch.serve.ModelServer"),
        *("--python", str(installed.python or sys.executable)),
        *("-f", str(config), "-s", str(store), "-ncs"),
    ]
    return Process(command, scratch, logs / "console.log"), management


def _scratch() -> Path:
    # workers communicate over unix sockets in this folder, whose paths must be shorter than about 100 characters
    folder = Path(tempfile.mkdtemp(prefix="retort-")).resolve()
    if len(str(folder)) > _LONGEST_SOCKET_PATH and Path("/tmp").is_dir():
        folder.rmdir()
        folder = Path(tempfile.mkdtemp(prefix="retort-", dir="/tmp"))
    return folder


def _place(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copyfile(source, target)


def _wait_until_ready(
    process: Process, mar: Mar, management: str, options: ServeOptions, logs: Path, begin: float
) -> None:
    while True:
        failure = startup_failure(logs, process.alive())
        if failure is not None:
            raise failure
        if time.monotonic() - begin > options.startup_timeout_s:
            message = f"TorchServe was not ready after {options.startup_timeout_s} s"
            raise ServingError(message, f"see {logs}, or increase startup_timeout_s")
        if has_started(logs) and _worker_ready(management, mar.name):
            return
        time.sleep(_POLL_S)


def _worker_ready(management: str, name: str) -> bool:
    try:
        return any(worker.get("status") == "READY" for worker in _describe(management, name)["workers"])
    except ServingError:
        return False


def _ask_golden(mar: Mar, url: str, timeout_s: float) -> tuple[Signature, Feeds]:
    signature = Signature.from_json(read_member(mar.path, SIGNATURE))
    golden = split_golden(read_npz(read_member(mar.path, GOLDEN), TRUSTED))
    inputs, expected = smallest_golden(signature, golden)
    with closing(Client(url, mar.name, timeout_s=timeout_s)) as client:
        error = golden_error(client.predict(inputs), expected)
    if not error <= mar.settings.golden_tolerance:
        message = (
            f"the served golden outputs differ by {error:.3g}, but only {mar.settings.golden_tolerance:.3g} is allowed"
        )
        raise ServingError(message, "pack the model again on this machine")
    return signature, inputs


def _describe(management: str, name: str, query: str = "") -> dict[str, Any]:
    with closing(Connections(management, timeout_s=10)) as connections:
        status, _, body = connections.request("GET", f"/models/{quote(name, safe='')}{query}")
    try:
        found: dict[str, Any] = json.loads(body)[0]
    except (ValueError, LookupError) as error:
        reason = f"{management} does not describe '{name}' (status {status})"
        raise ServingError(reason, "check that the server is running, and look at its logs") from error
    return found


def _url(host: str, port: int) -> str:
    return f"http://{host}:{port}"
