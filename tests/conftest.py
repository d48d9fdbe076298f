"""Garbage collection during tests visits objects of the tests, not the million objects of imported packages."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest

_begun: set[Path] = set()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> None:
    """Before the first test of a file, exempt all existing objects; otherwise a full collection takes 0.2 s or more.

    Stages collect after every step that held a copy of a model, so a test of a small model took most of its time there.
    """
    if item.path not in _begun:
        _begun.add(item.path)
        gc.collect()
        gc.freeze()
