"""The results of a device in the one form of results, so that tables, reports, comparisons and gates read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from statistics import median
from typing import Any

import numpy as np

from ...core.artifact import Artifact, load_artifact
from ...core.counts import counted, listed
from ...core.errors import ArtifactError
from ...core.options.stage_options import MetricName
from ..accuracy import Accuracy, Predictions, measure_accuracy
from ..build_result import new_result, stage_entry
from ..compare_models import metric_of
from ..footprint import Memory
from ..result import EnergyEntry, Result
from ..timing.latency import LatencyComparison, above_floor
from .device_machine import device_name, machine_of
from .device_noise import Floors, floor_of
from .device_runtimes import WORDS
from .device_times import comparison_of
from .energy import Energy
from .pulled_results import Part, Pulled


def results_of(
    pulled: Pulled,
    metric: MetricName | None = None,
    where: str = "",
    energy: Sequence[Energy] = (),
    floors: Floors | None = None,
) -> list[Result]:
    """One result for each kind of cores and number of threads that were timed; one without times if none was.

    Args:
        metric: by default it is chosen from the type of the targets.
        where: the device as the user calls it.
        energy: the energy of an inference of each candidate, where it was measured.
        floors: the noise of devices, within which a difference is none.

    Raises:
        ArtifactError: the raw numbers of a part are incomplete, or no part has any.
    """
    policy = pulled.described["policy"]
    confidence, seed = float(policy["confidence"]), int(policy["seed"])
    groups: dict[tuple[str, int], dict[int, LatencyComparison]] = {}
    for part in pulled.of_kind("latency"):
        if not part.error and part.name != "sustain":
            key = (str(part.said["cores"]), int(part.said["threads"]))
            groups.setdefault(key, {})[int(part.said["batch"])] = comparison_of(pulled, part, confidence, seed)
    accuracy = _accuracies(pulled, metric, confidence)
    if not groups and not accuracy:
        told = "; ".join(_notes(pulled)) or pulled.why or "no part was finished"
        raise ArtifactError(f"nothing was measured: {told}", "ask for something that the device has, and run it again")
    device = device_name(pulled.device, where)
    timed = (groups or {("all", 0): {}}).items()
    made = [_result(pulled, device, key, latency, accuracy, floors or {}) for key, latency in timed]
    entries = {one.name: EnergyEntry(**{key: asdict(one)[key] for key in EnergyEntry.model_fields}) for one in energy}
    return [_with_energy(one, entries) for one in made]


def _with_energy(result: Result, entries: Mapping[str, EnergyEntry]) -> Result:
    stages = tuple(stage.model_copy(update={"energy": entries.get(stage.stage)}) for stage in result.stages)
    return result.model_copy(update={"stages": stages})


def _result(
    pulled: Pulled,
    device: str,
    key: tuple[str, int],
    latency: Mapping[int, LatencyComparison],
    accuracy: Mapping[str, Accuracy],
    floors: Floors,
) -> Result:
    names = [one["name"] for one in pulled.described["candidates"]]
    runtimes = [WORDS[str(one.get("runtime") or "ort")] for one in pulled.described["candidates"]]
    noise = floor_of(floors, pulled.device, runtimes, *key)
    if noise is not None:
        latency = {batch: above_floor(found, noise.at) for batch, found in latency.items()}
    entries = [
        stage_entry(
            one["name"],
            _artifact(pulled, one),
            accuracy=accuracy.get(one["name"]),
            latency=latency,
            memory=_memory(pulled, one["name"]),
            runtime=WORDS[str(one.get("runtime") or "ort")],
        )
        for one in pulled.described["candidates"]
    ]
    cores, threads = key
    kind = "" if cores == "all" else f", {cores} cores"
    told = f", {counted(threads, 'thread')}" if latency else ""
    data = pulled.described["data"]
    facts = {"fingerprint": data["fingerprint"], "test_samples": data["rows"], "cores": cores}
    against = f"{listed(names[1:])} against {names[0]}" if names[1:] else names[0]
    return new_result(
        f"{against} on {device}{kind}{told}",
        entries,
        reference=names[0],
        latency=latency,
        data=facts,
        notes=[*_notes(pulled), *([noise.text] if noise is not None and latency else [])],
        machine=machine_of(pulled.device),
    )


def _artifact(pulled: Pulled, candidate: Mapping[str, Any]) -> Artifact:
    return load_artifact(pulled.bundle / str(candidate["file"]))


def _memory(pulled: Pulled, name: str) -> Memory | None:
    """The median over the starts of the largest memory."""
    starts = [part.said for part in pulled.of_kind("cold") if part.said["candidate"] == name and not part.error]
    known = [one for one in starts if one.get("peak_bytes") and one.get("baseline_bytes")]
    if not known:
        return None
    peak, base = (int(median(one[key] for one in known)) for key in ("peak_bytes", "baseline_bytes"))
    return Memory(peak, base, max(0, peak - base), 1)


def _accuracies(pulled: Pulled, metric: MetricName | None, confidence: float) -> dict[str, Accuracy]:
    """The metric of each candidate whose samples were all computed, and its loss against the reference."""
    found = {name: part for part in pulled.of_kind("accuracy") if (name := str(part.said["candidate"])) and part.arrays}
    names = [one["name"] for one in pulled.described["candidates"] if one["name"] in found]
    if not names or names[0] != pulled.described["reference"]:
        return {}
    outputs = {name: outputs_of(found[name]) for name in names}
    targets = pulled.described["data"]["targets"]
    truth = None if targets is None else np.load(pulled.bundle / targets, allow_pickle=False)
    done = min(len(next(iter(values.values()))) for values in outputs.values())
    made = {
        name: Predictions(values, truth if truth is None else truth[:done]).first(done)
        for name, values in outputs.items()
    }
    first = made[names[0]]
    judged = metric or metric_of(first)
    return {
        name: measure_accuracy(judged, made[name], None if name == names[0] else first, confidence=confidence)
        for name in names
    }


def outputs_of(part: Part) -> dict[str, Any]:
    """The outputs of a candidate by name, one row per sample."""
    return {name.partition(":")[2]: array for name, array in part.arrays.items() if name.startswith("output:")}


def _notes(pulled: Pulled) -> list[str]:
    """What did not go as asked, in sentences."""
    told = [f"{part.name} failed: {part.error}" for part in pulled.parts.values() if part.error]
    if pulled.state == "ended":
        told.insert(0, f"the run was ended before it was finished: {pulled.why}")
    policy, clusters = pulled.described["policy"], pulled.device["cpu"].get("clusters") or {}
    for kind, cpus in clusters.items():
        if kind in policy.get("cores", ()) and (most := max(policy["threads"])) > len(cpus):
            cores = "cores" if kind == "all" else f"{kind} cores"
            told.append(
                f"{most} threads were asked for, and the device has {len(cpus)} {cores}: {len(cpus)} were timed"
            )
    if lacking := [kind for kind in policy.get("cores", ()) if clusters and kind not in clusters]:
        told.append(f"nothing was timed on {listed(lacking)} cores: the device tells of no such kinds")
    if policy.get("celsius") is not None and not any(one.get("celsius") for one in pulled.readings):
        told.append(f"the limit of {policy['celsius']:g} °C was not watched: the device reports no temperature")
    return told
