"""The parts of a run, as the policy asks for them; the device fills in its processors, and leaves out what it lacks.

They stand in the manifest, so that the program on the device has no rules of its own. Each has ``name``, in which
``{threads}`` is what the device has of them, ``cores``, the kind of its processors, ``threads``, 0 for all of them, and
``pinned``, whether it runs on these processors alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

ENERGY_TURNS = 3
"""How often the energy of each candidate is measured."""
NOISE_COMPARISONS, NOISE_S = 8, 2.0
"""Comparisons of a model with itself, and the longest duration of each in seconds."""
FILE, ITSELF = "file", "itself"
"""Names of a model and itself."""
ACCURACY_ROWS = 16
"""Samples that are computed at once for the accuracy, where the model takes as many."""
Part = dict[str, Any]


def planned_parts(candidates: Sequence[Mapping[str, Any]], policy: Mapping[str, Any]) -> list[Part]:
    """Every part in order: starts, timings, accuracy, energy, noise, and the timing without a break.

    Args:
        candidates: their entries in the manifest; the first is the reference.
    """
    found = [*_starts(candidates, policy), *_timings(candidates, policy)]
    if policy["accuracy"]:
        found += [_accuracy(number, one) for number, one in enumerate(candidates)]
    if policy["energy"] != "off":
        found += _energy(candidates, policy)
    if policy["noise"] != "off":
        found += _noise(candidates, policy)
    if policy["sustain_minutes"]:
        long = {"seconds": 60 * float(policy["sustain_minutes"]), "precision": 0, "every_slot": False}
        found.append({**_timing(candidates, policy, policy["batches"][0]), "name": "sustain", "threads": 0, **long})
    common = {"cores": "all", "threads": 1, "pinned": False, "seed": int(policy["seed"])}
    return [{**common, **part} for part in found]


def _starts(candidates: Sequence[Mapping[str, Any]], policy: Mapping[str, Any]) -> Iterator[Part]:
    for start in range(int(policy["starts"])):
        for number, one in enumerate(candidates):
            yield {
                "name": f"cold-{start}-{_safe(number, one)}",
                "kind": "cold",
                "candidate": one["name"],
                "batch": rows_at_once(one, 1),
                "drop_cache": start >= int(policy["starts"]) - int(policy["cold_file_starts"]),
                "calls": 50,
                "seconds": 2.0,
            }


def _timings(candidates: Sequence[Mapping[str, Any]], policy: Mapping[str, Any]) -> Iterator[Part]:
    for kind in policy["cores"]:
        for threads in sorted(policy["threads"], key=lambda wanted: (not wanted, wanted)):  # 0, all of them, is last
            for batch in policy["batches"]:
                name = f"latency-{kind}-t{{threads}}-b{batch}"
                yield {**_timing(candidates, policy, batch), "name": name, "cores": kind, "threads": threads}


def _timing(candidates: Sequence[Mapping[str, Any]], policy: Mapping[str, Any], batch: int) -> Part:
    return {
        **{key: policy[key] for key in ("block_ms", "seconds", "precision", "needed")},
        "kind": "latency",
        "candidates": {one["name"]: one["name"] for one in candidates},
        "reference": candidates[0]["name"],
        "batch": batch,
        "pinned": True,
        "every_slot": True,
    }


def _accuracy(number: int, candidate: Mapping[str, Any]) -> Part:
    """The outputs of a candidate for all samples; a batch that fails is done again sample by sample."""
    sizes = {rows_at_once(candidate, ACCURACY_ROWS), rows_at_once(candidate, 1)}
    return {
        "name": f"accuracy-{_safe(number, candidate)}",
        "kind": "accuracy",
        "candidate": candidate["name"],
        "threads": 0,
        "batches": sorted(sizes, reverse=True),
    }


def _energy(candidates: Sequence[Mapping[str, Any]], policy: Mapping[str, Any]) -> Iterator[Part]:
    """Each candidate alone for some seconds, several times in turn, and nothing between the turns."""
    common = {"seconds": policy["energy_seconds"], "needs_power": policy["energy"] == "auto"}
    yield {**common, "kind": "idle", "name": "idle-0"}
    for turn in range(ENERGY_TURNS):
        for at in range(len(candidates)):
            number = (at + turn) % len(candidates)
            one = candidates[number]
            yield {
                **common,
                "name": f"energy-{turn}-{_safe(number, one)}",
                "kind": "energy",
                "candidate": one["name"],
                "turn": turn,
                "threads": policy["threads"][0],
                "pinned": True,
                "batch": rows_at_once(one, policy["batches"][0]),
            }
        yield {**common, "kind": "idle", "name": f"idle-{turn + 1}"}


def _noise(candidates: Sequence[Mapping[str, Any]], policy: Mapping[str, Any]) -> Iterator[Part]:
    """Comparisons of the first model of each runtime with itself, for each kind of cores and number of threads."""
    first = {str(one["runtime"]): one for one in reversed(candidates)}
    for runtime, one in first.items():
        for kind in policy["cores"]:
            for threads in sorted(policy["threads"], key=lambda wanted: (not wanted, wanted)):
                for turn in range(NOISE_COMPARISONS):
                    yield {
                        **_timing([one], policy, policy["batches"][0]),
                        "name": f"{noise_name(runtime, kind, '{threads}')}{turn}",
                        "kind": "noise",
                        "candidates": {FILE: one["name"], ITSELF: one["name"]},
                        "reference": FILE,
                        "runtime": runtime,
                        "seconds": min(NOISE_S, policy["seconds"]),
                        "precision": 0,
                        "cores": kind,
                        "threads": threads,
                        "seed": int(policy["seed"]) + turn,
                    }


def noise_name(runtime: str, cores: str, threads: object) -> str:
    """How the names of the comparisons of a model with itself begin."""
    return f"noise-{runtime}-{cores}-t{threads}-"


def rows_at_once(candidate: Mapping[str, Any], wanted: int) -> int:
    """The number of rows nearest to a wanted one that a candidate takes at once.

    A model for one batch size takes no other one; a plan takes those of its profiles, given as ``batches``.
    """
    if candidate.get("fixed_batch"):
        return int(candidate["fixed_batch"])
    ranges = candidate.get("batches") or [(1, wanted)]
    return int(min((max(low, min(wanted, high)) for low, high in ranges), key=lambda rows: abs(rows - wanted)))


def _safe(number: int, candidate: Mapping[str, Any]) -> str:
    """A name as part of a file name; the number makes it another one than that of every other model."""
    name = str(candidate["name"])[:40]
    letters = (letter if letter.isascii() and (letter.isalnum() or letter in "-_") else "_" for letter in name)
    return f"{number}-{''.join(letters)}"
