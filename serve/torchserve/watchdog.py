"""Starts a server in its own process group and ends the whole group when its own stdin closes.

Run as a script by ``process.py``. Whatever becomes of the process at the other end of the pipe (an
exception, SIGTERM, ``kill -9``), the pipe closes, and no server or worker stays behind. Standard library only.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress

_PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> int:
    """Run ``[scratch folder, seconds of grace, command…]``; the scratch folder is deleted at the end."""
    scratch, grace_s, command = arguments[0], float(arguments[1]), arguments[2:]
    ending = threading.Event()
    # handlers and not SIG_IGN: what is ignored stays ignored in the child, which must hear SIGTERM
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, lambda caught, frame: ending.set() if caught == signal.SIGTERM else None)
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=_die_with_parent())
    for task in (lambda: _read_to_end(ending), lambda: _end(child, ending, grace_s)):
        threading.Thread(target=task, daemon=True).start()
    code = child.wait()
    _signal_group(child.pid, signal.SIGKILL)
    shutil.rmtree(scratch, ignore_errors=True)
    return code if code >= 0 else 128 - code


def _die_with_parent() -> Callable[[], object] | None:
    # covers a kill -9 of the watchdog itself; only Linux can
    try:
        prctl = ctypes.CDLL(None).prctl
    except (OSError, AttributeError):
        return None
    parent = os.getpid()

    def _tie() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it was killed before this, and no signal will come
            os._exit(1)

    return _tie


def _read_to_end(ending: threading.Event) -> None:
    while os.read(0, 4096):
        pass
    ending.set()


def _end(child: subprocess.Popen[bytes], ending: threading.Event, grace_s: float) -> None:
    ending.wait()
    with suppress(ProcessLookupError):
        child.terminate()
    with suppress(subprocess.TimeoutExpired):
        child.wait(grace_s)
    _signal_group(child.pid, signal.SIGKILL)


def _signal_group(group: int, number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
