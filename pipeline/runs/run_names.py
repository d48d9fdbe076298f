"""Names in the folder of a run: by them Retort knows its own artifacts and unfinished work from a user's folders."""

from __future__ import annotations

import re
from pathlib import Path

from ...core.system.owned_folders import BESIDE

_KEYED = r"[0-9]{2}-[a-z]+(-[a-z]+)?-[0-9a-f]{12}"
"""Number, label and the beginning of the key."""
_NAME = re.compile(rf"(?P<own>{_KEYED})(?P<beside>(-for-[a-z]+)?(-({'|'.join(BESIDE)}))?)")
_LEFTOVER = re.compile(rf"\.{{1,2}}{_NAME.pattern}(-first|(-first)?\.[0-9a-f]{{8}}\.(tmp|old))")


def is_own(name: str) -> bool:
    """Whether Retort gives an artifact in the folder of a run such a name."""
    return _NAME.fullmatch(name) is not None


def stored_beside(name: str) -> str:
    """The name of the artifact beside which another one is stored, such as ``03-quantize-0123456789ab`` for its speed.

    A name of any other form is returned as it is.
    """
    found = _NAME.fullmatch(name)
    return found["own"] if found else name


def is_leftover(path: Path) -> bool:
    """Whether a path in the folder of a run is an artifact that a killed run did not finish."""
    return _LEFTOVER.fullmatch(path.name) is not None and path.is_dir() and not path.is_symlink()
