"""The page of results of all suites, with tiny suites that are processes of their own."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from retort.benchmarks.suites.all import FORMS, Part, main, missing
from retort.benchmarks.suites.suite_page import SuiteEntry, SuitePage, changes, figures_of, flattened, read_page
from retort.core.errors import ArtifactError, MissingFileError


def tiny(name: str, code: str, minutes: float = 1.0, needs: str = "") -> Part:
    """A suite that is a line of Python."""
    return Part(name, ("-c", code), minutes, needs)


def printing(value: float, code: int = 0) -> str:
    """A suite that prints a table and one line of JSON."""
    tree = json.dumps({"rows": [{"name": "a", "ms": value, "series": [1, 2]}], "machine": {"cores": 2}})
    return f"print('a table'); print('{tree}'); raise SystemExit({code})"


def test_a_page_has_every_suite(tmp_path: Path) -> None:
    """Finished, missed, failed, late and impossible suites are told apart, and each keeps what it printed."""
    parts = {
        "short": [
            tiny("good", printing(1.5)),
            tiny("missed", printing(2.0, code=1)),
            tiny("broken", "raise ValueError('no such thing')"),
            tiny("late", "import time; print('begun', flush=True); time.sleep(60)", minutes=0.02),
            tiny("impossible", "", needs="no_such_module"),
        ]
    }
    assert main(["--out", str(tmp_path / "page")], parts) == 1
    page = read_page(tmp_path / "page")
    assert [one.status for one in page.suites] == ["finished", "missed", "failed", "timed out", "left out"]
    assert page.suites[0].figures == {"rows[a].ms": 1.5}
    assert page.suites[0].text == "a table"
    assert "no such thing" in page.suites[2].why
    assert "begun" in page.suites[3].text
    assert page.suites[4].why == "no_such_module is not installed"
    shown = (tmp_path / "page/page.md").read_text()
    assert "| good | finished |" in shown
    assert "a table" in shown


def test_a_late_suite_may_clean_up(tmp_path: Path) -> None:
    """A suite that takes too long is interrupted, so that it ends what it has started."""
    mark = tmp_path / "cleaned"
    code = f"import time, pathlib\ntry: time.sleep(60)\nfinally: pathlib.Path({str(mark)!r}).touch()"
    assert main(["--out", str(tmp_path / "page")], {"short": [tiny("late", code, minutes=0.01)]}) == 1
    assert mark.exists()


def test_pages_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A figure that changed stands in the table and on the new page; one that changed little is only counted."""
    for name, first, second in (("old", 1.0, 1.0), ("new", 1.5, 1.01)):
        parts = {"short": [tiny("one", printing(first)), tiny("two", printing(second))]}
        given = ["--out", str(tmp_path / name), *(["--compare", str(tmp_path / "old")] if name == "new" else [])]
        assert main(given, parts) == 0
    shown = capsys.readouterr()
    assert "+50.0 %" in shown.out
    assert "+1.0 %" not in shown.out
    assert "1 figure changed by less than 5 %, or within" in shown.err
    assert "| one | rows[a].ms | 1 | 1.5 | +50.0 % |" in (tmp_path / "new/page.md").read_text()
    assert main(["--page", str(tmp_path / "new"), "--compare", str(tmp_path / "old")], {"short": []}) == 0


def test_changes_within_intervals_are_not_told() -> None:
    """A value whose old and new intervals overlap has not changed; one whose intervals are apart has."""

    def page(value: float, low: float, high: float) -> SuitePage:
        figures = {"a.value": value, "a.low": low, "a.high": high, "a.rounds": value}
        figures |= {"p.value_ms": value, "p.low_ms": low, "p.high_ms": high, "p.needed": value, "p.dependence": value}
        entry = SuiteEntry(name="s", command="c", status="finished", seconds=1, figures=figures)
        return SuitePage(kind="short", started="", tool={}, env={}, suites=(entry,))

    before = page(1.0, 0.9, 1.3)
    assert changes(before, page(1.2, 1.1, 1.4), 0.05)[0] == []
    assert [row[1] for row in changes(before, page(2.0, 1.8, 2.2), 0.05)[0]] == ["a.value", "p.value_ms"]
    assert dict(flattened({"ms": 2.0, "noise": {"drift_percent": 3.0}, "spikes": {"count": 4}})) == {"ms": 2.0}


def test_what_is_not_a_page_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Files of the user are kept, and a missing or altered page and an unknown suite have one message each."""
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "page.json").write_text("mine")
    assert main(["--out", str(folder)], {"short": []}) == 2
    assert (folder / "page.json").read_text() == "mine"
    assert main(["--compare", str(tmp_path / "none")], {"short": []}) == 2
    assert "no page of results" in capsys.readouterr().err
    with pytest.raises(ArtifactError, match="is no page of results"):
        read_page(folder)
    with pytest.raises(MissingFileError):
        read_page(tmp_path)
    assert main(["--only", "nothing", "--out", str(tmp_path / "x")], {"short": [tiny("one", "")]}) == 2
    assert "there is no suite nothing" in capsys.readouterr().err


def test_figures_have_stable_names() -> None:
    """An interval in the name of a finding is not part of it, and lists are named by what they are about."""
    tree = {"findings": [{"what": "a loop adds [0.1, 0.2]", "got": "1,250 µs"}], "rows": [{"net": "x", "y": [3.0, {}]}]}
    assert dict(flattened(tree)) == {"findings[a loop adds]": 1250.0, "rows[x].y[0]": 3.0}
    tree = {"findings": [{"what": "x", "got": "1"}], "details": {"x": {"value": 1.0, "low": 0.5}}}
    assert dict(flattened(tree)) == {"details.x.value": 1.0, "details.x.low": 0.5}
    assert dict(flattened({"a": math.nan, "b": True})) == {"b": 1.0}
    assert figures_of("only text\n") == ({}, "only text")


def test_the_forms_name_suites_that_exist() -> None:
    """Every suite of both forms is a module, its names are unique, and the short one fits into ten minutes."""
    from importlib.util import find_spec

    for parts in FORMS.values():
        assert len({part.name for part in parts}) == len(parts)
        assert all(find_spec(part.arguments[1]) is not None for part in parts)
    assert "serving cost" in {part.name for part in FORMS["full"]}
    assert missing("") == ""
