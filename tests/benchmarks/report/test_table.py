"""The table of a run: it fits every terminal, and names the runtime, the threads and what is doubtful."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from retort.benchmarks.report import table
from retort.benchmarks.result import Result, SpikesEntry, Spread, load_result
from retort.benchmarks.spreads import RatioEntry
from retort.core.console import Console
from retort.core.terminal.text_tables import table_width

RESULT = load_result(Path(__file__).parents[2] / "results/schema1.json")


def with_batches(count: int) -> Result:
    """A result with this number of batch sizes."""
    first = RESULT.runs[0]
    batches = [4**index for index in range(count)]
    stages = [
        stage.model_copy(
            update={"latency": dict.fromkeys(batches, stage.latency[1]), "runtime": "ONNX Runtime on the CPU"}
        )
        for stage in RESULT.stages
    ]
    runs = tuple(first.model_copy(update={"batch": batch}) for batch in batches)
    return RESULT.model_copy(update={"stages": tuple(stages), "runs": runs})


@pytest.mark.parametrize("batches", [0, 1, 2, 3, 5])
@pytest.mark.parametrize("width", [80, 100, 120, 140])
def test_every_form_fits_and_loses_no_figure(width: int, batches: int) -> None:
    """No table is wider than the terminal, and each time, ratio and interval of the widest form stands in one."""
    result = with_batches(batches)
    fitting = table.tables_within(result, width)
    assert all(table_width(*part) <= width for part in fitting)
    shown = " ".join(cell for _, rows in fitting for row in rows for cell in row).replace("\n", " ")
    _, rows = table.table_rows(result)
    figures = [cell for row in rows for place, cell in enumerate(row) if place != 1]
    assert all(figure in shown for figure in figures)


def test_the_widest_form_has_one_line_per_stage() -> None:
    """Without a terminal, and in a wide one, intervals stand beside their values."""
    for width in (None, 200):
        ((_, rows),) = table.tables_within(with_batches(2), width)
        assert not any("\n" in cell for row in rows for cell in row)


def test_runtime_and_threads_are_named() -> None:
    """The heading names what ran the files, with how many threads."""
    assert table.measured_with(with_batches(2)) == "ONNX Runtime on the CPU, 1 thread"
    assert table.measured_with(with_batches(0)) == "not timed"


def test_noisy_times_are_said_below_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    """A NOISY batch size is named with its reasons, also when a stored result is shown again."""
    result = with_batches(2)
    noise = result.runs[1].noise.model_copy(update={"status": "NOISY", "reasons": ("the machine was stolen",)})
    noisy = result.model_copy(update={"runs": (result.runs[0], result.runs[1].model_copy(update={"noise": noise}))})
    table.print_table(noisy, Console("text"))
    told = capsys.readouterr()
    assert re.search(r"warning  the times at batch 4 are NOISY.*: the machine was stolen", told.err)
    assert "how many times as fast as train" in told.err
    assert "shapes & <sizes>: ONNX Runtime on the CPU, 1 thread" in told.out


def latency_changed(**changes: object) -> list[str]:
    """The lines below the table if the last stage's times at batch 1, of a minute, are changed so."""
    last = RESULT.stages[-1]
    entry = last.latency[1].model_copy(update=changes)
    stages = (*RESULT.stages[:-1], last.model_copy(update={"latency": {1: entry}}))
    runs = tuple(run.model_copy(update={"seconds": 60.0}) for run in RESULT.runs)
    result = RESULT.model_copy(update={"stages": stages, "runs": runs})
    return [*table.within_noise(result), *table.changes_in_time(result)]


def test_drift_and_spikes_are_told_if_they_are_large() -> None:
    """A drift whose interval lies beyond 10 % per minute and spikes that cost a tenth of the time have a sentence."""
    spikes = SpikesEntry(count=5, calls=100, share_percent=5, time_percent=30, longest_ms=40, median_ms=2)
    slower = Spread(value=14, low=11, high=17, confidence=0.95)
    name = RESULT.stages[-1].stage
    assert latency_changed(drift=slower, spikes=spikes) == [
        f"{name} at batch 1 became slower by 14 % per minute",
        f"{name} at batch 1: 5.0 % of the calls took more than twice the median, the longest 20 times; "
        "that is 30 % of the time",
    ]
    unsure = Spread(value=14, low=-1, high=29, confidence=0.95)
    quiet = spikes.model_copy(update={"time_percent": 0.1})
    assert latency_changed(drift=unsure, spikes=quiet) == []
    faster = Spread(value=-14, low=-17, high=-11, confidence=0.95)
    assert latency_changed(drift=faster) == [f"{name} at batch 1 became faster by 14 % per minute"]


def test_the_drift_of_a_short_measurement_is_that_which_it_saw() -> None:
    """14 % a minute is 0.2 % in a second, which is not told; and what is told does not go on for a minute."""
    run = RESULT.runs[0].model_copy(update={"batch": 1, "seconds": 1.0})
    entry, last = RESULT.stages[-1].latency[1], RESULT.stages[-1]

    def told(drift: Spread) -> list[str]:
        stage = last.model_copy(update={"latency": {1: entry.model_copy(update={"drift": drift, "spikes": None})}})
        return table.changes_in_time(RESULT.model_copy(update={"stages": (stage,), "runs": (run,)}))

    assert told(Spread(value=14, low=11, high=17, confidence=0.95)) == []
    steep = Spread(value=158073, low=50000, high=None, confidence=0.95)
    assert told(steep) == [f"{last.stage} at batch 1 became slower by 13 % in 1.0 s"]


def test_a_verdict_that_the_noise_floor_withholds_is_explained() -> None:
    """A ratio within the machine's noise floor, or of one among many, says why it decides nothing."""
    inside = RatioEntry(value=1.02, low=1.01, high=1.03, confidence=0.95, candidate="int8", noise_floor=0.025)
    assert latency_changed(ratio=inside) == [
        "int8 at batch 1: this machine shows differences up to 2.5% between a file and itself"
    ]
    many = inside.model_copy(update={"noise_floor": 0.0, "p_holm": 0.3})
    assert latency_changed(ratio=many) == [
        "int8 at batch 1: of several equal candidates, one may differ as much by chance (p = 0.3 by Holm)"
    ]
    assert latency_changed(ratio=many.model_copy(update={"p_holm": 0.001})) == []
