"""Bodies of bare numbers, without npy's header or V2's JSON, for models with one input."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from retort.core.errors import InputError, RetortError
from retort.core.signature import Signature
from retort.core.tensors import Array, TensorSpec
from retort.serve.requests.replies import encode
from retort.serve.requests.request import Incoming, Request, decode
from retort.serve.requests.v2 import LENGTH_HEADER, OCTETS, V2_TYPES
from retort.serve.settings import Settings

OUTPUT = (TensorSpec("y", "float32", ("batch", 2)),)


def _model(dtype: str, *shape: int | str) -> Signature:
    return Signature((TensorSpec("x", dtype, shape),), OUTPUT)


def _ask(body: bytes, signature: Signature, kind: str = OCTETS, **headers: str) -> Request:
    return decode(Incoming({"body": body}, {}, {"content-type": kind, **headers}), signature, Settings(allow_nan=True))


@settings(max_examples=150, deadline=None)
@given(
    hnp.arrays(
        st.sampled_from(list(V2_TYPES.values())), hnp.array_shapes(min_dims=1, max_dims=3, min_side=1, max_side=5)
    )
)
def test_numbers_of_every_type_are_read(array: Array) -> None:
    """The size of the free axis follows from the bytes; with V2's header of length 0, no content is taken for JSON."""
    signature = _model(array.dtype.name, "batch", *array.shape[1:])
    found = _ask(array.tobytes(), signature, **{LENGTH_HEADER: "0"})
    assert found.feeds["x"].tobytes() == array.tobytes()
    assert found.feeds["x"].shape == array.shape
    answer = encode({"y": np.ones((found.rows, 2), np.float32)}, found, signature, Settings())
    length = {name.lower(): value for name, value in answer.headers.items()}[LENGTH_HEADER]
    head = json.loads(answer.body[: int(length)])
    assert head["outputs"][0]["parameters"] == {"binary_data_size": 8 * found.rows}


def test_the_content_type_is_enough_where_no_json_begins_so() -> None:
    """Without the header, what begins like JSON, npy or npz is read as such, as before; other bytes are numbers."""
    signature = _model("float32", "batch", 2)
    numbers = np.array([[1.5, -2], [3, 4]], np.float32)
    assert np.array_equal(_ask(numbers.tobytes(), signature).feeds["x"], numbers)
    assert np.array_equal(_ask(b"[[1.5, -2], [3, 4]]", signature).feeds["x"], numbers)
    assert np.array_equal(_ask(b' {"x": [[1.5, -2], [3, 4]]}', signature).feeds["x"], numbers)
    like_json = np.frombuffer(b"[\x00\x00?" * 4, np.float32).reshape(2, 2)
    with pytest.raises(InputError, match="JSON"):
        _ask(like_json.tobytes(), signature)
    assert np.array_equal(_ask(like_json.tobytes(), signature, **{LENGTH_HEADER: "0"}).feeds["x"], like_json)
    with pytest.raises(InputError):
        _ask(numbers.tobytes(), signature, "text/plain")


@pytest.mark.parametrize(
    ("signature", "size", "told"),
    [
        (_model("float32", "batch", 2), 12, r"12 bytes, and .*batch, 2.* needs 8 for each batch"),
        (_model("float32", 3), 8, "8 bytes, and .* needs 12"),
        (_model("float32", "batch", "length"), 8, "the free axes batch, length"),
        (_model("float32", "batch", 0), 8, "8 bytes"),
        (Signature((TensorSpec("a", "int8", (2,)), TensorSpec("b", "int8", (2,))), OUTPUT), 8, "2 inputs"),
    ],
)
def test_bytes_that_fit_no_shape_are_refused(signature: Signature, size: int, told: str) -> None:
    """The error says how many bytes there are and how many the model needs."""
    for headers in ({}, {LENGTH_HEADER: "0"}):
        with pytest.raises(RetortError, match=told) as caught:
            _ask(bytes(size - 1) + b"\x01", signature, **headers)
        assert getattr(caught.value, "status", 400) == 400
        assert _remedy(caught.value)


def _remedy(error: Any) -> str:
    return str(error.remedy)
