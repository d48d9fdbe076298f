"""Swaps and rollbacks of a served model under load: nothing is lost, and no answer is of a wrong version (goal G5)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from ....core.errors import RetortError
from ....serve.client import Client
from ...scenarios.request_load import NO_ANSWER, Ask, Load
from .findings import Finding, Report, at_least, at_most, figure
from .request_pool import TYPES, RequestPool
from .running_server import serving
from .served_networks import WIDTHS, convolutions, packed, retort
from .worker_kills import under_load

NAME, CLIENTS, REQUESTS = "light", 8, 200_000
VERSIONS = ("1", "2")


class Versions:
    """Which versions may answer now: one, but both while they are exchanged.

    Args:
        pools: the same requests with the answers of each version.
    """

    def __init__(self, pools: Mapping[str, RequestPool], first: str) -> None:
        self._pools, self._allowed, self._lock = pools, frozenset({first}), threading.Lock()
        self.answers = dict.fromkeys(pools, 0)

    @property
    def allowed(self) -> frozenset[str]:
        """The versions that may answer a request that is sent now."""
        return self._allowed

    @contextmanager
    def exchange(self, new: str) -> Iterator[None]:
        """While the versions are exchanged; behind it, only the new one may answer what is sent then."""
        self._allowed |= {new}
        yield
        self._allowed = frozenset({new})

    def is_right(self, index: int, body: bytes, before: frozenset[str]) -> bool:
        """Whether an answer is that of a version which was allowed when the request was sent, or is now."""
        of = [version for version, pool in self._pools.items() if pool.is_right(index, body, "npy")]
        with self._lock:
            for version in of:
                self.answers[version] += 1
        return bool((before | self._allowed).intersection(of))

    def ask(self, url: str, name: str) -> Ask:
        """A function that sends a request and judges the version of its answer."""
        bodies = next(iter(self._pools.values())).bodies("npy")
        client, headers = Client(url, name, timeout_s=60), {"Content-Type": TYPES["npy"]}

        def send(index: int) -> tuple[int, bool]:
            before = self.allowed
            try:
                status, _, body = client.request("POST", "", bodies[index % len(bodies)], headers)
            except RetortError:
                return NO_ANSWER, False
            return status, status == 200 and self.is_right(index, body, before)

        return send


def exchange_often(
    versions: Versions, swap: Callable[[str, bool], None], rollback: Callable[[], None], swaps: int, rollbacks: int
) -> None:
    """Swap back and forth between two versions, then keep both in memory and roll back and forth.

    Args:
        swap: lets a version answer, and keeps the other in memory or not.
        rollback: lets the other version answer.
    """
    now = VERSIONS[0]
    for number in range(swaps):
        now = VERSIONS[1 - VERSIONS.index(now)]
        with versions.exchange(now):
            swap(now, number == swaps - 1)
    for _ in range(rollbacks):
        now = VERSIONS[1 - VERSIONS.index(now)]
        with versions.exchange(now):
            rollback()


def judged(load: Load, versions: Versions, requests: int) -> list[Finding]:
    """The goals of swaps and rollbacks.

    Args:
        requests: number of requests that are wanted.
    """
    return [
        at_least("G5", "requests during the swaps and rollbacks", len(load.outcomes), requests),
        at_most("G5", "requests without an answer of 200", len(load.outcomes) - len(load.answered), 0),
        at_most("G5", "answers of a wrong version, or wrong", load.wrong, 0),
        figure("longest time without an answer", load.longest_gap_s(), "s"),
        *(figure(f"answers of version {version}", number) for version, number in versions.answers.items()),
    ]


def measure(folder: Path, swaps: int = 100, rollbacks: int = 20, requests: int = REQUESTS) -> Report:
    """Two versions with other weights in one server of one worker, exchanged by ``retort swap`` and ``rollback``.

    Args:
        folder: where models and archives are written.
        swaps: number of swaps, each of which ends the version before it, but the last.
        rollbacks: number of rollbacks after them, between two versions in memory.
        requests: number of requests that must be sent during all swaps.
    """
    pools, archives = {}, {}
    for seed, version in enumerate(VERSIONS):
        (folder / version).mkdir(exist_ok=True)
        file = convolutions(folder / version / f"{NAME}.onnx", WIDTHS[NAME] // 4, seed=seed)
        archives[version] = packed(file, folder / version / "mar", "--version", version)
        pools[version] = RequestPool.of(file)
    versions = Versions(pools, VERSIONS[0])
    with serving([archives[VERSIONS[0]]], "--workers", "1", "--swaps") as server:

        def swap(version: str, keep: bool) -> None:
            retort("swap", str(archives[version]), "--keep" if keep else "--no-keep")

        load = under_load(
            versions.ask(server.url, NAME),
            CLIENTS,
            lambda: exchange_often(versions, swap, lambda: void(retort("rollback")), swaps, rollbacks),
        )
    told = f"closed loop, {CLIENTS} clients, one worker, {swaps} swaps and {rollbacks} rollbacks"
    findings = (figure("swaps", swaps), figure("rollbacks", rollbacks), *judged(load, versions, requests))
    return Report("swaps", told, len(load.outcomes), findings, {"statuses": load.statuses})


def void(_: object) -> None:
    """Nothing, for callbacks that return nothing."""
