"""The raw times of a timing as compact text in a result, so that every figure can be computed again.

Whole nanoseconds: each is written as the difference to the one before, as a variable-length integer (zigzag, seven bits
per byte, the lowest first), all together compressed by deflate (RFC 1950) and written in base64. A timing of more than
:data:`MOST` readings keeps its readings in order of size: far fewer bytes, from which the percentiles follow, but not
the rounds. A hundred thousand readings take 150 to 400 kB.
"""

from __future__ import annotations

import base64
import binascii
import math
import zlib
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from ..core.errors import ArtifactError
from ..core.metrics.intervals import Floats
from .edge.runner.slots import Plan
from .spreads import Entry
from .timing.blocks import Block
from .timing.method import method

Whole = NDArray[np.int64]
MOST = 100_000
"""Readings of a model at a batch size up to which they are kept in order of time."""
_LONGEST = 10
"""Bytes of the longest variable-length integer of 64 bits."""
_AGAIN = "measure again with `retort bench`"


class RawTimes(Entry):
    """Every reading of the clocks of a model at one batch size."""

    encoding: Literal["delta-varint-deflate-base64"] = Field(
        default="delta-varint-deflate-base64", description="how the texts hold whole numbers"
    )
    order: Literal["time", "size"] = Field(description="order of the readings; by size, the rounds are not known")
    readings: int = Field(ge=1, description="number of readings of the wall clock")
    calls_per_reading: int = Field(ge=1, description="calls of the model between two readings")
    readings_per_slot: int = Field(ge=1, description="readings in each slot, the shortest unit of the deciding clock")
    slots_per_round: int = Field(ge=1, description="slots in each round")
    rounds: int = Field(ge=1, description="number of rounds, in order of time")
    spoiled: int = Field(default=0, ge=0, description="how many of them, the last ones, do not count for the ratios")
    seed: int = Field(default=0, description="seed of the bootstrap of the intervals")
    method: str = Field(default="", description="hash of the code of the statistics that computed the figures")
    opened_again: bool = Field(default=True, description="whether each turn of the run began with new sessions")
    begun_us: str = Field(default="", description="microseconds from the first round to each; empty if not known")
    wall_ns: str = Field(description="nanoseconds of each reading of the wall clock")
    spent_ns: str = Field(default="", description="CPU time of each slot in nanoseconds, if that clock decides")
    interrupted: str = Field(default="", description="numbers of the slots in which another process got the CPU")

    @model_validator(mode="after")
    def _complete(self) -> RawTimes:
        slots = self.rounds * self.slots_per_round
        if self.readings != slots * self.readings_per_slot:
            raise ValueError(
                f"{self.rounds} rounds have {slots * self.readings_per_slot} readings, not {self.readings}"
            )
        if self.spoiled > self.rounds:
            raise ValueError(f"{self.spoiled} of {self.rounds} rounds cannot be spoiled")
        return self

    @property
    def slots(self) -> int:
        """Number of slots in all rounds."""
        return self.rounds * self.slots_per_round

    def calls_ms(self) -> Floats:
        """Wall-clock time per call, one entry per reading, in milliseconds.

        Raises:
            ArtifactError: the text is damaged.
        """
        return _exactly(self.wall_ns, self.readings) / self.calls_per_reading / 1e6

    def blocks(self) -> list[Block]:
        """The rounds of the timing; none if the readings are in order of size.

        Raises:
            ArtifactError: the text is damaged.
        """
        if self.order == "size":
            return []
        wall = _exactly(self.wall_ns, self.readings) / self.calls_per_reading
        per_slot = self.calls_per_reading * self.readings_per_slot
        spent = _exactly(self.spent_ns, self.slots) / per_slot if self.spent_ns else np.zeros(self.slots)
        hit = np.zeros(self.slots, bool)
        if self.interrupted:
            places = decoded(self.interrupted, self.slots)
            if places.min() < 0 or places.max() >= self.slots:
                raise ArtifactError("raw times are damaged: there is no such slot", _AGAIN)
            hit[places] = True
        parts = [np.split(values, self.rounds) for values in (spent, hit, wall)]
        cpu, begun = bool(self.spent_ns), self.begun_s() or [math.nan] * self.rounds
        return [Block(one, two, three, cpu, start) for one, two, three, start in zip(*parts, begun, strict=True)]

    def begun_s(self) -> list[float]:
        """Seconds from the first round to each round; empty if they are not known.

        Raises:
            ArtifactError: the text is damaged.
        """
        return [float(value) for value in _exactly(self.begun_us, self.rounds) / 1e6] if self.begun_us else []


def raw_times(
    blocks: Sequence[Block], spoiled: int, plan: Plan, seed: int, opened_again: bool = True
) -> RawTimes | None:
    """The readings of a model in its rounds, those that do not count last; None if the rounds differ in length."""
    slots = len(blocks[0].interrupted) if blocks else 0
    if not slots or any(len(block.interrupted) != slots for block in blocks):
        return None
    wall = _whole(np.concatenate([block.calls for block in blocks]), plan.calls)
    in_time = len(wall) <= MOST
    cpu = in_time and blocks[0].in_cpu_time
    spent = _whole(np.concatenate([block.spent for block in blocks]), plan.calls * plan.groups) if cpu else None
    hit = np.flatnonzero(np.concatenate([block.interrupted for block in blocks]))
    return RawTimes(
        order="time" if in_time else "size",
        readings=len(wall),
        calls_per_reading=plan.calls,
        readings_per_slot=len(blocks[0].calls) // slots,
        slots_per_round=slots,
        rounds=len(blocks),
        spoiled=spoiled,
        seed=seed,
        method=method(),
        opened_again=opened_again,
        begun_us=_begun_us(blocks),
        wall_ns=encoded(wall if in_time else np.sort(wall)),
        spent_ns="" if spent is None else encoded(spent),
        interrupted=encoded(hit) if in_time and len(hit) else "",
    )


def _begun_us(blocks: Sequence[Block]) -> str:
    begun = np.array([block.begun_s for block in blocks])
    return encoded(np.rint(1e6 * (begun - begun.min())).astype(np.int64)) if np.isfinite(begun).all() else ""


def encoded(values: Whole) -> str:
    """Whole numbers as text."""
    steps = values.astype(np.int64)
    steps[1:] -= values[:-1]
    left = ((steps << 1) ^ (steps >> 63)).astype(np.uint64)
    groups = np.zeros((len(left), _LONGEST), np.uint8)
    lengths = np.ones(len(left), np.int64)
    for place in range(_LONGEST):
        groups[:, place] = (left & np.uint64(0x7F)).astype(np.uint8)
        left >>= np.uint64(7)
        lengths += left > 0
    last = np.arange(_LONGEST) >= lengths[:, None] - 1
    groups[~last] |= 0x80
    kept = groups[np.arange(_LONGEST) < lengths[:, None]]
    return base64.b64encode(zlib.compress(kept.tobytes(), 9)).decode()


def decoded(text: str, most: int) -> Whole:
    """Inverse of :func:`encoded`.

    Args:
        most: largest number of values; a text of more is damaged, and is not unpacked.

    Raises:
        ArtifactError: the text is damaged.
    """
    unpacker = zlib.decompressobj()
    try:
        data = unpacker.decompress(base64.b64decode(text, validate=True), most * _LONGEST + 1)
    except (binascii.Error, zlib.error, ValueError) as error:
        raise ArtifactError(f"raw times are damaged: {error}", _AGAIN) from error
    octets = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero(octets < 0x80)
    if not unpacker.eof or not 0 < len(ends) <= most or ends[-1] != len(octets) - 1:
        raise ArtifactError(f"raw times are damaged: they are not 1 to {most} numbers", _AGAIN)
    starts = np.concatenate([[0], ends[:-1] + 1]).astype(np.int64)
    if int((ends - starts).max()) >= _LONGEST:
        raise ArtifactError("raw times are damaged: a number is too long", _AGAIN)
    place = np.arange(len(octets)) - np.repeat(starts, ends - starts + 1)
    parts = (octets & 0x7F).astype(np.uint64) << (7 * place).astype(np.uint64)
    zigzag = np.add.reduceat(parts, starts)
    steps = (zigzag >> np.uint64(1)).astype(np.int64) ^ -(zigzag & np.uint64(1)).astype(np.int64)
    return np.cumsum(steps)


def _exactly(text: str, count: int) -> Whole:
    found = decoded(text, count)
    if len(found) != count or found.min() < 0:
        raise ArtifactError(f"raw times are damaged: they are not {count} durations", _AGAIN)
    return found


def _whole(per_call: Floats, calls: int) -> Whole:
    """Whole nanoseconds of readings from times per call."""
    return np.rint(per_call * calls).astype(np.int64)
