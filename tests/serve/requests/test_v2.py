"""The Open Inference Protocol: tensors in JSON and as bytes, and answers that clients of Triton read."""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from retort.core.errors import InputError
from retort.core.signature import Signature
from retort.core.tensors import TensorSpec
from retort.serve.requests.replies import encode
from retort.serve.requests.request import Incoming, Request, decode
from retort.serve.requests.v2 import LENGTH_HEADER, OCTETS, V2_TYPES, binary_tensor, parse_binary, tensor_of, v2_tensor
from retort.serve.settings import Limits, Settings

LIMITS = Limits()
ONE = Signature(
    (TensorSpec("x", "float32", ("batch", 2)),), (TensorSpec("y", "float32", ("batch", 3)),), classes=("a", "b", "c")
)
ROWS = np.array([[1.5, -2.0], [0.1, 3.0]], np.float32)


def _binary(head: dict[str, Any], data: bytes) -> Request:
    text = json.dumps(head).encode()
    headers = {"content-type": OCTETS, LENGTH_HEADER: str(len(text))}
    return decode(Incoming({"body": text + data}, {}, headers), ONE, Settings())


@settings(max_examples=150, deadline=None)
@given(
    hnp.arrays(st.sampled_from(list(V2_TYPES.values())), hnp.array_shapes(min_dims=1, max_dims=3, min_side=0)),
    st.booleans(),
)
def test_tensors_are_read_back(array: np.ndarray[Any, Any], big: bool) -> None:
    """Every datatype and shape survives as bytes behind the JSON, from either byte order."""
    head, data = binary_tensor("x", array.astype(array.dtype.newbyteorder(">")) if big else array)
    text = json.dumps({"inputs": [head]}).encode()
    item = parse_binary(text + data, str(len(text)), LIMITS)["inputs"][0]
    found = tensor_of(item, "x", LIMITS)
    assert found.shape == array.shape
    assert np.ascontiguousarray(found).tobytes() == np.ascontiguousarray(array).tobytes()


@pytest.mark.parametrize("dtype", V2_TYPES.values())
def test_tensors_in_json_are_read_back(dtype: str) -> None:
    """Every datatype survives as a flat list, and as nested lists."""
    array = np.array([[0, 1, 1], [1, 0, 0]], dtype)
    item = v2_tensor("x", array)
    for data in (array.ravel().tolist(), array.tolist()):
        np.testing.assert_array_equal(tensor_of({**item, "data": data}, "x", LIMITS), array)


@pytest.mark.parametrize("size", [-1, True, 1.5, "8", 1 << 80, 15, 17])
def test_wrong_sizes_are_refused(size: object) -> None:
    """A size that is no number, or that does not fit the shape or the body, is a fault of the request."""
    item = {"name": "x", "datatype": "FP32", "shape": [2, 2], "parameters": {"binary_data_size": size}}
    with pytest.raises(InputError):
        _binary({"inputs": [item]}, ROWS.tobytes())


@pytest.mark.parametrize("length", ["", "-1", "1e3", "99999999", "0", "x" * 50, "3"])
def test_a_wrong_length_of_the_json_is_refused(length: str) -> None:
    """The header with the length of the JSON text is checked before the body is read."""
    body = json.dumps({"inputs": []}).encode()
    with pytest.raises(InputError):
        decode(Incoming({"body": body}, {}, {"content-type": OCTETS, LENGTH_HEADER: length}), ONE, Settings())


@pytest.mark.parametrize("data", [b"\1\0\0", struct.pack("<L", 9) + b"ab", struct.pack("<L", 2**32 - 1)])
def test_damaged_texts_are_refused(data: bytes) -> None:
    """Elements of BYTES whose lengths lie are a fault of the request."""
    head = {"inputs": [{"name": "t", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": len(data)}}]}
    with pytest.raises(InputError, match="BYTES"):
        _binary(head, data)


def test_answers_are_bytes_or_classes_where_wanted() -> None:
    """An output is sent as bytes behind the JSON, or as its best classes as Triton spells them."""
    item, data = binary_tensor("x", ROWS)
    made = {"y": np.array([[0.25, 0.5, 0.125], [1, 0, 0.5]], np.float32)}
    wish: dict[str, Any] = {"name": "y", "parameters": {"binary_data": True}}
    answer = encode(made, _binary({"id": "7", "inputs": [item], "outputs": [wish]}, data), ONE, Settings())
    split = int(answer.headers[LENGTH_HEADER])
    head = json.loads(answer.body[:split])
    assert head["id"] == "7"
    assert head["outputs"][0]["parameters"] == {"binary_data_size": 24}
    assert answer.body[split:] == made["y"].tobytes()
    wish = {"name": "y", "parameters": {"classification": 2}}
    answer = encode(made, _binary({"inputs": [item], "outputs": [wish]}, data), ONE, Settings())
    best = json.loads(answer.body)["outputs"][0]
    assert (best["datatype"], best["shape"]) == ("BYTES", [2, 2])
    assert best["data"] == ["0.5:1:b", "0.25:0:a", "1.0:0:a", "0.5:2:c"]


def test_what_the_client_of_triton_writes_is_read() -> None:
    """The body that version 2.73.0 of Triton's Python client wrote for a tensor has the same array here."""
    head = (
        '{"inputs":[{"name":"x","shape":[2,2],"datatype":"FP32","parameters":{"binary_data_size":16}}],'
        '"outputs":[{"name":"y","parameters":{"binary_data":true}}]}'
    )
    headers = {"content-type": OCTETS, LENGTH_HEADER: str(len(head))}
    request = decode(Incoming({"body": head.encode() + ROWS.tobytes()}, {}, headers), ONE, Settings())
    np.testing.assert_array_equal(request.feeds["x"], ROWS)
    assert request.wishes.binary == frozenset({"y"})
