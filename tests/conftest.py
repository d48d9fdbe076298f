"""Garbage collection of tests visits their own objects, and not those of packages; how a worker ended is told.

The self-test of a machine at its first comparison is off, because it takes seconds and its result depends on the load.
"""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

_begun: set[Path] = set()
os.environ["RETORT_SELF_TEST"] = "off"


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> None:
    """Before the first test of a file, exempt all existing objects; otherwise a full collection takes 0.2 s or more.

    Stages collect after every step that held a copy of a model, so a test of a small model took most of its time there.
    """
    if item.path not in _begun:
        _begun.add(item.path)
        gc.collect()
        gc.freeze()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """Say how a worker of pytest-xdist ended that crashed: by which signal, and how much memory was left."""
    if error:
        with suppress(AttributeError, subprocess.TimeoutExpired):  # execnet keeps the process in a private place
            code = node.gateway._io.popen.wait(10)
            how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            free = psutil.virtual_memory().available >> 20
            sys.stderr.write(f"\n{node.gateway.id} ended by {how}; {free} MB of memory are available\n")
