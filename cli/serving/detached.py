"""A server in the background: `retort serve --detach` starts itself again, and ends when the models answer."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

VARIABLE = "RETORT_DETACHED"
"""Environment variable with the descriptor on which the process in the background says that it is ready."""
LOG = "serve.log"


def start(arguments: Sequence[str]) -> int:
    """Start `retort serve` in a session of its own; it writes to this terminal until it is ready.

    Returns:
        0 when the models answer, or the exit code of the process if it ended before.
    """
    reading, writing = os.pipe()
    command = [sys.executable, "-P", "-m", "retort", "serve", *arguments]
    environment = {**os.environ, VARIABLE: str(writing)}
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, env=environment, pass_fds=[writing], start_new_session=True
    )
    os.close(writing)
    try:
        with os.fdopen(reading, "rb") as stream:
            ready = bool(stream.read(1))
        return 0 if ready else process.wait()
    except KeyboardInterrupt:
        process.terminate()
        process.wait()
        raise


def is_detached() -> bool:
    """Whether this process is the one in the background."""
    return os.environ.get(VARIABLE, "").isdecimal()


def tell_ready(logs: Path) -> None:
    """Let the command that started this process end; what this one writes from now on goes to a file in its logs."""
    sys.stdout.flush()
    sys.stderr.flush()
    log = os.open(logs / LOG, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    for descriptor in (1, 2):
        os.dup2(log, descriptor)
    os.close(log)
    ready = int(os.environ.pop(VARIABLE))
    os.write(ready, b"1")
    os.close(ready)
