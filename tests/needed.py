"""Helpers for tests of workarounds: without its patch, a library must fail with the expected fault."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from retort.core.backends.eager import quiet


@contextmanager
def needed(patch: str, expected: str) -> Iterator[None]:
    """Expect the fault that a patch avoids, with the expected words."""
    try:
        with quiet():
            yield
    except Exception as error:
        if not re.search(expected, f"{type(error).__name__}: {error} {_causes(error)}"):
            raise
    else:
        pytest.fail(f"the library works without it: remove {patch}, its callers and this test")


def _causes(error: BaseException | None) -> str:
    texts = []
    while error is not None:
        texts.append(f"{type(error).__name__}: {error}")
        error = error.__cause__
    return " ".join(texts)
