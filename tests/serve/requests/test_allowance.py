"""Bodies with more than a legal request contains: refused before they are parsed, and no legal request with them."""

from __future__ import annotations

import gc
import io
import json
import tracemalloc
import zipfile
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from retort.core.errors import InputError, LimitError
from retort.core.signature import Signature
from retort.core.system.garbage import no_collections
from retort.core.tensors import BATCH, TensorSpec
from retort.serve.requests import allowance, bodies, wire
from retort.serve.requests.replies import refuse
from retort.serve.requests.request import Incoming, decode
from retort.serve.requests.wire import JSON, NPZ, write_npy, write_npz
from retort.serve.settings import Limits, Settings

OUTPUT = (TensorSpec("y", "float32", (BATCH, 2)),)
FEATURES = Signature((TensorSpec("x", "float32", (BATCH, 16)),), OUTPUT)
IMAGE = Signature((TensorSpec("image", "float32", (BATCH, 3, 32, 32)),), OUTPUT)
TOKENS = Signature(
    (TensorSpec("ids", "int64", (BATCH, "length")), TensorSpec("mask", "int64", (BATCH, "length"))), OUTPUT
)
SERIES = Signature((TensorSpec("x", "float32", (BATCH, "length", 1)),), OUTPUT)
SIZE = 2_000_000
MEGABYTES = SIZE / 1e6
BYTES_PER_BYTE = 20
"""What a refused request may cost in memory: 20 MB per megabyte sent."""


def filled(start: bytes, item: bytes, end: bytes) -> bytes:
    """A body of about :data:`SIZE` bytes that repeats an item."""
    return start + (item + b",") * (SIZE // (len(item) + 1)) + item + end


STRUCTURES = {
    "keys": ("{" + ",".join(f'"k{index}":0' for index in range(170_000)) + "}").encode(),
    "empty lists": filled(b"[", b"[]", b"]"),
    "lists of one": filled(b"[", b"[1]", b"]"),
    "nested lists": filled(b"[", b"[[1]]", b"]"),
    "objects": filled(b"[", b"{}", b"]"),
    "texts": filled(b"[", b'""', b"]"),
    "instances": filled(b'{"instances":[', b"[]", b"]}"),
    "V2 inputs": filled(b'{"inputs":[', b'{"name":"x","datatype":"FP32","shape":[1],"data":[0]}', b"]}"),
    "V2 outputs": filled(b'{"inputs":[],"outputs":[', b'{"name":"a"}', b"]}"),
    "values": filled(b"[", b"0", b"]"),
    "not JSON at the end": filled(b"[", b"0", b"x]"),
    "depth": b"[" * SIZE,
}


def asked(body: object, signature: Signature, kind: str = JSON, **options: Any) -> Any:
    """The request of a body."""
    return decode(Incoming({"body": body}, {"body": kind}), signature, Settings(**options))


def compressed(arrays: dict[str, Any]) -> bytes:
    """An npz whose members are compressed."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), write_npy(array), zipfile.ZIP_DEFLATED)
    return stream.getvalue()


@pytest.mark.parametrize("signature", [FEATURES, IMAGE, TOKENS], ids=["features", "image", "tokens"])
@pytest.mark.parametrize("structure", STRUCTURES)
def test_structures_of_no_legal_request_are_refused_unparsed(
    structure: str, signature: Signature, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More lists, keys, objects, texts or values than any request of the model are 413, and nothing is parsed."""

    def parsed(body: object) -> object:
        raise AssertionError("parsed")

    monkeypatch.setattr(bodies, "parse_json", parsed)
    with pytest.raises(LimitError) as caught:
        asked(STRUCTURES[structure], signature)
    answer = refuse(caught.value)
    assert answer.status == 413
    assert len(answer.body) < 500


@pytest.mark.parametrize("signature", [FEATURES, IMAGE, TOKENS, SERIES], ids=["features", "image", "tokens", "series"])
@pytest.mark.parametrize("structure", STRUCTURES)
def test_a_refused_request_takes_little_memory(structure: str, signature: Signature) -> None:
    """No refused body takes more than 20 MB per megabyte, whatever the model's axes are."""
    tracemalloc.start()
    try:
        with pytest.raises((InputError, LimitError)):
            asked(STRUCTURES[structure], signature)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak <= BYTES_PER_BYTE * 1e6 * MEGABYTES


@pytest.mark.parametrize(
    ("shape", "descr"),
    [("(0, 18446744073709551616)", "<f4"), ("(True, 16)", "<f4"), ("(1180591620717411303424,)", "<f8")],
)
def test_sizes_that_numpy_cannot_hold_are_refused(shape: str, descr: str) -> None:
    """A size beyond 64 bits, or True as a size, is the fault of the request (400), in npy, npz and V2."""
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117).encode() + b"\n"
    body = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + b"\0" * 64
    with pytest.raises(InputError, match="shape"):
        asked(body, FEATURES, "")
    sizes = json.loads(f"[{shape.strip('(),').replace('True', 'true')}]")
    v2 = {"inputs": [{"name": "x", "datatype": "FP32", "shape": sizes, "data": []}]}
    with pytest.raises(InputError, match="shape"):
        asked(json.dumps(v2).encode(), FEATURES)


def test_an_npz_is_judged_by_its_headers_before_it_is_unpacked() -> None:
    """Names, rows and sizes are refused from the first bytes of each member; small files stay small in memory."""
    bombs: dict[str, tuple[dict[str, Any], Signature, str]] = {
        "rows": ({"x": np.zeros((500_000, 16), np.float32)}, FEATURES, "rows"),
        "name": ({"z": np.zeros((500_000, 16), np.float32)}, FEATURES, "unknown z"),
        "size": ({"x": np.zeros((4, 3_000_000), np.float32)}, FEATURES, "axis 1"),
        "length": ({name: np.zeros((4, 1_200_000), np.int64) for name in ("ids", "mask")}, TOKENS, "unpacked"),
    }
    for arrays, signature, said in bombs.values():
        stream = io.BytesIO()
        np.savez_compressed(stream, **arrays)
        tracemalloc.start()
        try:
            with pytest.raises((InputError, LimitError), match=said):
                asked(stream.getvalue(), signature, NPZ)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 3e6


def test_arrays_of_one_value_may_be_compressed_as_well_as_they_can() -> None:
    """Blank pictures and a mask of ones, a thousandth of their size on the wire, are legal up to the largest number."""
    pictures = Signature((TensorSpec("image", "uint8", (BATCH, 3, 224, 224)),), OUTPUT)
    blank = {"image": np.zeros((256, 3, 224, 224), np.uint8)}
    ones = {name: np.ones((4, 90_000), np.int64) for name in ("ids", "mask")}
    cases: list[tuple[dict[str, Any], Signature]] = [(blank, pictures), (ones, TOKENS)]
    for arrays, signature in cases:
        body = compressed(arrays)
        assert len(body) < sum(array.nbytes for array in arrays.values()) / 500
        assert asked(body, signature, NPZ).rows == len(next(iter(arrays.values())))
    with pytest.raises(LimitError, match="257 rows"):
        asked(compressed({"image": np.zeros((257, 3, 224, 224), np.uint8)}), pictures, NPZ)


@pytest.mark.parametrize("size", [20_000_000, 60])
def test_a_member_whose_header_and_size_disagree_is_not_unpacked(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small array in the header and a large size in the directory, or the reverse, is refused from the header."""
    plain = write_npy(np.zeros((4, 16), np.float32))
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", plain.ljust(size, b"\0")[:size])
    monkeypatch.setattr(wire, "_unpack", lambda archive, member: pytest.fail("unpacked"))
    with pytest.raises(InputError, match="truncated or altered" if size > 60 else "damaged npy header"):
        asked(stream.getvalue(), FEATURES, NPZ)


def test_marks_in_names_are_no_structure() -> None:
    """A name with colons, brackets, commas and quotes in each of 256 rows counts as one name, escaped or not."""
    name = 'scope/input_1:0 [{"a", "b"}] \\'
    model = Signature((TensorSpec(name, "float32", (BATCH, 16)),), OUTPUT)
    rows = [{name: [1 / 3] * 16} for _ in range(256)]
    for form in ({"instances": rows}, {name: [[1 / 3] * 16] * 256}):
        assert asked(json.dumps(form).encode(), model).rows == 256
    assert asked(json.dumps({name: [[0.5] * 16]}).encode("utf-16"), model).rows == 1


def test_marks_behind_a_false_text_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither an escaped quote nor bytes of UTF-16 that look like one hide structure from the count."""
    monkeypatch.setattr(bodies, "parse_json", lambda body: pytest.fail("parsed"))
    hidden = "[" + "[]," * 20_000 + "[]]"
    for start in ('{"a\\\\":', '{"a\\"":'):
        with pytest.raises(LimitError, match="lists"):
            asked(f"{start}{hidden}}}".encode(), FEATURES)
    with pytest.raises(LimitError, match="lists"):
        asked(('{"\u2201":' + hidden + "}").encode("utf-16"), FEATURES)
    with pytest.raises(InputError, match="utf-16"):
        asked(b"\xff\xfe" + b"\x00\xdc" * 20_000 + b"0", FEATURES)


def test_the_largest_body_follows_from_the_signature() -> None:
    """A model of 256 rows with 16 features takes 260 KB, one with free axes what the limits say."""
    limits = Limits()
    assert allowance.allowance(FEATURES, limits).body_bytes < 260_000
    assert allowance.allowance(TOKENS, limits).body_bytes == limits.request_bytes
    assert allowance.allowance(IMAGE, limits).body_bytes == limits.request_bytes
    longest = json.dumps(np.full((256, 16), -1.7976931348623157e308 / 1e300).tolist(), indent=1)
    with pytest.raises(InputError, match="cannot represent"):
        asked(json.dumps(np.full((256, 16), -1.7976931348623157e308).tolist()).encode(), FEATURES)
    assert asked(longest.encode(), FEATURES).rows == 256


def test_many_unknown_names_make_a_short_message() -> None:
    """Names of inputs or form fields are said up to eight, shortened, with the number of the others."""
    names = {f"field {index:05} {'x' * 100}": [0] for index in range(20_000)}
    with pytest.raises(InputError) as caught:
        decode(Incoming(dict.fromkeys(names, b"0")), FEATURES, Settings())
    assert "and 19992 more" in caught.value.message
    assert len(caught.value.message) < 600


def test_the_collector_pauses_and_comes_back() -> None:
    """Garbage collection is off while a body is parsed, and on again after a fault."""
    with pytest.raises(ZeroDivisionError), no_collections():
        assert not gc.isenabled()
        raise ZeroDivisionError
    assert gc.isenabled()


RESERVED = ("instances", "inputs")
"""Names of inputs that make a body another form."""
AXES = st.one_of(st.integers(1, 4), st.sampled_from(["length", "width"]))
ODD = [
    "input_1:0",
    "x[0]",
    "a,b",
    '"quoted" "datatype"',
    "back\\\\slash\\",
    "{model}/layer",
    "[[[",
    '"',
    "ü",
    "\U0001f600" * 40,
]
"""Names with the marks of JSON, with what JSON escapes, and with characters of which each is twelve bytes there."""
NAMES = st.one_of(st.sampled_from(ODD), st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=30))
SHAPES = st.tuples(st.lists(AXES, max_size=3), st.integers(0, 3)).map(
    lambda drawn: (*drawn[0][: drawn[1]], BATCH, *drawn[0][drawn[1] :])
)
SIGNATURES = st.dictionaries(NAMES.filter(lambda name: name not in RESERVED), SHAPES, min_size=1, max_size=3).map(
    lambda shapes: Signature(tuple(TensorSpec(name, "float32", shape) for name, shape in shapes.items()), OUTPUT)
)
LONGEST = -2.2250738585072014e-308
"""A float64 with as many characters as any."""


def bodies_of(feeds: dict[str, Any], signature: Signature) -> list[object]:
    """Feeds in all forms of JSON that a request may have."""
    lists = {name: array.tolist() for name, array in feeds.items()}
    v2 = [
        {"name": name, "datatype": "FP64", "shape": list(array.shape), "data": array.ravel().tolist()}
        for name, array in feeds.items()
    ]
    columns = {spec.name: np.moveaxis(feeds[spec.name], spec.shape.index(BATCH), 0) for spec in signature.inputs}
    rows = len(next(iter(columns.values())))
    instances = [{name: array[row].tolist() for name, array in columns.items()} for row in range(rows)]
    found: list[object] = [lists, {"inputs": v2, "id": "a:b"}, {"instances": instances}]
    if len(lists) == 1:
        found += [*lists.values(), {"instances": next(iter(columns.values())).tolist()}]
    return found


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(SIGNATURES, st.integers(1, 256), st.integers(1, 5), st.integers(1, 5), st.sampled_from([None, 2, 4]))
def test_no_legal_request_is_refused(
    monkeypatch: pytest.MonkeyPatch, signature: Signature, rows: int, length: int, width: int, indent: int | None
) -> None:
    """Requests of the largest number of rows pass in every form, whatever the axes, the names and the indentation.

    Nothing is allowed for an envelope, so that each bound holds by what it is about.
    """
    monkeypatch.setattr(allowance, "COUNTED_FROM_BYTES", 0)
    monkeypatch.setattr(allowance, "ENVELOPE_BYTES", 0)
    monkeypatch.setattr(bodies, "MANY", 0)
    known: dict[str | int, int] = {BATCH: rows, "length": length, "width": width}
    feeds = {
        spec.name: np.full([size if isinstance(size, int) else known[size] for size in spec.shape], LONGEST)
        for spec in signature.inputs
    }
    limits = Limits(rows=rows, request_bytes=1 << 30)
    for form in bodies_of(feeds, signature):
        for plain in (True, False):
            body = json.dumps(form, indent=indent, ensure_ascii=plain).encode()
            assert asked(body, signature, limits=limits).rows == rows
    for written in (write_npz(feeds), compressed(feeds)):
        assert asked(written, signature, NPZ, limits=limits).rows == rows
    parts = {name: write_npy(array) for name, array in feeds.items()}
    assert decode(Incoming(parts), signature, Settings(limits=limits)).rows == rows
