"""Values with faults are described in plain words, in recipes and for flags."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import ValidationError

from retort.core.errors import RecipeError
from retort.core.options.option_types import SEED_MAX, Options
from retort.core.options.recipe import parse_recipe
from retort.core.options.stage_table import STAGES, StageEntry


@pytest.mark.parametrize(
    ("stage", "told"),
    [
        ({"bench": {"batch_sizes": []}}, "batch_sizes: needs at least 1 value, and has none"),
        ({"bench": {"batch_sizes": [0]}}, "must be at least 1, not 0"),
        ({"prune": {"macs": 1.5}}, "must be at most 1, not 1.5"),
        ({"prune": {"macs": 0}}, "must be more than 0, not 0"),
        ({"bench": {"confidence": 1}}, "must be less than 1, not 1"),
        ({"train": {"epochs": "many"}}, "must be a whole number, not 'many'"),
        ({"train": {"epochs": 1.5}}, "must be a whole number, not 1.5"),
        ({"train": {"epochs": True}}, "epochs: must be a whole number, not True"),
        ({"train": {"ema": True}}, "must be a number, not True"),
        ({"bench": {"batch_sizes": [1, True]}}, "must be a whole number, not True"),
        ({"train": {"learning_rate": [1]}}, "must be a number, not [1]"),
        ({"quantize": {"timed": 7}}, "must be true or false, not 7"),
        ({"quantize": {"exclude": 7}}, "must be a list, not 7"),
        ({"quantize": {"float_layers": 7}}, "must be keys with values, not 7"),
        ({"pack": {"name": 7}}, "must be text, not 7"),
        (
            {"pack": {"image": "A b"}},
            "must be the name of an image, such as registry.example.com/digits:1.0, not 'A b'",
        ),
        ({"pack": {"storage": "/x"}}, "must be the address of a storage, such as s3://models/digits"),
        ({"train": {"warmup_epochs": math.inf}}, "must be a finite number, not inf"),
        ({"prune": {"size_bytes": math.inf}}, "must be a finite number, not inf"),
    ],
)
def test_faults_are_plain_sentences(stage: dict[str, Any], told: str) -> None:
    """No message names a tuple, an input or a validation."""
    raw = {"name": "a", "model": "m:f", "data": "digits", "stages": [stage]}
    with pytest.raises(RecipeError) as found:
        parse_recipe(raw)
    text = str(found.value)
    assert told in text
    assert not any(word in text for word in ("tuple", "Input", "input should", "validation", "dictionary"))


def numbers(options: type[Options]) -> Iterator[str]:
    """The options that take numbers which may be no whole numbers."""
    for name, field in options.model_fields.items():
        if "float" in str(field.annotation) or any("float" in str(item) for item in field.metadata):
            yield name


@pytest.mark.parametrize("entry", STAGES.values(), ids=list(STAGES))
@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, "1e999"])
def test_no_option_takes_an_infinite_number(entry: StageEntry, value: float | str) -> None:
    """Infinite and undefined numbers are refused by every option of every stage, before any work."""
    for name in numbers(entry.options):
        with pytest.raises(ValidationError):
            entry.options.model_validate({name: value})


def test_bounds_have_all_their_digits() -> None:
    """A large bound is a number that can be typed, and not a rounded power of ten."""
    raw = {"name": "a", "model": "m:f", "data": "digits", "stages": ["train"], "seed": 2**70}
    with pytest.raises(RecipeError, match=f"must be at most {SEED_MAX}, not {2**70}"):
        parse_recipe(raw)


@pytest.mark.parametrize("entry", STAGES.values(), ids=list(STAGES))
def test_no_option_takes_a_boolean_for_a_number(entry: StageEntry) -> None:
    """`epochs: true` is no 1, alone or in a list; only options that are true or false take it."""
    for name, field in entry.options.model_fields.items():
        for value in (True, [True]):
            if value is True and field.annotation is bool:
                continue
            with pytest.raises(ValidationError):
                entry.options.model_validate({name: value})
