"""`retort prune --explain`: every group in common terms, and no cut."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from retort.__main__ import main
from retort.compress.capture.capture_program import capture
from retort.compress.program import Program, store
from retort.compress.pruning.coupling.explain import Row, explain
from retort.core.context import Place
from retort.core.errors import UserError
from retort.examples import awkward, networks


def program_of(zoo: object, name: str) -> Program:
    torch.manual_seed(0)
    feeds = zoo.samples(name)["train"]  # type: ignore[attr-defined]
    return capture(zoo.build(name), {key: torch.as_tensor(value) for key, value in feeds.items()})  # type: ignore[attr-defined]


def rows_of(program: Program) -> dict[str, Row]:
    return {row.layers[0]: row for row in explain(program)}


def test_a_recurrent_net_has_a_hidden_state() -> None:
    """The hidden size of an LSTM is one group that all its products depend on; the classifier is locked."""
    rows = rows_of(program_of(networks, "lstm"))
    assert (rows["layer"].kind, rows["layer"].units, rows["layer"].step) == ("hidden state", 24, (1, 1))
    assert rows["layer"].macs == pytest.approx(1.0)
    assert (rows["out"].units, rows["out"].reason) == (0, "is the output 'output'")


def test_attention_goes_by_heads_and_the_residual_stream_is_named() -> None:
    """Heads are cut in steps of the head dimension; the hidden size includes every layer that adds to it."""
    rows = rows_of(program_of(networks, "transformer_encoder"))
    kinds = {row.kind for row in rows.values() if row.units}
    assert kinds == {"residual stream", "heads", "features"}
    heads = next(row for row in rows.values() if row.kind == "heads")
    assert heads.units == 4
    assert heads.step[0] % 8 == 0
    assert len(next(row for row in rows.values() if row.kind == "residual stream").layers) == 5


def test_steps_are_what_goes_at_once() -> None:
    """A depthwise layer that triples its channels loses three for each channel of its input."""
    rows = rows_of(program_of(awkward, "multiplied"))
    assert rows["stem.0"].kind == "channels"
    assert any(row.step == (1, 1) for row in rows.values() if row.units)
    assert 0 < rows["point.0"].macs <= 1


def test_excluded_layers_are_locked_by_their_pattern() -> None:
    """Layers that the user excludes are listed as locked with the pattern; a wrong pattern is rejected."""
    program = program_of(networks, "lstm")
    rows = {row.layers[0]: row for row in explain(program, ["embed*"])}
    assert rows["embed"].units == 0
    assert "embed*" in rows["embed"].reason
    with pytest.raises(UserError, match="closest names are"):
        explain(program, ["embd*"])


def test_the_command_prints_a_table_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command needs no data and no budget, prints the groups, and writes nothing."""
    artifact = store(program_of(networks, "lstm"), Place(tmp_path / "lstm"), "capture")
    with pytest.raises(SystemExit, match="0"):
        main(["prune", str(artifact.path), "--explain"])
    shown = capsys.readouterr().out
    assert "hidden state" in shown
    assert "is the output 'output'" in shown
    with pytest.raises(SystemExit, match="0"):
        main(["prune", str(artifact.path), "--explain", "--json"])
    groups = json.loads(capsys.readouterr().out)["groups"]
    assert [group["kind"] for group in groups] == ["features", "hidden state", "features"]
    assert [path.name for path in tmp_path.iterdir()] == ["lstm"]
