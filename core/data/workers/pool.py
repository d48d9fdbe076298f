"""Worker processes and the batches that they read ahead, in order."""

from __future__ import annotations

import json
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

from ... import errors
from ...errors import MachineError, RetortError, UserError
from ..augmentation.draws import Seeds
from ..augmentation.mixing import View
from ..augmentation.views import Numbers, Views
from .messages import Shared, receive, send
from .worker import Failure

Job = tuple[Numbers, Seeds]
AHEAD = 2
"""Batches that each worker may have read before they are used."""
ENDING_S = 2.0
"""Seconds that a worker gets to end after its input ended."""
_START = (
    "import sys, json; sys.path[:] = json.loads(sys.argv[1]); from retort.core.data.workers.worker import main; main()"
)


class Pool:
    """Processes that read the views of one split.

    They are started as new programs, and not forked: a fork of a process in which threads of PyTorch run can hang.

    Args:
        views: sent to every worker; large arrays are shared.
        count: number of workers.

    Raises:
        UserError: the data set cannot be sent to other processes.
        MachineError: a worker did not start.
    """

    def __init__(self, views: Views, count: int) -> None:
        self._workers: list[_Worker] = []
        self._number = 0
        try:
            shared = Shared(views)
        except Exception as error:  # pickle raises many classes, and the user's classes any
            raise _unsendable(f"{type(error).__name__}: {error}") from error
        try:
            for _ in range(count):
                self._workers.append(_Worker(shared))
            for worker in self._workers:
                _, answer = worker.answer()
                if isinstance(answer, Failure):
                    raise _unsendable(answer.message)
        except BaseException:
            self.close()
            raise
        finally:
            shared.close()

    def stream(self, jobs: Sequence[Job]) -> Iterator[View]:
        """The batches of all jobs, in order; each worker reads at most :data:`AHEAD` batches ahead.

        Raises:
            RetortError: of a batch that cannot be read, in its place of the order.
            MachineError: a worker ended.
        """
        first, sent, count = self._number, 0, len(self._workers)
        self._number += len(jobs)
        for place in range(len(jobs)):
            while sent < min(len(jobs), place + count * AHEAD):
                self._workers[sent % count].ask((first + sent, *jobs[sent]))
                sent += 1
            worker, number = self._workers[place % count], -1
            while number != first + place:  # answers to jobs of an epoch that was left early are dropped
                number, answer = worker.answer()
            if isinstance(answer, Failure):
                raise _told(answer)
            yield answer

    def close(self) -> None:
        """End all workers."""
        for worker in self._workers:
            worker.end()
        for worker in self._workers:
            worker.wait()
        self._workers = []


class _Worker:
    """One process, and a thread that receives its answers so that neither side waits for the other to read."""

    def __init__(self, shared: Shared) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _START, json.dumps(sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
            pass_fds=shared.descriptors if os.name == "posix" else (),
        )
        self._answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        threading.Thread(target=self._listen, daemon=True).start()
        self.ask(shared.content)

    def ask(self, message: Any) -> None:
        """Send a message; that a worker has ended is said when its answer is asked for."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError, ValueError):
            send(self._process.stdin, message)

    def answer(self) -> Any:
        """The next answer.

        Raises:
            MachineError: the worker ended.
        """
        answer = self._answers.get()
        if answer is None:
            self._answers.put(None)
            raise _ended(self._process.wait())
        return answer

    def end(self) -> None:
        """Close the input, at whose end a worker ends."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()

    def wait(self) -> None:
        """Wait for the end, and enforce it after a while, as for a data set that hangs."""
        try:
            self._process.wait(ENDING_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        with suppress(EOFError, OSError, ValueError, pickle.UnpicklingError):
            while True:
                self._answers.put(receive(self._process.stdout))
        self._answers.put(None)


def _unsendable(reason: str) -> UserError:
    return UserError(
        f"the data set cannot be sent to worker processes: {reason}",
        "define its class in a module of its own, without functions inside functions, or set `workers: 0`",
    )


def _ended(code: int) -> MachineError:
    killed = code == -signal.SIGKILL if os.name == "posix" else False
    how = "was killed, most likely because memory ran out" if killed else f"ended with {_code(code)}"
    return MachineError(
        f"a worker process that reads samples {how}",
        "set fewer `workers` or a smaller `batch_size`; `workers: 0` reads in this process. "
        "An interrupted training resumes from its last checkpoint",
    )


def _code(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def _told(failure: Failure) -> Exception:
    """The error that a worker met, as if this process had met it."""
    kind = getattr(errors, failure.kind, None) if failure.kind else None
    if isinstance(kind, type) and issubclass(kind, RetortError):
        return kind(failure.message, failure.remedy, **failure.facts)
    return RuntimeError(f"a worker process that reads samples raised {failure.trace or failure.message}")
