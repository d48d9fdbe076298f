"""Prometheus' text format and its ``histogram_quantile``, written after its documentation, for tests of metrics."""

from __future__ import annotations

import math
import re

Labels = tuple[tuple[str, str], ...]
Samples = dict[tuple[str, Labels], float]
_SAMPLE = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)")
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"')


def samples(text: bytes) -> Samples:
    """The value of each series by its name and labels; a series that stands twice fails."""
    found: Samples = {}
    for line in text.decode().splitlines():
        if line.startswith("#"):
            continue
        match = _SAMPLE.fullmatch(line)
        assert match, line
        key = (match[1], tuple(sorted(_LABEL.findall(match[2] or ""))))
        assert key not in found, line
        found[key] = float(match[3])
    return found


def minus(after: Samples, before: Samples) -> Samples:
    """What each series gained."""
    return {key: value - before.get(key, 0.0) for key, value in after.items()}


def quantile(found: Samples, name: str, share: float, **labels: str) -> float:
    """The quantile of a histogram, summed over its series with these labels, as Prometheus interpolates it."""
    counts: dict[float, float] = {}
    for (sample, given), value in found.items():
        if sample == f"{name}_bucket" and set(labels.items()) <= set(given):
            bound = float(dict(given)["le"])
            counts[bound] = counts.get(bound, 0.0) + value
    rank = share * counts[math.inf]
    below, low = 0.0, 0.0
    for bound, count in sorted(counts.items()):
        if count >= rank:
            return low if math.isinf(bound) else low + (bound - low) * (rank - below) / (count - below)
        below, low = count, bound
    return math.nan
