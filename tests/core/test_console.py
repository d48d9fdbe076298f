"""What people see: brackets stay, and long work without a terminal prints a line from time to time."""

from __future__ import annotations

import pytest

from retort.core.console import Console, Mode

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
    monkeypatch.setattr("retort.core.console.time.monotonic", lambda: clock[0])
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
