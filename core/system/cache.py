"""The cache folder, in which measurements and engines are kept for later runs.

Part of the runtime half: standard library only at module level.
"""

from __future__ import annotations

import os
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

Purpose = Literal["engines", "java", "latency", "noise", "servers", "timing"]
VARIABLE = "RETORT_CACHE"


def cache_folder(purpose: Purpose) -> Path:
    """The folder for one kind of cached data; it may not exist yet.

    The environment variable ``RETORT_CACHE`` sets the parent folder. The default is the operating system's folder for
    user caches, which is ``~/.cache/retort`` on Linux.
    """
    return (_named() or _users()) / purpose


def _named() -> Path | None:
    given = os.environ.get(VARIABLE)
    return Path(given).expanduser() if given else None


def _users() -> Path:
    if find_spec("platformdirs") is None:  # a serving host has only the runtime: an archive contains no other packages
        return usual_folder() / "retort"
    place: Path = import_module("platformdirs").user_cache_path("retort", appauthor=False)
    return place


def usual_folder() -> Path:
    """``$XDG_CACHE_HOME`` or ``~/.cache``, where libraries that do not ask the system keep their files."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
