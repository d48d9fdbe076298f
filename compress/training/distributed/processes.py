"""The processes of a training that torchrun started: rank 0 runs the command and hands each training to the others."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from ....core import errors
from ....core.errors import MachineError, RetortError
from ....core.faults import first_line
from ....core.tensors import Array
from .transport import Packer, Unpacker

_LOOK_S = 20
"""A process that waits for work asks again after this time, so that it can wait for days."""
_LAST_WORDS_S = 0.5
"""How long a process waits for the reason why another one ended."""


class Team:
    """The processes of one command, of which this is one.

    Attributes:
        rank: number of this process; rank 0 alone decides, writes and prints.
        processes: number of processes.
        here: number of processes on this machine.
        rows: number of rows of the batch at hand that belong to this process.
    """

    def __init__(self) -> None:
        self._store, self.rank, self.processes = next(rendezvous("env://"))
        self.here = int(os.environ.get("LOCAL_WORLD_SIZE", self.processes))
        self.rows = 1
        self._jobs = 0
        self._packer, self._unpacker = Packer(), Unpacker()

    def send(self, job: object, base: Path) -> None:
        """Hand a job to all other processes, which wait for it and receive it.

        Args:
            base: folder in which modules that the job needs are looked up.

        Raises:
            UserError: the job cannot be sent.
        """
        content, arrays = self._packer.pack(job)
        self._jobs += 1
        self._store.set(f"retort/job/{self._jobs}", str(base.resolve()))
        self._join()
        sizes = [(array.dtype.str, array.shape) for array in arrays]
        dist.broadcast_object_list([content, sizes])
        for array in arrays:
            if array.nbytes:
                dist.broadcast(torch.from_numpy(np.ascontiguousarray(array).reshape(-1).view(np.uint8)), 0)

    def wait(self) -> Path | None:
        """Wait for the next job, for seconds or days; the folder of its modules, or None after the last job."""
        self._jobs += 1
        key = f"retort/job/{self._jobs}"
        while True:
            try:
                self._store.wait([key], timedelta(seconds=_LOOK_S))
            except dist.DistStoreError:
                continue
            base = self._store.get(key).decode()
            return Path(base) if base else None

    def receive(self) -> Any:
        """The job for which :meth:`wait` waited."""
        self._join()
        parts: list[Any] = [None, None]
        dist.broadcast_object_list(parts)
        return self._unpacker.unpack(parts[0], [_received(dtype, shape) for dtype, shape in parts[1]])

    def end(self) -> None:
        """Let the other processes go."""
        self._jobs += 1
        self._store.set(f"retort/job/{self._jobs}", "")

    def _join(self) -> None:
        if not dist.is_initialized():
            backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
            dist.init_process_group(backend, store=self._store, rank=self.rank, world_size=self.processes)

    def report(self, error: RetortError) -> None:
        """Report why this process cannot go on. The others see it when this process has ended."""
        self._store.set("retort/error", json.dumps([type(error).__name__, error.message, error.remedy]))

    def reported(self) -> RetortError | None:
        """The error that another process reported, if any."""
        try:
            self._store.wait(["retort/error"], timedelta(seconds=_LAST_WORDS_S))
        except dist.DistError:
            return None
        name, message, remedy = json.loads(self._store.get("retort/error"))
        kind: type[RetortError] = getattr(errors, name, RetortError)
        return kind(message, remedy)

    def first_to_speak(self) -> bool:
        """Whether no other process has said yet how the run ended."""
        try:
            return int(self._store.add("retort/said", 1)) == 1
        except dist.DistError:
            return True

    @property
    def speaks_itself(self) -> bool:
        """Whether an error must be told here, because rank 0 may wait in an exchange between GPUs that never ends."""
        return dist.is_initialized() and "nccl" in dist.get_backend_config()

    def total(self, values: list[float]) -> list[float]:
        """The sums of numbers over all processes."""
        sums = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(sums)
        found: list[float] = sums.tolist()
        return found

    def seed_step(self, seed: int, step: int) -> None:
        """Seed the random numbers of a step, so that they do not depend on the steps before it."""
        torch.manual_seed(int(np.random.SeedSequence([seed, step, self.rank]).generate_state(1, np.uint64)[0] >> 1))


_team: Team | None = None


def team() -> Team | None:
    """The processes of this training; None in a single process."""
    return _team


def counted_rows() -> int:
    """Number of rows of the batch at hand that belong to this process."""
    return 1 if _team is None else _team.rows


def weighted_mean(total: torch.Tensor, weight: torch.Tensor, rows: int) -> torch.Tensor:
    """The part of this process in a weighted mean over the rows of all processes.

    The mean of the parts, each weighted by its rows, is the weighted mean over all rows.

    Args:
        total: weighted sum over the rows of this process.
        weight: sum of their weights.
        rows: number of rows that were computed here.
    """
    assert _team is not None
    counted = torch.tensor([float(weight), float(rows)], dtype=torch.float64, device=total.device)
    if not _team.rows:
        counted.zero_()
    dist.all_reduce(counted)
    if not counted[0]:
        return total * 0
    return total / counted[0].to(total.dtype) * (counted[1].to(total.dtype) / rows)


def started_in_several() -> bool:
    """Whether torchrun started this process together with others."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ


@contextmanager
def together() -> Iterator[Team]:
    """Meet the other processes of torchrun within this context.

    Raises:
        MachineError: they cannot be reached.
    """
    global _team
    try:
        _team = Team()
    except (RuntimeError, ValueError) as error:
        raise MachineError(
            f"the other processes cannot be reached: {first_line(error)}",
            "start all of them with `torchrun --nproc-per-node N -m retort run RECIPE`",
        ) from error
    try:
        yield _team
    except BaseException:
        _team.first_to_speak()  # before the others see that the connection is closed
        raise
    finally:
        _team = None
        leave()


def leave() -> None:
    """Leave the process group."""
    if dist.is_initialized():
        dist.destroy_process_group()


@contextmanager
def lost_processes(kept: Callable[[], str] = lambda: "") -> Iterator[None]:
    """Turn the failure of an exchange with another process into its reason.

    Args:
        kept: what is kept, in words.

    Raises:
        MachineError: another process ended.
        RetortError: another process reported this error.
    """
    if _team is None:
        yield
        return
    try:
        yield
    except (RuntimeError, KeyboardInterrupt) as error:
        stopped = isinstance(error, KeyboardInterrupt)
        if not stopped and not isinstance(error, dist.DistError) and not _is_of_exchange(error):
            raise
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun sends it as soon as a process has ended
        reason = _team.reported()
        if reason is None and stopped:
            raise
        raise reason or _ended(kept()) from error


def _ended(kept: str) -> MachineError:
    return MachineError(
        "another process of this training ended, or its connection was lost" + (f"; {kept}" if kept else ""),
        "start the same command again, with any number of processes: it goes on at the last checkpoint",
    )


def _is_of_exchange(error: BaseException) -> bool:
    return any(word in str(error) for word in ("gloo", "Connection", "ProcessGroup", "NCCL"))


def _received(dtype: str, shape: tuple[int, ...]) -> Array:
    array = np.empty(shape, np.dtype(dtype))
    if array.nbytes:
        dist.broadcast(torch.from_numpy(array.reshape(-1).view(np.uint8)), 0)
    return array
