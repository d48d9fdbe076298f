"""Signatures: feeds are checked for name, type, rank, fixed sizes and equal axes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retort.core.errors import ArtifactError, InputError
from retort.core.signature import Signature
from retort.core.tensors import TensorSpec

IDS = TensorSpec("ids", "int64", ("batch", "sequence"))
MASK = TensorSpec("mask", "float32", ("batch", "sequence"))
SIGNATURE = Signature((IDS, MASK), (TensorSpec("logits", "float32", ("batch", 3)),))
FEEDS: dict[str, np.ndarray] = {"ids": np.zeros((2, 5), np.int64), "mask": np.ones((2, 5), np.float32)}


def test_json_round_trip() -> None:
    """A signature that is read from its JSON is equal."""
    assert Signature.from_json(SIGNATURE.to_json()) == SIGNATURE


def test_feeds_come_back_in_order() -> None:
    """Validated feeds are in signature order, contiguous and of the declared dtype."""
    checked = SIGNATURE.validate({"mask": np.ones((2, 5)), "ids": np.zeros((5, 2), np.int32).T})
    assert list(checked) == ["ids", "mask"]
    assert checked["mask"].dtype == np.float32
    assert checked["ids"].flags.c_contiguous


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mask": None}, "missing mask"),
        ({"extra": np.ones(1)}, "unknown extra"),
        ({"ids": np.zeros((2, 5, 1), np.int64)}, "has 3 axes"),
        ({"mask": np.ones((2, 6), np.float32)}, "axis 'sequence' is 5 in input 'ids' and 6 in input 'mask'"),
        ({"ids": np.full((2, 5), 0.5)}, "cannot represent exactly"),
        ({"ids": np.full((2, 5), np.nan)}, "cannot represent exactly"),
        ({"ids": np.array([["a"] * 5] * 2)}, "has dtype"),
        ({"ids": np.zeros((0, 5), np.int64)}, "is empty along axis 0"),
    ],
)
def test_every_misfit_is_named(change: dict[str, np.ndarray | None], message: str) -> None:
    """Each kind of wrong feeds gives a message that describes it."""
    changed: dict[str, np.ndarray | None] = {**FEEDS, **change}
    feeds = {name: value for name, value in changed.items() if value is not None}
    with pytest.raises(InputError, match=message):
        SIGNATURE.validate(feeds)


def test_fixed_sizes_are_checked() -> None:
    """A fixed axis rejects another size and reports the expected one."""
    fixed = Signature((TensorSpec("x", "float32", ("batch", 4)),), ())
    with pytest.raises(InputError, match=r"has size 3 on axis 1, got \[2, 3\][\s\S]*float32\[batch, 4\]"):
        fixed.validate({"x": np.ones((2, 3))})


@given(st.integers(-(2**31), 2**31 - 1))
def test_whole_floats_become_integers_exactly(value: int) -> None:
    """A float that is a whole number in range is converted to that integer."""
    assert int(IDS.cast(np.array([[float(value)]]))[0, 0]) == value


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"inputs": [{"name": "x"}], "outputs": []}', '{"inputs": 1, "outputs": 2}']
)
def test_damaged_json_is_one_error(text: str) -> None:
    """For any text, a damaged signature is an artifact error."""
    with pytest.raises(ArtifactError, match="not a Retort signature"):
        Signature.from_json(text)


def test_classes_name_the_scores_or_the_indices() -> None:
    """Names go to the first output with a score for each class, or to class indices; other counts fit nothing."""
    scores = SIGNATURE.naming(["a", "b", "c"])
    assert scores.class_names({"logits": np.array([[0, 2, 1], [3, 0, 0]], np.float32)}) == ["b", "a"]
    indices = Signature((IDS,), (TensorSpec("best", "int64", ("batch",)),)).naming(["no", "yes"])
    assert indices.class_names({"best": np.array([1, 0, 5])}) == ["yes", "no", "5"]
    assert SIGNATURE.naming(["a", "b"]) == SIGNATURE
    assert SIGNATURE.class_names({"logits": np.zeros((1, 3), np.float32)}) is None
    assert scores.class_names({"other": np.zeros((1, 3), np.float32)}) is None
    assert scores.naming(["x", "y", "z"]).classes == ("a", "b", "c")


def test_classes_are_stored_only_where_there_are_any() -> None:
    """A signature without names has the bytes it always had, and one with names comes back with them."""
    assert "classes" not in SIGNATURE.to_json()
    named = SIGNATURE.naming(["a", "b", "c"])
    assert Signature.from_json(named.to_json()) == named
    with pytest.raises(ArtifactError):
        Signature.from_json(named.to_json().replace('["a","b","c"]', "5"))
