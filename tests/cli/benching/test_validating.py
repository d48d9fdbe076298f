"""`retort bench validate` and `retort schema --of`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from measured_results import measured

from retort.__main__ import main
from retort.benchmarks.result import save_result


def call(*given: str) -> int:
    """The exit code of a command."""
    with pytest.raises(SystemExit) as ended:
        main(list(given))
    return int(ended.value.code or 0)


def test_valid_and_edited_results_differ_in_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A valid result is told in one sentence; an edited one lists its faults and has the exit code of artifacts."""
    path = tmp_path / "result.json"
    save_result(measured(tmp_path), path)
    assert call("bench", "validate", str(path)) == 0
    assert "is a valid retort.result/2" in capsys.readouterr().out
    raw = json.loads(path.read_text())
    raw["stages"][1]["latency"]["1"]["mean_ms"] *= 2
    path.write_text(json.dumps(raw))
    assert call("bench", "validate", str(path), "--json") != 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["valid"] is False
    assert "the mean of 'prune' at batch 1 says" in found["faults"][0]


@pytest.mark.parametrize(("of", "key"), [("result", "stages"), ("device", "files"), ("recipe", "stages")])
def test_each_schema_is_published(of: str, key: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`retort schema --of` prints the JSON Schema of recipes, of results and of what a device writes."""
    assert call("schema", "--of", of) == 0
    schema = json.loads(capsys.readouterr().out)
    assert key in schema["properties"]
    if of != "recipe":
        models = {of: schema, **schema["$defs"]}
        bare = [(name, key) for name, model in models.items() for key in _undescribed(model)]
        assert not bare


def _undescribed(model: Any) -> list[str]:
    return [key for key, field in model["properties"].items() if not field.get("description")]
