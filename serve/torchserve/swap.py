"""Another version of a served model, without a lost request: it is verified, warmed and asked before it answers.

The order is that of serve.md (c), "Zero-failure swap recipe".
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from ...core.artifact import Artifact, raise_if_not
from ...core.console import Console
from ...core.errors import MachineError, RetortError, ServingError, UserError
from ...core.preprocessing.specs import SAMPLES
from ...core.signature import Signature
from ...core.system.folder_locks import alone
from ...core.system.memory import available_bytes
from ..engine import SIGNATURE
from ..inference import LOAD_FAILED
from ..known_servers import KnownServer
from .archives.archive import Mar, open_mar
from .archives.mar import read_member
from .deployment import Deployment, deployments, memory_bytes
from .management import Management
from .served_model import ask_golden
from .startup import load_failure_in

_POLL_S = 0.1
_STILL_S = 1.0
_DRAIN_S = 120.0
_PREVIOUS = "previous.json"


@dataclass(frozen=True)
class Swapped:
    """What answers now.

    Attributes:
        name: the model.
        version: the version that answers requests that name none.
        previous: the version that did before.
        kept: whether the previous one is still there, so that `retort rollback` can go back at once.
        seconds: duration of everything.
    """

    name: str
    version: str
    previous: str
    kept: bool
    seconds: float


def swap(
    server: KnownServer, artifact: Artifact, console: Console, *, force: bool, keep: bool, timeout_s: float = 120.0
) -> Swapped:
    """Let a server answer with another version of a model.

    Args:
        force: also take an archive with other inputs, outputs or class names.
        keep: leave the previous version in memory for :func:`rollback`.
        timeout_s: time in which the workers of the new version must be ready.

    Raises:
        UserError: the server takes no swaps, has no such model, has this version already, or has another signature.
        ArtifactError: the archive is truncated, altered, or not signed as the server wants.
        MachineError: the memory does not suffice for both versions.
        ServingError: the new version does not start or does not give its golden answers; the old one still answers.
    """
    raise_if_not(artifact, "archive")
    begin, mar = time.monotonic(), open_mar(artifact, server.trust, console)
    with _alone(server) as store:
        management = Management(server.management_url)
        old = _compared(server, management, mar, force)
        previous = _previous(store)
        workers = int(old["minWorkers"])
        _make_room(server, management, mar, workers, previous, console)
        (deployed,) = deployments([mar], workers, server.p99_ms, console)
        _register(management, deployed, Path(server.logs), store, timeout_s)
        console.stage("swap", f"{mar.name} {mar.version} is loaded and warm")
        try:
            ask_golden(mar, server.url, timeout_s)
        except RetortError:
            _remove(management, mar.name, mar.version, store)
            raise
        management.set_default(mar.name, mar.version)
        answering = str(old["modelVersion"])
        console.stage("swap", f"{mar.name} {mar.version} answers; {answering} ends what it has")
        _drain(management, mar.name, answering)
        removed = {previous.pop(mar.name, answering)} - {answering} if keep else {answering}
        removed |= {previous.pop(mar.name)} if mar.name in previous else set()
        for version in removed:
            _remove(management, mar.name, version, store)
        _note(store, {**previous, mar.name: answering} if keep else previous)
        new = (mar.name, mar.version, str(mar.path.resolve()))
        kept = [one for one in server.archives if not (one[0] == mar.name and one[1] in removed)]
        signer = ((mar.name, mar.version, mar.signer.describe()),) if mar.signer is not None else ()
        signers = tuple(one for one in server.signers if not (one[0] == mar.name and one[1] in removed))
        replace(server, archives=(new, *kept), signers=(*signer, *signers)).save()
    return Swapped(mar.name, mar.version, answering, keep, time.monotonic() - begin)


def rollback(server: KnownServer, name: str | None, version: str | None = None) -> Swapped:
    """Let a server answer with the version before the last swap, which is still in memory; once more goes back again.

    Args:
        name: the model; None if only one was swapped, or the server has only one.
        version: another version that is in memory; None for the one before the last swap, or the only other one.

    Raises:
        UserError: no such version is in memory, or several models or versions could be meant.
        ServingError: the server does not answer.
    """
    begin = time.monotonic()
    with _alone(server) as store:
        management, previous = Management(server.management_url), _previous(store)
        chosen = name or _only(list(previous) or list(server.models), "models", "retort rollback MODEL")
        if chosen not in server.models:
            raise UserError(f"{server.url} has no model '{chosen}'", f"it has {', '.join(server.models)}")
        left = str(management.describe(chosen)["modelVersion"])
        loaded = [str(one["modelVersion"]) for one in management.versions(chosen)]
        others = [one for one in loaded if one != left]
        if not others or (version is not None and version not in others):
            told = f"{server.url} has no {'earlier version' if version is None else f'other version {version}'}"
            raise UserError(f"{told} of '{chosen}'", "swap in the archive of that version: `retort swap ARCHIVE`")
        back = version or previous.get(chosen) or _only(others, "versions", "retort rollback --to VERSION")
        management.set_default(chosen, back)
        _note(store, {**previous, chosen: left})
        first = [one for one in server.archives if one[:2] == (chosen, back)]
        replace(server, archives=(*first, *(one for one in server.archives if one not in first))).save()
    return Swapped(chosen, back, left, True, time.monotonic() - begin)


def _only(names: list[str], what: str, remedy: str) -> str:
    if len(names) > 1:
        raise UserError(f"several {what} could be meant: {', '.join(names)}", f"name one of them: `{remedy}`")
    return names[0]


@contextmanager
def _alone(server: KnownServer) -> Iterator[Path]:
    """The store of a server that takes swaps, while no other command changes it."""
    if not server.runs:
        raise ServingError(f"{server.url} was killed or ended by itself", "start it again with `retort serve`")
    if not server.store:
        remedy = "start it again with `retort serve --swaps`; without, nobody can register models"
        raise UserError(f"{server.url} takes no other versions", remedy)
    store = Path(server.store)
    with alone(store) as free:
        if not free:
            raise UserError(f"another command changes the models of {server.url}", "wait until it has ended")
        yield store


def _compared(server: KnownServer, management: Management, mar: Mar, force: bool) -> dict[str, Any]:
    """TorchServe's description of the version that answers now, which the new one may replace."""
    if mar.name not in server.models:
        names = ", ".join(server.models)
        raise UserError(f"{server.url} has no model '{mar.name}', only {names}", f"pack with --name {server.models[0]}")
    versions = {str(one["modelVersion"]): one for one in management.versions(mar.name)}
    if mar.version in versions:
        raise UserError(
            f"{server.url} has version {mar.version} of '{mar.name}' already",
            "pack the new model with another --version, or go back with `retort rollback`",
        )
    found = management.describe(mar.name, customized=True)
    served = _signature(found.get("customizedMetadata"))
    wanted = Signature.from_json(read_member(mar.path, SIGNATURE))
    if not force and served is not None and (fault := difference(served, wanted)):
        raise UserError(
            f"the new version {fault}, so clients of '{mar.name}' would have to change",
            "serve it under another name, or give --force if they have changed",
        )
    return found


def _signature(described: Any) -> Signature | None:
    try:
        raw = json.loads(described) if isinstance(described, str) else described
        return Signature.from_json(json.dumps(raw["signature"]))
    except (ValueError, LookupError, TypeError):
        return None  # the worker is starting again


def difference(served: Signature, wanted: Signature) -> str | None:
    """What clients of a version would have to change for another one, in words; None if nothing."""
    for what, verb in (("inputs", "takes"), ("outputs", "returns")):
        old, new = (", ".join(spec.describe() for spec in getattr(one, what)) for one in (served, wanted))
        if old != new:
            return f"{verb} {new} instead of {old}"
    for what in ("classes", "symbols", "features"):
        if getattr(served, what) != getattr(wanted, what):
            return f"has other {what}"
    fields = {name for spec in wanted.preprocessing for name in spec.fields}
    lost = [spec.kind for spec in served.preprocessing if not fields.issuperset(spec.fields)]
    return f"does not read {SAMPLES[lost[0]]}" if lost else None


def _make_room(
    server: KnownServer,
    management: Management,
    mar: Mar,
    workers: int,
    previous: dict[str, str],
    console: Console,
) -> None:
    """Free the version that is kept for a rollback if the memory does not suffice otherwise."""
    needed, store = workers * memory_bytes(mar), Path(server.store)
    if needed > available_bytes() and mar.name in previous:
        version = previous.pop(mar.name)
        console.warn(f"version {version}, kept for a rollback, is removed, because the memory is short")
        _remove(management, mar.name, version, store)
        _note(store, previous)
    if needed > (free := available_bytes()):
        raise MachineError(
            f"both versions together need about {needed >> 20} MB more memory, but {free >> 20} MB are free",
            "stop other processes, or serve with fewer --workers",
        )


def _register(management: Management, deployed: Deployment, logs: Path, store: Path, timeout_s: float) -> None:
    mar, begin, position = deployed.mar, time.monotonic(), _size(logs / "worker.log")
    deployed.write(store)
    try:
        management.register(deployed.file, mar.name, deployed.workers)
        while sum(one.get("status") == "READY" for one in management.workers(mar.name, mar.version)) < deployed.workers:
            if (failure := _load_failure(logs / "worker.log", position, mar)) is not None:
                raise failure
            if time.monotonic() - begin > timeout_s:
                message = f"version {mar.version} was not ready after {timeout_s:.0f} s"
                raise ServingError(message, f"see {logs}; the old version still answers")
            time.sleep(_POLL_S)
    except BaseException:
        _remove(management, mar.name, mar.version, store)
        raise


def _load_failure(log: Path, position: int, mar: Mar) -> RetortError | None:
    size = _size(log)
    with log.open("rb") as stream:
        stream.seek(position if position <= size else 0)  # it may have been rotated
        lines = stream.read().decode("utf-8", "replace").splitlines()
    own = f"-{mar.name}_{mar.version}-"
    return next((load_failure_in(line, log.parent) for line in lines if LOAD_FAILED in line and own in line), None)


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _drain(management: Management, name: str, version: str) -> None:
    """Wait until nothing waits for a version, and its workers have not computed for a second.

    TorchServe does not tell whether a worker has a batch.
    """
    deadline, spent, still_since = time.monotonic() + _DRAIN_S, -1.0, time.monotonic()
    while time.monotonic() < deadline:
        found = management.describe(name, version)
        now = sum(_cpu_s(int(worker["pid"])) for worker in found["workers"] if worker.get("pid"))
        if now != spent or found["jobQueueStatus"]["pendingRequests"]:
            spent, still_since = now, time.monotonic()
        elif time.monotonic() - still_since >= _STILL_S:
            return
        time.sleep(_POLL_S)
    raise ServingError(
        f"version {version} still had requests after {_DRAIN_S:.0f} s, so it was not removed",
        f"the new version answers; clients may ask for /predictions/{name}/{version} by its version",
    )


def _cpu_s(pid: int) -> float:
    try:
        times = psutil.Process(pid).cpu_times()
        return float(times.user + times.system)
    except psutil.Error:  # it has ended since
        return 0.0


def _remove(management: Management, name: str, version: str, store: Path) -> None:
    management.unregister(name, version)
    (store / f"{name}~{version}.mar").unlink(missing_ok=True)


def _previous(store: Path) -> dict[str, str]:
    """The version before the last swap of each model that has one."""
    try:
        return {str(name): str(version) for name, version in json.loads((store.parent / _PREVIOUS).read_text()).items()}
    except (OSError, ValueError):
        return {}


def _note(store: Path, previous: dict[str, str]) -> None:
    (store.parent / _PREVIOUS).write_text(json.dumps(previous))
