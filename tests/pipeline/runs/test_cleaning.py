"""What may be deleted of runs is found and deleted; nothing of a user's and nothing of a running run is."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from retort.__main__ import main
from retort.core.artifact import new_artifact
from retort.core.context import Place
from retort.core.errors import UserError
from retort.core.system.owned_folders import SCRATCH
from retort.pipeline.runs.cleaning import Cleaning, cleaning, remove
from retort.pipeline.runs.run_folders import runs_in
from retort.pipeline.runs.run_record import RECORD, RunRecord, read_record


def write(folder: Path, key: str, parents: tuple[str, ...] = ()) -> str:
    """A finished artifact; its name."""
    with new_artifact(Place(folder, key, parents), "graph", "export") as draft:
        (draft.folder / "model.onnx").write_bytes(key.encode())
    return folder.name


def record(folder: Path, *folders: str, state: str = "finished") -> None:
    """The record of the latest run."""
    made = RunRecord("/r.yaml", ("capture", "train", "export"), state, folders=folders)  # type: ignore[arg-type]
    (folder / RECORD).write_text(json.dumps(asdict(made)))


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A run with artifacts of two recipes, unfinished work, and files of a user."""
    folder = tmp_path / "runs" / "digits"
    folder.mkdir(parents=True)
    (folder / ".lock").touch()
    write(folder / "00-capture-aaaaaaaaaaaa", "a")
    write(folder / "01-train-bbbbbbbbbbbb", "b", ("a",))
    write(folder / "01-train-cccccccccccc", "c", ("old",))
    write(folder / "02-export-dddddddddddd", "d", ("c",))
    write(folder / "02-export-eeeeeeeeeeee", "e", ("b",))
    record(folder, "00-capture-aaaaaaaaaaaa", "01-train-bbbbbbbbbbbb", "02-export-eeeeeeeeeeee")
    (folder / SCRATCH / "01-train-bbbbbbbbbbbb").mkdir(parents=True)
    (folder / SCRATCH / "01-train-bbbbbbbbbbbb" / "epoch.pt").write_bytes(b"12345")
    (folder / ".x.0123abcd.tmp").mkdir()
    (folder / "notes.txt").write_text("mine")
    (folder / "mine").mkdir()
    return tmp_path / "runs"


def names(found: Cleaning) -> set[str]:
    """The names of what may be deleted."""
    return {item.path.name for item in found.items}


def test_what_the_latest_run_does_not_use_goes(runs: Path) -> None:
    """Artifacts of an earlier recipe and unfinished work are deleted; the rest is as before."""
    found = cleaning(runs)
    assert names(found) == (
        {"01-train-cccccccccccc", "02-export-dddddddddddd", "01-train-bbbbbbbbbbbb", ".x.0123abcd.tmp"}
    )
    assert found.size_bytes > 5
    assert remove(found.items) == found.size_bytes
    left = {path.name for path in (runs / "digits").iterdir()}
    assert left == (
        {
            ".lock",
            RECORD,
            "notes.txt",
            "mine",
            "00-capture-aaaaaaaaaaaa",
            "01-train-bbbbbbbbbbbb",
            "02-export-eeeeeeeeeeee",
        }
    )
    assert cleaning(runs).items == []


def test_a_stopped_run_keeps_what_its_later_stages_may_use(runs: Path) -> None:
    """After a run that stopped behind its training, exports of that training are kept, and those of another go."""
    record(runs / "digits", "00-capture-aaaaaaaaaaaa", "01-train-bbbbbbbbbbbb", state="stopped")
    found = {item.path.name for item in cleaning(runs).items if item.reason == "superseded"}
    assert found == {"01-train-cccccccccccc", "02-export-dddddddddddd"}


@pytest.mark.parametrize("state", ["running", ""])
def test_without_a_whole_record_no_artifact_goes(runs: Path, state: str) -> None:
    """After a killed run, or one of an earlier version, only unfinished work is deleted."""
    if state:
        record(runs / "digits", state=state)
    else:
        (runs / "digits" / RECORD).unlink()
    assert {item.reason for item in cleaning(runs).items} == {"unfinished"}


def _edit(folder: Path) -> None:
    (folder / "model.onnx").write_bytes(b"mine")


def _extend(folder: Path) -> None:
    (folder / "notes.txt").write_text("mine")


@pytest.mark.parametrize(("change", "reason"), [(_edit, "changed after"), (_extend, "did not write")])
def test_changed_artifacts_are_kept(runs: Path, change: Callable[[Path], None], reason: str) -> None:
    """An artifact that was changed by hand, or that has another file, is kept and named with the reason."""
    folder = runs / "digits" / "01-train-cccccccccccc"
    before = cleaning(runs)
    change(folder)
    found = cleaning(runs)
    assert [path for path, why in found.kept if reason in why] == [folder]
    remove(before.items)  # found before it was changed
    assert folder.is_dir()


def test_a_running_run_is_not_touched(runs: Path) -> None:
    """A run that is active is named, and what was found before it began is kept."""
    before = cleaning(runs)
    with (runs / "digits" / ".lock").open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = cleaning(runs)
        assert found.items == []
        assert found.kept == [(runs / "digits", "is in use by a run")]
        assert remove(before.items) == 0
        assert runs_in(runs)[0].state == "running"


def test_links_are_not_followed(runs: Path, tmp_path: Path) -> None:
    """A link among the runs, and one in unfinished work, lead nowhere."""
    outside = tmp_path / "outside"
    (outside / SCRATCH / "x").mkdir(parents=True)
    (outside / "data.txt").write_text("mine")
    (runs / "linked").symlink_to(outside)
    (runs / "digits" / SCRATCH / "link").symlink_to(outside)
    (runs / "digits" / SCRATCH / "01-train-bbbbbbbbbbbb" / "inner").symlink_to(outside)
    remove(cleaning(runs).items)
    assert (outside / "data.txt").read_text() == "mine"
    assert (outside / SCRATCH / "x").is_dir()


def test_fresh_work_of_a_command_is_kept(runs: Path) -> None:
    """Work without a lock that was written a moment ago may be in use; an hour later it may go."""
    work = runs / SCRATCH / "train-123"
    work.mkdir(parents=True)
    assert any(path == work for path, _ in cleaning(runs).kept)
    os.utime(work, (0, 0))
    assert "train-123" in names(cleaning(runs))


def test_caches_go_only_when_asked(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only files with the names that Retort gives them, in the folders of the cache."""
    monkeypatch.setenv("RETORT_CACHE", str(tmp_path / "cache"))
    for name in (
        "latency/0123456789abcdef.json",
        "timing/trt-0123456789abcdef.timing",
        "engines/retort-0123456789abcdef_1",
    ):
        (tmp_path / "cache" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "cache" / name).write_text("{}")
    (tmp_path / "cache" / "latency" / "notes.json").write_text("mine")
    assert not any(item.reason == "cache" for item in cleaning(runs).items)
    found = cleaning(runs, caches=True)
    remove(found.items)
    assert sum(item.reason == "cache" for item in found.items) == 3
    assert [path.name for path in (tmp_path / "cache").rglob("*") if path.is_file()] == ["notes.json"]


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The standard output of a command that succeeds."""
    with pytest.raises(SystemExit) as stopped:
        main(list(arguments))
    assert stopped.value.code == 0
    return capsys.readouterr().out


def test_the_command_deletes_only_when_told(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a terminal nothing is deleted unless --yes is given; both say how much it frees."""
    told = json.loads(call(capsys, "clean", "--runs", str(runs), "--json"))
    assert (len(told["items"]), told["freed_bytes"]) == (4, 0)
    assert "nothing was deleted: --yes deletes it" in call(capsys, "clean", "--runs", str(runs))
    assert len(cleaning(runs).items) == 4
    assert "freed" in call(capsys, "clean", "digits", "--runs", str(runs), "--yes")
    assert cleaning(runs).items == []
    with pytest.raises(UserError, match="did you mean 'digits'"):
        cleaning(runs, ["digit"])


def test_runs_are_listed(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each run has its state, its stages, its size, its unfinished work and the command that goes on."""
    record(runs / "digits", "00-capture-aaaaaaaaaaaa", "01-train-bbbbbbbbbbbb", state="stopped")
    write(runs / "train-ffffffffffff", "f")
    listed = json.loads(call(capsys, "runs", "--runs", str(runs), "--json"))["runs"]
    by_name = {run["name"]: run for run in listed}
    assert by_name["train-ffffffffffff"]["state"] == "artifact"
    run = by_name["digits"]
    assert (run["state"], run["finished"], run["planned"]) == ("stopped", ["capture", "train"], 3)
    assert run["size_bytes"] > 100
    assert "01-train-bbbbbbbbbbbb" in run["unfinished"]
    assert run["go_on"] == f"retort run /r.yaml --runs {runs}"
    shown = " ".join(call(capsys, "runs", "--runs", str(runs)).split())
    assert "2 of 3" in shown
    assert "go on with `retort run /r.yaml" in shown
    assert "contains no runs" in call(capsys, "runs", "--runs", str(runs / "none"))


def test_a_damaged_record_is_none(runs: Path) -> None:
    """A record that cannot be read counts as none."""
    (runs / "digits" / RECORD).write_bytes(b"\xff{")
    assert read_record(runs / "digits") is None
