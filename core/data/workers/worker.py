"""The main function of a worker process: it reads the batches that it is asked for until its input ends."""

from __future__ import annotations

import os
import signal
import threading
import time
import traceback
from dataclasses import dataclass
from typing import Any

from ...errors import RetortError
from .messages import quiet_streams, receive, send, unshared


@dataclass(frozen=True)
class Failure:
    """Why a batch could not be read.

    Attributes:
        kind: name of the class of an error for users; empty for any other exception.
        trace: the traceback of any other exception.
    """

    kind: str
    message: str
    remedy: str
    facts: dict[str, Any]
    trace: str = ""


def main() -> None:
    """Receive the views, then answer jobs ``(number, indices, seeds)`` with ``(number, view or failure)``."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that asks decides when to end
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    given, answers = quiet_streams()
    try:
        views: Any = None
        try:
            views = unshared(receive(given))
            send(answers, (0, None))
        except Exception as error:  # the user's classes may raise anything when they are imported
            send(answers, (0, failure(error)))
        while True:
            number, indices, seeds = receive(given)
            try:
                answer: Any = views.read(indices, seeds)
            except Exception as error:  # the user's data set may raise anything
                answer = failure(error)
            send(answers, (number, answer))
    except (EOFError, BrokenPipeError):
        return


def _end_with_parent(parent: int) -> None:
    """End when the process that started this one has been killed, also while a data set is busy."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def failure(error: Exception) -> Failure:
    """An exception in a form that any process can read."""
    if isinstance(error, RetortError):
        return Failure(type(error).__name__, error.message, error.remedy, dict(error.facts))
    return Failure("", f"{type(error).__name__}: {error}", "", {}, traceback.format_exc())
