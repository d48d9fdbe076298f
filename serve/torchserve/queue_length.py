"""How many requests may wait: as many as can be answered within the latency goal, by the measured time of a batch."""

from __future__ import annotations

import math
import statistics
import time
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ...core.console import Console
from ...core.errors import RetortError
from ...core.session import of_runtime
from ...core.signature import Signature
from ...core.tensors import Array
from ..batching import Executor
from ..engine import GOLDEN, SIGNATURE, smallest_golden, split_golden
from ..requests.wire import read_npz
from ..settings import TRUSTED, Settings
from ..thread_budget import thread_budget, usable_cores
from ..worker_session import session_options
from .archives.archive import Mar, open_model
from .archives.contents import batch_delay_ms
from .archives.mar import read_member

DEFAULT = 100
"""TorchServe's own length, for models that cannot be timed."""
_LONGEST = 10_000
# what TorchServe's front end and worker add to a request of a small model, measured on two cores of an Intel Xeon
_SERVER_MS = 0.6
_TIMING_S = 2.0
_FEWEST_RUNS, _MOST_RUNS = 3, 50
_NORMAL_P99 = 2.326
"""99 % of a normal distribution lie below its mean and so many standard deviations."""


@dataclass(frozen=True)
class BatchTime:
    """Time of a full batch in a worker, with what the server adds to each of its requests.

    Attributes:
        mean_ms: its mean, while all workers are busy.
        deviation_ms: its standard deviation.
    """

    mean_ms: float
    deviation_ms: float = 0.0

    def sum_ms(self, batches: int) -> float:
        """What 99 % of so many batches, one after another, take at most, if their times have a gamma distribution.

        Times are skewed, so a normal distribution would be too optimistic for few batches. The quantile is that of
        Wilson and Hilferty (The distribution of chi-square, PNAS 17, 1931).
        """
        if not self.deviation_ms:
            return batches * self.mean_ms
        shape = batches * (self.mean_ms / self.deviation_ms) ** 2
        return batches * self.mean_ms * (1 - 1 / (9 * shape) + _NORMAL_P99 / (3 * math.sqrt(shape))) ** 3

    def batches_within(self, limit_ms: float) -> int:
        """Largest number of batches whose sum stays within a limit."""
        most = max(0, math.floor(limit_ms / self.mean_ms + 1e-9))
        return bisect_right(range(1, most + 1), limit_ms + 1e-9, key=self.sum_ms)


def length_for(mar: Mar, p99_ms: int, console: Console) -> int:
    """The length of the queue of an archive's model on this machine; a warning says if the goal cannot be kept.

    Args:
        p99_ms: time within which 99 % of the accepted requests should be answered at overload.
    """
    try:
        runs_ms = times_of_batches_ms(mar)
    except Exception as error:
        if not _is_the_models(error):
            raise
        # the worker may have another environment, and otherwise says what is wrong with the model
        told = error.message if isinstance(error, RetortError) else f"{type(error).__name__}: {error}"
        reason = " ".join(told.split())[:200]
        console.warn(f"the model cannot be timed here, so its queue has TorchServe's length of {DEFAULT}: {reason}")
        return DEFAULT
    batch, delay_ms = batch_time(runs_ms, mar.settings), batch_delay_ms(mar.path)
    shortest_ms = delay_ms + batch.sum_ms(2)
    if shortest_ms > p99_ms:
        told = f"a batch takes {batch.mean_ms:.0f} ms and can wait for the one before it"
        console.warn(
            f"{told}, {shortest_ms:.0f} ms with the delay and the variation, so {p99_ms} ms cannot be kept; pack with "
            "a smaller --batch-size, or give a longer --p99-ms"
        )
    return queue_length(batch, mar.settings, p99_ms, delay_ms)


def _is_the_models(error: Exception) -> bool:
    """Whether the model or this environment is at fault."""
    return isinstance(error, RetortError | MemoryError) or of_runtime(error)


def queue_length(batch: BatchTime, settings: Settings, p99_ms: int, delay_ms: int) -> int:
    """Requests that may wait: the last one waits for the batch that is running, and is answered with its own.

    Args:
        delay_ms: longest time that a worker waits for a batch to fill.
    """
    batches = batch.batches_within(p99_ms - delay_ms) - 1
    return min(max(1, batches) * settings.batch_size * settings.workers, _LONGEST)


def batch_time(runs_ms: Sequence[float], settings: Settings, cores: int | None = None) -> BatchTime:
    """The time of a full batch while all workers are busy, from the times of the model alone.

    Args:
        runs_ms: times of the model for a full batch, in one process.
        cores: number of cores for all workers; by default those that this process may use.
    """
    cores = cores or usable_cores()
    mean_ms, added_ms = statistics.fmean(runs_ms), settings.batch_size * _SERVER_MS
    alone_ms = mean_ms + added_ms
    # more workers than cores share them
    shared_ms = settings.workers * (thread_budget(settings, cores) * mean_ms + added_ms) / cores
    busy_ms = max(alone_ms, shared_ms)
    deviation_ms = statistics.stdev(runs_ms) if len(runs_ms) > 1 else 0.0
    return BatchTime(busy_ms, deviation_ms * busy_ms / alone_ms)


def times_of_batches_ms(mar: Mar) -> list[float]:
    """Times of the model for full batches of golden requests, formed as the worker forms them.

    Raises:
        RetortError: the model cannot be opened or run here.
    """
    settings = replace(mar.settings, threads=thread_budget(mar.settings), warmup_s=_TIMING_S)
    signature = Signature.from_json(read_member(mar.path, SIGNATURE))
    golden = split_golden(read_npz(read_member(mar.path, GOLDEN), TRUSTED))
    session = open_model(mar, session_options(settings))
    try:
        executor = Executor(session, settings)
        executor.measure(golden[0])
        return _timed(executor, [smallest_golden(signature, golden)[0]] * settings.batch_size)
    finally:
        session.close()


def _timed(executor: Executor, requests: list[dict[str, Array]]) -> list[float]:
    found: list[float] = []
    begin = time.perf_counter()
    while len(found) < _MOST_RUNS and (len(found) < _FEWEST_RUNS or time.perf_counter() - begin < _TIMING_S):
        start = time.perf_counter()
        answers = executor.run(requests)
        found.append(1000 * (time.perf_counter() - start))
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
    return found
