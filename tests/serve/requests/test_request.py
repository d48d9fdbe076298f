"""Requests: every body is decoded exactly or rejected with a reason, and none raises another exception."""

from __future__ import annotations

import io
import json
import zipfile
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from retort.core.errors import InputError, LimitError, RetortError
from retort.core.signature import Signature
from retort.core.tensors import TensorSpec
from retort.serve.requests.content_types import FORM, negotiate
from retort.serve.requests.replies import encode, refuse
from retort.serve.requests.request import Incoming, decode
from retort.serve.requests.wire import JSON, NPY, NPZ, read_npy, read_npz, write_npy, write_npz
from retort.serve.settings import Limits, Settings
from retort.serve.workarounds import TOO_MANY_PARTS

ONE = Signature((TensorSpec("x", "float32", ("batch", 2)),), (TensorSpec("y", "float32", ("batch", 3)),))
TWO = Signature(
    (TensorSpec("ids", "int64", ("batch", "length")), TensorSpec("mask", "float32", ("batch", "length"))),
    (TensorSpec("a", "float32", ("batch", 2)), TensorSpec("b", "int64", ("batch",))),
)
LIMITS = Limits()
ROWS = np.array([[1.5, -2.0], [0.1, 3.0]], dtype=np.float32)
DTYPES = [
    "bool",
    "int8",
    "uint8",
    "int16",
    "uint16",
    "int32",
    "uint32",
    "int64",
    "uint64",
    "f2",
    "f4",
    "f8",
    ">f4",
    ">i2",
]
QUICK = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def _ask(body: object, kind: str, signature: Signature = ONE, **options: Any) -> Any:
    headers = {"accept": options.pop("accept", "")}
    return decode(Incoming({"body": body}, {"body": kind}, headers), signature, Settings(**options))


def _json(value: object, signature: Signature = ONE, **options: Any) -> Any:
    return _ask(json.dumps(value).encode(), JSON, signature, **options)


@QUICK
@given(hnp.arrays(st.sampled_from(DTYPES), hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)))
def test_npy_round_trip(array: np.ndarray[Any, Any]) -> None:
    """Any numeric array is equal after npy and npz, and numpy itself reads the files."""
    for got in (
        read_npy(write_npy(array), LIMITS),
        read_npz(write_npz({"x": array}), LIMITS)["x"],
        np.load(io.BytesIO(write_npy(array)), allow_pickle=False),
    ):
        assert got.shape == array.shape
        np.testing.assert_array_equal(got, array)


@pytest.mark.parametrize(
    "array", [ROWS, np.asfortranarray(ROWS), ROWS.astype(">f4"), ROWS.astype(np.float64), ROWS[::-1]]
)
def test_what_numpy_saves_is_read(array: np.ndarray[Any, Any]) -> None:
    """Fortran order, big endian, wider floats and views get the signature's dtype with the same values."""
    stream = io.BytesIO()
    np.save(stream, array)
    got = _ask(stream.getvalue(), NPY).feeds["x"]
    assert got.dtype == np.float32
    assert got.flags.c_contiguous
    assert got.flags.aligned
    np.testing.assert_array_equal(got, array)


def _npy(header: str, data: bytes = b"", version: int = 1) -> bytes:
    text = header.encode().ljust(118)[:4000] + b"\n"
    return b"\x93NUMPY" + bytes([version, 0]) + len(text).to_bytes(2, "little") + text + data


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x93NUMPY",
        write_npy(ROWS)[:-1],
        write_npy(ROWS) + b"x",
        _npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}", b"12345678"),
        _npy("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,)}", b"1234"),
        _npy("{'descr': '<U4', 'fortran_order': False, 'shape': (1,)}", b"1234" * 4),
        _npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-1, -1)}", b"1234"),
        _npy("{'descr': '<f4', 'fortran_order': False, 'shape': (10**30,)}", b"1234"),
        _npy("{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999,)}", b"1234"),
        _npy("__import__('os').system('true')"),
        _npy("(" * 100),
        _npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1,)}", b"1234", version=9),
    ],
)
def test_bad_npy_is_refused(body: bytes) -> None:
    """Pickles, structures, text, wrong sizes and damaged headers are rejected."""
    with pytest.raises(InputError):
        _ask(body, NPY)


def _zip(members: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.getvalue()


def test_npz_bombs_are_refused_before_they_unpack() -> None:
    """A small body that would unpack to more than allowed is rejected, also if its header hides this."""
    bomb = _zip({"x.npy": bytes(50 << 20)})
    with pytest.raises(LimitError, match="too large"):
        read_npz(bomb, Limits(expanded_bytes=1 << 20))
    lie = bytearray(bomb)
    at = lie.rindex(b"PK\x01\x02")
    lie[at + 24 : at + 28] = (100).to_bytes(4, "little")
    with pytest.raises(InputError):
        read_npz(bytes(lie), Limits(expanded_bytes=1 << 20))
    with pytest.raises(InputError, match="compression"):
        read_npz(_zip({"x.npy": b""}, zipfile.ZIP_LZMA), LIMITS)
    with pytest.raises(LimitError, match="members"):
        read_npz(_zip({f"{i}.npy": b"" for i in range(99)}), LIMITS)


def test_few_bytes_do_not_unpack_to_more_than_a_whole_request() -> None:
    """A model with a free axis takes 4 MB of zeros, as it does uncompressed, and 8 MB only as noise."""
    free = Signature((TensorSpec("x", "float32", ("batch", "length")),), ())
    limits = Limits(request_bytes=5 << 20)
    blank = _zip({"x.npy": write_npy(np.zeros((1, 1 << 20), np.float32))})
    assert len(blank) < 10_000
    assert read_npz(blank, limits, free)["x"].shape == (1, 1 << 20)
    with pytest.raises(LimitError, match="too large when unpacked"):
        read_npz(_zip({"x.npy": write_npy(np.zeros((1, 1 << 21), np.float32))}), limits, free)
    noise = np.random.default_rng(0).integers(0, 9, (1, 1 << 21)).astype(np.float32)
    assert read_npz(_zip({"x.npy": write_npy(noise)}), limits, free)["x"].tobytes() == noise.tobytes()


JSON_FORMS = [
    [[1.5, -2.0], [0.1, 3.0]],
    {"x": [[1.5, -2.0], [0.1, 3.0]]},
    {"instances": [[1.5, -2.0], [0.1, 3.0]]},
    {"instances": [{"x": [1.5, -2.0]}, {"x": [0.1, 3.0]}]},
    {"inputs": [{"name": "x", "shape": [2, 2], "datatype": "FP32", "data": [1.5, -2.0, 0.1, 3.0]}]},
    {"inputs": [{"name": "x", "shape": [2, 2], "datatype": "FP64", "data": [[1.5, -2.0], [0.1, 3.0]]}]},
]


@pytest.mark.parametrize("value", JSON_FORMS)
def test_json_forms_mean_the_same(value: object) -> None:
    """A bare list, named lists, V1 instances and KServe V2 give the same tensor bit for bit."""
    for body in (json.dumps(value).encode(), bytearray(json.dumps(value).encode()), value):
        request = _ask(body, JSON)
        assert request.feeds["x"].tobytes() == ROWS.tobytes()
        assert request.rows == 2
        assert request.reply == JSON


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([[1.0, 2.0], [3.0]], "ragged"),
        ([[1.0, "2"]], "str"),
        ([[1.0, None]], "NoneType"),
        ([["a" * 500, 1.0]] * 50, "str"),
        ([[1.0, 10**400]], "too large"),
        ([[1e300, 1.0]], "cannot represent"),
        ([1.0, 2.0], "has 1 axis,"),
        ([], "has 1 axis,"),
        ([[]], "empty"),
        ({"z": [[1.0, 2.0]]}, "missing x; unknown z"),
        ({}, "missing x"),
        (7, "has 0 axes"),
        ("text", "str"),
        (None, "NoneType"),
        ({"instances": []}, "instances"),
        ({"instances": [{"x": [1, 2]}, {}]}, "other inputs"),
        ({"inputs": [{"name": "x", "shape": [2, 2], "datatype": "FP32", "data": [1.0]}]}, "needs 4"),
        ({"inputs": [{"name": "x", "shape": [-1], "datatype": "FP32", "data": [1.0]}]}, "shape"),
        ({"inputs": [{"name": "x", "shape": [1, 2], "datatype": "BYTES", "data": ["a", "b"]}]}, "datatype"),
        ({"inputs": [{"name": "x", "shape": [1, 2], "datatype": "INT8", "data": [1.5, 2]}]}, "exactly"),
        ({"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32"}]}, "no data"),
        ({"inputs": [{"shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]}, "name"),
    ],
)
def test_faults_of_a_json_body_are_described(value: object, said: str) -> None:
    """The message describes each fault of a JSON body."""
    with pytest.raises((InputError, LimitError), match=said):
        _json(value)


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe\x00", b'{"x": 1, "x": 2}', b"[" * 200_000, b"1" * 5000, b"nul"])
def test_text_that_is_not_json_is_refused(body: bytes) -> None:
    """Damaged JSON, and JSON with duplicate keys, deep nesting or huge numbers is rejected."""
    with pytest.raises((InputError, LimitError)):
        _ask(body, JSON)


def test_an_outputs_list_chooses_outputs_and_the_id_comes_back() -> None:
    """KServe V2: `outputs` selects, `id` is returned, and datatypes have V2 names."""
    inputs = [
        {"name": "ids", "shape": [1, 2], "datatype": "INT64", "data": [1, 2]},
        {"name": "mask", "shape": [1, 2], "datatype": "FP32", "data": [1, 1]},
    ]
    request = _json({"id": "7", "inputs": inputs, "outputs": [{"name": "b"}]}, TWO)
    made = {"a": np.zeros((1, 2), np.float32), "b": np.array([5])}
    answer = json.loads(encode(made, request, TWO, Settings(name="m")).body)
    assert answer["id"] == "7"
    assert answer["model_name"] == "m"
    assert answer["outputs"] == [{"name": "b", "datatype": "INT64", "shape": [1], "data": [5]}]
    with pytest.raises(InputError, match="does not exist"):
        _json({"inputs": inputs, "outputs": [{"name": "c"}]}, TWO)


def test_named_parts_are_inputs() -> None:
    """Form fields and gRPC keys are inputs by name, as npy or as JSON."""
    ids = np.array([[1, 2, 3]])
    request = decode(Incoming({"ids": bytearray(write_npy(ids)), "mask": b"[[1, 0.5, 0]]"}), TWO, Settings())
    np.testing.assert_array_equal(request.feeds["ids"], ids)
    np.testing.assert_array_equal(request.feeds["mask"], np.array([[1, 0.5, 0]], np.float32))
    with pytest.raises(InputError, match="unknown parts: other"):
        decode(Incoming({"ids": b"[[1]]", "other": b"1"}), TWO, Settings())
    with pytest.raises(InputError, match="empty"):
        decode(Incoming({}), TWO, Settings())


def test_signature_faults_name_input_expectation_and_finding() -> None:
    """An error has the input, the expected and the actual value as separate fields."""
    with pytest.raises(InputError) as caught:
        _ask(write_npy(np.zeros((1, 3), np.float32)), NPY)
    body = json.loads(refuse(caught.value, "r1").body)
    assert body["code"] == "InputError"
    assert body["status"] == 400
    assert body["input"] == "x"
    assert body["expected"] == "x: float32[batch, 2]"
    assert body["got"] == "x: float32[1, 3]"
    assert body["request_id"] == "r1"


def test_symbolic_axes_must_agree() -> None:
    """Two inputs with the same dynamic axis must have the same size there."""
    with pytest.raises(InputError, match="length"):
        _json({"ids": [[1, 2]], "mask": [[1.0, 2.0, 3.0]]}, TWO)
    with pytest.raises(InputError, match="exactly"):
        _json({"ids": [[1.5]], "mask": [[1.0]]}, TWO)


def test_limits_come_first() -> None:
    """Bytes, rows and axes above the limits are rejected with 413."""
    big = write_npy(np.zeros((300, 2), np.float32))
    for limits in (Limits(request_bytes=100), Limits(rows=299)):
        with pytest.raises(LimitError) as caught:
            _ask(big, NPY, limits=limits)
        assert refuse(caught.value).status == 413
    for body, kind in ((write_npy(np.zeros((1,) * 20, np.float32)), NPY), (b"[" * 20 + b"1" + b"]" * 20, JSON)):
        with pytest.raises(LimitError) as caught:
            _ask(body, kind)
        assert refuse(caught.value).status == 413


def test_nan_is_refused_unless_allowed_and_infinity_passes() -> None:
    """NaN is rejected by default in every form, may be allowed, and infinities are always accepted."""
    nan, inf = np.array([[np.nan, 1]], np.float32), np.array([[-np.inf, 1]], np.float32)
    v2 = b'{"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [NaN, 1]}]}'
    named, instances = b'{"x": [[NaN, 1]]}', b'{"instances": [[NaN, 1]]}'
    texts = [(text, JSON) for text in (b"[[NaN, 1]]", named, instances, v2)]
    for body, kind in ((write_npy(nan), NPY), (write_npz({"x": nan}), NPZ), *texts):
        with pytest.raises(InputError, match="NaN"):
            _ask(body, kind)
        assert np.isnan(_ask(body, kind, allow_nan=True).feeds["x"][0, 0])
    for part in (write_npy(nan), b"[[NaN, 1]]"):
        with pytest.raises(InputError, match="NaN"):
            decode(Incoming({"x": part}), ONE, Settings())
        assert np.isnan(decode(Incoming({"x": part}), ONE, Settings(allow_nan=True)).feeds["x"][0, 0])
    assert np.isinf(_ask(write_npy(inf), NPY).feeds["x"][0, 0])
    assert np.isinf(_ask(b"[[-Infinity, 1]]", JSON).feeds["x"][0, 0])


@pytest.mark.parametrize(
    ("accept", "kind", "outputs", "wanted"),
    [
        ("", NPY, 1, NPY),
        ("*/*", JSON, 1, JSON),
        ("", NPY, 2, NPZ),
        ("application/json", NPY, 1, JSON),
        ("application/x-npy;q=0.2, application/json;q=0.9", NPZ, 1, JSON),
        ("text/html, application/*", NPZ, 1, NPZ),
        ("application/x-npy", JSON, 1, NPY),
    ],
)
def test_accept_decides_the_form_of_the_answer(accept: str, kind: str, outputs: int, wanted: str) -> None:
    """The answer has the form of the Accept header, or of the request without one."""
    assert negotiate(accept, kind, outputs) == wanted


@pytest.mark.parametrize(
    ("accept", "outputs"), [("text/html", 1), ("application/x-npy", 2), ("application/json;q=0", 1)]
)
def test_an_answer_nobody_accepts_is_refused(accept: str, outputs: int) -> None:
    """A form that cannot be written is rejected while the request is decoded, before the model runs."""
    with pytest.raises(InputError, match="the answer cannot"):
        negotiate(accept, JSON, outputs)
    with pytest.raises(InputError, match="the answer cannot"):
        if outputs == 1:
            _json(ROWS.tolist(), accept=accept)
        else:
            _json({"ids": [[1]], "mask": [[1.0]]}, TWO, accept=accept)


def test_unknown_content_types_are_415() -> None:
    """A type that is not one of ours is 415, with the types that are."""
    for kind in ("image/png", "application/xml", "text/html", "multipart/mixed"):
        with pytest.raises(InputError, match=kind) as caught:
            _ask(b"[[1, 2]]", kind)
        assert refuse(caught.value).status == 415
        assert all(known in caught.value.remedy for known in (JSON, NPY, NPZ))


@pytest.mark.parametrize("kind", ["", "text/plain", "Text/Plain; charset=utf-8", "application/octet-stream", FORM])
def test_without_a_telling_type_the_first_bytes_decide(kind: str) -> None:
    """Without a type, or with one that clients send by default, JSON, npy and npz are understood."""
    for body in (write_npy(ROWS), write_npz({"x": ROWS}), json.dumps({"x": ROWS.tolist()}).encode(), b" [[1, 2]]"):
        assert _ask(body, kind).feeds["x"].shape[1] == 2
    numbers = (
        "the body has 5 bytes, and x: .* needs 8" if "octet" in kind else "not JSON: Expecting value at character 0"
    )
    with pytest.raises(InputError, match=numbers) as caught:
        _ask(b"hello", kind)
    assert refuse(caught.value).status == 400
    with pytest.raises(InputError, match="the body is not JSON"):
        _ask(b"[\xff]", kind)


def test_types_of_json_and_npy_have_other_spellings() -> None:
    """Types that end with +json are JSON, and neither case nor parameters matter."""
    for kind in ("text/json", "application/vnd.api+json", "APPLICATION/JSON; charset=utf-8"):
        np.testing.assert_array_equal(_ask(json.dumps(ROWS.tolist()).encode(), kind).feeds["x"], ROWS)
    np.testing.assert_array_equal(_ask(write_npy(ROWS), "Application/X-NPY; charset=x").feeds["x"], ROWS)


@pytest.mark.parametrize(("content_type", "status"), [("multipart/form-data; boundary=b", 413), (FORM, 415)])
def test_dropped_parts_refuse_a_request_that_looks_whole(content_type: str, status: int) -> None:
    """If the worker dropped parts, a request is refused even though those that it kept fit the model."""
    parts = {"x": write_npy(ROWS), TOO_MANY_PARTS: b""}
    with pytest.raises((InputError, LimitError)) as caught:
        decode(Incoming(parts, headers={"content-type": content_type}), ONE, Settings())
    assert caught.value.facts.get("status", caught.value.http_status) == status


@pytest.mark.parametrize("parts", [{}, {'{"x": "a': b'b"}', "c": b""}, {"\x93NUMPY": b""}])
def test_a_body_that_was_read_as_a_form_is_said(parts: dict[str, object]) -> None:
    """Where the server turned a body into form fields, the answer is 415 and names the header to send."""
    with pytest.raises(InputError, match="read as a form") as caught:
        decode(Incoming(parts, {}, {"content-type": FORM}), ONE, Settings())
    assert refuse(caught.value).status == 415
    assert f"'Content-Type: {JSON}'" in caught.value.remedy
    fields = Incoming({"x": b"[[1, 2]]"}, {}, {"content-type": FORM})
    assert decode(fields, ONE, Settings()).feeds["x"].tolist() == [[1, 2]]


@pytest.mark.parametrize("kind", ["", JSON, NPY, "image/png"])
def test_an_empty_body_is_said(kind: str) -> None:
    """An empty body is called empty, and the inputs are listed."""
    with pytest.raises(InputError, match="the request is empty") as caught:
        _ask(b"", kind)
    assert "x: float32[batch, 2]" in caught.value.remedy


def test_json_answers_are_exact_and_valid() -> None:
    """Floats in JSON answers are read back with the same bits; values that are not finite are null."""
    request = _json(ROWS.tolist())
    values = np.array([[0.1, np.float32(1) / 3, 1e-45]], np.float32)
    back = np.array(json.loads(encode({"y": values}, request, ONE, Settings()).body), np.float32)
    assert back.tobytes() == values.tobytes()
    odd = encode({"y": np.array([[np.nan, np.inf, 1]], np.float32)}, request, ONE, Settings()).body
    assert odd == b"[[null,null,1.0]]"


def test_instances_are_answered_as_predictions() -> None:
    """V1 answers have one prediction per instance, with names if there are several outputs."""
    request = _json({"instances": [[1, 2], [3, 4]]})
    made = {"y": np.array([[1, 2, 3], [4, 5, 6]], np.float32)}
    assert json.loads(encode(made, request, ONE, Settings()).body) == {"predictions": [[1, 2, 3], [4, 5, 6]]}
    request = _json({"instances": [{"ids": [1], "mask": [1]}]}, TWO)
    made = {"a": np.array([[1, 2]], np.float32), "b": np.array([5])}
    assert json.loads(encode(made, request, TWO, Settings()).body) == {"predictions": [{"a": [1, 2], "b": 5}]}


def test_errors_keep_secrets_and_sizes() -> None:
    """An internal error reveals no details; texts in an answer are short."""
    assert b"secret" not in refuse(RuntimeError("secret")).body
    assert refuse(RuntimeError("secret")).status == 500
    assert refuse(MemoryError()).status == 507
    assert len(refuse(InputError("x" * 10_000_000)).body) < 2000


KEYS = st.sampled_from(["x", "inputs", "instances", "name", "shape", "datatype", "data"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=5),
    max_leaves=12,
)


def _status(body: object, kind: str, signature: Signature) -> int:
    try:
        request = _ask(body, kind, signature)
    except RetortError as error:
        return refuse(error).status
    return 200 if signature.validate(request.feeds) else 0


@QUICK
@given(VALUES, st.sampled_from([ONE, TWO]))
def test_any_json_is_decoded_or_refused(value: object, signature: Signature) -> None:
    """For any JSON value, the decoder raises only errors that describe the request."""
    assert _status(json.dumps(value).encode(), JSON, signature) in (200, 400, 413)
    assert _status(value, JSON, signature) in (200, 400, 413)


@QUICK
@given(st.binary(max_size=300), st.integers(0, 400), st.sampled_from([NPY, NPZ, JSON, ""]), st.data())
def test_mutated_bodies_are_decoded_or_refused(noise: bytes, at: int, kind: str, data: st.DataObject) -> None:
    """For valid bodies with changed, missing or additional bytes, it raises only errors about the request."""
    valid = data.draw(st.sampled_from([write_npy(ROWS), write_npz({"x": ROWS}), json.dumps(JSON_FORMS[4]).encode()]))
    cut = data.draw(st.integers(0, len(noise)))
    assert _status(valid[:at] + noise + valid[at + cut :], kind, ONE) in (200, 400, 413, 415)
