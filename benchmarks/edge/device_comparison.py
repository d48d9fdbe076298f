"""Two devices side by side: the files that were measured on both, and how many times faster the second one is.

The runs were not interleaved, so the interval is that of two independent measurements, and a difference of less than
5 % is "cannot tell", as between any two runs (docs/specs/benchmarks.md, B9).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ...core.errors import UserError
from .store import Row, newest

EQUAL = 0.05
"""Difference of two runs that may be chance."""
Judgement = Literal["faster", "slower", "cannot tell"]


@dataclass(frozen=True)
class OnBoth:
    """A file on two devices.

    Attributes:
        factor: how many times faster the second device is.
        low: lower end of its interval; None if one of the times has none.
        high: upper end.
        judgement: what the interval says of the second device.
        why: why nothing can be told; empty otherwise.
    """

    first: Row
    second: Row
    factor: float
    low: float | None
    high: float | None
    judgement: Judgement
    why: str = ""


def device_in(rows: Sequence[Row], text: str) -> str:
    """The fingerprint of the device whose name contains a text; the last one that was measured of those of one name.

    Raises:
        UserError: none or several fit.
    """
    found = [row for row in rows if text.lower() in row.device.lower()]
    names = list(dict.fromkeys(row.device for row in found))
    known = ", ".join(dict.fromkeys(row.device for row in rows))
    if not names:
        raise UserError(f"no device in the store is called '{text}'", f"choose one of {known or 'none'}")
    if len(names) > 1:
        raise UserError(f"'{text}' may be {' or '.join(names)}", "write more of the name")
    return found[-1].fingerprint


def on_both(rows: Sequence[Row], first: str, second: str) -> list[OnBoth]:
    """What was measured on two devices, newest each: the same file, runtime, cores, threads and batch size.

    Args:
        first: part of the name of a device.
        second: that of the other one.

    Raises:
        UserError: a name fits none or several devices, both are the same device, or they have nothing in common.
    """
    keys = device_in(rows, first), device_in(rows, second)
    if keys[0] == keys[1]:
        raise UserError(f"'{first}' and '{second}' are the same device", "name two devices")
    theirs, ours = ({_what(row): row for row in newest(rows) if row.fingerprint == key} for key in keys)
    both = [_judged(theirs[what], ours[what]) for what in theirs if what in ours]
    if not both:
        raise UserError(
            f"'{first}' and '{second}' have no measurement in common", "measure the same files on both, in the same way"
        )
    return both


def _what(row: Row) -> tuple[object, ...]:
    return row.sha256, row.runtime, row.cores, row.threads, row.batch


def _judged(first: Row, second: Row) -> OnBoth:
    factor = first.median_ms / second.median_ms
    ends = (first.low_ms, first.high_ms, second.low_ms, second.high_ms)
    low, high = None, None
    if all(ends):
        low, high = float(ends[0] or 0) / float(ends[3] or 1), float(ends[1] or 0) / float(ends[2] or 1)
    doubts = [f"{row.verdict} on {row.device}" for row in (first, second) if row.verdict != "VALID"]
    if doubts:
        return OnBoth(first, second, factor, low, high, "cannot tell", "; ".join(doubts))
    if low is None or high is None:
        return OnBoth(first, second, factor, low, high, "cannot tell", "a time has no interval")
    if low > 1 + EQUAL or high < 1 / (1 + EQUAL):
        return OnBoth(first, second, factor, low, high, "faster" if low > 1 else "slower")
    return OnBoth(first, second, factor, low, high, "cannot tell", "two runs differ by up to 5 % by chance")
