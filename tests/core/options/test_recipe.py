"""Recipes: all errors are reported at once, with their place and the nearest spelling."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from retort.core.errors import MissingFileError, RecipeError
from retort.core.options.recipe import load_recipe, parse_recipe, schema

GOOD = {"model": "net:build", "data": "digits", "stages": ["export"]}


def faults(raw: object) -> list[str]:
    """The faults that a recipe has."""
    with pytest.raises(RecipeError) as caught:
        parse_recipe(raw)
    found: Any = caught.value.facts["faults"]
    return [": ".join(filter(None, (fault["key"], fault["message"]))) for fault in found]


def test_three_typos_are_all_named(tmp_path: Path) -> None:
    """A recipe with three typos is rejected once, with line and nearest spelling of each."""
    path = tmp_path / "typos.yaml"
    path.write_text(
        "model: net:build\ndata: digits\ntarget: cpuu\nstages:\n"
        "  - train: {epoch: 3}\n  - quantise\n  - prune: {macs: 0.5}\n  - export\n"
    )
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    text = str(caught.value)
    assert "3 faults" in text
    assert "target (line 3): 'cpuu' is not one of 'cpu', 'arm' or 'tensorrt'; did you mean 'cpu'?" in text
    assert "stages.0.train.epoch (line 5): unknown key; did you mean 'epochs'?" in text
    assert "stages.1 (line 6): unknown stage 'quantise'; did you mean 'quantize'?" in text
    assert caught.value.exit_code == 2


def test_short_and_long_forms_mean_the_same() -> None:
    """A bare stage name, a bare source and their long forms give equal recipes."""
    long = {"model": {"source": "net:build"}, "data": {"source": "digits"}, "stages": [{"export": {}}]}
    assert parse_recipe(GOOD) == parse_recipe(long)


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        (["pack"], "`pack` needs `export` before it"),
        (["export", "quantize"], "`quantize` must come before `export`"),
        (["quantize", {"prune": {"macs": 0.5}}, "export"], "`prune` must come before `quantize`"),
        (["export", "export"], "`export` appears twice"),
        (["train", "capture"], "`capture` must be the first stage"),
    ],
)
def test_order_of_stages_is_checked(stages: list[object], message: str) -> None:
    """Stages in an impossible order are rejected before anything runs."""
    assert any(message in fault for fault in faults({**GOOD, "stages": stages}))


def test_gate_of_an_unknown_stage_is_named() -> None:
    """A gate after a stage that the recipe does not have is an error with the nearest name."""
    raw = {**GOOD, "gates": [{"after": "exprot", "size_ratio": 0.5}]}
    assert faults(raw) == ["gates.0.after: no stage 'exprot'; did you mean 'export'?"]
    lacking = {**GOOD, "stages": ["train", "export"], "gates": [{"after": "prune", "size_ratio": 0.5}]}
    told = "gates.0.after: no stage 'prune'; the stages of the recipe are capture, train and export"
    assert faults(lacking) == [told]


def test_all_kinds_of_faults_are_listed_at_once(tmp_path: Path) -> None:
    """A value, the order of stages, a gate and a key that is given twice have a line each, in one error."""
    path = tmp_path / "r.yaml"
    path.write_text(
        "model: net:build\ndata: digits\nseed: one\nstages:\n  - quantize\n  - prune: {macs: 0.5}\n  - report\n"
        "gates:\n  - {after: exprot, size_ratio: 0.5}\nmodel: net:other\n"
    )
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    found: Any = caught.value.facts["faults"]
    assert [(fault["key"], fault["line"]) for fault in found] == (
        [("seed", 3), ("stages.1", 6), ("stages.2", 7), ("gates.0.after", 9), ("model", 10)]
    )
    assert "given twice, first in line 1" in found[-1]["message"]


@pytest.mark.parametrize("text", ["[" * 2000, "a: &a [*a]\nmodel: *a\n", "seed: 2024-99-99T99:99:99\n", "\0"])
def test_odd_yaml_is_one_sentence(text: str, tmp_path: Path) -> None:
    """Deep nesting, an alias inside of itself, impossible dates and control characters are faults of the recipe."""
    path = tmp_path / "r.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError):
        load_recipe(path)


def test_gate_needs_exactly_one_bound() -> None:
    """A gate with two bounds or none is refused."""
    assert "exactly one" in faults({**GOOD, "gates": [{"after": "export"}]})[0]
    assert "exactly one" in faults({**GOOD, "gates": [{"after": "export", "speedup": 2, "size_ratio": 0.5}]})[0]


def test_values_out_of_range_say_their_range() -> None:
    """For a value out of range, the message has the bound and the value."""
    assert "must be at most 1, not 1.5" in faults({**GOOD, "stages": [{"prune": {"macs": 1.5}}, "export"]})[0]


@pytest.mark.parametrize("name", [".", "..", ".retort-scratch", ".hidden", "a/b", ""])
def test_a_name_is_that_of_a_folder(name: str) -> None:
    """Names that mean another folder, or that Retort's own hidden folders have, are refused."""
    assert "name: must" in faults({**GOOD, "name": name})[0]
    assert parse_recipe({**GOOD, "name": f"a.{name.strip('./') or 'b'}"[:3]}).name


def test_broken_yaml_names_the_line(tmp_path: Path) -> None:
    """A file that is not YAML is rejected with the line of the error."""
    path = tmp_path / "broken.yaml"
    path.write_text("model: net\n  data: [1\n")
    with pytest.raises(RecipeError, match="line 2"):
        load_recipe(path)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: 1\n\tb: 2\n", "line 2, column 1: a tab stands here; YAML takes only spaces"),
        ("a:\n  - b\n - c\n", "line 3, column 2: the indentation differs from that of the lines above it"),
        ("a: 1\n  b: 2\n", "line 2, column 4: no key may stand here: the line is indented too far"),
        ("a: 1\n---\nb: 2\n", "line 2, column 1: a second document begins here (`---`), and only one is read"),
        ("a: !x 3\n", "line 1, column 4: the tag !x has no meaning here"),
        ("a: !!python/name:os 3\n", "line 1, column 4: the tag !!python/name:os has no meaning here"),
    ],
)
def test_faults_of_yaml_are_plain_words(text: str, told: str, tmp_path: Path) -> None:
    """The usual ones have the line and say what to change; no word of the reader of YAML is left."""
    path = tmp_path / "r.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    assert told in caught.value.message


def test_missing_recipe_says_how_to_write_one(tmp_path: Path) -> None:
    """For a missing recipe, the remedy is `retort init`."""
    with pytest.raises(MissingFileError, match="retort init"):
        load_recipe(tmp_path / "none.yaml")


def test_schema_knows_every_stage() -> None:
    """The JSON Schema lists all stages in their short form and describes each one's options."""
    made = schema()
    assert set(made["properties"]["stages"]["items"]["anyOf"][0]["enum"]) >= {"train", "prune", "quantize", "export"}
    assert made["$defs"]["PruneOptions"]["additionalProperties"] is False


def test_off_and_on_are_words(tmp_path: Path) -> None:
    """`timing_cache: off` is the documented word, as in YAML 1.2; `true` and `no` still switch a flag."""
    path = tmp_path / "r.yaml"
    path.write_text(
        "name: a\ntarget: tensorrt\nmodel: retort.examples.digits:student\ndata: digits\nstages:\n"
        "  - quantize: {timed: no, sensitivity: true}\n  - export\n"
        "  - engine: {timing_cache: off}\n  - bench: {engine_cache: off}\n"
    )
    stages = {stage.name: stage.options for stage in load_recipe(path).stages}
    assert stages["engine"].timing_cache == stages["bench"].engine_cache == "off"
    assert (stages["quantize"].timed, stages["quantize"].sensitivity) == (False, True)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_recipe_may_have_any_letters(encoding: str, tmp_path: Path) -> None:
    """Comments and values with umlauts are read, with a byte order mark or without."""
    path = tmp_path / "r.yaml"
    path.write_text("# für uns\nname: a\nmodel: größe:netz\ndata: digits\nstages: [export]\n", encoding=encoding)
    assert load_recipe(path).model.source == "größe:netz"


def test_another_encoding_is_one_sentence(tmp_path: Path) -> None:
    """A Latin-1 byte is named with its line and the way to convert the file."""
    path = tmp_path / "r.yaml"
    path.write_bytes("name: a\n# für uns\n".encode("latin-1"))
    with pytest.raises(RecipeError, match=r"r\.yaml is not UTF-8 text: line 2 has the byte 0xfc"):
        load_recipe(path)
