"""Starts, outputs beside this machine's, and energy of a run, from files as a device writes them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edge_devices import bundle, dense

from retort.benchmarks.edge import outputs_here
from retort.benchmarks.edge.device_result import _notes
from retort.benchmarks.edge.device_summary import cold_start, lines_of_device, rows_of_models
from retort.benchmarks.edge.outputs_here import beside_here
from retort.benchmarks.edge.pulled_results import Part, Pulled
from retort.core.artifact import Artifact
from retort.core.session import open_session

START = {
    "kind": "cold", "candidate": "net", "drop_cache": False, "start_s": 0.01, "import_s": 0.2, "load_s": 0.05,
    "first_s": 0.02, "calls_s": [0.02, 0.01, 0.005, *[0.004] * 20], "peak_bytes": 60_000_000,
    "baseline_bytes": 50_000_000,
}  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A bundle of one net."""
    folder = tmp_path_factory.mktemp("made")
    return bundle(folder / "bundle", {"net": dense(folder / "net.onnx", 16)})


def pulled(made: Artifact, parts: dict[str, Part], readings: list[dict[str, Any]], **limits: Any) -> Pulled:
    """Results of a device that measured these parts."""
    import json

    described = json.loads((made.path / "edge.json").read_text())
    device = {"board": "a board", "limits": limits, "cpu": {"model": ""}, "machine": "aarch64"}
    return Pulled(made.path, described, device, "finished", "", parts, readings)


def test_starts_are_medians_and_cold_files_are_apart(made: Artifact) -> None:
    """Medians of warm starts; the steady call is the first that is as short as the last ones."""
    starts = [START, {**START, "load_s": 0.07}, {**START, "load_s": 0.06}, {**START, "load_s": 0.9, "drop_cache": True}]
    parts = {f"cold-{at}": Part(f"cold-{at}", one) for at, one in enumerate(starts)}
    parts["failed"] = Part("failed", {**START, "load_s": 99.0, "error": "killed"})
    found = cold_start(pulled(made, parts, []), "net")
    assert found is not None
    assert (found.load_s, found.cold_file_load_s, found.starts) == (0.06, 0.9, 4)
    assert found.steady_s == pytest.approx(0.01 + 0.2 + 0.06 + 0.02 + 0.01 + 0.005 + 0.004)
    (row,) = rows_of_models(pulled(made, parts, []))
    assert row[:6] == ("net", "200", "60 (900)", "20.0", "309", "60")
    assert cold_start(pulled(made, {}, []), "net") is None


@pytest.mark.parametrize("changed", [None, 1e-6, 0.5])
def test_outputs_are_compared_sample_by_sample(made: Artifact, tmp_path: Path, changed: float | None) -> None:
    """The first sample that differs is named; rounding is no difference."""
    session = open_session(made.path / "models/0/model.onnx")
    outputs = np.array(session.run({"x": np.load(made.path / "data/input-0.npy")})["y"])
    session.close()
    scale = float(np.ptp(outputs))
    outputs[11, 1] += (changed or 0) * scale
    np.savez(tmp_path / "raw.npz", allow_pickle=False, **{"output:y": outputs})
    said = {"kind": "accuracy", "candidate": "net", "rows": 40}
    found = beside_here(pulled(made, {"a": Part("a", said, tmp_path / "raw.npz")}, []), "net")
    assert found is not None
    assert found.samples == 40
    assert found.first == (11 if changed == 0.5 else None)
    assert found.largest == pytest.approx(changed or 0, rel=0.2, abs=1e-6)


def test_samples_that_have_no_answer_here_either_are_left_out(tmp_path: Path) -> None:
    """Of a model that fails on sample 7 everywhere, the seven before it are compared; one that fails here is told."""
    failing = bundle(tmp_path / "bundle", {"net": dense(tmp_path / "net.onnx", 16, fails_at=9.0)})
    session = open_session(failing.path / "models/0/model.onnx")
    outputs = np.array(session.run({"x": np.load(failing.path / "data/input-0.npy")[:7]})["y"])
    session.close()
    said = {"kind": "accuracy", "candidate": "net", "rows": 40, "error": "sample 7: no answer"}
    for rows, told in ((7, "as here, bit for bit"), (8, "not compared: the model cannot compute these inputs: ")):
        there = np.concatenate([outputs, outputs[:1]])[:rows]
        np.savez(tmp_path / "raw.npz", allow_pickle=False, **{"output:y": there})
        (row,) = rows_of_models(pulled(failing, {"a": Part("a", said, tmp_path / "raw.npz")}, []))
        assert row[-1].startswith(told)


def test_classes_are_those_of_the_first_floating_point_output(made: Artifact, tmp_path: Path) -> None:
    """Another output before the scores does not hide that a class differs, and is compared as well."""
    session = open_session(made.path / "models/0/model.onnx")
    scores = np.array(session.run({"x": np.load(made.path / "data/input-0.npy")})["y"])
    session.close()
    there = {"indices": np.arange(2 * len(scores)).reshape(-1, 2), "y": scores.copy()}
    there["y"][5, (scores[5].argmax() + 1) % 3] = scores.max() + 1
    here = {**there, "y": scores}
    np.savez(tmp_path / "raw.npz", allow_pickle=False, **{f"output:{name}": values for name, values in there.items()})
    part = Part("a", {"kind": "accuracy", "candidate": "net", "rows": 40}, tmp_path / "raw.npz")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outputs_here, "_outputs_here", lambda *given: here)
        found = beside_here(pulled(made, {"a": part}, []), "net")
    assert found is not None
    assert (found.decisions, found.first) == (1, 5)


def test_fewer_cores_than_threads_are_told(made: Artifact) -> None:
    """What was asked for beyond the cores of a device is a note of the result."""
    found = pulled(made, {}, [])
    described = {**found.described, "policy": {**found.described["policy"], "threads": [1, 64]}}
    device = {**found.device, "cpu": {"model": "", "clusters": {"all": [0, 1]}}}
    (note,) = _notes(replace(found, described=described, device=device))
    assert note == "64 threads were asked for, and the device has 2 cores: 2 were timed"


def _timed(readings: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"t": 0.0, "what": "latency"}, *readings]


def test_energy_is_counted_over_a_wrap(made: Artifact) -> None:
    """A counter that begins again at 0 gives the same power; a rail gives its mean; else it is unavailable."""
    part = {"latency": Part("latency", {"kind": "latency"})}
    counts = [990_000_000, 998_000_000, 6_000_000, 14_000_000]
    counters = [{"t": float(at), "microjoules": {"package": value}} for at, value in enumerate(counts)]
    found = lines_of_device(pulled(made, part, _timed(counters), microjoules_wrap={"package": 1_000_000_000}))
    assert found[0] == "8.0 W on average during the timings"
    rails = [{"t": float(at), "watts": {"in": 4.0 + at, "cpu": 1.0}} for at in range(3)]
    assert lines_of_device(pulled(made, part, _timed(rails)))[0] == "5.0 W on average during the timings"
    nothing = lines_of_device(pulled(made, part, _timed([{"t": 0.0}])))
    assert nothing == ["energy: unavailable on this device", "nothing on this device says whether it was throttled"]


def test_heat_is_told(made: Artifact) -> None:
    """Temperatures and frequencies of the timings, and no more doubt where something tells of throttling."""
    part = {"latency": Part("latency", {"kind": "latency"})}
    readings = [{"t": float(at), "celsius": {"a": 50.0 + at}, "mhz": {"cpu0": 1500.0 - at}} for at in range(3)]
    unknown = pulled(made, part, _timed(readings))
    known = replace(unknown, device={**unknown.device, "limits": {"trips_celsius": {"a": 85.0}}})
    told = ["50 °C at first and at most 52 °C; 1498 to 1500 MHz", "energy: unavailable on this device"]
    assert lines_of_device(known) == told
    assert lines_of_device(unknown) == [*told, "nothing on this device says whether it was throttled"]


def test_mcnemar_says_whether_other_classes_are_chance(made: Artifact, tmp_path: Path) -> None:
    """Six samples that are right here and wrong there are told with the p-value of the exact test."""
    session = open_session(made.path / "models/0/model.onnx")
    outputs = np.array(session.run({"x": np.load(made.path / "data/input-0.npy")})["y"])
    session.close()
    targets = np.load(made.path / "data/targets.npy")
    for sample in np.flatnonzero(outputs.argmax(1) == targets)[:6]:
        outputs[sample, (targets[sample] + 1) % 3] = outputs.max() + 1
    np.savez(tmp_path / "raw.npz", allow_pickle=False, **{"output:y": outputs})
    part = Part("a", {"kind": "accuracy", "candidate": "net", "rows": 40}, tmp_path / "raw.npz")
    found = beside_here(pulled(made, {"a": part}, []), "net")
    assert found is not None
    assert found.right is not None
    assert (found.decisions, found.right.lost, found.right.gained) == (6, 6, 0)
    assert found.right.p_value == pytest.approx(2 * 0.5**6)
    (row,) = rows_of_models(pulled(made, {"a": part}, []))
    assert "6 other classes of 40, right 0 more and 6 fewer (McNemar p = 0.031)" in row[-1]


@pytest.mark.parametrize(
    ("ours", "theirs", "apart"),
    [
        ([[1.0, 3.0]], [[1.0, float("nan")]], float("inf")),
        ([[1.0, float("inf")]], [[1.0, float("inf")]], 0.0),
        ([[float("nan")]], [[float("nan")]], 0.0),
        ([[float("nan")]], [[1.0]], float("inf")),
        ([[True, False]], [[True, True]], 1.0),
        ([[2, 4]], [[2, 5]], 0.5),
        ([[1.0, 1.0]], [[1.0, 1.5]], 0.5),
    ],
)
def test_what_is_no_number_differs(ours: list[Any], theirs: list[Any], apart: float) -> None:
    """NaN on one side alone is a difference, at the same place on both it is none; booleans and integers count too."""
    assert outputs_here._apart(np.array(ours), np.array(theirs)).tolist() == [apart]
