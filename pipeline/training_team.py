"""Several processes of one command: how they meet, and their part in the trainings of rank 0."""

from __future__ import annotations

from contextlib import AbstractContextManager

from ..compress.training.distributed.processes import Team
from ..compress.training.distributed.processes import together as meet
from ..compress.training.job import work_for


def together() -> AbstractContextManager[Team]:
    """Meet the other processes of torchrun within this context.

    Raises:
        MachineError: they cannot be reached.
    """
    return meet()


def take_part(team: Team) -> None:
    """Take part in every training of rank 0, until its command has ended.

    Raises:
        MachineError: another process ended.
        RetortError: as :func:`retort.compress.training.train.fit`.
    """
    work_for(team)
