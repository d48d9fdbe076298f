"""A TorchServe on loopback for some archives: it is started, tested with golden requests, and stopped completely."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ...core.artifact import Artifact, raise_if_not
from ...core.console import SILENT, Console
from ...core.counts import counted
from ...core.errors import MachineError, ServingError
from ...core.options.stage_options import ServeOptions
from ...core.system.atomic_files import storage_errors
from ...core.system.java import Java, find_java
from ..client import Client
from ..connection import UNIX
from ..monitoring.exporter import Exporter
from ..monitoring.recorder import FOLDER
from ..requests.hook import HOOK
from ..signing.trust import Trust
from ..thread_budget import WORKERS
from .archives.archive import open_mar
from .audit import raise_if_unsafe
from .config import FrontEnd, config_properties, exposure, hides_grpc, java_flags, log4j_config, unix_sockets
from .deployment import Deployment, deployments
from .java_archive import GRACE_S as ARCHIVE_GRACE_S
from .java_archive import JavaArchive, java_archive
from .log_folder import log_folder
from .management import Management
from .ports import Ports, pick_ports
from .process import GRACE_S, Process, torchserve_home
from .served_model import Served, answering
from .startup import has_started, port_taken, startup_failure

_ATTEMPTS = 3
_POLL_S = 0.1
_LONGEST_SOCKET_PATH = 80
METRICS = "metrics"
"""Folder in that of the server in which the workers count together."""


@dataclass(frozen=True)
class Server:
    """A running server.

    Attributes:
        models: what it was started with; the first version of a name is its default.
        host: the loopback address.
        logs: folder with ``server.log``, ``worker.log`` and ``console.log``.
        startup_s: seconds from the start to the last golden answer.
        java: the Java on which it runs.
        management_url: address of the management interface: ``unix:`` and a socket in a folder of this user, who alone
            can open it, or a URL where TorchServe has no Unix sockets.
        grpc: address of the gRPC interface; empty if nothing can connect to it.
        store: folder from which it takes other versions; empty if it takes none.
        trust: the keys that it trusts.
        metrics_url: what Prometheus reads; empty if nothing is counted.
    """

    models: tuple[Served, ...]
    host: str
    ports: Ports
    logs: Path
    process: Process
    startup_s: float
    java: Java
    management_url: str
    grpc: str = ""
    store: str = ""
    trust: Trust = field(default_factory=Trust)
    metrics_url: str = ""

    @property
    def url(self) -> str:
        """Address of the inference API."""
        return _url(self.host, self.ports.inference)

    @property
    def name(self) -> str:
        """Name of the first model."""
        return self.models[0].name

    def client(self, timeout_s: float = 120.0) -> Client:
        """A client for the first model."""
        return Client(self.url, self.name, timeout_s=timeout_s)

    def describe(self) -> dict[str, Any]:
        """TorchServe's description of the first model and its workers, with the handler's own description.

        Raises:
            ServingError: the server does not answer.
        """
        return Management(self.management_url).describe(self.name, customized=True)

    def worker_pids(self) -> list[int]:
        """Process ids of the workers of all models."""
        management = Management(self.management_url)
        found = [worker for model in self.models for worker in management.workers(model.name, model.version)]
        return [int(worker["pid"]) for worker in found if worker.get("pid")]


@dataclass(frozen=True)
class _Installation:
    """What runs the server: Java, the folder with TorchServe's jar, its workers' interpreter, and trusted keys."""

    java: Java
    home: Path
    python: Path | None
    trust: Trust


@contextmanager
def serve(
    options: ServeOptions,
    *artifacts: Artifact,
    logs: Path,
    console: Console = SILENT,
    python: Path | None = None,
) -> Iterator[Server]:
    """Serve archives within this context.

    Args:
        artifacts: archives, or bare ``.mar`` files written by Retort, with one version of a model each; the first
            version of a model is its default.
        logs: folder for the server's logs; it is created if it does not exist, and if a running server has it, the
            logs are in a numbered folder in it.
        python: interpreter of the workers, by default this one; it needs TorchServe and the runtime.

    Raises:
        ArtifactError: an archive is truncated, altered, or not signed as the options want.
        UserError: two archives have the same name and version, or a file has no public key.
        MachineError: Java or TorchServe is missing, the port is in use, or swaps are wanted where TorchServe has no
            Unix sockets.
        ServingError: the server did not become ready; the message states the cause.
    """
    for artifact in artifacts:
        raise_if_not(artifact, "archive")
    if options.swaps and not unix_sockets():
        raise MachineError(
            "TorchServe has no Unix sockets here, so with --swaps every user of this machine could register models",
            "serve without --swaps, and start another server for a new version",
        )
    trust = Trust.chosen(options.trust, options.signatures)
    installed = _Installation(find_java(options.java), torchserve_home(python), python, trust)
    mars = [open_mar(artifact, trust, console) for artifact in artifacts]
    for mar in mars:
        if mar.settings.hook:
            console.warn(f"{mar.path.name} runs code of its packer, {HOOK}, in its workers")
    with ExitStack() as stack:
        own = stack.enter_context(log_folder(logs))
        if own != logs.resolve():
            console.warn(f"another server writes its logs to {logs}, so those of this one are in {own}")
        deployed = deployments(mars, options.workers, options.p99_ms, console)
        server = _start_with_retries(options, deployed, installed, own, stack)
        if open_to_all := exposure():
            console.warn(open_to_all)
        workers = counted(sum(model.workers for model in server.models), "worker")
        names = ", ".join(dict.fromkeys(model.name for model in server.models))
        how = f"{workers}, Java {server.java.version}, {server.startup_s:.1f} s"
        console.stage("serve", f"{names} on {server.url} ({how})")
        yield server


def _start_with_retries(
    options: ServeOptions, deployed: Sequence[Deployment], installed: _Installation, logs: Path, stack: ExitStack
) -> Server:
    for attempt in range(1, _ATTEMPTS + 1):
        ports = pick_ports(options.host, options.port, options.metrics_port)
        begin = time.monotonic()
        for name in ("server.log", "worker.log", "console.log"):
            (logs / name).unlink(missing_ok=True)
        process, front, archive = _launch(deployed, installed, logs, ports, options)
        management = front.management
        stack.callback(_stop, process, archive, logs)
        try:
            _wait_until_ready(process, deployed, management, options, logs, begin)
            models = answering(deployed, _url(options.host, ports.inference), options.startup_timeout_s)
        except ServingError:
            crashed = not process.alive() and not has_started(logs) and archive.discard()
            # another process can take a free port before Java binds it
            if attempt == _ATTEMPTS or not (crashed or (port_taken(logs) and not options.port)):
                raise
            process.stop()
            archive.settle(complete=False)
            continue
        startup_s = time.monotonic() - begin
        grpc = f"{options.host}:{ports.grpc_inference}" if options.grpc or not hides_grpc() else ""
        store = str(Path(management.removeprefix(UNIX)).with_name("store")) if options.swaps else ""
        where = (ports, logs, process, startup_s, installed.java, management, grpc, store)
        made = Server(models, options.host, *where, installed.trust)
        return replace(made, metrics_url=_exported(made, front, stack)) if options.metrics else made
    raise ServingError("no free ports were found", "try again")


def _stop(process: Process, archive: JavaArchive, logs: Path) -> None:
    process.stop()
    archive.settle(complete=process.ended_by_itself and has_started(logs))


def _exported(server: Server, front: FrontEnd, stack: ExitStack) -> str:
    """The address of the metrics, which are exported as long as the server runs."""
    exporter = Exporter(server.host, server.ports.metrics, server.process.scratch / METRICS, front.metrics)
    stack.callback(exporter.close)
    return exporter.url


def _launch(
    deployed: Sequence[Deployment], installed: _Installation, logs: Path, ports: Ports, options: ServeOptions
) -> tuple[Process, FrontEnd, JavaArchive]:
    """The started process, the addresses of its front end, and what Java reads or writes for later starts."""
    scratch = _scratch()
    # mkdtemp gives the folder to this user alone, and with it the sockets
    management, metrics = (
        f"{UNIX}{scratch / name}" if unix_sockets() else _url(options.host, port)
        for name, port in (("management", ports.management), ("torchserve-metrics", ports.front_metrics))
    )
    store, config, log4j = scratch / "store", scratch / "config.properties", scratch / "log4j2.xml"
    keys = scratch / "trusted.pem"
    settings = {one.file: one.mar.settings for one in deployed}
    front = FrontEnd(os.cpu_count() or 2, management, metrics, options.grpc, options.swaps)
    properties = config_properties(settings, ports, options.host, store, front)
    with storage_errors(str(scratch)):
        store.mkdir(mode=0o700)
        for one in deployed:
            one.write(store)
        config.write_bytes(properties)
        log4j.write_bytes(log4j_config(logs))
        keys.write_bytes(installed.trust.to_pem())
    raise_if_unsafe(properties.decode("ascii"))
    heap = (256 << 20) + 16 * max(one.mar.settings.limits.request_bytes for one in deployed)
    jars, flags = sorted(installed.home.glob("ts/frontend/*.jar")), java_flags(installed.java, heap)
    archive = java_archive(installed.java, jars, flags)
    command = [
        *(str(installed.java.path), *flags, *archive.flags),
        f"-Dmodel_server_home={installed.home}",
        f"-Djava.io.tmpdir={scratch}",
        f"-Dlog4j.configurationFile={log4j.as_uri()}",
        *("-cp", os.pathsep.join(map(str, jars)), "org.pytorch.serve.ModelServer"),
        *("--python", str(installed.python or sys.executable)),
        *("-f", str(config), "-s", str(store), "-ncs"),
    ]
    environment = {WORKERS: str(sum(one.workers for one in deployed)), **installed.trust.environment(keys)}
    environment[FOLDER] = str(scratch / METRICS) if options.metrics else ""
    grace_s = ARCHIVE_GRACE_S if archive.part else GRACE_S
    return Process(command, scratch, logs / "console.log", environment, grace_s), front, archive


def _scratch() -> Path:
    # workers communicate over unix sockets in this folder, whose paths must be shorter than about 100 characters
    folder = Path(tempfile.mkdtemp(prefix="retort-")).resolve()
    if len(str(folder)) > _LONGEST_SOCKET_PATH and Path("/tmp").is_dir():
        folder.rmdir()
        folder = Path(tempfile.mkdtemp(prefix="retort-", dir="/tmp"))
    return folder


def _wait_until_ready(
    process: Process,
    deployed: Sequence[Deployment],
    management: str,
    options: ServeOptions,
    logs: Path,
    begin: float,
) -> None:
    while True:
        failure = startup_failure(logs, process.alive())
        if failure is not None:
            raise failure
        if time.monotonic() - begin > options.startup_timeout_s:
            message = f"TorchServe was not ready after {options.startup_timeout_s} s"
            raise ServingError(message, f"see {logs}, or increase startup_timeout_s")
        if has_started(logs) and all(_is_ready(one, Management(management)) for one in deployed):
            return
        time.sleep(_POLL_S)


def _is_ready(one: Deployment, management: Management) -> bool:
    try:
        workers = management.workers(one.mar.name, one.mar.version)
    except ServingError:
        return False
    ready = [worker for worker in workers if worker.get("status") == "READY"]
    return len(ready) >= one.workers


def _url(host: str, port: int) -> str:
    return f"http://{host}:{port}"
