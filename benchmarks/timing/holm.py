"""Holm's correction of p values when several candidates are compared with one reference.

S. Holm, Scandinavian Journal of Statistics 6 (1979), 65-70: the chance that any of the equal candidates is called
different stays below the level, whatever the dependence between the comparisons.
"""

from __future__ import annotations

from collections.abc import Mapping


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """The corrected p values by name, in the given order: each may be compared with the level of all together.

    Args:
        p_values: by name, one per comparison.
    """
    corrected: dict[str, float] = {}
    largest = 0.0
    for place, name in enumerate(sorted(p_values, key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[name]))
        corrected[name] = largest
    return {name: corrected[name] for name in p_values}
