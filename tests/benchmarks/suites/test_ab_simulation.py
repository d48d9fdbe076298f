"""False alarms, power and coverage: what is counted in recorded comparisons, and the short form of the suite."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retort.benchmarks.repeatability.self_comparison import append_row, rows_in
from retort.benchmarks.small_networks import make_nets
from retort.benchmarks.suites.ab_simulation import __main__ as suite
from retort.benchmarks.suites.ab_simulation import recorded_pairs, replicated_pairs, simulated_percentiles
from retort.core.artifact import load_artifact
from retort.core.console import SILENT
from retort.core.errors import UserError
from retort.core.options.stage_options import BenchOptions

QUICK = BenchOptions(budget_s=0.2, block_ms=1.0)


def recorded(count: int, noise: float = 0.004, bias: float = 1.0) -> list[dict[str, Any]]:
    """Simulated comparisons of 1.2 s with 12 rounds, in which the second side takes ``bias`` times as long."""
    rng = np.random.default_rng(0)
    return [
        {
            "noisy": [],
            "seconds": 1.2,
            "turns": list(range(12)),
            "times_ms": {
                "file": rng.lognormal(0, noise, 12).tolist(),
                "itself": (bias * rng.lognormal(0, noise, 12)).tolist(),
            },
        }
        for _ in range(count)
    ]


def test_equal_sides_raise_no_alarm_and_slowdowns_are_found() -> None:
    """Without a difference there are few alarms; one comparison finds 2 %, longer ones 1 %, and the gate 5 %."""
    found = recorded_pairs.verdicts(recorded(54))
    single = {one.slowdown_percent: one for one in found if one.comparisons == one.separate}
    assert single[0].comparisons == 54
    assert single[0].alarms <= 2
    assert single[0].covered >= 51
    assert (single[0].gate_failed, single[5].gate_failed) == (0, 54)
    assert single[2].slower >= 52
    minute = {one.slowdown_percent: one for one in found if one.seconds > 50}
    assert minute == {}  # two comparisons of a minute are too few
    seconds = {one.slowdown_percent: one for one in found if 18 < one.seconds <= 20}
    assert seconds[1].separate == 3
    assert seconds[1].slower == seconds[1].comparisons > 3
    assert seconds[0].alarms == 0


def test_a_biased_timing_is_an_alarm() -> None:
    """If the second side takes 3 % longer, every comparison of the file with itself is a false alarm."""
    found = recorded_pairs.verdicts(recorded(20, bias=1.03))
    assert found[0].slowdown_percent == 0
    assert found[0].slower == 20
    assert dict(suite.goals(found, []))["B1: false alarms 100.0% [83.9%, 100.0%] (goal 1%)"] is False


def test_runs_minutes_apart_are_compared() -> None:
    """A machine that becomes 6 % slower between runs that begin five minutes apart does not replicate; else it does."""
    steady = [row | {"began": 1.2 * index} for index, row in enumerate(recorded(300))]
    found = recorded_pairs.replication(steady, length_s=12.0)
    assert found is not None
    assert found.within_2 == found.within_5 == found.pairs >= 4
    for row in steady[240:]:
        row["times_ms"] = {name: [1.06 * time for time in times] for name, times in row["times_ms"].items()}
    slower = recorded_pairs.replication(steady, length_s=12.0)
    assert slower is not None
    assert (slower.within_5, slower.pairs) == (0, found.pairs)
    assert dict(suite.replication_goal(slower)).popitem()[1] is False
    assert recorded_pairs.replication(steady[:50]) is None


def a_run(pair: int, run: int, ratio: float, time_ms: float = 1.0, noisy: tuple[str, ...] = ()) -> dict[str, Any]:
    """One run of a pair."""
    return {"pair": pair, "run": run, "ratio": ratio, "time_ms": time_ms, "wall_ms": 1.0, "noisy": list(noisy)}


def test_pairs_agree_or_say_noisy() -> None:
    """A pair 1 % apart is within 2 %, one 4 % within 5 %, one 8 % apart misses, a NOISY one counts as told."""
    seconds = [(1.0, ()), (2.02, ()), (2.08, ()), (2.16, ()), (9.0, ("busy",))]
    rows = [a_run(pair, 0, 2.0) for pair in range(1, 5)]
    rows += [a_run(pair, 1, *seconds[pair][:1], noisy=seconds[pair][1]) for pair in range(1, 5)]
    ratio, time_ms, _ = replicated_pairs.agreements([*rows, a_run(7, 0, 2.0)])
    assert (ratio.pairs, ratio.noisy, ratio.within_2, ratio.within_5) == (4, 1, 1, 2)
    assert ratio.largest_percent == pytest.approx(8)
    assert ratio.share == 0.75
    assert time_ms.share == 1.0
    assert [reached for _, reached in suite.pair_goals([ratio, time_ms])] == [False, True]
    assert replicated_pairs.agreements(rows[:4]) == []


def test_the_second_runs_come_minutes_later(tmp_path: Path) -> None:
    """Each waits for its first run, an interrupted recording goes on, and rows of other models are refused."""
    nets = {path.stem: load_artifact(path) for path in make_nets(tmp_path)}
    waited = list[float]()

    def pairs(models: Mapping[str, Any]) -> replicated_pairs.Pairs:
        return replicated_pairs.Pairs(
            models, QUICK.model_copy(update={"batch_sizes": (1,)}), 2, tmp_path / "p.jsonl", waited.append
        )

    pairs(nets).first_runs(SILENT)
    again = pairs(nets)
    again.first_runs(SILENT)
    assert waited == []
    again.second_runs(SILENT)
    assert [280 < seconds <= 300 for seconds in waited] == [True, True]
    assert [(row["pair"], row["run"]) for row in again.rows] == [(0, 0), (1, 0), (0, 1), (1, 1)]
    found = replicated_pairs.agreements(again.rows)[0]
    assert found.pairs == 2
    assert again.rows[0]["ratio"] > 1.2
    with pytest.raises(UserError, match="other models"):
        pairs({"wide": nets["narrow"], "narrow": nets["wide"]})


def test_noisy_comparisons_are_left_out() -> None:
    """A NOISY comparison makes no verdict, so it is in no count."""
    rows = recorded(10)
    rows[3]["noisy"] = ["the hypervisor took 9 %"]
    assert recorded_pairs.verdicts(rows)[0].comparisons == 9


def test_intervals_of_percentiles_hold_also_for_correlated_times() -> None:
    """In 300 simulations of each kind, at most about 1.5 % of the intervals that are given do not hold the truth."""
    found = simulated_percentiles.coverages(300, samples=2000)
    assert len(found) == 18
    assert max(one.wrong_share for one in found) <= 0.035
    assert np.mean([one.wrong_share for one in found]) <= 0.015
    assert all(one.withheld <= 12 for one in found if not one.correlated)


def test_an_interrupted_recording_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C keeps the rows; the same command makes the others, and another model is refused."""
    wide, narrow = (load_artifact(path) for path in make_nets(tmp_path))
    out, seeds = tmp_path / "rows.jsonl", list[object]()

    def interrupted(path: Path, row: Mapping[str, Any]) -> None:
        append_row(path, row)
        seeds.append(row.get("seed"))
        if row.get("seed") == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(suite, "append_row", interrupted)
    with pytest.raises(KeyboardInterrupt):
        suite.record(narrow, QUICK, 1, 4, 0, 1.0, out, SILENT)
    rows = suite.record(narrow, QUICK, 1, 4, 0, 1.0, out, SILENT)
    assert seeds == [None, 0, 1, 2, 3]
    assert [row["seed"] for row in rows] == [0, 1, 2, 3]
    assert rows_in(out)[1:] == rows
    with pytest.raises(UserError, match="another model"):
        suite.record(wide, QUICK, 1, 4, 0, 1.0, out, SILENT)


def test_the_short_form_measures_and_judges(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A few real comparisons beside a busy process give tables, a line for each goal, and the JSON of all figures."""
    out = tmp_path / "rows.jsonl"
    suite.main(["--comparisons", "6", "--budget", "0.3", "--simulations", "20", "--out", str(out)])
    shown = capsys.readouterr()
    found = json.loads(shown.out.splitlines()[-1])
    assert found["comparisons"] == 6 == len(rows_in(out)) - 1
    assert {one["slowdown_percent"] for one in found["verdicts"]} == {0, 1, 2, 5}
    assert found["verdicts"][3]["gate_passed"] == 0
    assert "B1: false alarms" in shown.out + shown.err
    assert len(found["percentiles"]) == 18
