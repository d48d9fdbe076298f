"""Profiles: derived from the signature, overridden by name, or rejected with the reason."""

from __future__ import annotations

import pytest

from retort.core.errors import UserError
from retort.core.tensors import TensorSpec
from retort.export.trt.optimization_profiles import Range, plan_profiles

IDS = TensorSpec("ids", "int64", ("batch", "sequence"))
MASK = TensorSpec("mask", "int64", ("batch", "sequence"))
IMAGE = TensorSpec("image", "float32", ("batch", 3, 8, 8))


def test_the_batch_axis_follows_the_batch_sizes() -> None:
    """The smallest, the middle and the largest batch size become minimum, optimum and maximum."""
    assert plan_profiles([IMAGE], (32, 1, 8)) == ({"image": Range((1, 3, 8, 8), (8, 3, 8, 8), (32, 3, 8, 8))},)
    assert str(plan_profiles([IMAGE], (4,))[0]["image"]) == "4x3x8x8:4x3x8x8:4x3x8x8"


def test_an_axis_by_name_counts_for_every_input() -> None:
    """One range serves all inputs that share the axis."""
    (profile,) = plan_profiles([IDS, MASK], (1, 2), axes=["sequence=8:16:32"])
    assert profile["ids"] == profile["mask"] == Range((1, 8), (2, 16), (2, 32))


def test_an_input_given_again_begins_the_next_profile() -> None:
    """Two ranges for one input are two profiles; the other inputs are derived in both."""
    profiles = plan_profiles([IDS, IMAGE], (1, 8), axes=["sequence=8:8:8"], given=["ids=1x8", "ids=1x8:4x8:4x16"])
    assert [str(profile["ids"]) for profile in profiles] == ["1x8:1x8:1x8", "1x8:4x8:4x16"]
    assert all("image" in profile for profile in profiles)


def test_fixed_inputs_need_no_profile() -> None:
    """An input without dynamic axes is not in a profile."""
    assert plan_profiles([TensorSpec("x", "float32", (1, 3))], (1, 8)) == ({},)


def test_a_range_holds_what_lies_inside() -> None:
    """A range contains both ends, and no shape of another rank."""
    found = Range((1, 8), (2, 8), (4, 8))
    assert found.holds((1, 8))
    assert found.holds((4, 8))
    assert not found.holds((5, 8))
    assert not found.holds((1, 8, 1))


@pytest.mark.parametrize(
    ("axes", "given", "message"),
    [
        ([], [], "axis 'sequence' of input 'ids' is dynamic and has no range"),
        (["sequense=1:2:3"], [], "no dynamic axis 'sequense'; its dynamic axes are batch, sequence; did you mean"),
        (["sequence=4:2:8"], [], "minimum is larger than the optimum"),
        (["sequence=4:9:8"], [], "optimum is larger than the maximum"),
        (["sequence=0:2:8"], [], "a size is 0"),
        (["sequence=2:8"], [], "does not have the form min:opt:max"),
        (["sequence=2x2:2x2:2x2"], [], "an axis has a single size"),
        ([], ["ids=1x8x1"], "'ids' has 2 axes, not 3"),
        ([], ["ids=1x8:1x8x2:1x8"], "different numbers of axes"),
        ([], ["idz=1x8"], "no input 'idz'"),
        ([], ["ids"], "has no '='"),
        (["sequence=1:2:3"], ["image=1x1x8x8"], "axis 1 of 'image' is fixed at 3 in the model"),
    ],
)
def test_a_wrong_profile_is_rejected(axes: list[str], given: list[str], message: str) -> None:
    """Each fault has its own message and a remedy."""
    with pytest.raises(UserError) as caught:
        plan_profiles([IDS, IMAGE], (1, 8), axes=axes, given=given)
    assert message in caught.value.message
    assert caught.value.remedy


@pytest.mark.parametrize(("axes", "given"), [(["2*height=8:9:16"], []), ([], ["x=1x3x7"])])
def test_an_axis_with_a_step_takes_its_multiples(axes: list[str], given: list[str]) -> None:
    """An axis that capture named ``2*height`` rejects odd sizes."""
    spec = TensorSpec("x", "float32", ("batch", 3, "2*height"))
    with pytest.raises(UserError, match=r"takes multiples of 2, not [79]"):
        plan_profiles([spec], (1,), axes=axes, given=given)
    assert plan_profiles([spec], (1,), axes=["2*height=8:10:16"])[0]["x"].opt == (1, 3, 10)
