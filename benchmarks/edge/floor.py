"""The noise floor of a device: a row of the store."""

from __future__ import annotations

from dataclasses import dataclass

from ...core.counts import counted
from ..repeatability.noise_floor import at_length


@dataclass(frozen=True)
class Floor:
    """How much a file differs from itself on a device.

    Attributes:
        run: hash of the run on the device.
        started: when the comparisons were read.
        runtime: what ran the file, in words.
        value: the largest difference, such as 0.012 for 1.2 %.
        comparisons: number of valid ones.
        seconds: length of a comparison, median.
        openings: how often the sessions were opened in a comparison, median.
        model: name of the file.
    """

    run: str
    started: str
    fingerprint: str
    runtime: str
    cores: str
    threads: int
    value: float
    comparisons: int
    seconds: float
    openings: int
    model: str

    def at(self, seconds: float) -> float:
        """The largest difference in comparisons of this length, as of :mod:`retort.benchmarks.repeatability`."""
        return at_length(self.value, self.seconds, self.openings, seconds)

    @property
    def text(self) -> str:
        """One sentence with the floor and where it comes from."""
        times = f"{counted(self.comparisons, 'comparison')} of {self.seconds:.1f} s of {self.model}"
        told = f"{times}, measured on {self.started[:10]}"
        return f"on this device a file differs from itself by up to {self.value:.2%} ({told})"
