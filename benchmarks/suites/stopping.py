"""How a suite ends when it is told to: SIGTERM stops what it started, as Ctrl-C does."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, *((signal.SIGHUP,) if hasattr(signal, "SIGHUP") else ()))
INTERRUPTED = 130
"""The exit code of what was stopped."""


@contextmanager
def stoppable() -> Iterator[None]:
    """End in order at the first SIGTERM, SIGHUP or Ctrl-C, so that servers and processes that were started end, too.

    Later signals do not interrupt this; only SIGKILL does.

    Raises:
        SystemExit: it was told to end; the code is 130.
    """
    if threading.current_thread() is not threading.main_thread():  # which alone may have handlers
        yield
        return

    def ignored(number: int, frame: FrameType | None) -> None:
        """A handler and not SIG_IGN, which the processes would inherit that end servers."""

    def stop(number: int, frame: FrameType | None) -> None:
        for other in SIGNALS:
            signal.signal(other, ignored)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in SIGNALS}
    try:
        yield
    except KeyboardInterrupt:
        sys.stderr.write("stopped; what was started has ended\n")
        raise SystemExit(INTERRUPTED) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
