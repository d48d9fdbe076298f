"""What a server of `retort serve` does now: whether it runs, its models and versions, their workers and queues."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import psutil

from ...core.errors import ServingError
from ..known_servers import KnownServer
from .management import Management


@dataclass(frozen=True)
class LiveModel:
    """A version of a model.

    Attributes:
        default: whether it answers requests that name no version.
        ready: number of workers that take requests.
        wanted: number of workers that it should have.
        waiting: number of requests in its queue.
        memory_bytes: memory of its workers.
        signer: who signed its archive, in words; empty if nobody did.
    """

    name: str
    version: str
    default: bool
    ready: int
    wanted: int
    waiting: int
    memory_bytes: int
    signer: str = ""

    @property
    def label(self) -> str:
        """Name and version."""
        return f"{self.name} {self.version}{'' if self.default else ' (not the default)'}"

    @property
    def workers(self) -> str:
        """How many workers take requests, for a table."""
        return f"{self.ready} ready" if self.ready == self.wanted else f"{self.ready} of {self.wanted} ready"


@dataclass(frozen=True)
class LiveStatus:
    """A server and what it answered; ``state`` is a predicate in words."""

    server: KnownServer
    state: str
    models: tuple[LiveModel, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        models = [asdict(model) for model in self.models]
        return {**asdict(self.server), "runs": self.server.runs, "state": self.state, "models": models}


def live_status(server: KnownServer) -> LiveStatus:
    """Ask a server what it does; one that does not run or does not answer is told as such."""
    if not server.runs:
        return LiveStatus(server, "was killed or ended by itself")
    management = Management(server.management_url)
    try:
        signers = {(name, version): signer for name, version, signer in server.signers}
        found = [_model(one, signers) for name in server.models for one in management.versions(name)]
    except ServingError:
        return LiveStatus(server, "runs, but does not answer; it may be starting again,")
    return LiveStatus(server, "runs", tuple(found))


def _model(found: dict[str, Any], signers: Mapping[tuple[str, str], str]) -> LiveModel:
    workers = found["workers"]
    return LiveModel(
        str(found["modelName"]),
        str(found["modelVersion"]),
        bool(found["default"]),
        sum(worker.get("status") == "READY" for worker in workers),
        int(found["minWorkers"]),
        int(found["jobQueueStatus"]["pendingRequests"]),
        sum(_memory_bytes(int(worker["pid"])) for worker in workers if worker.get("pid")),
        signers.get((str(found["modelName"]), str(found["modelVersion"])), ""),
    )


def _memory_bytes(pid: int) -> int:
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:  # it has ended since
        return 0
