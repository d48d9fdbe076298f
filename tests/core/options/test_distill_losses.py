"""How losses of distillation are written, and what is said of faults in them."""

from __future__ import annotations

from typing import Any

import pytest

from retort.core.errors import RecipeError
from retort.core.options.distill_losses import LOSSES, FeatureOptions, FunctionOptions, KdOptions
from retort.core.options.recipe import parse_recipe, schema
from retort.core.options.stage_options import DistillOptions


def written(*losses: Any, **others: Any) -> DistillOptions:
    """The options of a distill stage in a recipe with these losses."""
    stage = {"distill": {"student": "a:b", "losses": list(losses), **others}}
    recipe = parse_recipe({"model": "a:b", "data": "digits", "stages": ["capture", stage]})
    options = recipe.stages[1].options
    assert isinstance(options, DistillOptions)
    return options


def test_a_loss_is_a_name_a_weight_or_options() -> None:
    """All forms of recipes and command lines give the same options, and what was read can be read again."""
    made = written("kd", "kd:0.5", {"kd": 0.5}, {"kd": None}, {"features": {"weight": 3, "pairs": [["a", "b"]]}})
    assert made.losses[:4] == (KdOptions(), KdOptions(weight=0.5), KdOptions(weight=0.5), KdOptions())
    assert made.losses[4] == FeatureOptions(weight=3, pairs=(("a", "b"),))
    assert written("my.losses:own", "my.losses:own:2", {"my.losses:own": 2}).losses == (
        FunctionOptions(loss="my.losses:own"),
        *[FunctionOptions(loss="my.losses:own", weight=2)] * 2,
    )
    assert DistillOptions.model_validate(made.model_dump(mode="json")) == made


@pytest.mark.parametrize(
    ("loss", "told"),
    [
        ("kdd", r"losses\.0: 'kdd' is not one of kd, dkd, .*module:function; did you mean 'kd'\?"),
        ("kd:0.5:x", r"'kd:0\.5:x' is not one of"),
        ({"kd": {"weigth": 1}}, r"losses\.0\.kd\.weigth: unknown key; did you mean 'weight'\?"),
        ({"kd": -1}, r"losses\.0\.kd\.weight: must be more than 0, not -1"),
        ({"kd": True}, "takes a weight, or keys with values, not True"),
        ({"kd": 1, "dkd": 2}, "must be one loss"),
        ({"features": {"pairs": "all"}}, r"losses\.0\.features\.pairs: "),
        ({"self": {"decay": 1}}, r"losses\.0\.self\.decay: must be less than 1, not 1"),
    ],
)
def test_faults_of_losses_are_told_with_their_key(loss: Any, told: str) -> None:
    """A fault has the key as the recipe writes it, and the nearest name."""
    with pytest.raises(RecipeError, match=told):
        written(loss)


def test_alpha_is_the_weight_of_kd_alone() -> None:
    """`alpha` beside `losses` would have two meanings."""
    with pytest.raises(RecipeError, match="with `losses`, give each its weight"):
        written("kd", alpha=0.5)


def test_the_schema_knows_every_loss() -> None:
    """Editors complete the names of the losses and their options."""
    item = schema()["$defs"]["DistillOptions"]["properties"]["losses"]["items"]
    assert list(item["anyOf"][1]["properties"]) == list(LOSSES)[:-1]
    assert {"$ref": "#/$defs/RkdOptions"} in item["anyOf"][1]["properties"]["rkd"]["anyOf"]
