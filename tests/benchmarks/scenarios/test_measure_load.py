"""Scenarios on real sessions and a real endpoint: their figures, their stored times, and wrong candidates."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from served_models import archive, graph, site

from retort.benchmarks.load_report.load_files import claim_load
from retort.benchmarks.load_report.load_table import percentile_text, print_load
from retort.benchmarks.result import PercentileEntry
from retort.benchmarks.scenarios.load_candidates import (
    LoadCandidate,
    OpenedCandidate,
    load_candidates,
    split_provider,
)
from retort.benchmarks.scenarios.load_entries import notes_of
from retort.benchmarks.scenarios.load_result import LOAD_SCHEMA, LoadResult, brief, read_load, write_load
from retort.benchmarks.scenarios.measure_load import Asked, measure_load, stream_of
from retort.benchmarks.scenarios.stage_split import StageTimes
from retort.benchmarks.scenarios.sustain import measure_sustained
from retort.benchmarks.scenarios.sweep import measure_sweep
from retort.benchmarks.scenarios.windows import interleaved
from retort.core.console import SILENT, Console
from retort.core.data.splits import ArraySplit, Splits
from retort.core.errors import ArtifactError, MissingFileError, ServingError, UserError
from retort.core.options.load_options import LoadOptions, SustainOptions, SweepOptions
from retort.serve.engine import Engine

ROWS = np.random.default_rng(0).normal(size=(20, 2)).astype(np.float32)


@pytest.fixture(scope="module")
def splits() -> Splits:
    """Twenty samples for the model of vectors."""
    split = ArraySplit({"x": ROWS})
    return Splits(split, split, split, split)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small ONNX file."""
    return graph("vector", tmp_path_factory.mktemp("load")).main


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The same model behind HTTP."""
    folder = tmp_path_factory.mktemp("served")
    made = archive("vector", folder)
    with site(Engine.load(made.path / "bundle")) as address:
        yield f"{address}/predictions/vector"


def found(given: list[str], splits: Splits, **options: Any) -> LoadResult:
    """The result of a scenario that takes little time."""
    made = LoadOptions(**{"seconds": 0.4, "window_s": 0.02, **options})
    return measure_load(asked(given, splits), splits, made, SILENT)


def asked(given: list[str], splits: Splits) -> list[LoadCandidate]:
    """Candidates that take all samples in turn."""
    return load_candidates(given, splits, "cpu", 256, 5.0)


def test_a_file_and_an_endpoint_are_compared(model: Path, url: str, splits: Splits, tmp_path: Path) -> None:
    """Both are asked in the same rounds, and every figure can be computed again from the stored times."""
    result = found([str(model), url], splits)
    first, second = result.candidates
    assert (first.kind, second.kind) == ("graph", "endpoint")
    assert first.clients == second.clients == 1
    assert first.sha256
    assert not second.sha256
    assert second.ratio is not None
    assert second.ratio.high is not None
    assert second.ratio.high < 1
    assert {window.round for window in first.windows} == set(range(20)) == {one.round for one in second.windows}
    assert {window.place for window in first.windows} == {0, 1}
    for one in (first, second):
        assert one.raw is not None
        times_ms = one.raw.times_ns() / 1e6
        assert len(times_ms) == one.queries == sum(window.queries for window in one.windows)
        assert one.percentiles[0].value_ms == pytest.approx(float(np.median(times_ms)))
        assert one.mean_ms == pytest.approx(float(times_ms.mean()))
        assert one.warmup_ms
        assert one.stages is not None
    assert first.stages is not None
    assert first.stages.copy_in_ms is not None
    write_load(result, tmp_path / "a.json")
    assert read_load(tmp_path / "a.json") == result
    told = brief(result)
    assert told["schema"] == LOAD_SCHEMA
    assert "raw" not in told["candidates"][0]


def test_percentiles_need_samples(model: Path, splits: Splits) -> None:
    """A percentile without enough samples is null, and the table says how many it needs."""
    result = found([str(model)], splits, seconds=0.002, window_s=0.0001)
    tail = result.candidates[0].percentiles[-1]
    assert tail.value_ms is None
    assert percentile_text(tail) == f"n too small ({tail.n} of {tail.needed})"
    assert tail.needed >= 6636
    entry = PercentileEntry(percentile=50, value_ms=0.0123, low_ms=0.012, high_ms=0.013, n=99, needed=11)
    assert percentile_text(entry) == "12.3 µs [12.0, 13.0]"


def test_scenarios_have_their_queries(model: Path, url: str, splits: Splits) -> None:
    """A multi stream has several samples per query, offline whole batches, and a server one sample at its rate."""
    many = found([str(model)], splits, scenario="multi-stream", samples_per_query=4).candidates[0]
    assert many.per_query == 4
    assert many.rows_per_second is not None
    batches = found([str(model), url], splits, scenario="offline", batch=16, seconds=0.1, clients=2).candidates
    assert [one.per_query for one in batches] == [16, 16]
    assert [one.clients for one in batches] == [2, 2]
    result = found([str(model), url], splits, scenario="server", rate=300.0, clients=2, seconds=0.5, window_s=0.5)
    assert all(100 < one.queries < 220 for one in result.candidates)
    assert all(one.rate == 300 and one.late_p99_ms is not None for one in result.candidates)
    assert "counts from the moment" in result.notes[0]


@pytest.mark.slow
def test_a_rate_is_looked_for(model: Path, splits: Splits) -> None:
    """The highest rate that keeps a bound comes with its trials, and is measured."""
    result = found([str(model)], splits, scenario="server", p99_ms=200.0, seconds=0.1, window_s=0.01)
    one = result.candidates[0]
    assert one.rate in [trial.rate for trial in one.trials if trial.kept]
    assert one.queries > 0


def test_a_bound_that_no_rate_keeps_is_told(model: Path, splits: Splits) -> None:
    """Without a rate nothing is measured, and a note says so."""
    result = found([str(model)], splits, scenario="server", p99_ms=1e-6, seconds=0.1, window_s=0.01)
    assert result.candidates[0].rate is None
    assert result.candidates[0].queries == 0
    assert any("at no rate" in note for note in result.notes)


def test_a_sweep_has_every_point(model: Path, splits: Splits) -> None:
    """Each number of threads is measured at each batch size, and the front is marked."""
    options = SweepOptions(threads=(1, 2), batch_sizes=(1, 8), seconds=0.05)
    result = measure_sweep(asked([str(model)], splits), splits, options, SILENT)
    assert [(one.threads, one.per_query) for one in result.candidates] == [(1, 1), (1, 8), (2, 1), (2, 8)]
    assert any(one.pareto for one in result.candidates)
    with pytest.raises(UserError, match="threads and batches of its server"):
        measure_sweep(asked(["http://127.0.0.1:9/predictions/x"], splits), splits, options, SILENT)


def test_the_last_minute_ranks(model: Path, url: str, splits: Splits) -> None:
    """The fastest of the end is the first of the table, whatever was given first."""
    options = SustainOptions(minutes=0.01, window_s=0.02)
    result = measure_sustained(asked([url, str(model)], splits), splits, options, SILENT)
    assert [one.kind for one in result.candidates] == ["graph", "endpoint"]
    ends = [one.last_minute_ms for one in result.candidates]
    assert None not in ends
    assert result.notes[0].startswith("after 0.0 min without a break: model")


def test_a_model_for_one_batch_size_takes_a_query_in_parts(splits: Splits, tmp_path: Path) -> None:
    """A model that was made for two samples answers a query of six in three calls."""
    import onnx

    made = onnx.load(graph("vector", tmp_path).main)
    for port in (*made.graph.input, *made.graph.output):
        port.type.tensor_type.shape.dim[0].dim_value = 2
    onnx.save(made, tmp_path / "two.onnx")
    result = found([str(tmp_path / "two.onnx")], splits, scenario="multi-stream", samples_per_query=6, seconds=0.05)
    assert result.candidates[0].per_query == 6
    assert result.candidates[0].queries > 0


def test_wrong_candidates_are_told(model: Path, splits: Splits, tmp_path: Path) -> None:
    """A server that is not there, a file that is not there, a provider that does not exist, and the same twice."""
    with pytest.raises(ServingError, match="nothing listens there"):
        found(["http://127.0.0.1:9/predictions/x"], splits)
    with pytest.raises(MissingFileError, match="no such artifact"):
        asked([str(tmp_path / "none.onnx")], splits)
    with pytest.raises(UserError, match="no provider 'vulkan'"):
        asked([f"{model}@vulkan"], splits)
    with pytest.raises(UserError, match="given twice"):
        asked([str(model), f"{model}@cpu"], splits)
    with pytest.raises(UserError, match="endpoint was given twice"):
        asked(["http://127.0.0.1:9/predictions/x"] * 2, splits)
    (tmp_path / "a@b.onnx").touch()
    assert split_provider(str(tmp_path / "a@b.onnx"), "cpu") == (tmp_path / "a@b.onnx", "cpu")
    assert split_provider("a.onnx@openvino", "cpu") == (Path("a.onnx"), "openvino")


def test_failed_queries_are_told() -> None:
    """Queries without an answer are counted beside the percentiles of the others, and the note says so."""

    def query() -> None:
        if next(numbers) % 4 == 0:
            raise ServingError("no answer")

    numbers = itertools.count()
    opened = OpenedCandidate(itertools.repeat(query), 1, lambda number: StageTimes(1, None, 1, None), lambda: None)
    candidate = LoadCandidate("a", "http://x", "endpoint", "a server", lambda threads, rows: opened)
    one = Asked(candidate, opened, 1)
    entry = one.entry(interleaved({"a": stream_of(one)}, 0.01, 3)["a"], 0.95, 0)
    assert entry.failed == pytest.approx((entry.queries + entry.failed) / 4, abs=2)
    assert f"did not answer {entry.failed:,}" in notes_of([entry])[0]


def test_altered_files_are_refused(model: Path, splits: Splits, tmp_path: Path) -> None:
    """A result that was edited by hand, cut, or is another file has one clear message."""
    path = tmp_path / "r.json"
    result = found([str(model)], splits, seconds=0.05)
    write_load(result, path)
    raw = json.loads(path.read_text())
    raw["candidates"][0]["queries"] += 1
    path.write_text(json.dumps(raw))
    with pytest.raises(ArtifactError, match="stored times"):
        read_load(path)
    path.write_text(path.read_text()[:100])
    with pytest.raises(ArtifactError, match="is not JSON"):
        read_load(path)
    path.write_text("[]")
    with pytest.raises(ArtifactError, match="no result of a load"):
        read_load(path)
    with pytest.raises(MissingFileError):
        read_load(tmp_path / "none.json")
    with pytest.raises(UserError, match="exists, and is kept"):
        claim_load(path, force=False)
    with pytest.raises(UserError, match="no ending that says the form"):
        claim_load(tmp_path / "r.txt", force=False)
    assert result.candidates[0].raw is not None
    with pytest.raises(ArtifactError, match="damaged"):
        result.candidates[0].raw.model_copy(update={"data": "!"}).times_ns()


def test_the_table_has_every_candidate(
    model: Path, url: str, splits: Splits, capsys: pytest.CaptureFixture[str]
) -> None:
    """Names, percentiles and stages stand in the printed tables."""
    print_load(found([str(model), url], splits, seconds=0.1), Console("text"))
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("endpoint vector", "p99.9", "prepare", "copy out", "× faster"))
