"""The noise of a device: the largest difference between a model and itself, kept in the store for the next runs.

Of eight comparisons of a model with itself, another one exceeds the largest difference with a probability of 1 in 9,
whatever the distribution. It holds for a device as it is (its fingerprint has the versions), a runtime, a kind of cores
and a number of threads.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterable, Mapping
from statistics import median
from typing import Any

from ...core.errors import RetortError
from ..timing.latency import LatencyComparison
from .device_runtimes import WORDS
from .device_times import comparison_of
from .floor import Floor
from .planned_parts import ITSELF, noise_name
from .pulled_results import Part, Pulled
from .store import Store, fingerprint_of

FEWEST = 5
"""Number of valid comparisons without which there is no floor."""
Floors = Mapping[tuple[str, str, str, int], Floor]
"""By fingerprint, runtime, kind of cores and number of threads."""


def known_parts(store: Store, policy: Mapping[str, Any], facts: Mapping[str, Any]) -> list[str]:
    """How the names of the comparisons begin that were done before on a device with these facts.

    Args:
        policy: of the bundle; with ``noise: on`` all are done again.
    """
    if policy.get("noise") != "auto":
        return []
    try:
        floors = store.floors()
    except RetortError:  # told when results are added to it
        return []
    names = {words: key for key, words in WORDS.items()}
    key = fingerprint_of(facts)
    return [noise_name(names[one.runtime], one.cores, one.threads) for one in floors.values() if one.fingerprint == key]


def measured_floors(pulled: Pulled, run: str) -> list[Floor]:
    """The noise that a run found.

    Args:
        run: what identifies the run on the device.
    """
    groups: dict[tuple[str, str, int], list[LatencyComparison]] = {}
    models: dict[tuple[str, str, int], str] = {}
    for part in pulled.of_kind("noise"):
        key = (WORDS[str(part.said["runtime"])], str(part.said["cores"]), int(part.said["threads"]))
        models[key] = str(part.said["candidates"][ITSELF])
        if (found := _valid(pulled, part)) is not None:
            groups.setdefault(key, []).append(found)
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    common = (run, now, fingerprint_of(pulled.device))
    return [
        Floor(
            *common,
            *key,
            value=max(math.exp(abs(math.log(one.ratio_of(ITSELF).value))) - 1 for one in found),
            comparisons=len(found),
            seconds=median(one.seconds for one in found),
            openings=int(median(len(one.turns) for one in found)),
            model=models[key],
        )
        for key, found in groups.items()
        if len(found) >= FEWEST
    ]


def _valid(pulled: Pulled, part: Part) -> LatencyComparison | None:
    """A comparison of a model with itself; None if nothing can be told by it."""
    if part.error:
        return None
    policy = pulled.described["policy"]
    found = comparison_of(pulled, part, float(policy["confidence"]), int(part.said["seed"]))
    ratio = found.ratio_of(ITSELF)
    return found if found.noise.status == "VALID" and ratio.low is not None and ratio.value else None


def floor_of(
    floors: Floors, device: Mapping[str, Any], runtimes: Iterable[str], cores: str, threads: int
) -> Floor | None:
    """The largest floor of the runtimes of a comparison; None if none is known.

    Args:
        device: as it described itself.
        runtimes: in words.
    """
    key = fingerprint_of(device)
    found = (floors.get((key, runtime, cores, threads)) for runtime in runtimes)
    return max((one for one in found if one is not None), key=lambda one: one.value, default=None)
