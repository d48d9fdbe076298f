"""A result of a device has its sensors, starts and long timing, in few numbers however long it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drawn_results import drawn_result
from known import known

from retort.benchmarks.device_entries import MOST, LongTiming, SensorSeries
from retort.benchmarks.device_evidence import throttled_at, with_evidence
from retort.benchmarks.edge.pulled_results import Part, Pulled
from retort.benchmarks.result import Result, from_json, to_json


def pulled(folder: Path, seconds: float = 600.0) -> Pulled:
    """A run with one timing, one start of each of two models, and a long timing in which the board became hot."""
    parts: dict[str, Part] = {}
    readings: list[dict[str, Any]] = []
    for name, start, length in (("latency-all-t1-b1", 1000.0, 4.0), ("sustain", 1010.0, seconds)):
        moments = start + np.arange(0, length, 0.05)
        arrays: dict[str, Any] = {"moments": moments}
        for model in ("fp32", "int8"):
            arrays[f"spent:{model}"] = np.full((len(moments), 1), 1e6, np.float32)
        np.savez(folder / f"{name}.npz", allow_pickle=False, **arrays)
        said = {"kind": "latency", "cores": "all", "threads": 1, "batch": 1, "plans": {"fp32": {}, "int8": {}}}
        parts[name] = Part(name, said, folder / f"{name}.npz")
        readings.append({"t": start - 0.1, "what": name, "run": 1})
        for at in np.arange(start, start + length, 0.5):
            heat = 50 + 35 * (at - start) / length
            bits = 4 if heat > 80 else 0
            readings.append({"t": float(at), "run": 1, "celsius": {"cpu": float(heat), "gpu": 20.0},
                             "mhz": {"cpu0": 1500.0, "cpu1": 2400.0}, "firmware": bits})  # fmt: skip
    for model in ("fp32", "int8"):
        said = {"kind": "cold", "candidate": model, "drop_cache": False, "start_s": 0.02, "import_s": 0.5,
                "load_s": 0.1, "first_s": 0.01, "calls_s": [0.01, 0.001, 0.001], "error": ""}  # fmt: skip
        parts[f"cold-{model}"] = Part(f"cold-{model}", said)
    return Pulled(folder, {"candidates": []}, {"limits": {}}, "finished", "", parts, readings)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """A result with the evidence of ten minutes."""
    return with_evidence(drawn_result(data={"cores": "all"}), pulled(tmp_path_factory.mktemp("device")))


def test_sensors_lie_beside_the_rounds(found: Result) -> None:
    """The hottest zone and the fastest core of each moment are told in seconds since the first round."""
    series = known(found.runs[0].sensors)
    assert series.moments_s[0] == 0
    assert series.celsius[0] == 50
    assert set(series.mhz) == {2400.0}
    assert series.watts == ()
    assert series.throttled_s == (3.5,)


def test_the_long_timing_is_bounded(found: Result) -> None:
    """Ten minutes of 12,000 rounds and 1,200 readings become 600 moments each, and survive JSON."""
    long = known(found.sustained)
    assert len(long.moments_s) == len(known(long.sensors).moments_s) == MOST
    assert long.times_ms["int8"] == (1.0,) * MOST
    assert max(known(value) for value in known(long.sensors).celsius) > 84
    assert len(known(long.sensors).throttled_s) <= MOST
    assert len(json.dumps(long.model_dump(mode="json"))) < 60_000
    assert from_json(to_json(found)) == found


def test_starts_are_told_of_each_model(found: Result) -> None:
    """Each model has the medians of its starts; a result without a device's run has none."""
    assert [known(stage.start).load_s for stage in found.stages] == [0.1, 0.1]
    assert {stage.start for stage in drawn_result().stages} == {None}


def _hot(*clocks: float) -> list[dict[str, Any]]:
    return [{"t": float(at), "mhz": {"a": clock}, "celsius": {"z": 99.0}} for at, clock in enumerate(clocks)]


@pytest.mark.parametrize(
    ("readings", "moments"),
    [
        ([{"t": 1.0, "firmware": 0x50000}, {"t": 2.0, "firmware": 0x50000}], []),
        ([{"t": 1.0, "firmware": 0}, {"t": 2.0, "firmware": 0x20000}, {"t": 3.0, "firmware": 0x20000}], [2.0]),
        ([{"t": 1.0, "firmware": 4}, {"t": 2.0, "firmware": 0x40000}], [1.0]),
        (
            [
                {"t": float(at), "throttle_counts": {"package_throttle_count": seen}}
                for at, seen in enumerate((1, 3, 3))
            ],
            [1.0],
        ),
        (_hot(2000, 2000, 900, 900, 2000, 2000), [2.0, 3.0]),
        (_hot(2000, 2000, 2000, 2000, 2000, 2000), []),
        ([{"t": 1.0}], []),
    ],
)
def test_moments_of_throttling(readings: list[dict[str, Any]], moments: list[float]) -> None:
    """A bit that is true or new, a counter that grew, and a low frequency at a trip point are moments of throttling."""
    assert throttled_at(readings, {"trips_celsius": {"z": 95.0}}) == moments


def test_series_of_different_length_are_faults() -> None:
    """A series that does not fit its moments is refused with a sentence."""
    with pytest.raises(ValueError, match="celsius and moments_s differ in length"):
        SensorSeries(moments_s=(0.0, 1.0), celsius=(50.0,))
    with pytest.raises(ValueError, match="times_ms and moments_s differ in length"):
        LongTiming(threads=1, batch=1, moments_s=(0.0,), times_ms={"a": ()}, first_ms={"a": 1}, last_ms={"a": 1})
