"""The cases of the conformance suite: requests in KServe's V2 form, and what every server should answer."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...core.session import Session
from ...core.tensors import Array
from .conformance_model import ROWS, SHAPES, TABLE_ROWS, sample

KINDS = {
    "float32": "FP32",
    "float64": "FP64",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "uint8": "UINT8",
    "uint16": "UINT16",
    "uint32": "UINT32",
    "uint64": "UINT64",
    "bool": "BOOL",
}
Value = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """One request and its expected answer.

    Attributes:
        group: what it is about.
        body: the request; None for a request without one (GET).
        status: the status that is expected.
        outputs: the outputs that are expected, bit for bit; None for a refusal or an answer without tensors.
        path: what follows the address of the model.
        beside: requests that are sent at the same time, whose answers are cases of their own.
    """

    group: str
    name: str
    body: bytes | None
    status: int
    outputs: Mapping[str, Array] | None = None
    path: str = "/infer"
    beside: tuple[Case, ...] = ()


def tensor(name: str, array: Array) -> Value:
    """A tensor in V2's JSON form."""
    return {
        "name": name,
        "datatype": KINDS[array.dtype.name],
        "shape": list(array.shape),
        "data": array.reshape(-1).tolist(),
    }


def request(feeds: Mapping[str, Array], **more: Any) -> Value:
    """A request in V2's JSON form."""
    return {"inputs": [tensor(name, array) for name, array in feeds.items()], **more}


def cases(session: Session) -> list[Case]:
    """All cases, with the outputs of a local session."""
    found = [
        *_values(session),
        *_sizes(session),
        *_chosen(session),
        *_shapes(),
        *_names(),
        *_types(session),
        *_malformed(),
        *_limits(),
        *_isolation(session),
        *_states(),
    ]
    assert len({(case.group, case.name) for case in found}) == len(found)
    return found


def _good(session: Session, group: str, name: str, feeds: Mapping[str, Array], **more: Any) -> Case:
    wanted = [item["name"] for item in more.get("outputs", [])]
    outputs = {key: value for key, value in session.run(feeds).items() if not wanted or key in wanted}
    return Case(group, name, json.dumps(request(feeds, **more)).encode(), 200, outputs)


def _bad(group: str, name: str, value: object, status: int = 400) -> Case:
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    return Case(group, name, body, status)


def _values(session: Session) -> Iterator[Case]:
    """Values of every type: zero, one, the smallest, the largest and random ones."""
    for name, (dtype, _) in SHAPES.items():
        info: Any = None if dtype == "bool" else np.finfo(dtype) if dtype.startswith("f") else np.iinfo(dtype)
        special = {"zero": 0, "one": 1, "smallest": getattr(info, "min", 0), "largest": getattr(info, "max", 1)}
        if dtype.startswith("f"):
            special |= {"tiny": info.smallest_subnormal, "third": 1 / 3, "negative zero": -0.0}
        if name == "index":
            special |= {"smallest": -TABLE_ROWS, "largest": TABLE_ROWS - 1}
        for label, value in special.items():
            feeds = sample(2, 1)
            feeds[name] = np.full_like(feeds[name], 0 if dtype.startswith("f") else value)
            feeds[name][..., 0] = value  # one of a row, so that the sum is no infinity, which JSON does not have
            yield _good(session, "values", f"{name}: {label}", feeds)

    feeds = sample(2, 1)
    feeds["f64"] = np.random.default_rng(0).normal(size=feeds["f64"].shape)
    yield _good(session, "values", "f64: many digits", feeds)


def _sizes(session: Session) -> Iterator[Case]:
    """Numbers of rows, and lengths of the free axis."""
    for rows in (*range(1, 18), 31, 32, 33, 100, ROWS):
        yield _good(session, "rows", f"{rows} rows", sample(rows, rows))
    for length in (1, 2, 5, 8, 17, 64, 300):
        yield _good(session, "rows", f"length {length}", sample(2, length, length))


def _chosen(session: Session) -> Iterator[Case]:
    """Some of the outputs, and the client's own id."""
    feeds = sample(2, 2)
    for name in (*(f"out_{name}" for name in SHAPES), "sum", "chosen"):
        yield _good(session, "outputs", f"only {name}", feeds, outputs=[{"name": name}])
    yield _good(session, "outputs", "with an id", feeds, id="a7")
    yield _bad("outputs", "an unknown output", request(feeds, outputs=[{"name": "other"}]))


def _shapes() -> Iterator[Case]:
    """Every input with a wrong rank, a wrong size, no rows, and other rows than the others."""
    changes: dict[str, Callable[[Array], Array]] = {
        "an axis too many": lambda array: array[..., None],
        "an axis too few": lambda array: array[:, 0] if array.ndim == 2 else array[:, 0, :],
        "a wrong size": lambda array: np.concatenate([array, array], axis=-1),
        "no rows": lambda array: array[:0],
        "other rows": lambda array: np.concatenate([array, array]),
    }
    for name, (_, shape) in SHAPES.items():
        for label, change in changes.items():
            if label == "a wrong size" and isinstance(shape[-1], str):
                continue
            feeds = sample(2, 3)
            feeds[name] = change(feeds[name])
            yield _bad("shapes", f"{name}: {label}", request(feeds))


def _names() -> Iterator[Case]:
    """Inputs that are missing, unknown or there twice."""
    for name in SHAPES:
        feeds = sample(2, 4)
        del feeds[name]
        yield _bad("names", f"without {name}", request(feeds))
    feeds = sample(2, 4)
    yield _bad("names", "an unknown input", request({**feeds, "other": feeds["f32"]}))
    twice = request(feeds)
    yield _bad("names", "an input twice", {"inputs": [*twice["inputs"], twice["inputs"][0]]})
    yield _bad("names", "no inputs", {"inputs": []})


def _types(session: Session) -> Iterator[Case]:
    """Declared types that are not the model's: exact ones may be converted, others must be refused."""
    whole = sample(2, 5)
    whole["f32"] = np.array([[1, 2, 3, 4], [5, 6, 7, 8]], np.float32)
    given = request(whole)
    given["inputs"][0] |= {"datatype": "INT64", "data": [1, 2, 3, 4, 5, 6, 7, 8]}
    yield Case("types", "f32: whole numbers as INT64", json.dumps(given).encode(), 200, session.run(whole))
    fractions = request(sample(2, 5))
    for index, (name, (dtype, _)) in enumerate(SHAPES.items()):
        item = fractions["inputs"][index]
        if dtype.startswith("f"):
            continue
        changed = [*fractions["inputs"][:index], {**item, "datatype": "FP64", "data": [0.5] * len(item["data"])}]
        yield _bad("types", f"{name}: fractions", {"inputs": [*changed, *fractions["inputs"][index + 1 :]]})
    for kind in ("BYTES", "FP8", "", None, 7):
        value = request(sample(2, 5))
        value["inputs"][0]["datatype"] = kind
        yield _bad("types", f"datatype {json.dumps(kind)}", value)


def _malformed() -> Iterator[Case]:
    """What is no request: text that is no JSON, and JSON of another form."""
    whole = json.dumps(request(sample(2, 6)))
    half = whole[: len(whole) // 2]
    texts = {"nothing": "", "half of it": half, "a brace": "{", "bytes": "\x00\x01\x02", "words": "a b"}
    for name, text in texts.items():
        yield _bad("malformed", name, text.encode())
    values: dict[str, object] = {"null": None, "a list": [], "a number": 3, "an empty object": {}, "a text": "x"}
    for name, value in values.items():
        yield _bad("malformed", name, value)
    fields: dict[str, tuple[str, object]] = {
        "too few values": ("data", [1.0]),
        "too many values": ("data", [1.0] * 99),
        "no values": ("data", []),
        "texts": ("data", ["1"] * 8),
        "null in values": ("data", [None] * 8),
        "a negative size": ("shape", [-2, 4]),
        "a huge size": ("shape", [1180591620717411303424, 4]),
        "a size of 0": ("shape", [0, 4]),
        "a fraction as size": ("shape", [2.5, 4]),
        "a text as size": ("shape", ["2", 4]),
        "no list as shape": ("shape", 8),
        "an object as name": ("name", {}),
    }
    for name, (key, value) in fields.items():
        given = request(sample(2, 6))
        given["inputs"][0][key] = value
        yield _bad("malformed", name, given)
    for key in ("name", "datatype", "shape", "data"):
        given = request(sample(2, 6))
        del given["inputs"][0][key]
        yield _bad("malformed", f"without {key}", given)


def _limits() -> Iterator[Case]:
    """Values and sizes beyond what the model or its settings allow."""
    yield _bad("limits", f"{ROWS + 1} rows", request(sample(ROWS + 1, 7)), 413)
    for name, (dtype, _) in SHAPES.items():
        if dtype.startswith("f") or dtype == "bool" or name == "index":
            continue
        given = request(sample(2, 7))
        item = next(item for item in given["inputs"] if item["name"] == name)
        item["data"] = [int(np.iinfo(dtype).max) + 1] * len(item["data"])
        yield _bad("limits", f"{name}: above its range", given)
    for value in (TABLE_ROWS, 1000, -TABLE_ROWS - 1):
        feeds = sample(2, 7)
        feeds["index"] = np.full_like(feeds["index"], value)
        yield _bad("limits", f"index {value} outside of the table", request(feeds))


def _isolation(session: Session) -> Iterator[Case]:
    """Good requests among bad ones: of a wrong shape, without an input, and with an index that the model fails on."""
    wrong, lacking, outside = sample(1, 8), sample(1, 8), sample(1, 8)
    wrong["f32"], outside["index"] = wrong["f32"][:, :2], np.full_like(outside["index"], 99)
    del lacking["u8"]
    bad = {"a wrong shape": wrong, "a missing input": lacking, "an index outside": outside}
    for label, feeds in bad.items():
        for count in (1, 4, 7):
            good = tuple(
                _good(session, "isolation", f"{label} × {count}: neighbour {index + 1}", sample(1, 100 + index))
                for index in range(8 - count)
            )
            again = tuple(
                _bad("isolation", f"{label} × {count}: bad {index + 2}", request(feeds)) for index in range(count - 1)
            )
            first = _bad("isolation", f"{label} × {count}: bad 1", request(feeds))
            yield Case(first.group, first.name, first.body, first.status, beside=(*good, *again))


def _states() -> Iterator[Case]:
    """What V2 says besides predictions."""
    yield Case("state", "metadata of the model", None, 200, path="")
    yield Case("state", "the model is ready", None, 200, path="/ready")
    yield Case("state", "the server is live", None, 200, path="^/v2/health/live")
    yield Case("state", "the server is ready", None, 200, path="^/v2/health/ready")
    yield Case("state", "metadata of the server", None, 200, path="^/v2")
    body = json.dumps(request(sample(1, 9))).encode()
    yield Case("state", "an unknown model", body, 404, path="^/v2/models/other/infer")
    yield Case("state", "an unknown version", body, 404, path="/versions/99/infer")
