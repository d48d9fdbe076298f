"""JSON texts: with and without orjson, requests are read and answers written with the same values."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from retort.core.errors import InputError
from retort.core.tensors import TensorSpec
from retort.serve.requests import json_text
from retort.serve.requests.bodies import parse_json, to_array
from retort.serve.requests.json_text import UNREAD, dump, dump_without_orjson, read_fast
from retort.serve.settings import Limits

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


NUMBERS = st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False) | st.booleans()
VALUES = st.recursive(
    NUMBERS | st.none() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("ab", max_size=2), inner, max_size=3),
    max_leaves=12,
)


def _within_64_bits(value: Any) -> Any:
    """The same value with floats for whole numbers outside of 64 bits."""
    if isinstance(value, dict):
        return {key: _within_64_bits(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_within_64_bits(item) for item in value]
    large = isinstance(value, int) and not -(2**63) <= value < 2**64
    return float(value) if large else value


@settings(max_examples=300, deadline=None)
@given(VALUES, st.booleans())
def test_what_is_read_fast_is_what_the_standard_library_reads(value: Any, ascii_only: bool) -> None:
    """Types and values are equal, down to the bits of floats; other texts are left to the standard library."""
    pytest.importorskip("orjson")
    text = json.dumps(value, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    found = read_fast(text)
    if found is not UNREAD:
        assert repr(found) == repr(_within_64_bits(json.loads(text)))


@pytest.mark.parametrize(
    "text",
    [
        '{"a": 1, "a": 2}',
        '{"x": [{"a": 1, "b": 2, "a": "c"}]}',
        '{"a": "\\n"}',
        "[NaN]",
        "[1e999]",
        "[1,]",
        '["\\ud800"]',
        "{",
    ],
)
def test_what_is_not_surely_the_same_is_not_read_fast(text: str) -> None:
    """Keys that appear twice, escapes, infinite numbers and faults are seen by the standard library."""
    assert read_fast(text.encode()) is UNREAD


def test_lists_of_texts_behind_a_number_are_left() -> None:
    """A list that begins with a number is not searched for texts, so that such a text is read the other way."""
    pytest.importorskip("orjson")
    assert read_fast(b'[1, "a"]') is UNREAD
    assert read_fast(b'{"x": [1.5, 2], "y": ["a", {"b": "c"}]}') == {"x": [1.5, 2], "y": ["a", {"b": "c"}]}


@pytest.mark.parametrize("number", [2**63, 2**64 - 1, 2**64, -(2**63), -(2**63) - 1, 10**30, 10**400])
@pytest.mark.parametrize("dtype", ["int64", "uint64", "float64"])
def test_large_numbers_mean_the_same_with_and_without_orjson(
    number: int, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A whole number is taken where the type of the input has it, or rounds it as floats do, and else is refused."""
    spec = TensorSpec("x", dtype, (1,))
    text = f"[{number}]".encode()

    def read() -> int | str:
        try:
            return int(spec.cast(to_array(parse_json(text), "x", Limits(), spec))[0])
        except InputError as error:
            return "too large" if "too large" in error.message else "refused"

    with_orjson = read()
    monkeypatch.setattr(json_text, "_orjson", lambda: None)
    assert read_fast(text) is UNREAD
    assert read() == with_orjson
    if dtype == "float64":
        assert with_orjson == ("too large" if number == 10**400 else int(float(number)))
    else:
        fits = np.iinfo(dtype).min <= number <= np.iinfo(dtype).max
        assert with_orjson == number if fits else with_orjson in ("refused", "too large")
