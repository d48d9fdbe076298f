"""The end of a run: the file to ship, and what a missed gate leaves behind."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from known import known

from retort.benchmarks.result import GateEntry, Result, Spread, StageEntry
from retort.core.artifact import Artifact
from retort.core.console import Console
from retort.core.errors import GateError, UserError, VerificationError
from retort.core.options.recipe import load_recipe
from retort.pipeline import measure, run
from retort.pipeline.line import Line
from retort.pipeline.outcome import missed_gate, run_summary
from retort.pipeline.outcome.doubts import doubts
from retort.pipeline.outcome.recommendation import change_words, recommended
from retort.pipeline.outcome.stage_evidence import evidence
from retort.pipeline.runs.run_lock import exclusive

NET = """
from torch import nn

def net():
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))
"""
BENCH = "bench: {batch_sizes: [1, 4], blocks: 3, block_ms: 1, budget_s: 0.1}"
STAGES = [
    "train: {epochs: 4, batch_size: 32, learning_rate: 0.003}",
    "prune: {macs: 0.1, align: 1, importance: l2, recover: null}",
    "quantize: {samples: 64, timed: false, correction: none}",
    "export",
    BENCH,
    "report",
]


def written(folder: Path, *gates: str, stages: list[str] = STAGES) -> Path:
    """A recipe on the digits with these gates."""
    path = folder / "recipe.yaml"
    (folder / "own_net.py").write_text(NET)
    lines = ["name: own", "model: own_net:net", "data: digits", "stages:"]
    lines += [f"  - {stage}" for stage in stages]
    lines += ["gates:", *(f"  - {{{gate}}}" for gate in gates)] if gates else []
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Line:
    """A finished run."""
    folder = tmp_path_factory.mktemp("run")
    made = Line(load_recipe(written(folder)), folder, folder / "runs/own", Console("silent"))
    with exclusive(made.folder):
        run.run_line(made)
    return made


@pytest.fixture
def copied(line: Line, tmp_path: Path) -> Path:
    """A folder with a copy of the finished run, whose artifacts further runs reuse."""
    return shutil.copytree(line.folder.parents[1], tmp_path / "run")


def timed(result: Result, **times_ms: float) -> Result:
    """The result with these times at batch 1, 4 times as much at batch 4, and a quiet machine."""

    def _entry(stage: StageEntry) -> StageEntry:
        if stage.stage not in times_ms:
            return stage
        latency = {
            batch: entry.model_copy(
                update={
                    "blocks_ms": tuple(times_ms[stage.stage] * batch * (1 + 0.001 * (k % 3)) for k in range(12)),
                }
            )
            for batch, entry in stage.latency.items()
        }
        return stage.model_copy(update={"latency": latency})

    quiet = tuple(
        entry.model_copy(update={"noise": entry.noise.model_copy(update={"status": "VALID"})}) for entry in result.runs
    )
    return result.model_copy(update={"stages": tuple(map(_entry, result.stages)), "runs": quiet})


def test_the_file_to_ship_is_named_with_its_figures(line: Line, capsys: pytest.CaptureFixture[str]) -> None:
    """The last line has the path of the exported file, its size, metric, speed, runtime and threads."""
    ship = known(line.outcome.ship)
    assert Path(ship.file).is_file()
    result = timed(known(line.outcome.result), train=1.0, prune=0.5, quantize=0.2)
    found = known(recommended(line, result))
    export = line.outcome.artifacts["export"].main
    assert (found.stage, found.file) == ("quantize", str(export))
    for part in (
        f"ship {export} (",
        "kB; accuracy",
        "as fast as train at batch 1 and ",
        "ONNX Runtime on the CPU, 1 thread",
    ):
        assert part in found.sentence
    line.outcome.ship = found
    run_summary.show(line.outcome, Console("text"))
    assert capsys.readouterr().out.rstrip().endswith(found.sentence)
    assert run_summary.as_json(line.outcome)["ship"]["file"] == str(export)


def test_a_faster_fp32_file_is_the_one_to_ship(line: Line) -> None:
    """If the pruned FP32 program is certainly faster at every batch size, its file is recommended, with the reason."""
    result = timed(known(line.outcome.result), train=1.0, prune=0.2, quantize=0.5)
    found = known(recommended(line, result))
    assert found.stage == "prune"
    assert found.file == str(line.graph("prune").main)
    assert "because it is at batch 1 2.50×" in found.sentence
    assert found.sentence.partition("; WARNING")[0].endswith("as fast as the exported file of `quantize`")


def test_of_several_faster_files_the_fastest_is_shipped(line: Line) -> None:
    """The order of the stages does not matter."""
    result = timed(known(line.outcome.result), train=0.3, prune=0.2, quantize=0.5)
    assert known(recommended(line, result)).stage == "prune"
    result = timed(known(line.outcome.result), train=0.2, prune=0.3, quantize=0.5)
    assert known(recommended(line, result)).stage == "train"


def gate_at(batch: int | None, bound: float = 3.0) -> GateEntry:
    """A kept gate of the speed after quantization."""
    values = {"stage": "quantize", "kind": "speedup", "bound": bound, "value": 4.0, "low": 3.9, "high": 4.1}
    words = {"confidence": 0.95, "against": "train", "verdict": "passed", "passed": True, "sentence": "."}
    return GateEntry.model_validate({**values, **words, "batch_size": batch})


def slower_at(result: Result, name: str, batch: int, factor: float) -> Result:
    """The result with one stage slower at one batch size."""

    def _slower(stage: StageEntry) -> StageEntry:
        if stage.stage != name:
            return stage
        entry = stage.latency[batch]
        slow = entry.model_copy(update={"blocks_ms": tuple(time * factor for time in entry.blocks_ms)})
        return stage.model_copy(update={"latency": {**stage.latency, batch: slow}})

    return result.model_copy(update={"stages": tuple(map(_slower, result.stages))})


@pytest.mark.parametrize(("batch", "kept"), [(1, True), (4, False), (None, False)])
def test_a_gate_of_speed_is_kept_at_its_own_batch_size(line: Line, batch: int | None, kept: bool) -> None:
    """Another file is recommended only if it keeps the gate where the gate holds; older gates name no batch size."""
    fast = timed(known(line.outcome.result), train=1.0, prune=0.2, quantize=0.8)
    result = slower_at(fast, "prune", 4, 2.0).model_copy(update={"gates": (gate_at(batch),)})
    assert known(recommended(line, result)).stage == ("prune" if kept else "quantize")
    noisy = tuple(
        run.model_copy(update={"noise": run.noise.model_copy(update={"status": "NOISY"})})
        if run.batch == batch
        else run
        for run in result.runs
    )
    assert known(recommended(line, result.model_copy(update={"runs": noisy}))).stage == "quantize"


def test_a_gate_against_another_stage_is_kept_against_that_stage(line: Line) -> None:
    """The bound of a gate holds against the stage that it names, not against the reference of the table."""
    fast = timed(known(line.outcome.result), train=1.0, prune=0.2, quantize=0.4)
    own = gate_at(1, 1.5).model_copy(update={"against": "prune"})
    assert known(recommended(line, fast.model_copy(update={"gates": (own,)}))).stage == "quantize"
    assert known(recommended(line, fast.model_copy(update={"gates": (gate_at(1, 1.5),)}))).stage == "prune"


def test_words_of_a_result_are_never_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A changed comment of the recipe is in the result and the report without a measurement; a changed metric too."""
    stages = ["quantize: {samples: 64, timed: false, correction: none}", "export", BENCH.replace("[1, 4]", "[1]")]
    recipe = written(tmp_path, stages=[*stages, "report"])
    first = run.run(recipe, tmp_path / "runs")
    text = recipe.read_text()
    timings: list[str] = []

    def _noted(*given: Any) -> Any:
        timings.append("timed")
        return measure.compared_on(*given)

    monkeypatch.setattr("retort.pipeline.outcome.run_results.compared_on", _noted)
    recipe.write_text(f"# a remark of today\n{text}")
    second = run.run(recipe, tmp_path / "runs")
    assert not timings
    assert known(second.result).recipe.startswith("# a remark of today")
    assert known(second.result).id == known(first.result).id
    assert "a remark of today" in known(second.report).read_text()
    recipe.write_text(f"metric: top5\n{text}")
    third = run.run(recipe, tmp_path / "runs")
    assert known(known(third.result).stages[-1].metric).name == "top5"
    recipe.write_text(f"{text}gates:\n  - {{after: quantize, size_ratio: 1}}\n")
    fourth = run.run(recipe, tmp_path / "runs")
    assert [gate.kind for gate in known(fourth.result).gates] == ["size_ratio"]
    assert timings == ["timed"]


def test_a_missed_gate_outlives_a_failing_export(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the search for the stage that lost most fails, the missed gate is told all the same."""
    recipe = written(copied, "after: prune, size_ratio: 0.01", stages=STAGES[:2])

    def _fails(*_: object) -> None:
        raise VerificationError("no ONNX form", "another opset")

    monkeypatch.setattr(missed_gate, "graph_bytes", _fails)
    with pytest.raises(GateError, match=r"after prune: .*MISSED\n") as stopped:
        run.run(recipe, copied / "runs")
    assert stopped.value.facts["lost_at"] is None


def test_a_training_that_failed_is_named_until_another_one(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    """A training that failed counts against the programs made of it until another training, and a ruining cut does."""

    def _with(name: str, **facts: object) -> Artifact:
        manifest = line.outcome.artifacts[name].manifest
        return replace(line.outcome.artifacts[name], manifest=replace(manifest, facts={**manifest.facts, **facts}))

    trained = line.outcome.artifacts["train"]
    monkeypatch.setitem(line.outcome.artifacts, "train", _with("train", doubt="it is at chance"))
    monkeypatch.setitem(line.outcome.artifacts, "prune", _with("prune", ruined=True))
    made = line.outcome.artifacts
    assert doubts(made, "train") == ["`train`: it is at chance"]
    assert [text.partition(":")[0] for text in doubts(made, "quantize")] == ["`train`", "`prune`"]
    assert doubts({**made, "distill": trained}, "distill") == []
    sentence = known(recommended(line, line.outcome.result)).sentence
    assert "; WARNING: `train`: it is at chance; `prune`: the outputs are ruined" in sentence
    told = {item.stage: item.did for item in evidence(line)}
    assert told["train"] == ("Warning: it is at chance",)
    assert any(text.startswith("Warning: the outputs are ruined") for text in told["prune"])


@pytest.mark.parametrize(
    ("value", "low", "high", "words"),
    [
        (-0.0417, -0.0978, 0.0021, "no difference shown (gained 4.17 pp)"),
        (0.117, 0.0851, 0.1557, "lost 11.70 pp"),
        (0.0, 0.0, 0.0, "lost nothing"),
    ],
)
def test_a_change_is_claimed_where_it_is_shown(value: float, low: float, high: float, words: str) -> None:
    """A gain whose interval contains 0 is no gain."""
    assert change_words("accuracy", Spread(value=value, low=low, high=high, confidence=0.95)) == words


def test_a_noisy_measurement_recommends_nothing_else(line: Line) -> None:
    """NOISY times do not decide; the exported file is named, and its speed is called NOISY."""
    result = timed(known(line.outcome.result), train=1.0, prune=0.2, quantize=0.5)
    noisy = tuple(
        entry.model_copy(update={"noise": entry.noise.model_copy(update={"status": "NOISY"})}) for entry in result.runs
    )
    found = known(recommended(line, result.model_copy(update={"runs": noisy})))
    assert found.stage == "quantize"
    assert "NOISY at batch 1 and 4" in found.sentence


def test_a_missed_gate_names_the_stage_and_leaves_a_report(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The table so far is printed, a report is written, and the error names the stage with the largest loss."""
    recipe = written(copied, "after: quantize, accuracy_drop: 0.01")
    with pytest.raises(GateError) as stopped:
        run.run(recipe, copied / "runs", Console("text"))
    facts = stopped.value.facts
    assert facts["lost_at"] == "prune"
    assert "the largest loss is at `prune` (prune lost " in stopped.value.message
    assert "more epochs of `recover`" in stopped.value.remedy
    report = Path(str(facts["report"]))
    assert "failed" in report.read_text()
    shown = capsys.readouterr().out
    assert "│prune " in shown
    assert "✗ after quantize" in shown
    assert f"report: {report}" in shown


def test_a_missed_size_gate_needs_no_measurement_of_time(copied: Path) -> None:
    """Without a `bench` stage the table has no times; the stage at which the file shrank least is named."""
    recipe = written(copied, "after: prune, size_ratio: 0.01", stages=STAGES[:2])
    with pytest.raises(GateError, match="the file shrank least at `prune`") as stopped:
        run.run(recipe, copied / "runs")
    assert Path(str(stopped.value.facts["report"])).is_file()


def test_a_failed_stage_says_what_is_kept(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The finished stages are named with their folder, in text and in the facts of the error."""
    recipe = written(copied, stages=[STAGES[0], "prune: {macs: 0.3, exclude: [nothing.*]}"])
    with pytest.raises(UserError) as failed:
        run.run(recipe, copied / "runs", Console("text"))
    told = capsys.readouterr().err
    assert f"prune  failed; the finished stages before `prune` are kept in {copied / 'runs/own'}" in told
    assert failed.value.facts["finished"] == ["capture", "train"]


def test_the_report_tells_what_each_stage_did(line: Line) -> None:
    """The result of a run has the options, proofs, INT8 placement and fidelity of its stages."""
    result = known(line.outcome.result)
    told = {item.stage: item for item in result.details}
    assert list(told) == ["capture", "train", "prune", "quantize", "export"]
    assert told["prune"].chosen["macs"] == 0.1
    assert told["prune"].chosen["recover"] is None
    assert all(proof.found.startswith(("largest relative error", "equal")) for proof in told["prune"].proofs)
    assert len(told["prune"].proofs) == 2
    assert told["quantize"].integer
    assert all(layer.reason for layer in told["quantize"].floating)
    assert told["quantize"].outputs[0].compared == "INT8 program against FP32 program"
    assert told["export"].proofs[0].bound
    assert len(told["train"].curves[0].epochs) == 4
    assert known(result.ship).stage in ("prune", "quantize")
