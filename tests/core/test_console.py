"""What people see: brackets stay, and long work without a terminal prints a line from time to time."""

from __future__ import annotations

import re
import sys
import threading
import time

import pytest

from retort.core.console import Console, Mode
from retort.core.terminal.heartbeat import Work

BRACKETS = "pip install 'retort[serve]' [red] [/] \\[x]"


def test_brackets_are_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    """Titles, columns, cells, lines, stages and warnings are printed as they are."""
    console = Console("text")
    console.table(f"title {BRACKETS}", [f"column {BRACKETS}", "b"], [(BRACKETS, "[bold]")], words=True)
    console.say(BRACKETS)
    console.warn(BRACKETS)
    console.stage("[s]", BRACKETS)
    shown = capsys.readouterr()
    assert shown.out.count(BRACKETS) == 3
    assert "[bold]" in shown.out
    assert shown.err.count(BRACKETS) == 3
    assert "[s]" in shown.err


def test_long_work_prints_lines_without_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line every 30 s with the step and the time left; none for short work, in JSON mode, or at the end."""
    clock = [0.0]
    monkeypatch.setattr("retort.core.terminal.heartbeat.time.monotonic", lambda: clock[0])
    with Console("text").progress("train", 10) as bar:
        for _ in range(10):
            clock[0] += 12
            bar.advance()
    lines = [line.strip() for line in capsys.readouterr().err.splitlines()]
    assert lines == [
        "train  3 of 10, about 84 s left",
        "train  6 of 10, about 48 s left",
        "train  9 of 10, about 12 s left",
    ]
    modes: tuple[Mode, ...] = ("json", "silent")
    for mode in modes:
        with Console(mode).progress("train", 4) as bar:
            for _ in range(4):
                clock[0] += 40
                bar.advance()
        assert capsys.readouterr().err == ""


def test_one_long_step_is_reported(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Work without steps, and a step that takes long, print a line each time; the thread ends with the work."""
    monkeypatch.setattr("retort.core.terminal.heartbeat.LINE_EVERY_S", 0.05)
    console = Console("text")
    with console.working("export"):
        time.sleep(0.3)
        with console.progress("parity", 4):
            time.sleep(0.3)
    told = capsys.readouterr().err.splitlines()
    assert any(line.strip().startswith("export  running for 0 s") for line in told)
    assert any("export  parity: 0 of 4, running for 0 s" in line for line in told)
    time.sleep(0.2)
    assert capsys.readouterr().err == ""
    assert not [thread for thread in threading.enumerate() if thread.name == "heartbeat"]
    modes: tuple[Mode, ...] = ("json", "silent")
    for mode in modes:
        with Console(mode).working("export"):
            assert not [thread for thread in threading.enumerate() if thread.name == "heartbeat"]


def test_steps_of_an_interrupted_run_do_not_shorten_the_estimate() -> None:
    """The time left is that of the steps of this run."""
    work = Work("train", total=10, done=6, skipped=5, started=0.0)
    assert work.describe(now=12.0) == "6 of 10, about 48 s left"


def test_work_without_steps_tells_what_is_left_by_its_last_run() -> None:
    """Work that took 300 s before says what is left of them, and says so when it takes longer."""
    work = Work("engine", started=0.0, last_s=300.0)
    assert work.describe(now=60.0) == "running for 60 s, about 4 min left if it takes as long as last time"
    assert work.describe(now=310.0) == "running for 5 min, last time it took 5 min"
    assert Work("engine", started=0.0).describe(now=60.0) == "running for 60 s"


ROWS = [("conv1.weight", "a long reason that has many words and no end", "0.28 pp [-1.51, 1.51]"), ("b", "short", "1")]


@pytest.mark.parametrize("words", [False, True])
@pytest.mark.parametrize("width", [50, 60, 80, 100, 120, 140])
def test_tables_are_readable_at_any_width(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int, words: bool
) -> None:
    """No line is longer than the terminal, every word of every cell is whole, and nothing is left out."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", str(width))
    console = Console("text")
    assert console.width == width
    columns = ["layer", "why it stays in floating point", "drop [95%]"]
    rows = ROWS if words else [(row[0] * 3, "98.33 % [96.4, 99.2]", row[2]) for row in ROWS]
    console.table("title", columns, rows, words=words)
    shown = re.sub(r"\x1b\[[\d;]*m", "", capsys.readouterr().out)
    assert "…" not in shown
    assert max(map(len, shown.splitlines())) <= width
    parts = re.split(r"[\s│]+", shown)
    assert all(word in parts for cell in [cell for row in rows for cell in row] for word in cell.split())
    assert all(interval in shown for row in rows for interval in re.findall(r"\[.*?\]", " ".join(row)))


def test_without_a_terminal_tables_have_their_full_width(capsys: pytest.CaptureFixture[str]) -> None:
    """Rows of numbers are one line each, however long they are."""
    console = Console("text")
    assert console.width is None
    console.table("title", [f"column {index}" for index in range(30)], [[f"{index}.00 ms" for index in range(30)]])
    line = next(line for line in capsys.readouterr().out.splitlines() if "29.00 ms" in line)
    assert all(f"{index}.00 ms" in line for index in range(30))
