"""The store of results: rows are appended and never changed, once for each run, and other files are left alone."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from retort.__main__ import main
from retort.benchmarks.edge.device_comparison import on_both
from retort.benchmarks.edge.floor import Floor
from retort.benchmarks.edge.store import COLUMNS, VERSION, Row, Store, newest
from retort.core.errors import ArtifactError, MissingFileError, StorageError, UserError

ROW = Row(
    "run1", "2026-12-01T00:00:00", "retort edge run", "board (Pi 5)", "f1", "int8", "a" * 64, "INT8", "all", 1, 1,
    1.5, 1.4, 1.6, None, "fp32", 2.0, 1.9, 2.1, "accuracy", 0.9, 0.01, 60_000_000, 45_000, "VALID", "",
)  # fmt: skip


def test_rows_come_back_as_they_were(tmp_path: Path) -> None:
    """Every field, with its type; an absent value is None."""
    store = Store(tmp_path / "deep/edge.db")
    assert store.add([ROW, replace(ROW, batch=8, verdict="THROTTLED", reasons="THROTTLED: heat")]) == 2
    assert store.rows()[0] == ROW
    assert [row.verdict for row in store.rows()] == ["VALID", "THROTTLED"]


def test_a_run_is_stored_once_and_nothing_is_changed(tmp_path: Path) -> None:
    """The same run again adds nothing, also with other numbers; another run of the same file is a new row."""
    store = Store(tmp_path / "edge.db")
    store.add([ROW])
    assert store.add([replace(ROW, median_ms=9.0)]) == 0
    assert store.rows() == [ROW]
    later = replace(ROW, run="run2", median_ms=1.2)
    assert store.add([later]) == 1
    assert len(store.rows()) == 2
    assert newest(store.rows()) == [later]
    assert len(newest([ROW, replace(ROW, run="run3", fingerprint="f2")])) == 2


def test_the_noise_of_a_device_is_the_newest_one(tmp_path: Path) -> None:
    """Rows of noise are added, too; a store without them, of version 2, has none, and gets the table with the next."""
    path = tmp_path / "edge.db"
    store = Store(path)
    assert store.floors() == {}
    store.add([ROW])
    with sqlite3.connect(path) as connection:
        connection.execute("DROP TABLE floors")
        connection.execute("PRAGMA user_version = 2")
    assert store.floors() == {}
    first = Floor("run1", "2026-12-01T00:00:00", "f1", "ONNX Runtime on the CPU", "all", 1, 0.02, 8, 2.0, 4, "fp32")
    assert store.add_floors([first, replace(first, threads=4)]) == 2
    assert store.add_floors([replace(first, value=0.5)]) == 0
    later = replace(first, run="run2", value=0.01)
    store.add_floors([later])
    assert store.floors()["f1", "ONNX Runtime on the CPU", "all", 1] == later
    assert len(store.floors()) == 2
    assert later.at(8.0) == pytest.approx(0.005)
    assert "differs from itself by up to 1.00% (8 comparisons of 2.0 s of fp32" in later.text


def test_other_files_are_told_and_stay(tmp_path: Path) -> None:
    """No store, a file of something else, a damaged one, a later version, and a folder that cannot be made."""
    with pytest.raises(MissingFileError, match="there is no"):
        Store(tmp_path / "edge.db").rows()
    foreign = tmp_path / "notes.db"
    foreign.write_bytes(b"my notes, which are no database of SQLite" * 30)
    before = foreign.read_bytes()
    for act in (lambda: Store(foreign).rows(), lambda: Store(foreign).add([ROW])):
        with pytest.raises(ArtifactError, match="is no store of measurements"):
            act()
    assert foreign.read_bytes() == before
    late = tmp_path / "late.db"
    with sqlite3.connect(late) as connection:
        connection.execute(f"PRAGMA user_version = {VERSION + 1}")
    with pytest.raises(ArtifactError, match="update Retort"):
        Store(late).rows()
    with pytest.raises(StorageError):
        Store(foreign / "below/edge.db").add([ROW])


def test_other_programs_can_read_it(tmp_path: Path) -> None:
    """The columns have the names of the fields."""
    Store(tmp_path / "edge.db").add([ROW])
    with sqlite3.connect(tmp_path / "edge.db") as connection:
        found = connection.execute('SELECT device, median_ms, "drop" FROM measurements').fetchall()
        names = [column[1] for column in connection.execute("PRAGMA table_info(measurements)")]
    assert found == [("board (Pi 5)", 1.5, 0.01)]
    assert tuple(names) == COLUMNS


def test_a_store_of_version_1_is_read_and_taken_on(tmp_path: Path) -> None:
    """It had no runtime and no energy: its rows come without, and new rows are added beside them."""
    path = tmp_path / "edge.db"
    old = COLUMNS[:-2]
    with sqlite3.connect(path) as connection:
        named = ", ".join(f'"{name}"' for name in old)
        connection.execute(f"CREATE TABLE measurements ({named}, UNIQUE (run, model, cores, threads, batch))")
        marks = ", ".join("?" * len(old))
        connection.execute(f"INSERT INTO measurements VALUES ({marks})", [getattr(ROW, name) for name in old])
        connection.execute("PRAGMA user_version = 1")
    store = Store(path)
    assert store.rows() == [ROW]
    later = replace(ROW, run="run2", runtime="OpenVINO on the CPU", energy_mj=1.5)
    assert store.add([later]) == 1
    assert store.rows() == [ROW, later]
    assert len(newest(store.rows())) == 2


def test_two_devices_are_compared_by_what_both_measured() -> None:
    """Same file, runtime, threads and batch; the interval is of independent runs, and small differences say nothing."""
    fast = replace(ROW, run="r2", device="orin (Jetson)", fingerprint="f2", median_ms=0.5, low_ms=0.49, high_ms=0.51)
    noisy = replace(fast, batch=8, verdict="NOISY")
    rows = [ROW, replace(ROW, batch=8), replace(ROW, batch=16), fast, noisy]
    first, second = on_both(rows, "pi 5", "orin")
    assert (first.judgement, first.factor) == ("faster", 3.0)
    assert first.low == pytest.approx(1.4 / 0.51)
    assert first.high == pytest.approx(1.6 / 0.49)
    assert (second.judgement, second.why) == ("cannot tell", "NOISY on orin (Jetson)")
    assert on_both(rows, "orin", "pi 5")[0].judgement == "slower"
    near = replace(fast, median_ms=1.48, low_ms=1.47, high_ms=1.49)
    assert on_both([replace(ROW, low_ms=1.49, high_ms=1.51), near], "pi", "orin")[0].judgement == "cannot tell"


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (("pi", "vax"), "no device in the store is called 'vax'"),
        (("o", "pi 5"), "may be"),
        (("pi 5", "board"), "the same device"),
        (("pi 5", "orin"), "no measurement in common"),
    ],
)
def test_devices_that_cannot_be_compared_are_one_sentence(names: tuple[str, str], told: str) -> None:
    """A name of none or of several, the same device twice, and nothing in common."""
    other = replace(ROW, device="orin (Jetson)", fingerprint="f2", sha256="b" * 64)
    with pytest.raises(UserError, match=told):
        on_both([ROW, other], *names)


def test_databases_of_others_stay_as_they_are(tmp_path: Path) -> None:
    """A table of the same name, other tables and an empty file are no store, and looking changes no byte."""
    for name, script in {
        "weights.db": "CREATE TABLE measurements (day, kg); INSERT INTO measurements VALUES (1, 2)",
        "notes.db": "CREATE TABLE notes (text)",
    }.items():
        path = tmp_path / name
        with sqlite3.connect(path) as connection:
            connection.executescript(script)
        before = path.read_bytes()
        for act in (lambda path=path: Store(path).rows(), lambda path=path: Store(path).add([ROW])):
            with pytest.raises(ArtifactError, match="is no store of measurements"):
                act()
        assert path.read_bytes() == before
    (tmp_path / "empty.db").touch()
    with pytest.raises(ArtifactError, match="is no store"):
        Store(tmp_path / "empty.db").rows()
    assert (tmp_path / "empty.db").stat().st_size == 0
    Store(tmp_path / "ours.db").add([ROW])
    (tmp_path / "ours.db").chmod(0o444)
    assert Store(tmp_path / "ours.db").rows() == [ROW]


def test_the_table_judges_ratios(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`edge table` shows intervals, and a throttled ratio or one within the noise of the device is "cannot tell"."""
    close = replace(ROW, model="close", sha256="c" * 64, ratio=1.03, ratio_low=1.02, ratio_high=1.04)
    hot = replace(ROW, model="hot", sha256="d" * 64, verdict="THROTTLED", reasons="THROTTLED: heat")
    store = Store(tmp_path / "edge.db")
    store.add([replace(ROW, model="fp32", sha256="b" * 64, ratio=None), ROW, close, hot])
    store.add_floors([Floor("run1", ROW.started, "f1", ROW.runtime, "all", 1, 0.05, 8, 1.0, 1, "fp32")])
    with pytest.raises(SystemExit) as ended:
        main(["edge", "table", "--store", str(store.path)])
    assert not ended.value.code
    told = capsys.readouterr().out
    for found in (
        "2.00 × [1.90, 2.10] fp32 ",
        "1.03 × [1.02, 1.04] fp32: cannot tell",
        "2.00 × [1.90, 2.10] fp32: cannot tell",
    ):
        assert found in told
