"""A pytest plugin for `make quick`: whatever imports torch fails, so that the inner loop never waits for it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import ModuleType

REMEDY = "`make quick` runs without torch: mark the test `torch`, or take its file out of QUICK in the Makefile"


class Refuse:
    """The first finder of the process: it refuses torch and leaves every other module to the finders after it."""

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> None:
        """Raise for torch; not an ImportError, which code and tests that can do without torch would swallow."""
        if name == "torch":
            raise AssertionError(REMEDY)


assert "torch" not in sys.modules, REMEDY
sys.meta_path.insert(0, Refuse())
