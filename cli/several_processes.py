"""A command in several processes that torchrun started: rank 0 runs it, the others take part in its trainings."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from typing import NoReturn

from ..core.errors import MachineError, RetortError

FAILURE = 1


def in_several_processes(command: Callable[[], int]) -> int:
    """Run a command in rank 0, or take part in its trainings in another rank.

    Returns:
        The exit code.

    Raises:
        RetortError: as the command; in another rank only if no other process reports how the run ended.
    """
    # PyTorch warns once of a traversal and of a layout that cost little
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    from ..pipeline.training_team import take_part, together

    with together() as team:
        if team.rank == 0:
            code = command()
            team.end()
            return code
        try:
            take_part(team)
        except MachineError:  # a process ended
            if team.first_to_speak():
                raise
            _end_silently()
        except RetortError as error:
            team.report(error)
            if team.speaks_itself and team.first_to_speak():
                raise
            _end_silently()
        except KeyboardInterrupt:
            _end_silently()
    return 0


def _end_silently() -> NoReturn:
    """End at once, so that the connections are closed and rank 0 says what happened."""
    os._exit(FAILURE)
