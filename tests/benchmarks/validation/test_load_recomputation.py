"""Results of loads and imported results are computed again: real ones are valid, and altered figures are named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from served_models import graph

from retort.benchmarks.peers.peer_formats import import_file
from retort.benchmarks.peers.peer_result import write_peer
from retort.benchmarks.scenarios.cold_starts import measure_cold
from retort.benchmarks.scenarios.load_candidates import load_candidates
from retort.benchmarks.scenarios.load_result import LoadResult, write_load
from retort.benchmarks.scenarios.measure_load import measure_load
from retort.benchmarks.scenarios.sustain import measure_sustained
from retort.benchmarks.scenarios.sweep import measure_sweep
from retort.benchmarks.validation.validation import validate_file
from retort.core.artifact import load_artifact
from retort.core.console import SILENT
from retort.core.data.splits import ArraySplit, Splits
from retort.core.errors import ArtifactError
from retort.core.options.load_options import ColdOptions, LoadOptions, SustainOptions, SweepOptions

DATA = Path(__file__).resolve().parents[1] / "peers/data"
Changed = Callable[[dict[str, Any]], None]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, LoadResult]:
    """One result of each kind, of two copies of a small file."""
    folder = tmp_path_factory.mktemp("validated")
    first = graph("vector", folder).main
    second = folder / "other.onnx"
    second.write_bytes(first.read_bytes())
    split = ArraySplit({"x": np.zeros((4, 2), np.float32)})
    splits = Splits(split, split, split, split)
    asked = load_candidates([str(first), str(second)], splits, "cpu", 4, 5.0)
    loads = {
        "stream": LoadOptions(seconds=0.3, window_s=0.02),
        "server": LoadOptions(scenario="server", rate=500, seconds=0.5, window_s=0.25),
        "offline": LoadOptions(scenario="offline", seconds=0.2, batch=2, seed=4),
    }
    made = {name: measure_load(asked, splits, options, SILENT) for name, options in loads.items()}
    made["sweep"] = measure_sweep(asked, splits, SweepOptions(threads=(1,), batch_sizes=(1, 2), seconds=0.05), SILENT)
    made["sustain"] = measure_sustained(asked, splits, SustainOptions(minutes=0.005, window_s=0.02), SILENT)
    made["cold"] = measure_cold({"a": (load_artifact(first), "cpu")}, ColdOptions(starts=2, page_cache="warm"), SILENT)
    return made


@pytest.mark.parametrize("name", ["stream", "server", "offline", "sweep", "sustain", "cold"])
def test_real_results_are_valid(name: str, results: dict[str, LoadResult], tmp_path: Path) -> None:
    """Every figure follows from what the result keeps."""
    write_load(results[name], tmp_path / "r.json")
    found = validate_file(tmp_path / "r.json")
    assert found.faults == ()
    assert found.figures >= 4
    assert bool(found.notes) == (name == "sweep")


def _percentile(raw: dict[str, Any]) -> None:
    raw["candidates"][0]["percentiles"][0]["value_ms"] *= 0.999


def _ratio(raw: dict[str, Any]) -> None:
    raw["candidates"][1]["ratio"]["high"] *= 1.01


def _window(raw: dict[str, Any]) -> None:
    raw["candidates"][1]["windows"][3]["median_ms"] += 1


def _times(raw: dict[str, Any]) -> None:
    raw["candidates"][0]["raw"]["data"] = raw["candidates"][1]["raw"]["data"]


def _step(raw: dict[str, Any]) -> None:
    raw["candidates"][0]["cold"][0]["load_ms"]["value"] *= 0.5


def _last(raw: dict[str, Any]) -> None:
    raw["candidates"][1]["last_minute_ms"] *= 0.5


def _front(raw: dict[str, Any]) -> None:
    for one in raw["candidates"]:
        one["pareto"] = not one["pareto"]


@pytest.mark.parametrize(
    ("name", "change", "where"),
    [
        ("stream", _percentile, "candidates.0.percentiles.0.value_ms"),
        ("stream", _ratio, "candidates.1.ratio.high"),
        ("server", _percentile, "candidates.0.percentiles.0.value_ms"),
        ("offline", _window, "candidates.1.windows.3.median_ms"),
        ("stream", _times, "candidates.0.raw"),
        ("cold", _step, "candidates.0.cold.0.load_ms.value"),
        ("sustain", _last, "candidates.1.last_minute_ms"),
        ("sweep", _front, "candidates.0.pareto"),
    ],
)
def test_altered_figures_are_named(
    name: str, change: Changed, where: str, results: dict[str, LoadResult], tmp_path: Path
) -> None:
    """A figure that was changed by hand has its key path, what it says, and what follows."""
    path = tmp_path / "r.json"
    write_load(results[name], path)
    raw = json.loads(path.read_text())
    change(raw)
    path.write_text(json.dumps(raw))
    assert any(fault.startswith(where) for fault in validate_file(path).faults)


def test_imported_and_newer_results_are_told(results: dict[str, LoadResult], tmp_path: Path) -> None:
    """An imported result is valid until it is altered, and a later version of a schema is refused."""
    path = tmp_path / "p.json"
    write_peer(import_file(DATA / "pyperf.json"), path)
    assert validate_file(path).faults == ()
    raw = json.loads(path.read_text())
    path.write_text(json.dumps({**raw, "sha256": "1" * 64}))
    assert "SHA-256" in validate_file(path).faults[0]
    write_load(results["cold"], path)
    path.write_text(path.read_text().replace("retort.load/1", "retort.load/2"))
    with pytest.raises(ArtifactError, match=r"reads up to retort\.load/1"):
        validate_file(path)
