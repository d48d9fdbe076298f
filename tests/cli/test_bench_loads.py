"""`retort bench load`, `cold`, `sweep` and `sustain` as commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from served_models import graph

from retort.__main__ import main
from retort.benchmarks.scenarios.load_result import read_load


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and a table of its samples."""
    made = tmp_path_factory.mktemp("loads")
    graph("vector", made)
    lines = "\n".join(f'{{"x": [{number}.5, 1.5]}}' for number in range(30))
    (made / "data.jsonl").write_text(lines + "\n")
    return made


def ended(capsys: pytest.CaptureFixture[str], *given: str) -> tuple[int, dict[str, Any]]:
    """The exit code and the JSON line of a command."""
    with pytest.raises(SystemExit) as stop:
        main(["bench", *given, "--json"])
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return int(str(stop.value.code)), found


def test_load_writes_what_it_prints(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The file has the result with all times, and the line of JSON the same without them; nothing is overwritten."""
    out = tmp_path / "r.json"
    given = ["load", str(folder / "vector-graph"), "--data", str(folder / "data.jsonl"), "--seconds", "0.1"]
    code, told = ended(capsys, *given, "--out", str(out))
    assert code == 0
    assert read_load(out).id == told["id"]
    assert told["measurement"] == "single-stream"
    out.write_text("mine")
    code, told = ended(capsys, *given, "--out", str(out))
    assert code == 2
    assert out.read_text() == "mine"
    assert "exists, and is kept" in json.dumps(told)


def test_options_that_do_not_fit_are_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A server needs a rate or a bound, and the other scenarios take neither."""
    given = ["load", str(folder / "vector-graph"), "--data", str(folder / "data.jsonl")]
    code, told = ended(capsys, *given, "--scenario", "server")
    assert code == 2
    assert "either `rate` or `p99_ms`" in json.dumps(told)
    code, told = ended(capsys, *given, "--clients", "5")
    assert code == 2
    assert "a stream has one" in json.dumps(told)
    code, told = ended(capsys, *given, "--rate", "5")
    assert code == 2
    assert "belong to the scenario server" in json.dumps(told)


def test_cold_sweep_and_sustain_are_commands(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each measures the same file and names itself in the result."""
    model, data = str(folder / "vector-graph"), ["--data", str(folder / "data.jsonl")]
    code, told = ended(capsys, "cold", model, "--starts", "2", "--page-cache", "warm")
    assert (code, told["measurement"]) == (0, "cold")
    code, told = ended(capsys, "sweep", model, *data, "--seconds", "0.05", "--batch-sizes", "1", "--threads", "1")
    assert (code, told["measurement"]) == (0, "sweep")
    code, told = ended(capsys, "sustain", model, *data, "--minutes", "0.005")
    assert (code, told["measurement"]) == (0, "sustain")
