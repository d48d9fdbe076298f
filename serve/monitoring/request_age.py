"""The age of a request: the time since a proxy took it, which the header ``x-request-start`` tells.

Part of the runtime half: standard library only.
"""

from __future__ import annotations

START_HEADER = "x-request-start"
LONGEST_S = 600.0
"""Older requests are not counted: no proxy waits so long, so the header is wrong."""
_AHEAD_S = 1.0
"""How far the proxy's clock may be ahead; nginx also rounds to milliseconds."""
_LONGEST_TEXT = 32


def age_s(text: str, now: float) -> float | None:
    """Seconds since a proxy took a request; None if the header cannot be true.

    nginx writes ``t=1700000000.123``, Heroku ``1700000000123`` (ms), Apache ``t=1700000000123456`` (µs). A client can
    write anything, so only times of the last ten minutes count.

    Args:
        text: the header.
        now: seconds since 1970.
    """
    digits = text[: _LONGEST_TEXT + 1].strip().removeprefix("t=")
    if len(text) > _LONGEST_TEXT or not (digits.isascii() and digits.replace(".", "", 1).isdecimal()):
        return None
    start = float(digits)
    # a number of seconds from 1e11 on is the year 5138, and as milliseconds it is 1973
    if start >= 1e11:
        start /= 1e3 if start < 1e14 else 1e6 if start < 1e17 else 1e9
    age = now - start
    return max(0.0, age) if -_AHEAD_S <= age <= LONGEST_S else None
