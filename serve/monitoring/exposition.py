"""Counts in Prometheus' text format 0.0.4, with which ``histogram_quantile`` works.

Part of the runtime half: standard library only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import accumulate

from .families import Family, places
from .shared_counts import Counts

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL = re.compile(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*")
_Labels = tuple[tuple[str, str], ...]


def exposition(found: Iterable[Counts]) -> bytes:
    """The text of all series; equal series of several processes are added up."""
    families: dict[str, Family] = {}
    sums: dict[str, dict[_Labels, list[float]]] = {}
    for counts in found:
        for family, labels, start in places(counts.families):
            known = families.setdefault(family.name, family)
            key = (*counts.labels.items(), *labels.items())
            if known.bounds != family.bounds or not _valid(family, key):
                continue  # of another version of Retort, or damaged
            cells = counts.cells[start : start + family.cells]
            before = sums.setdefault(family.name, {}).get(key)
            sums[family.name][key] = [*cells] if before is None else [a + b for a, b in zip(before, cells, strict=True)]
    lines = (line for name in sums for line in _family(families[name], sums[name]))
    return "".join(f"{line}\n" for line in lines).encode()


def _valid(family: Family, key: _Labels) -> bool:
    return bool(_NAME.fullmatch(family.name)) and all(_LABEL.fullmatch(name) for name, _ in key)


def _family(family: Family, series: dict[_Labels, list[float]]) -> Iterator[str]:
    about = family.about.replace("\\", "\\\\").replace("\n", "\\n")
    yield f"# HELP {family.name} {about}"
    yield f"# TYPE {family.name} {'histogram' if family.bounds else 'counter'}"
    for key, cells in series.items():
        labels = ",".join(f'{name}="{_escaped(value)}"' for name, value in key)
        if not family.bounds:
            yield f"{family.name}{{{labels}}} {cells[0]:.17g}"
            continue
        below = list(accumulate(cells[:-1]))
        for bound, count in zip((*map(repr, family.bounds), "+Inf"), below, strict=True):
            yield f'{family.name}_bucket{{{labels},le="{bound}"}} {count:.17g}'
        yield f"{family.name}_sum{{{labels}}} {cells[-1]:.17g}"
        yield f"{family.name}_count{{{labels}}} {below[-1]:.17g}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
