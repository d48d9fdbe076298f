"""A timing without a break: how fast each model was in its first and in its last minute, and who was fastest then."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .pulled_results import Pulled

PART = "sustain"
MINUTE_S = 60.0
SLOWER = 1.1
"""Ratio of the last minute's time to the first one's from which a device did not keep its speed."""


@dataclass(frozen=True)
class Sustained:
    """One model in a long timing; times are medians over rounds, in milliseconds per call, by the clock of the run.

    Attributes:
        first_ms: in the first minute, or the first third of a shorter timing.
        last_ms: in the last minute, or the last third.
        minutes: duration of the timing.
    """

    name: str
    first_ms: float
    last_ms: float
    minutes: float

    @property
    def slowdown(self) -> float:
        """How many times longer a call took at the end."""
        return self.last_ms / self.first_ms


def sustained(pulled: Pulled) -> list[Sustained]:
    """The models of a long timing, the fastest of the last minute first; empty if there was none."""
    part = pulled.parts.get(PART)
    if part is None or part.error or len(part.arrays.get("moments", ())) < 3:
        return []
    moments = part.arrays["moments"] - part.arrays["moments"][0]
    span = min(MINUTE_S, float(moments[-1]) / 3)
    early, late = moments <= span, moments >= moments[-1] - span
    found = []
    for name in part.said["plans"]:
        rounds = np.median(part.arrays[f"spent:{name}"].astype(np.float64), axis=1) / 1e6
        first, last = float(np.median(rounds[early])), float(np.median(rounds[late]))
        found.append(Sustained(str(name), first, last, float(moments[-1]) / 60))
    return sorted(found, key=lambda one: one.last_ms)


def lines_of(models: list[Sustained]) -> list[str]:
    """The ranking at the end and what became slower, in sentences."""
    if not models:
        return []
    ranked = ", ".join(f"{one.name} {one.last_ms:.3g} ms" for one in models)
    told = [f"after {models[0].minutes:.1f} min without a break: {ranked}"]
    first = [one.name for one in sorted(models, key=lambda one: one.first_ms)]
    if first != [one.name for one in models]:
        told.append(f"at the beginning the order was {', '.join(first)}")
    told += [
        f"{one.name} took {one.slowdown:.2f} times as long at the end as at the beginning"
        for one in models
        if one.slowdown > SLOWER
    ]
    return told
