"""What may be deleted of runs is found and deleted; nothing of a user's and nothing of a running run is."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
from known import known

from retort.__main__ import main
from retort.core.artifact import Artifact, load_artifact, new_artifact
from retort.core.console import SILENT
from retort.core.context import Place
from retort.core.errors import UserError
from retort.core.options.recipe import Recipe
from retort.core.options.stage_options import TrainOptions
from retort.core.system.owned_folders import SCRATCH
from retort.pipeline.cache_key import Identity
from retort.pipeline.line import Line
from retort.pipeline.runs.cleaning import Cleaning, Removable, cleaning, remove
from retort.pipeline.runs.run_folders import artifacts_of, bytes_in, count_of, remarks, runs_in
from retort.pipeline.runs.run_lock import exclusive
from retort.pipeline.runs.run_record import EARLIER, RunRecord, State, read_records, record_file, recorded
from retort.serve.known_servers import KnownServer, announced


RECIPE = Path(__file__)
"""A file that exists, as the recipe of the run."""
LEFT = ".02-export-ffffffffffff.0123abcd.tmp"
"""What a killed export leaves."""


def write(folder: Path, key: str, parents: tuple[str, ...] = ()) -> str:
    """A finished artifact; its name."""
    with new_artifact(Place(folder, key, parents), "graph", "export") as draft:
        (draft.folder / "model.onnx").write_bytes(key.encode())
    return folder.name


def record(
    folder: Path,
    *folders: str,
    state: State = "finished",
    recipe: Path = RECIPE,
    earlier: tuple[str, ...] = (),
    started: float = 1.0,
) -> Path:
    """The record of the latest run of a recipe."""
    stages = ("capture", "train", "export")
    made = RunRecord(str(recipe), stages, state, started=started, folders=folders, earlier=earlier)
    path = record_file(folder, recipe)
    path.write_text(json.dumps(asdict(made)))
    return path


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
    (folder / LEFT).mkdir()
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
        {"01-train-cccccccccccc", "02-export-dddddddddddd", "01-train-bbbbbbbbbbbb", LEFT}
    )
    assert found.size_bytes > 5
    assert remove(found.items) == found.size_bytes
    left = {path.name for path in (runs / "digits").iterdir()}
    assert left == (
        {
            ".lock",
            record_file(runs, RECIPE).name,
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


@pytest.mark.parametrize("state", ["running", None])
def test_without_a_whole_record_no_artifact_goes(runs: Path, state: State | None) -> None:
    """After a killed run, or one of an earlier version, only unfinished work is deleted."""
    if state:
        record(runs / "digits", state=state)
    else:
        record_file(runs / "digits", RECIPE).unlink()
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


def test_work_of_a_running_command_is_kept(runs: Path) -> None:
    """Work that a process holds is kept, however old; that of a killed one may go at once, however new."""
    work = runs / SCRATCH / "train-123"
    code = "import sys; from pathlib import Path; from retort.core.system.folder_locks import held\n"
    code += f"with held(Path({str(work)!r})): Path({str(work / 'epoch.pt')!r}).touch(); print(); sys.stdin.read()"
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    known(process.stdout).readline()
    os.utime(work, (0, 0))
    os.utime(work / "epoch.pt", (0, 0))
    before = [Removable(work, "unfinished", "", 1)]
    assert (work, "is in use by a command") in cleaning(runs).kept
    assert remove(before) == 0
    process.kill()
    process.wait()
    (work / "epoch.pt").touch()
    assert "train-123" in names(cleaning(runs))
    assert remove(before) == 1
    assert not work.exists()


def test_an_artifact_that_is_written_is_kept(runs: Path) -> None:
    """The result of a command beside the runs is not deleted before it is finished."""
    with new_artifact(Place(runs / "export-123", "x"), "graph", "export") as draft:
        (draft.folder / "model.onnx").write_bytes(b"x")
        found = cleaning(runs)
        assert (draft.folder, "is in use by a command") in found.kept
        remove([Removable(draft.folder, "unfinished", "", 1)])
    assert (runs / "export-123" / "model.onnx").is_file()


def test_caches_go_only_when_asked(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only files with the names that Retort gives them, in the folders of the cache."""
    monkeypatch.setenv("RETORT_CACHE", str(tmp_path / "cache"))
    for name in (
        "latency/0123456789abcdef.json",
        "timing/trt-0123456789abcdef.timing",
        "engines/retort-0123456789abcdef_1",
        "servers/8080.json",
    ):
        (tmp_path / "cache" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "cache" / name).write_text("{}")
    (tmp_path / "cache" / "latency" / "notes.json").write_text("mine")
    assert not any(item.reason == "cache" for item in cleaning(runs).items)
    with announced(KnownServer("http://127.0.0.1:8081", ("digits",), "unix:/nowhere")):
        found = cleaning(runs, caches=True)
        remove(found.items)
        running = tmp_path / "cache" / "servers" / "8081.json"
        assert (running, "belongs to a server that runs") in found.kept
        assert running.is_file()
    assert sum(item.reason == "cache" for item in found.items) == 4
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
    path = RECIPE.relative_to(Path.cwd()) if RECIPE.is_relative_to(Path.cwd()) else RECIPE
    assert run["go_on"] == f"retort run {path} --runs {runs}"
    shown = " ".join(call(capsys, "runs", "--runs", str(runs)).split())
    assert "2 of 3" in shown
    assert "go on with `retort run" in shown
    (runs / "empty").mkdir()
    assert "contains no runs" in call(capsys, "runs", "--runs", str(runs / "empty"))


@pytest.mark.parametrize("command", ["runs", "clean"])
def test_a_path_that_is_no_folder_of_runs_is_named(
    runs: Path, command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file and a folder that does not exist are errors; the usual folder need not be there before the first run."""
    monkeypatch.chdir(runs.parent)
    runs.rename("other")
    Path("five.csv").touch()
    for path, told in (("five.csv", "five.csv is a file, not a folder of runs"), ("gone", "no such folder of runs: gone")):
        with pytest.raises(SystemExit) as stopped:
            main([command, "--runs", path])
        assert stopped.value.code
        assert told in capsys.readouterr().err
    assert call(capsys, command)


def test_a_damaged_record_keeps_everything(runs: Path) -> None:
    """What the recipe of a record uses that cannot be read is not known, so no artifact goes."""
    damaged = runs / "digits" / ".run-0123456789ab.json"
    damaged.write_bytes(b"\xff{")
    assert read_records(runs / "digits").unreadable == (damaged,)
    found = cleaning(runs)
    assert {item.reason for item in found.items} == {"unfinished"}
    assert (damaged, "cannot be read, so no artifact beside it is deleted") in found.kept


OTHER = ("00-capture-aaaaaaaaaaaa", "01-train-cccccccccccc", "02-export-dddddddddddd")
"""What another recipe in the folder uses."""


def test_artifacts_of_another_recipe_in_the_folder_are_kept(runs: Path) -> None:
    """Two recipes of one name share a folder; the latest runs of both count."""
    record(runs / "digits", *OTHER, recipe=Path(pytest.__file__))
    assert {item.reason for item in cleaning(runs).items} == {"unfinished"}
    assert remove(cleaning(runs).items) > 0
    assert all((runs / "digits" / name).is_dir() for name in OTHER)


def test_a_recipe_that_is_gone_keeps_its_artifacts_until_its_record_is_deleted(runs: Path) -> None:
    """Its record is named with the number of artifacts that it keeps."""
    gone = record(runs / "digits", *OTHER, recipe=runs / "gone.yaml")
    words = f"keeps 2 artifacts of {runs / 'gone.yaml'}, which does not exist any more; delete this file to free them"
    assert (gone, words) in cleaning(runs).kept
    gone.unlink()
    assert {*OTHER[1:]} <= names(cleaning(runs))


def test_a_run_that_stopped_in_its_first_stage_keeps_everything(runs: Path) -> None:
    """It has used nothing yet, so nothing is known of what it will use."""
    record(runs / "digits", state="stopped", earlier=OTHER)
    assert {item.reason for item in cleaning(runs).items} == {"unfinished"}


def test_a_stopped_run_keeps_what_the_runs_before_it_used(runs: Path) -> None:
    """What the latest whole run of the recipe used is kept until another one ends."""
    record(runs / "digits", "00-capture-aaaaaaaaaaaa", state="stopped", earlier=OTHER)
    assert {item.reason for item in cleaning(runs).items} == {"unfinished"}


def test_the_record_of_an_earlier_version_is_read(runs: Path) -> None:
    """It counts for its recipe until that runs again; if that run stopped, it does not say what it may still use."""
    ended = json.loads(record_file(runs / "digits", RECIPE).read_text())
    del ended["earlier"]
    record_file(runs / "digits", RECIPE).unlink()
    (runs / "digits" / EARLIER).write_text(json.dumps(ended))
    assert {"01-train-cccccccccccc", "02-export-dddddddddddd"} <= names(cleaning(runs))
    (runs / "digits" / EARLIER).write_text(json.dumps({**ended, "state": "stopped"}))
    assert {item.reason for item in cleaning(runs).items} == {"unfinished"}


def test_what_a_run_uses_since_it_was_found_is_kept(runs: Path) -> None:
    """Between the question and the answer another run may have used an artifact: it is looked up again."""
    before = cleaning(runs).items
    record(runs / "digits", *OTHER, recipe=Path(pytest.__file__))
    remove(before)
    assert all((runs / "digits" / name).is_dir() for name in OTHER)


def test_only_endings_that_retort_writes_belong_to_an_artifact(runs: Path) -> None:
    """The speed beside an artifact lives as long as it does; a user's copy is never deleted."""
    folder = runs / "digits"
    for base in ("01-train-bbbbbbbbbbbb", "01-train-cccccccccccc"):
        for ending in ("-speed", "-for-cpu", "-for-cpu-placement", "-copy"):
            write(folder / f"{base}{ending}", f"{base}{ending}"[:5])
    found = {item.path.name for item in cleaning(runs).items if item.reason == "superseded"}
    gone = {f"01-train-cccccccccccc{ending}" for ending in ("", "-speed", "-for-cpu", "-for-cpu-placement")}
    assert found == {*gone, "02-export-dddddddddddd"}


def test_looking_does_not_stop_a_run(runs: Path) -> None:
    """`runs` and `clean` hold the lock of a run only for an instant, and a run waits that long."""
    with (runs / "digits" / ".lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)  # as another process that looks just now
        assert cleaning(runs).items
        assert runs_in(runs)[0].state == "finished"
        threading.Timer(0.2, lambda: fcntl.flock(lock, fcntl.LOCK_UN)).start()
        with exclusive(runs / "digits"):
            assert runs_in(runs)[0].state == "running"


def test_a_folder_that_cannot_be_read_is_named(runs: Path) -> None:
    """The other runs are listed and cleaned all the same."""
    (runs / "locked" / ".lock").mkdir(parents=True)
    assert (runs / "locked", "cannot be read: Is a directory") in cleaning(runs).kept
    assert names(cleaning(runs))
    assert {run.state for run in runs_in(runs)} == {"finished", "not readable: Is a directory"}
    assert remove([Removable(runs / "locked" / ".lock", "superseded", "", 1, runs / "locked")]) == 0


def test_files_that_vanish_are_no_error(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that another process deletes while the sizes are added counts nothing."""
    whole = bytes_in(runs)
    gone = runs / "digits" / "notes.txt"
    monkeypatch.setattr(os, "walk", lambda _: [(str(runs / "digits"), [], ["notes.txt", "gone"])])
    assert bytes_in(runs) == gone.stat().st_size < whole


def test_no_more_stages_are_counted_than_the_recipe_has(runs: Path) -> None:
    """A run that was killed early says nothing of stages that only another recipe has."""
    write(runs / "digits" / "02-prune-ffffffffffff", "f")
    record(runs / "digits", state="running")
    assert count_of(runs_in(runs)[0]) == "3 of 3"


def test_recipes_of_one_name_are_told_apart(
    runs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has its own row with its path, its own state and its own artifacts."""
    record(runs / "digits", *OTHER[:2], recipe=runs.parent / "b.yaml", state="stopped", started=2.0)
    first, second = sorted(runs_in(runs), key=lambda run: run.recipe != str(RECIPE))
    assert (first.state, first.finished) == ("finished", ("capture", "train", "export"))
    assert (second.state, second.finished) == ("stopped", ("capture", "train"))
    assert first.size_bytes + second.size_bytes < bytes_in(runs)
    monkeypatch.chdir(runs.parent)
    assert "digits (b.yaml): unfinished: 01-train-bbbbbbbbbbbb and " in call(capsys, "runs")


@pytest.mark.parametrize("state", ["running", "stopped"])
def test_a_first_run_has_nothing_of_another_recipe(runs: Path, state: State) -> None:
    """In a shared folder only what its record names is its own: no artifact, no size and no measurement."""
    write(runs / "digits" / "02-bench-ffffffffffff", "f")
    new = record(runs / "digits", recipe=Path(pytest.__file__), state=state, started=2.0)
    found = next(run for run in runs_in(runs) if record_file(runs / "digits", run.recipe) == new)
    assert (count_of(found), found.size_bytes, found.measured) == ("0 of 3", 0, None)


def test_a_run_records_each_artifact_as_it_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So an active run, and one that was killed, has what it used so far."""
    raw = {"name": "own", "model": "m:f", "data": "digits", "stages": ["train"]}
    line = Line(Recipe.model_validate(raw), tmp_path, tmp_path / "own", SILENT)

    def _make(place: Place) -> Artifact:
        write(place.directory, place.key)
        return load_artifact(place.directory)

    monkeypatch.setattr("retort.pipeline.line.identity_of_measurement", lambda *_: Identity("0" * 64, {}))
    with exclusive(line.folder), recorded(line, RECIPE, None):
        assert read_records(line.folder).latest[0].folders == ()
        line.measure("train", TrainOptions(), [], _make)
        (made,) = artifacts_of(line.folder)
        assert read_records(line.folder).latest[0].folders == (made,)


def test_a_recipe_that_is_gone_is_not_gone_on_with(runs: Path) -> None:
    """No command names its file, and artifacts that it never used are not called its own."""
    gone = record(runs / "digits", recipe=runs / "gone.yaml", state="stopped", started=2.0)
    assert f"its recipe {runs / 'gone.yaml'} does not exist any more" in remarks(runs_in(runs)[-1])
    words = (
        f"keeps 2 artifacts that no other recipe uses, since a run of {runs / 'gone.yaml'}, which does not exist any "
        "more, did not end; delete this file to free them"
    )
    assert (gone, words) in cleaning(runs).kept
