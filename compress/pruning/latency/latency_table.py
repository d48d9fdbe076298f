"""The latency table: the time of every subgraph at every width, measured once per device and stored on disk."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ....core.artifact import stable_hash
from ....core.console import SILENT, Console
from ....core.errors import MachineError, UserError
from ....core.faults import raise_if_defect
from ....core.metrics.ratio import Ratio
from ....core.system.atomic_files import storage_errors, write_atomically
from ....core.system.cache import cache_folder
from ...program import Program
from ..coupling.labels import Mask
from .subgraphs import Subgraph, Subgraphs

Request = tuple[Subgraph, Mask]

_TOGETHER = 40
_TOGETHER_BYTES = 1 << 27


@dataclass(frozen=True)
class Compared:
    """Two programs timed in interleaved blocks.

    Attributes:
        dense_ms: median time per call of the first program.
        ms: median time per call of the second program.
        speedup: how many times faster the second program is.
    """

    dense_ms: float
    ms: float
    speedup: Ratio


class Timer(Protocol):
    """Measures how long programs take on a device, with a number of threads and a batch size.

    Attributes:
        identity: device, runtime, threads and batch size; times are stored under it.
    """

    @property
    def identity(self) -> str:
        """See the class."""
        ...

    def subgraphs(self, program: Program, outputs: Sequence[Sequence[str]]) -> list[float]:
        """Milliseconds of each of the independent subgraphs of a program, which are named by their outputs."""
        ...

    def compare(self, dense: Program, candidate: Program) -> Compared:
        """Time two programs in interleaved blocks."""
        ...


class Table:
    """Times by the key of a subgraph.

    Args:
        timer: measures times that the table does not contain yet.
        folder: folder of the table's file; there is one file per identity of the timer.

    Attributes:
        measured: how many subgraphs were measured, not found.
        unknown: why subgraphs cannot be measured alone, by key; they count as free.
    """

    def __init__(self, timer: Timer, folder: Path | None = None, console: Console = SILENT) -> None:
        self.timer, self.console = timer, console
        self.path = (folder or cache_folder("latency")) / f"{stable_hash(timer.identity)[:16]}.json"
        self.measured, self.unknown = 0, dict[str, str]()
        self._ms = self._read()

    def __getitem__(self, key: str) -> float:
        return self._ms.get(key, 0.0)

    def fill(self, subgraphs: Subgraphs, requests: dict[str, Request]) -> None:
        """Measure the missing times, and store them.

        Raises:
            StorageError: the table cannot be written.
        """
        missing = {key: request for key, request in requests.items() if key not in self._ms}
        with self.console.progress("latency", len(missing)) as bar:
            for batch in _batches(subgraphs, missing):
                found = self._measure(subgraphs, batch)
                self._ms |= found
                self.measured += len(found)
                self._write()
                bar.advance(len(batch))

    def _measure(self, subgraphs: Subgraphs, batch: dict[str, Request]) -> dict[str, float]:
        try:
            program, outputs = subgraphs.assemble(list(batch.values()))
            return dict(zip(batch, self.timer.subgraphs(program, outputs), strict=True))
        except (UserError, MachineError):  # also a device that vanished: its subgraphs are not free
            raise
        except Exception as error:  # a subgraph that cannot be exported or run can raise any error of its runtime
            raise_if_defect(error)
            if len(batch) == 1:
                self.unknown |= dict.fromkeys(batch, f"{type(error).__name__}: {error}")
                return {}
            keys = list(batch)
            halves = keys[: len(keys) // 2], keys[len(keys) // 2 :]
            parts = [self._measure(subgraphs, {key: batch[key] for key in half}) for half in halves]
            return {**parts[0], **parts[1]}

    def _read(self) -> dict[str, float]:
        if not self.path.is_file():
            return {}
        try:
            stored = json.loads(self.path.read_text())
            found = {str(key): float(value) for key, value in stored["ms"].items()}
            good = stored["hash"] == stable_hash(found) and all(
                math.isfinite(value) and value >= 0 for value in found.values()
            )
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            good = False
        if not good:
            self.console.warn(f"the latency table {self.path} is damaged, so it is measured again")
            return {}
        return found

    def _write(self) -> None:
        with storage_errors(str(self.path.parent)):
            self.path.parent.mkdir(parents=True, exist_ok=True)
        stored = {"identity": self.timer.identity, "hash": stable_hash(self._ms), "ms": self._ms}
        write_atomically(self.path, json.dumps(stored).encode())


def _batches(subgraphs: Subgraphs, requests: dict[str, Request]) -> list[dict[str, Request]]:
    """Subgraphs to export together: few enough, and not too large."""
    batches: list[dict[str, Request]] = []
    size = 0
    for key, request in requests.items():
        own = subgraphs.weight_bytes(request[0])
        if not batches or len(batches[-1]) == _TOGETHER or size + own > _TOGETHER_BYTES:
            batches.append({})
            size = 0
        batches[-1][key] = request
        size += own
    return batches
