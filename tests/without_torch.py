"""A pytest plugin for `make quick`: importing torch fails, so that these tests stay fast."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import ModuleType

REMEDY = "`make quick` runs without torch: mark the test `torch`, or take its file out of QUICK in the Makefile"


class Refuse:
    """The first finder of the process: it rejects torch and leaves every other module to the other finders."""

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> None:
        """Raise for torch; not an ImportError, which code and tests without torch would handle."""
        if name == "torch":
            raise AssertionError(REMEDY)


assert "torch" not in sys.modules, REMEDY
sys.meta_path.insert(0, Refuse())
