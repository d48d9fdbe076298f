"""In how many simulations the 99 % interval of a percentile holds the truth: heavy tails, and correlated times."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ....core.metrics.intervals import NORMAL, Floats, wilson
from ...timing.statistics import PERCENTILE_CONFIDENCE, percentile_interval

PERCENTILES = (50.0, 90.0, 99.0)
SAMPLES = 4_000
SIMULATIONS = 10_000
AT_ONCE = 250
CORRELATION = 0.9
TOLERANCE = 0.005
"""How far the coverage may be from 99 % (benchmarks.md B3)."""

Quantile = Callable[[Floats], Floats]


def lognormal(shares: Floats) -> Floats:
    """Quantiles of times that scatter by 10 %."""
    return np.asarray(np.exp(0.1 * _normal(shares)), np.float64)


def pareto(shares: Floats) -> Floats:
    """Quantiles of heavy tails, whose variance is infinite (shape 1.5)."""
    return np.asarray((1 - shares) ** (-1 / 1.5), np.float64)


def two_states(shares: Floats) -> Floats:
    """Quantiles of a machine that is 1.4 times as slow in 30 % of the time, with 1 % of scatter in both states."""
    slow = shares > 0.7
    within = np.where(slow, (shares - 0.7) / 0.3, shares / 0.7)
    return np.where(slow, 1.4, 1.0) * np.exp(0.01 * _normal(np.clip(within, 1e-12, 1 - 1e-12)))


LAWS: dict[str, Quantile] = {"log-normal": lognormal, "Pareto 1.5": pareto, "two states": two_states}


@dataclass(frozen=True)
class Coverage:
    """In how many simulations the interval holds the true percentile.

    Attributes:
        law: of the times.
        correlated: whether neighbouring times are correlated by 0.9.
        percentile: such as 99.0.
        simulations: number of them.
        held: in how many the interval holds the truth.
        withheld: in how many there was no interval, because the times were too few.
    """

    law: str
    correlated: bool
    percentile: float
    simulations: int
    held: int
    withheld: int = 0

    @property
    def share(self) -> float:
        """Share of the given intervals that hold the truth; 1 if none was given."""
        given = self.simulations - self.withheld
        return self.held / given if given else 1.0

    @property
    def wrong_share(self) -> float:
        """Share of all simulations in which an interval was given that does not hold the truth."""
        return (self.simulations - self.withheld - self.held) / self.simulations

    @property
    def reached(self) -> bool:
        """Whether an interval that does not hold the truth was given in at most 1.5 % of the simulations."""
        return self.wrong_share <= 1 - PERCENTILE_CONFIDENCE + TOLERANCE

    def to_dict(self) -> dict[str, Any]:
        """All values, as JSON-ready values."""
        return {**asdict(self), "share": self.share}


def coverages(simulations: int = SIMULATIONS, samples: int = SAMPLES, seed: int = 0) -> list[Coverage]:
    """The coverage for each law, percentile and kind of dependence.

    Args:
        samples: number of times in each simulation.
    """
    return [
        found
        for index, (name, law) in enumerate(LAWS.items())
        for correlated in (False, True)
        for found in _covered(name, law, correlated, simulations, samples, seed + 10 * index + correlated)
    ]


def _covered(name: str, law: Quantile, correlated: bool, simulations: int, samples: int, seed: int) -> list[Coverage]:
    random = np.random.default_rng(seed)
    truths = {percentile: float(law(np.array([percentile / 100]))[0]) for percentile in PERCENTILES}
    held, withheld = dict.fromkeys(PERCENTILES, 0), dict.fromkeys(PERCENTILES, 0)
    for done in range(0, simulations, AT_ONCE):
        count = min(AT_ONCE, simulations - done)
        for times in law(_shares(random, (count, samples), correlated)):
            for percentile, truth in truths.items():
                found = percentile_interval(times, percentile)
                if found.low is None or found.high is None:
                    withheld[percentile] += 1
                else:
                    held[percentile] += found.low <= truth <= found.high
    return [Coverage(name, correlated, one, simulations, held[one], withheld[one]) for one in PERCENTILES]


def _shares(random: np.random.Generator, shape: tuple[int, int], correlated: bool) -> Floats:
    """Uniform numbers, a series in each row; with correlation, those of an autoregressive process of first order."""
    if not correlated:
        return np.asarray(random.random(shape), np.float64)
    values = random.standard_normal(shape)
    scale = math.sqrt(1 - CORRELATION**2)
    for index in range(1, shape[1]):
        values[:, index] = CORRELATION * values[:, index - 1] + scale * values[:, index]
    return _cdf(values)


def _normal(shares: Floats) -> Floats:
    return np.asarray(np.interp(shares, _GRID_SHARES, _GRID), np.float64)


def _cdf(values: Floats) -> Floats:
    return np.asarray(np.interp(values, _GRID, _GRID_SHARES), np.float64)


_GRID = np.linspace(-6, 6, 6001)
_GRID_SHARES = np.array([NORMAL.cdf(value) for value in _GRID.tolist()])


def table(found: Sequence[Coverage]) -> tuple[list[str], list[list[str]]]:
    """Columns, and a row for each law, kind of dependence and percentile: without an interval, and with a wrong one."""
    columns = [
        "times",
        "neighbours",
        "percentile",
        "simulations",
        "coverage",
        "95 % interval",
        "no interval",
        "wrong interval",
    ]
    return columns, [_row(one) for one in found]


def _row(one: Coverage) -> list[str]:
    given = one.simulations - one.withheld
    reach = wilson(one.held, given, 0.95) if given else None
    return [
        one.law,
        f"correlated by {CORRELATION:g}" if one.correlated else "independent",
        f"p{one.percentile:g}",
        str(one.simulations),
        f"{100 * one.share:.2f} %",
        "" if reach is None else f"[{100 * reach.low:.2f}, {100 * reach.high:.2f}]",
        f"{100 * one.withheld / one.simulations:.1f} %",
        f"{100 * one.wrong_share:.2f} %",
    ]
