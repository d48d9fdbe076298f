"""The parts of a run, as the policy of the bundle and the processors of the device ask for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

ENERGY_TURNS = 3
"""How often the energy of each candidate is measured."""
Parts = dict[str, dict[str, Any]]


def planned_parts(
    manifest: Mapping[str, Any], clusters: Mapping[str, Sequence[int]], key: str, measures_power: bool
) -> Parts:
    """Every part by name, in order: starts, timings, accuracy, energy, and the timing without a break.

    Args:
        clusters: processors by kind.
        key: SHA-256 of the manifest.
    """
    policy, names = manifest["policy"], [one["name"] for one in manifest["candidates"]]
    common = {"seed": int(policy["seed"]), "manifest": key}
    found = _starts(policy, names, common)
    timing = {key: policy[key] for key in ("block_ms", "seconds", "precision", "needed")}
    timing = {**common, **timing, "kind": "latency", "candidates": names, "reference": manifest["reference"]}
    timing["every_slot"] = True
    for kind, cpus in clusters.items():
        if kind not in policy["cores"]:
            continue
        for threads in sorted({min(int(wanted) or len(cpus), len(cpus)) for wanted in policy["threads"]}):
            for batch in policy["batches"]:
                found[f"latency-{kind}-t{threads}-b{batch}"] = {
                    **timing, "cores": kind, "cpus": cpus, "threads": threads, "batch": batch,
                }  # fmt: skip
    every = clusters["all"]
    if policy["accuracy"]:
        for number, name in enumerate(names):
            found[f"accuracy-{_safe(number, name)}"] = {
                **common, "kind": "accuracy", "candidate": name, "threads": len(every), "cpus": [], "batch": 16,
            }  # fmt: skip
    if policy["energy"] == "on" or (policy["energy"] == "auto" and measures_power):
        found.update(_energy(policy, names, common, every))
    if policy["sustain_minutes"]:
        long = {"seconds": 60 * float(policy["sustain_minutes"]), "precision": 0, "every_slot": False}
        found["sustain"] = {
            **timing, **long, "cores": "all", "cpus": every, "threads": len(every), "batch": policy["batches"][0],
        }  # fmt: skip
    return found


def _starts(policy: Mapping[str, Any], names: Sequence[str], common: Mapping[str, Any]) -> Parts:
    found = {}
    for start in range(int(policy["starts"])):
        for number, name in enumerate(names):
            dropped = start >= int(policy["starts"]) - int(policy["cold_file_starts"])
            found[f"cold-{start}-{_safe(number, name)}"] = {
                **common, "kind": "cold", "candidate": name, "threads": 1, "cpus": [], "drop_cache": dropped,
                "calls": 50, "seconds": 2.0,
            }  # fmt: skip
    return found


def _energy(policy: Mapping[str, Any], names: Sequence[str], common: Mapping[str, Any], cpus: Sequence[int]) -> Parts:
    """Each candidate alone for some seconds, several times in turn, and nothing between the turns."""
    idle = {**common, "kind": "idle", "cpus": [], "seconds": policy["energy_seconds"]}
    found: Parts = {"idle-0": idle}
    for turn in range(ENERGY_TURNS):
        for at in range(len(names)):
            number = (at + turn) % len(names)
            found[f"energy-{turn}-{_safe(number, names[number])}"] = {
                **idle, "kind": "energy", "candidate": names[number], "cpus": cpus, "turn": turn,
                "threads": min(int(policy["threads"][0]) or len(cpus), len(cpus)), "batch": policy["batches"][0],
            }  # fmt: skip
        found[f"idle-{turn + 1}"] = idle
    return found


def _safe(number: int, name: str) -> str:
    """A name as part of a file name; the number makes it another one than that of every other model."""
    letters = (letter if letter.isascii() and (letter.isalnum() or letter in "-_") else "_" for letter in name[:40])
    return f"{number}-{''.join(letters)}"
