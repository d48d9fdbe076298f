"""The gate over two results: what is compared, refused, told and written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from retort.benchmarks.gating import baseline, gate_models, gate_page
from retort.benchmarks.gating.baseline import Bounds, paired_names
from retort.benchmarks.result import Result, load_result
from retort.core.errors import UserError

RESULT = load_result(Path(__file__).parents[2] / "results/schema1.json")
LAST = RESULT.stages[-1].stage
SPEED = Bounds(5.0, None, None)


def quiet(result: Result, **noise: Any) -> Result:
    """The result as of a quiet machine, or with other facts about the noise."""
    told = {"status": "VALID", "reasons": (), "pressure_percent": 1.0, "steal_percent": 0.0} | noise
    runs = tuple(run.model_copy(update={"noise": run.noise.model_copy(update=told)}) for run in result.runs)
    return result.model_copy(update={"runs": runs})


def slowed(result: Result, factor: float) -> Result:
    """The result with times of all stages that are so many times as long."""
    stages = []
    for stage in result.stages:
        latency = {
            batch: entry.model_copy(update={"blocks_ms": tuple(factor * time for time in entry.blocks_ms)})
            for batch, entry in stage.latency.items()
        }
        stages.append(stage.model_copy(update={"latency": latency}))
    return result.model_copy(update={"stages": tuple(stages)})


def gated(before: Result, after: Result, bounds: Bounds = SPEED) -> gate_models.Gated:
    """The gate of the last stage."""
    return gate_models.gate_runs(before, after, {LAST: LAST}, bounds)


def steady(result: Result) -> Result:
    """The result with rounds that all took nearly the same time."""
    stages = []
    for stage in result.stages:
        latency = {
            batch: entry.model_copy(update={"blocks_ms": tuple(1.0 + 1e-4 * (k % 3) for k in range(30))})
            for batch, entry in stage.latency.items()
        }
        stages.append(stage.model_copy(update={"latency": latency}))
    return result.model_copy(update={"stages": tuple(stages)})


def test_a_result_of_a_device_is_known() -> None:
    """Only a result whose machine is a device says so, because its remedy is another command."""
    before = quiet(steady(RESULT))
    there = before.model_copy(update={"env": {**before.env, "device": {"host": "pi"}}})
    assert (gated(before, before).of_device, gated(there, there).of_device) == (False, True)


def test_two_quiet_runs_are_told_apart_from_a_slowdown_of_nine_percent() -> None:
    """Two equal runs of a quiet machine pass, 9 % more time fails, and 2.5 % more cannot be told."""
    before = quiet(steady(RESULT))
    assert gated(before, before).outcome == "passed"
    assert gated(before, slowed(before, 1.09)).outcome == "failed"
    assert gated(before, slowed(before, 1.025)).outcome == "cannot tell"


def test_two_runs_of_a_busy_machine_cannot_tell_five_percent() -> None:
    """Where processes waited, one file may differ by 5 % between runs: equal runs are undecided, 20 % still fail."""
    busy = quiet(steady(RESULT), pressure_percent=40.0)
    found = gated(busy, busy)
    assert found.outcome == "cannot tell"
    assert any("may differ by 5.0%" in note for note in found.notes)
    assert gated(busy, slowed(busy, 1.2)).outcome == "failed"


@pytest.mark.parametrize("which", ["before", "after"])
def test_a_noisy_result_is_invalid_and_says_why(which: str) -> None:
    """A NOISY or THROTTLED run passes no gate, whichever of the two it is, and its reasons are told."""
    valid = quiet(steady(RESULT))
    bad = quiet(valid, status="NOISY", reasons=("THROTTLED: the firmware reduced the clock",))
    found = gated(*((bad, valid) if which == "before" else (valid, bad)))
    assert found.outcome == "invalid"
    assert "THROTTLED: the firmware reduced the clock" in found.sentence


def test_what_differs_between_the_runs_is_refused_in_one_message() -> None:
    """Another processor, another number of threads and another version of the runtime are all named."""
    before = quiet(steady(RESULT))
    stages = tuple(stage.model_copy(update={"runtime": "ONNX Runtime on the CPU"}) for stage in before.stages)
    before = before.model_copy(update={"stages": stages})
    cpu = {**before.env["cpu"], "model": "Another CPU"}
    env = {**before.env, "cpu": cpu, "packages": {"onnxruntime": "9.9"}}
    runs = tuple(run.model_copy(update={"threads": 7}) for run in before.runs)
    with pytest.raises(UserError, match="cannot be compared") as caught:
        gated(before, before.model_copy(update={"env": env, "runs": runs}))
    for part in ("→ Another CPU", "→ ONNX Runtime on the CPU 9.9", "→ 7"):
        assert part in caught.value.message
    assert "--no-latency" in caught.value.remedy


def test_only_accuracy_and_size_can_be_gated() -> None:
    """Without a bound of speed, results of different machines are compared by metric and bytes."""
    other = RESULT.model_copy(update={"env": {**RESULT.env, "machine": "aarch64"}})
    found = gated(RESULT, other, Bounds(None, 0.05, 0.0))
    assert [check.quantity for check in found.checks] == ["accuracy", "size"]
    assert found.outcome == "passed"
    elsewhere = RESULT.model_copy(update={"data": {"fingerprint": "other"}})
    assert gated(RESULT, elsewhere, Bounds(None, 0.5, None)).outcome == "invalid"


def test_a_gate_that_checks_nothing_is_an_error() -> None:
    """No bound, a result without times, and one without a metric are refused instead of passing."""
    with pytest.raises(UserError, match="nothing to gate"):
        gated(RESULT, RESULT, Bounds(None, None, None))
    untimed = tuple(stage.model_copy(update={"latency": {}, "metric": None}) for stage in RESULT.stages)
    empty = RESULT.model_copy(update={"stages": untimed, "runs": ()})
    with pytest.raises(UserError, match="the present result has no times"):
        gated(RESULT, empty)
    with pytest.raises(UserError, match="no metric"):
        gated(RESULT, empty, Bounds(None, 0.01, None))


def test_a_batch_size_that_is_missing_now_is_told() -> None:
    """A batch size of the baseline that was not measured again is named in the notes."""
    before = quiet(steady(RESULT))
    last = before.stages[-1]
    latency = {**last.latency, 64: last.latency[1]}
    stages = (*before.stages[:-1], last.model_copy(update={"latency": latency}))
    runs = (*before.runs, before.runs[0].model_copy(update={"batch": 64}))
    more = before.model_copy(update={"stages": stages, "runs": runs})
    assert any("not measured at batch 64" in note for note in gated(more, before).notes)


def test_models_and_stages_belong_together_by_name() -> None:
    """Equal names are paired, single ones whatever their names; otherwise --stage must say it."""
    assert paired_names(["a", "b"], ["b", "c"], None) == {"b": "b"}
    assert paired_names(["a"], ["new"], None) == {"new": "a"}
    assert paired_names(["a", "b"], ["new"], "b") == {"new": "b"}
    with pytest.raises(UserError, match="none of them is new"):
        paired_names(["a", "b"], ["new"], None)
    with pytest.raises(UserError, match="--stage c"):
        paired_names(["a", "b"], ["new"], "c")


def test_the_file_of_the_baseline_is_found_by_its_hash(tmp_path: Path) -> None:
    """A file of the right name below the baseline is taken only if its SHA-256 is that of the measured one."""
    entry = RESULT.stages[-1]
    stored = tmp_path / "base.json"
    (tmp_path / "runs" / "x").mkdir(parents=True)
    (tmp_path / "runs" / "x" / entry.file).write_bytes(b"other")
    assert baseline.model_of(entry, stored, None) is None
    with pytest.raises(UserError, match="is not the file that the baseline measured"):
        (tmp_path / "given.onnx").write_bytes(b"other")
        baseline.model_of(entry, stored, tmp_path / "given.onnx")


def test_the_page_begins_with_the_verdict(tmp_path: Path) -> None:
    """Below its mark, the page has the verdict, a row for each check, the notes, the machine and the command."""
    before = quiet(steady(RESULT))
    found = gated(before, slowed(before, 1.2), Bounds(5.0, None, 0.0))
    lines = gate_page.markdown(found, "retort bench gate a|b.onnx").splitlines()
    assert lines[0] == gate_page.MARK
    assert lines[1].startswith("**❌ Failed (1 of ")
    assert "takes 20.0 % longer" in lines[1]
    assert len([line for line in lines if line.startswith(f"| {LAST} ")]) == len(found.checks)
    assert lines[-1] == "Command: `retort bench gate a|b.onnx`"
    assert any(line.startswith("Machine: ") for line in lines)
    found_passed = gated(before, before)
    assert gate_page.verdict_line(found_passed).startswith("✅ Passed: ")
