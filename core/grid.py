"""The meaning of a tensor's integer codes: one scale, one zero point, and the codes in use."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Grid:
    """``value = (code - zero_point) * scale``, with codes in ``[qmin, qmax]``; the scale is a float32 number."""

    scale: float
    zero_point: int
    qmin: int
    qmax: int

    @property
    def low(self) -> float:
        """The smallest value."""
        return (self.qmin - self.zero_point) * self.scale

    @property
    def high(self) -> float:
        """The largest value."""
        return (self.qmax - self.zero_point) * self.scale
