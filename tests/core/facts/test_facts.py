"""Facts are typed objects with the same JSON in every manifest, and manifests of other versions can be read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from known import unknown

from retort.core.artifact import load_artifact, new_artifact
from retort.core.context import Place
from retort.core.errors import ArtifactError
from retort.core.facts.any_facts import AnyFacts
from retort.core.facts.export_facts import ExportFacts, HalfPrecision
from retort.core.facts.facts_table import FACTS
from retort.core.facts.measurement_facts import RatioFacts
from retort.core.facts.quantize_facts import Fidelity
from retort.core.facts.record import Record
from retort.core.metrics.ratio import Ratio
from retort.core.options.stage_table import STAGES

OLD = Path(__file__).resolve().parents[2] / "old_files"
MANIFESTS = sorted(path for path in OLD.rglob("manifest.json") if json.loads(path.read_text())["stage"] in FACTS)


def test_every_stage_has_a_class() -> None:
    """The classes have the names of the table of stages, in its order."""
    assert list(FACTS) == list(STAGES)


def kept(value: Any, given: Any) -> bool:
    """Whether every key and value of a JSON value is in another one, at any depth."""
    if isinstance(value, dict):
        return isinstance(given, dict) and all(name in given and kept(value[name], given[name]) for name in value)
    if isinstance(value, list):
        return isinstance(given, list) and len(value) == len(given) and all(map(kept, value, given))
    return bool(value == given)


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.parent.name)
def test_what_an_earlier_version_found_out_is_read_and_given_back(path: Path) -> None:
    """The class of a stage has a field for every key of a manifest of an earlier version, and loses no value."""
    raw = json.loads(path.read_text())
    found = FACTS[raw["stage"]].model_validate(raw["facts"])
    assert kept(raw["facts"], found.to_json())
    assert sorted(unknown(found)) == []


def test_keys_of_a_newer_version_are_kept() -> None:
    """An unknown key is not an error and is written again."""
    raw = {"half_nodes": 1, "kept_fp32": {}, "casts": 2, "fp8_nodes": [3]}
    assert HalfPrecision.model_validate(raw).to_json() == raw


def test_what_does_not_apply_is_left_out() -> None:
    """A field whose default is None is left out while it is None; one without a default is null."""
    assert HalfPrecision(half_nodes=1, kept_fp32={}, casts=2).to_json() == {
        "half_nodes": 1,
        "kept_fp32": {},
        "casts": 2,
    }
    assert Fidelity(samples=3).to_json() == {"samples": 3}
    assert Fidelity(samples=3, sqnr_db=None).to_json() == {"samples": 3, "sqnr_db": None}


def test_ratios_by_name_are_read_as_ratios() -> None:
    """Speedups by batch size are equal after writing and reading, for any batch sizes."""
    ratios = {"1": Ratio(1.5, 1.4, None, 0.95, doubts=("busy",)), "32": Ratio(2.0, None, None, 0.95)}
    raw = json.loads(json.dumps(RatioFacts.model_validate(ratios).to_json()))
    assert raw == {name: ratio.to_dict() for name, ratio in ratios.items()}
    assert RatioFacts.model_validate(raw).ratios == ratios


def test_other_facts_than_expected_are_one_clear_error(tmp_path: Path) -> None:
    """The error for facts of another stage has the folder and the first key; a class with fewer fields reads them."""
    with new_artifact(Place(tmp_path / "made"), "program", "train") as draft:
        draft.facts = Record.model_validate({"macs": 7})
        (draft.folder / "model.pt2").write_bytes(b"x")
    found = load_artifact(tmp_path / "made")
    with pytest.raises(ArtifactError, match="made does not have the required facts: target"):
        found.facts_as(ExportFacts)
    assert found.facts_as(AnyFacts).macs == 7
