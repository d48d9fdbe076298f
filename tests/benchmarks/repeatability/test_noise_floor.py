"""The noise floor of this machine: measured, interrupted, stored, and what `retort bench` makes of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from known import known
from measured_results import measured

from retort.__main__ import main
from retort.benchmarks import machine
from retort.benchmarks.repeatability import noise_floor, self_comparison
from retort.benchmarks.repeatability.noise_floor import NoiseFloor
from retort.benchmarks.report.compare import compare_results
from retort.benchmarks.small_networks import make_nets, random_feeds
from retort.core.artifact import load_artifact
from retort.core.errors import MachineError
from retort.core.metrics.ratio import Ratio
from retort.core.options.stage_options import BenchOptions
from retort.core.session import open_session

QUICK = BenchOptions(budget_s=0.25, block_ms=1.0)
FOUND = NoiseFloor(
    (1.01, 0.98, 1.001), 0, 1, {"processor": "x"}, "ONNX Runtime on the CPU 1.31", 1, "wide.onnx", 1, 5.0, "thread",
    12.5, "2026-12-01T06:00:00+00:00", 4.0, 9,
)  # fmt: skip


def exit_code(*arguments: str) -> object:
    """Run a command; its exit code."""
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return ended.value.code


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder."""
    monkeypatch.setenv("RETORT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_the_floor_is_the_largest_difference_in_either_direction() -> None:
    """A ratio of 0.98 is a difference of 2.04 %, which is more than 1.01."""
    assert FOUND.floor == pytest.approx(1 / 0.98 - 1)
    text = FOUND.text
    assert "by up to 2.04% (3 comparisons of 4.0 s of wide.onnx at batch 1, measured on 2026-12-01)" in text


def test_the_floor_of_longer_comparisons_is_lower() -> None:
    """With sessions opened again, it falls with the root of the length; else, and in shorter ones, it stays."""
    assert FOUND.at(16.0) == pytest.approx(FOUND.floor / 2)
    assert FOUND.at(1.0) == FOUND.floor
    assert replace(FOUND, openings=1).at(400.0) == FOUND.floor
    noisier = replace(FOUND, ratios=(1.03,), openings=1)
    assert noise_floor.largest([FOUND, noisier])(64.0) == pytest.approx(0.03)
    assert noise_floor.largest([])(1.0) == 0.0


def test_a_stored_floor_belongs_to_one_machine_runtime_and_number_of_threads() -> None:
    """What was stored is read again; another processor, runtime or number of threads has no floor."""
    noise_floor.store(FOUND)
    asked = FOUND.machine, FOUND.runtime, 1
    assert noise_floor.stored(*asked) == FOUND
    assert noise_floor.stored({"processor": "y"}, FOUND.runtime, 1) is None
    assert noise_floor.stored(FOUND.machine, "ONNX Runtime on the CPU 1.32", 1) is None
    assert noise_floor.stored(FOUND.machine, FOUND.runtime, 2) is None


@pytest.mark.parametrize("damaged", ["", "[]", "{", '{"schema": "retort.noise/2"}', '{"schema": "other"}'])
def test_a_damaged_floor_is_no_floor(damaged: str) -> None:
    """A file that is empty, cut off or of another form is as good as none."""
    noise_floor.store(FOUND).write_text(damaged)
    assert noise_floor.stored(FOUND.machine, FOUND.runtime, 1) is None


def test_an_interrupted_measurement_goes_on(tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C after three comparisons keeps them; the second call makes the other five and leaves no unfinished file."""
    model = load_artifact(make_nets(tmp_path)[1])
    append, seeds = self_comparison.append_row, []

    def interrupted(path: Path, row: Mapping[str, Any]) -> None:
        append(path, row)
        seeds.append(row["seed"])
        if len(seeds) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(self_comparison, "append_row", interrupted)
    with pytest.raises(KeyboardInterrupt):
        self_comparison.measure_floor(model, QUICK, 8)
    (unfinished,) = (own_cache / "noise").iterdir()
    unfinished.write_text(unfinished.read_text() + '{"ratio": 1.0')  # a row that was cut off
    found = self_comparison.measure_floor(model, QUICK, 8)
    assert seeds == list(range(8))
    assert len(found.ratios) + found.noisy == 8
    assert 0 <= found.floor < 0.5
    assert list((own_cache / "noise").iterdir()) == []
    assert found.machine == machine.identity(machine.fingerprint())


def test_a_machine_that_is_too_busy_has_no_floor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If most comparisons are NOISY, an error says why and what to do, and nothing is kept of them."""
    model = load_artifact(make_nets(tmp_path)[1])
    row = {"ratio": 1.0, "low": 0.9, "noisy": ["the hypervisor took 9 %"], "pressure_percent": None}
    monkeypatch.setattr(self_comparison, "compared", lambda *_: iter([row] * 8))
    with pytest.raises(MachineError, match=r"of 8 comparisons .* only 0 can be used: the hypervisor took 9 %"):
        self_comparison.measure_floor(model, QUICK, 8)


def test_a_ratio_within_the_floor_is_never_faster() -> None:
    """An interval above 1 decides nothing within the floor, in both directions; beyond the floor it does."""
    inside = Ratio(1.02, 1.01, 1.03, 0.95)
    assert (inside.verdict, replace(inside, noise_floor=0.025).verdict) == ("faster", "cannot tell")
    slower = Ratio(1 / 1.02, 1 / 1.03, 1 / 1.01, 0.95)
    assert (slower.verdict, replace(slower, noise_floor=0.025).verdict) == ("slower", "cannot tell")
    assert replace(inside, noise_floor=0.015).verdict == "faster"
    assert "2.5%" in replace(inside, noise_floor=0.025).why_undecided


def test_bench_uses_the_stored_floor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The result has the floor that was stored for this machine, and the note says where it comes from."""
    wide = make_nets(tmp_path)[0]
    images = np.random.default_rng(0).standard_normal((8, 3, 32, 32)).astype(np.float32)
    (tmp_path / "copy-wide.onnx").write_bytes(wide.read_bytes())
    np.savez(tmp_path / "data.npz", image=images)
    facts = machine.fingerprint()
    runtime = noise_floor.runtime_of(wide, "cpu", facts)
    noise_floor.store(replace(FOUND, ratios=(10.0,), machine=machine.identity(facts), runtime=runtime))
    command = ["bench", str(wide), str(tmp_path / "copy-wide.onnx"), "--data", str(tmp_path / "data.npz")]
    assert exit_code(*command, "--budget-s", "0.4", "--batch-sizes", "1", "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert result["stages"][1]["latency"]["1"]["ratio"]["noise_floor"] == pytest.approx(9)
    assert result["stages"][1]["latency"]["1"]["verdict"] == "cannot tell"
    assert any("differs from itself by up to 900.00%" in note for note in result["notes"])


def test_the_command_measures_stores_and_shows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`bench noise` stores what it found, and `--show` prints it or says which command measures it."""
    model = str(make_nets(tmp_path)[1])
    assert exit_code("bench", "noise", model, "--show") == 7
    assert "retort bench noise --threads 1" in capsys.readouterr().err
    assert exit_code("bench", "noise", model, "--comparisons", "8", "--budget-s", "0.5", "--json") == 0
    measured = json.loads(capsys.readouterr().out)
    assert exit_code("bench", "noise", model, "--show", "--json") == 0
    assert json.loads(capsys.readouterr().out) == measured
    assert known(measured["noise_floor"]) > 0


def test_inputs_are_made_for_every_type(tmp_path: Path) -> None:
    """Images are normal numbers with the rows that were asked for."""
    feeds = random_feeds(open_session(make_nets(tmp_path)[0]).signature, 5)
    assert feeds["image"].shape == (5, 3, 32, 32)
    assert 0.9 < feeds["image"].std() < 1.1


def test_runs_are_not_told_apart_within_the_floor(tmp_path: Path) -> None:
    """Two runs that differ by 30 % are slower and faster; with a floor of 60 % on their machine they cannot tell."""
    found, slower = measured(tmp_path), measured(tmp_path, slow=1.3, seed=5)
    assert {"slower"} == {
        verdict for one in compare_results(found, slower).changes for verdict in one.verdicts.values()
    }
    runtime = f"ONNX Runtime on the CPU {machine.runtime_version(slower.env, 'ONNX Runtime')}".strip()
    stages = tuple(stage.model_copy(update={"runtime": "ONNX Runtime on the CPU"}) for stage in slower.stages)
    slower = slower.model_copy(update={"stages": stages})
    where: dict[str, Any] = {
        "machine": machine.identity(slower.env),
        "runtime": runtime,
        "threads": slower.runs[0].threads,
    }
    noise_floor.store(replace(FOUND, ratios=(1.6,), **where))
    told = [change.verdicts.values() for change in compare_results(found, slower).changes]
    assert {"cannot tell"} == {verdict for verdicts in told for verdict in verdicts}
