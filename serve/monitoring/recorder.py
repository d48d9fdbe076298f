"""Counting of what one process does for a model; no content of a request is kept.

Part of the runtime half: standard library only.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from array import array
from bisect import bisect_left
from collections.abc import Mapping, MutableSequence, Sequence
from pathlib import Path

from ..requests.replies import PHRASES, Answer
from .families import AGE, BATCH_ROWS, FAMILIES, HANDLER, OTHER, PADDED, PHASE, REQUESTS, places
from .request_age import START_HEADER, age_s
from .shared_counts import Counts, CountsFile, cell_count, counts_in

FOLDER = "RETORT_METRICS"
"""Environment variable with the folder in which the processes of a server count together."""
_TEXTS = {status: str(status) for status in PHRASES}
_log = logging.getLogger("retort.serve")


class Recorder:
    """Counts nothing; :class:`Counting` does."""

    def phase(self, name: str, seconds: float) -> None:
        """The time of a phase of one request."""

    def ran(self, assemble_s: float, infer_s: float, rows: int, padding: int) -> None:
        """One run of the model: its times, its rows of requests, and those added to them."""

    def arrived(self, headers: Mapping[str, str]) -> None:
        """One request, with its headers, as the handler begins."""

    def handled(self, seconds: float, answers: Sequence[Answer]) -> None:
        """One batch: the time of the handler, and its answers."""

    def answered(self, answer: Answer) -> None:
        """An answer that no batch gave, such as the refusal of a full queue."""

    def counts(self) -> list[Counts]:
        """All counts so far, also those of other processes in the same folder."""
        return []

    def close(self) -> None:
        """End counting."""


class _Histogram:
    """A histogram in the cells; adding to it is all that a request pays for, so it is written for speed."""

    __slots__ = ("bounds", "cells", "start", "sum")

    def __init__(self, cells: MutableSequence[float], start: int, bounds: tuple[float, ...]) -> None:
        self.cells, self.start, self.bounds, self.sum = cells, start, bounds, start + len(bounds) + 1

    def add(self, value: float, times: int = 1) -> None:
        """Count a value, so many times."""
        cells = self.cells
        cells[self.start + bisect_left(self.bounds, value)] += times
        cells[self.sum] += times * value


class Counting(Recorder):
    """Counts in memory, and in a file that other processes read if there is a folder.

    Args:
        labels: name and version of the model.
        folder: folder of the file, which must exist; None for memory alone.
    """

    def __init__(self, labels: Mapping[str, str], folder: Path | None = None) -> None:
        self._labels = labels
        self._folder = folder
        self._file = None if folder is None else CountsFile(folder, labels)
        self._cells = array("d", bytes(8 * cell_count(FAMILIES))) if self._file is None else self._file.cells
        self._lock = threading.Lock()
        found = {(family.name, *labels.values()): (start, family.bounds) for family, labels, start in places(FAMILIES)}
        histograms = {key: _Histogram(self._cells, *place) for key, place in found.items() if place[1]}
        self._handler, self._age = histograms[(HANDLER,)], histograms[(AGE,)]
        self._rows, self._padded = histograms[(BATCH_ROWS,)], histograms[(PADDED,)]
        self._phases = {key[1]: histogram for key, histogram in histograms.items() if key[0] == PHASE}
        self._assemble, self._infer = self._phases["assemble"], self._phases["infer"]
        self._requests = {key[1:]: start for key, (start, _) in found.items() if key[0] == REQUESTS}

    def phase(self, name: str, seconds: float) -> None:
        """As in the base class."""
        self._phases[name].add(seconds)

    def ran(self, assemble_s: float, infer_s: float, rows: int, padding: int) -> None:
        """As in the base class."""
        self._assemble.add(assemble_s)
        self._infer.add(infer_s)
        self._rows.add(rows)
        self._padded.add(padding / (rows + padding) if padding else 0.0)

    def arrived(self, headers: Mapping[str, str]) -> None:
        """As in the base class."""
        if START_HEADER in headers:
            age = age_s(headers[START_HEADER], time.time())
            if age is not None:
                self._age.add(age)

    def handled(self, seconds: float, answers: Sequence[Answer]) -> None:
        """As in the base class."""
        predictions = self._count(answers)
        if predictions:
            self._handler.add(seconds, predictions)
        self._save()

    def answered(self, answer: Answer) -> None:
        """As in the base class."""
        self._count([answer])
        self._save()

    def _count(self, answers: Sequence[Answer]) -> int:
        """Count answers, and return how many of them are to predictions."""
        predictions, requests, cells = 0, self._requests, self._cells
        with self._lock:  # a server's own refusals come from another thread than the model's answers
            for answer in answers:
                operation = answer.operation
                cells[requests[_TEXTS.get(answer.status, OTHER), operation]] += 1
                predictions += operation == "predict"
        return predictions

    def _save(self) -> None:
        if self._file is not None:
            self._file.save()

    def counts(self) -> list[Counts]:
        """As in the base class."""
        return [Counts(self._labels, FAMILIES, self._cells)] if self._folder is None else list(counts_in(self._folder))

    def close(self) -> None:
        """As in the base class."""
        if self._file is not None:
            self._file.close()
            self._file = None


def shared_recorder(name: str, version: str) -> Recorder | None:
    """What counts in the folder that the environment names; None if it names none.

    A folder that cannot be used costs the metrics and not the model. It is made if the folder around it is there: a
    worker that outlives its server must not make that server's folder again.
    """
    folder = os.environ.get(FOLDER, "")
    if not folder:
        return None
    try:
        Path(folder).mkdir(mode=0o700, exist_ok=True)
        return Counting({"model": name, "version": version}, Path(folder))
    except (OSError, ImportError) as error:
        _log.warning("retort: nothing is counted in the folder of metrics: %s", error)
        return None


def own_recorder(name: str, version: str) -> Recorder:
    """What counts in the folder that the environment names, or else for this process alone."""
    return shared_recorder(name, version) or Counting({"model": name, "version": version})
