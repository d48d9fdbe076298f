"""JSON texts of answers: with and without orjson they have the same values, which are those of the arrays."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from retort.serve.requests.json_text import dump, dump_without_orjson

DTYPES = ["bool", "int8", "uint8", "int32", "int64", "uint64", "f2", "f4", "f8", ">f4", ">i8"]


def _alike(found: Any, wanted: np.ndarray[Any, Any]) -> bool:
    """Whether nested lists have the values of an array, and null where they are not finite."""
    flat = np.array(found, dtype=object).reshape(-1).tolist() if wanted.size else []
    for value, own in zip(flat, wanted.reshape(-1).tolist(), strict=True):
        if isinstance(own, float) and not np.isfinite(own):
            if value is not None:
                return False
        elif wanted.dtype.type(value) != wanted.dtype.type(own):
            return False
    return np.shape(found)[: wanted.ndim] == wanted.shape or not wanted.size


@settings(max_examples=200, deadline=None)
@given(hnp.arrays(st.sampled_from(DTYPES), hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)))
def test_arrays_are_read_back_with_the_same_bits(array: np.ndarray[Any, Any]) -> None:
    """Of every dtype and shape, both ways give the values of the array."""
    for write in (dump, dump_without_orjson):
        assert _alike(json.loads(write({"x": array}))["x"], array)


@settings(max_examples=300, deadline=None)
@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_a_float32_has_the_fewest_digits(value: float) -> None:
    """A float32 is written as short as numpy writes it, and is read back with the same bits."""
    array = np.array([value], np.float32)
    for write in (dump, dump_without_orjson):
        text = write(array).decode().strip("[]")
        assert np.float32(text).tobytes() == array.tobytes()
        assert len(text.lstrip("-").split("e")[0].replace(".", "").strip("0")) <= 9


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=10,
)


@settings(max_examples=300, deadline=None)
@given(VALUES)
def test_values_agree_with_and_without_orjson(value: object) -> None:
    """Both ways write JSON that strict readers take, with equal values."""

    def refuse(text: str) -> float:
        raise AssertionError(text)

    found = [json.loads(write(value), parse_constant=refuse) for write in (dump, dump_without_orjson)]
    assert found[0] == found[1]


@pytest.mark.parametrize("write", [dump, dump_without_orjson])
def test_texts_and_numbers_that_json_lacks(write: Any) -> None:
    """Half characters are escaped, and what is not finite is null, in arrays, numbers of numpy and of Python."""
    said = {"a": "\ud800", "b": [float("nan"), np.float32("inf"), np.array([np.nan, 1], np.float32)], "c": np.int64(3)}
    assert json.loads(write(said)) == {"a": "\ud800", "b": [None, None, [None, 1.0]], "c": 3}
