"""A result is valid when its figures follow from its raw times; every edited figure is found."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from measured_results import measured

from retort.benchmarks import raw_times
from retort.benchmarks.result import save_result
from retort.benchmarks.validation import validation
from retort.core.errors import ArtifactError, MissingFileError

OLD = Path(__file__).parents[2]
Edit = Callable[[Any], None]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A result with the measured files beside it."""
    folder = tmp_path_factory.mktemp("written")
    save_result(measured(folder), folder / "result.json")
    return folder / "result.json"


def edited(written: Path, folder: Path, edit: Edit) -> Path:
    """A copy of the result that somebody changed by hand."""
    raw = json.loads(written.read_text())
    edit(raw)
    path = folder / "edited.json"
    path.write_text(json.dumps(raw))
    return path


def entry(raw: Any, stage: int = 1, batch: str = "1") -> Any:
    """The latency of a stage in JSON."""
    return raw["stages"][stage]["latency"][batch]


def test_a_measured_result_is_valid(written: Path) -> None:
    """All medians, percentiles, ratios and intervals follow from the raw times, and all checksums fit."""
    found = validation.validate_file(written)
    assert found.faults == ()
    assert found.notes == ()
    assert (found.files, found.schema) == (3, "retort.result/2")
    assert found.figures > 300
    assert "is a valid retort.result/2" in found.sentence


def _median(raw: Any) -> None:
    entry(raw)["median_ms"].update(value=0.1201, low=0.1, high=0.9)


def _percentile(raw: Any) -> None:
    entry(raw)["percentiles"][0]["value_ms"] *= 1.001


def _ratio(raw: Any) -> None:
    entry(raw)["ratio"]["low"] *= 0.99


def _verdict(raw: Any) -> None:
    entry(raw)["verdict"] = "slower"


def _round(raw: Any) -> None:
    entry(raw, 0, "32")["blocks_ms"][3] *= 1.1


def _loss(raw: Any) -> None:
    raw["stages"][2]["drop"].update(value=-0.9, low=-1, high=0.9)


def _gate(raw: Any) -> None:
    raw["gates"][0]["passed"] = False


def _text(raw: Any) -> None:
    entry(raw)["raw"]["wall_ns"] = entry(raw)["raw"]["wall_ns"][:40]


def _another_model(raw: Any) -> None:
    entry(raw)["raw"] = entry(raw, 2)["raw"]


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        (_median, "stages.1.latency.1.median_ms.value: the median of 'prune' at batch 1 says 0.1201 ms; its raw times"),
        (_percentile, "stages.1.latency.1.percentiles.0.value_ms: "),
        (_ratio, "stages.1.latency.1.ratio.low: the lower end of the ratio of 'prune' at batch 1 says"),
        (_verdict, "stages.1.latency.1.verdict: 'prune' at batch 1 says slower; its ratio gives faster"),
        (_round, "stages.0.latency.32.blocks_ms.3: "),
        (_loss, "stages.2.drop.value: the loss of 'export' says -0.9; its metrics give"),
        (_gate, "gates.0.passed: says not passed; its verdict is passed"),
        (_text, "raw times are damaged"),
        (_another_model, "stages.1.latency.1.median_ms.value: the median of 'prune'"),
    ],
)
def test_an_edited_figure_is_found(written: Path, tmp_path: Path, edit: Edit, told: str) -> None:
    """One figure that was changed by hand is named with its path, what it says and what the raw times give."""
    found = validation.validate_file(edited(written, tmp_path, edit))
    assert any(told in fault for fault in found.faults), found.faults


def test_every_fault_is_listed_at_once(written: Path, tmp_path: Path) -> None:
    """A file with several changes is told all of them, and a changed model beside it, too."""

    def several(raw: Any) -> None:
        for edit in (_percentile, _verdict, _gate):
            edit(raw)

    path = edited(written, tmp_path, several)
    shutil.copy(written.parent / "prune.pt2", tmp_path)
    (tmp_path / "export.pt2").write_bytes(b"another")
    found = validation.validate_file(path)
    for told in ("percentiles.0", "verdict", "gates.0", "export.pt2 has SHA-256"):
        assert any(told in fault for fault in found.faults), told
    assert found.files == 2
    assert found.sentence.endswith(f"{len(found.faults)} faults")


def test_readings_in_order_of_size_still_give_the_percentiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With more readings than are kept in order of time, percentiles and ratios are still checked."""
    monkeypatch.setattr(raw_times, "MOST", 50)
    save_result(measured(tmp_path), tmp_path / "result.json")
    found = validation.validate_file(tmp_path / "result.json")
    assert found.faults == ()
    assert "order of size" in found.notes[0]
    wrong = validation.validate_file(edited(tmp_path / "result.json", tmp_path, _percentile))
    assert any("percentiles.0.value_ms" in fault for fault in wrong.faults)


def test_another_version_of_the_statistics_is_no_fault(written: Path, tmp_path: Path) -> None:
    """Intervals of other code are believed and that is said; percentiles and means must follow all the same."""

    def older(raw: Any) -> None:
        for stage in raw["stages"]:
            for latency in stage["latency"].values():
                latency["raw"]["method"] = "other code"
        entry(raw)["ratio"]["low"] *= 0.99
        entry(raw)["percentiles"][0].update(needed=77, low_ms=None, high_ms=None)

    found = validation.validate_file(edited(written, tmp_path, older))
    assert found.faults == ()
    assert "another version of the statistics" in found.notes[0]

    def both(raw: Any) -> None:
        older(raw)
        _percentile(raw)
        entry(raw, 2)["median_ms"].update(value=0.9, high=2)

    wrong = validation.validate_file(edited(written, tmp_path, both))
    assert ["percentiles.0.value_ms" in fault for fault in wrong.faults] == [False, True]
    assert "its rounds allow" in wrong.faults[0]


@pytest.mark.parametrize("name", ["results/schema1.json", "results/schema1_open.json", "old_files/fabcb72/result.json"])
def test_older_results_are_valid(name: str) -> None:
    """Results of version 1, which have no raw times, are valid, and it is said what could not be checked."""
    found = validation.validate_file(OLD / name)
    assert found.faults == ()
    assert found.schema == "retort.result/1"
    assert all("have no raw times" in note for note in found.notes)


def test_an_older_result_that_was_edited_is_found(tmp_path: Path) -> None:
    """Without raw times, a median and a ratio outside of what the rounds allow are faults."""

    def both(raw: Any) -> None:
        entry(raw)["median_ms"].update(value=9e3, low=None, high=None)
        entry(raw)["ratio"].update(value=9e3, low=None, high=None)

    found = validation.validate_file(edited(OLD / "results/schema1.json", tmp_path, both))
    assert any("its rounds allow" in fault and "median_ms" in fault for fault in found.faults)
    assert any("its rounds allow" in fault and "ratio" in fault for fault in found.faults)


@pytest.mark.parametrize("schema", ["retort.result/3", "retort.edge/2"])
def test_a_newer_version_is_refused(schema: str, tmp_path: Path) -> None:
    """A file of a later version is refused in one sentence that names both versions."""
    path = tmp_path / "newer.json"
    path.write_text(json.dumps({"schema": schema}))
    with pytest.raises(ArtifactError, match=f"has the schema {schema}, and this Retort reads up to retort") as caught:
        validation.validate_file(path)
    assert caught.value.remedy == "update Retort"


@pytest.mark.parametrize(("text", "told"), [("{", "is not JSON"), ("[1]", "no result"), ("[" * 100_000, "is not JSON")])
def test_what_is_no_result_is_refused(text: str, told: str, tmp_path: Path) -> None:
    """A file that is no JSON, or JSON of something else, is one clear error; so is a path without a file."""
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(ArtifactError, match=told):
        validation.validate_file(path)
    with pytest.raises(MissingFileError):
        validation.validate_file(tmp_path / "nowhere.json")
