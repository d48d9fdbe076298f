"""Batches of views in order: read in this process, or by as many workers as reading has been measured to need."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np

from ...errors import UserError
from ..augmentation.mixing import View
from ..augmentation.views import Views
from .pool import Job, Pool

MEASURED = 6
"""Batches that are timed before workers are started; the first, in which caches are filled, does not count."""
WORTH = 0.1
"""Share of the time at which reading is worth a worker: it takes a core from the training."""
START_S = 2.0
"""Seconds that the start of workers costs: a process with numpy starts in half a second, on a busy machine in two."""
MOST = 8


class Loader:
    """Reads batches of views.

    Args:
        views: of the training split.
        workers: number of worker processes; ``auto`` times the first batches, and starts workers where reading takes
            long enough beside the work on a batch. The batches are the same for any number.
        batches: number of batches of the whole training, from which ``auto`` sees whether a start pays.
        processes: number of processes of this training that share the cores of this machine.
    """

    def __init__(self, views: Views, workers: Literal["auto"] | int, batches: int, processes: int = 1) -> None:
        self.views, self.left = views, batches
        self._cores = max(1, usable_cores() // processes)
        self._wanted: int | None = None if workers == "auto" else workers
        self._forced = workers != "auto"
        self._pool: Pool | None = None
        self._times: list[tuple[float, float]] = []

    @property
    def workers(self) -> int:
        """Number of workers; 0 while batches are read in this process."""
        return 0 if self._pool is None else self._wanted or 0

    def stream(self, jobs: Sequence[Job]) -> Iterator[View]:
        """The batches of all jobs, in order.

        Raises:
            RetortError: a batch cannot be read, or a worker ended.
            UserError: the data set cannot be sent to the workers that were asked for.
        """
        done = 0
        while done < len(jobs) and not self._start():
            began = time.perf_counter()
            view = self.views.read(*jobs[done])
            read = time.perf_counter()
            yield view
            done, self.left = done + 1, self.left - 1
            self._time(read - began, time.perf_counter() - read)
        if self._pool is not None and done < len(jobs):
            for view in self._pool.stream(jobs[done:]):
                yield view
                self.left -= 1

    def close(self) -> None:
        """End the workers."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    def _start(self) -> bool:
        """Start the workers that are wanted; whether there are any."""
        if self._pool is None and self._wanted:
            try:
                self._pool = Pool(self.views, self._wanted)
            except UserError:
                if self._forced:
                    raise
                self._wanted = 0
        return self._pool is not None

    def _time(self, reading: float, working: float) -> None:
        if self._wanted is not None:
            return
        self._times.append((reading, working))
        if len(self._times) == MEASURED:
            reading_s, working_s = (float(np.median(column)) for column in zip(*self._times[1:], strict=True))
            self._wanted = wanted_workers(reading_s, working_s, self.left, self._cores)


def wanted_workers(reading_s: float, working_s: float, batches: int, cores: int) -> int:
    """The number of workers that pays: 0 where reading is a small part, is over soon, or has no core of its own.

    Args:
        reading_s: seconds to read a batch in this process.
        working_s: seconds of the work on a batch.
        batches: number of batches to come.
        cores: number of usable cores.
    """
    if cores < 2 or reading_s < WORTH * (reading_s + working_s):
        return 0
    count = min(cores - 1, MOST, max(1, math.ceil(reading_s / max(working_s, 1e-9))))
    # the work on a batch uses all cores itself, so a worker saves about half of what it takes over
    saved = batches * (reading_s - max(0.0, reading_s / count - working_s)) / 2
    return count if saved > START_S * count else 0


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
