"""Cold starts in real processes, and when calls are steady."""

from __future__ import annotations

import os
from pathlib import Path

import onnx
import pytest
from served_models import graph

from retort.benchmarks.scenarios.cold_process import steady_at
from retort.benchmarks.scenarios.cold_starts import (
    all_cached_percent,
    cached_percent,
    drop_pages,
    files_of,
    measure_cold,
    require_models,
)
from retort.benchmarks.small_networks import make_nets
from retort.core.artifact import load_artifact
from retort.core.console import SILENT
from retort.core.errors import ArtifactError, UserError
from retort.core.options.load_options import ColdOptions


def test_a_start_has_four_numbers(tmp_path: Path) -> None:
    """Import, load and first call come in this order before a process is steady; each state has its starts."""
    made = graph("vector", tmp_path)
    options = ColdOptions(starts=2, page_cache="both", calls=20)
    result = measure_cold({"vector": (made, "cpu")}, options, SILENT)
    (one,) = result.candidates
    assert sorted(start.page_cache for start in one.starts) == ["dropped", "dropped", "warm", "warm"]
    for start in one.starts:
        assert 0 < start.import_ms < start.import_ms + start.load_ms + start.first_ms
        assert start.steady_ms >= start.import_ms + start.load_ms
        assert len(start.calls_ms) == 20
        assert start.peak_bytes > 10_000_000
    assert [each.page_cache for each in one.cold] == ["warm", "dropped"]
    assert "page cache" in result.notes[0]


def test_all_files_of_a_model_are_dropped(tmp_path: Path) -> None:
    """The weights beside an ONNX file belong to it, and a stranger's file in the same folder does not."""
    model = onnx.load(make_nets(tmp_path)[0])
    (tmp_path / "bare").mkdir()
    path = tmp_path / "bare/model.onnx"
    onnx.save(model, str(path), save_as_external_data=True, location="weights.bin", size_threshold=0)
    (path.parent / "other.bin").write_bytes(bytes(100))
    files = files_of(load_artifact(path))
    assert [file.name for file in files] == ["model.onnx", "weights.bin"]
    for file in files:
        file.read_bytes()
    assert all_cached_percent(files) == pytest.approx(100)
    assert [file.name for file in files_of(load_artifact(tmp_path / "wide.onnx"))] == ["wide.onnx"]
    assert all_cached_percent([]) is None


def test_a_damaged_file_is_told_by_the_process(tmp_path: Path) -> None:
    """The error of the new process is that of the command."""
    (tmp_path / "x.onnx").write_bytes(b"\x08\x01" * 50)
    with pytest.raises(ArtifactError, match=r"x\.onnx"):
        measure_cold({"x": (load_artifact(tmp_path / "x.onnx"), "cpu")}, ColdOptions(starts=2), SILENT)
    with pytest.raises(UserError, match="is an endpoint"):
        require_models(["http://127.0.0.1/predictions/x"])


def test_calls_are_steady_when_they_are_as_fast_as_the_last(tmp_path: Path) -> None:
    """Slow calls at the beginning are before it, and one slow call later does not matter."""
    assert steady_at([9.0, 5.0, 3.0, *[1.0] * 20]) == 3
    assert steady_at([1.0] * 20) == 0
    assert steady_at([1.0, 1.0, 7.0, *[1.0] * 20]) == 0


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="this system cannot drop pages")
def test_pages_are_dropped_or_it_is_told(tmp_path: Path) -> None:
    """A file that was just read is in the page cache; the share after dropping it is known, whatever the kernel did."""
    path = tmp_path / "file"
    path.write_bytes(bytes(1 << 20))
    path.read_bytes()
    before = cached_percent(path)
    drop_pages(path)
    after = cached_percent(path)
    assert before == pytest.approx(100)
    assert before is not None
    assert after is not None
    assert 0 <= after <= before
    (tmp_path / "empty").touch()
    assert cached_percent(tmp_path / "empty") is None
