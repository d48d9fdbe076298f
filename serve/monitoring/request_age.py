"""The age of a request: the time since a proxy took it, which the header ``x-request-start`` tells.

Part of the runtime half: standard library only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

START_HEADER = "x-request-start"
LONGEST_S = 600.0
"""Older requests are not counted: no proxy waits so long, so the header is wrong."""
_AHEAD_S = 1.0
"""How far the proxy's clock may be ahead; nginx also rounds to milliseconds."""
_TIME = re.compile(r"(?:t=)?([0-9]{1,20}(?:\.[0-9]{1,9})?)")
_UNITS = ((1e17, 1e9), (1e14, 1e6), (1e11, 1e3))
"""From which number on a time since 1970 is in nanoseconds, microseconds or milliseconds, and how many make a second.
Smaller ones are seconds: 1e11 of them are the year 5138, and as milliseconds they are 1973."""


def age_s(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds since a proxy took a request; None if the header is missing or cannot be true.

    nginx writes ``t=1700000000.123``, Heroku ``1700000000123`` (ms), Apache ``t=1700000000123456`` (µs). A client can
    write anything, so only times of the last ten minutes count.

    Args:
        headers: with lower-case names.
        now: seconds since 1970.
    """
    text = headers.get(START_HEADER)
    found = _TIME.fullmatch(text[:64].strip()) if text else None
    if found is None:
        return None
    number = float(found[1])
    age = now - number / next((unit for least, unit in _UNITS if number >= least), 1.0)
    return max(0.0, age) if -_AHEAD_S <= age <= LONGEST_S else None
