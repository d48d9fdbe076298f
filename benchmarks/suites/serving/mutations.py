"""Hostile requests: valid requests of every format that a model reads, changed by a seeded generator."""

from __future__ import annotations

import base64
import io
import json
import random
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ....core.signature import Signature
from ....core.tensors import Array
from .bundle_runtime import Call
from .request_pool import V2_TYPES, npy, samples, v2_json

JSON, NPY, NPZ, OCTETS = "application/json", "application/x-npy", "application/x-npz", "application/octet-stream"
LENGTH_HEADER = "inference-header-content-length"
PICTURES = ("PNG", "JPEG", "GIF", "TIFF", "BMP", "PPM", "WEBP")
_KINDS = (
    "", JSON, NPY, NPZ, OCTETS, "text/plain", "image/png", "audio/wav", "text/json", "application/vnd.x+json",
    "application/xml", "application/x-www-form-urlencoded", "multipart/form-data", "multipart/form-data; boundary=b",
    "APPLICATION/JSON; charset=utf-8", "*/*", "a" * 300, "\x7f;;=",
)  # fmt: skip
_HEADERS = {
    "accept": ("application/json", NPY, NPZ, "text/html", "*/*;q=0", "application/*;q=nan,,;", ",".join("ab/c" * 99)),
    LENGTH_HEADER: ("0", "-1", "1", "7", "99999999999999999999", "x", "", "1e3"),
    "x-retort-top-k": ("0", "-1", "99999999999999999999", "x", "1"),
    "x-retort-operation": ("healthcheck", "metadata", "x", ""),
    "url_path": ("healthcheck", "metadata", "../x", "x" * 300),
    "describe": ("", "True"),
    "content-encoding": ("gzip", "x"),
}
_EDGES = (b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\xff" * 8, b"PK\x05\x06", b"\x93NUMPY")
_TOKENS = (
    b"[", b"]", b"{", b"}", b'"', b",", b":", b"null", b"true", b"NaN", b"-Infinity", b"1e999", b"-0", b"1" * 40,
    b"[[[[[[[[[[[[", b'"\\ud800"', b'"\\u0000"', b"1.5", b"-1", b'"b64"', b'"inputs"', b'"shape"', b'"data"',
    b"18446744073709551616", b"(True,", b"'descr'", b"\xef\xbb\xbf", b"\xff\xfe",
)  # fmt: skip


@dataclass(frozen=True)
class Seed:
    """A valid request and the format that it has.

    Attributes:
        form: its name, such as ``npz``.
    """

    form: str
    call: Call


def seeds(signature: Signature, rows: int = 2) -> list[Seed]:
    """A valid request in every format that a model with this signature reads."""
    feeds = samples(signature, rows, 0)
    made = [
        Seed("npz", _body(npz(feeds), NPZ)),
        Seed("compressed npz", _body(npz(feeds, np.savez_compressed), NPZ)),
        Seed("V2 JSON", _body(v2_json(feeds), JSON)),
        Seed("V1 JSON", _body(_instances(feeds, rows), JSON)),
        Seed("JSON by names", _body(_dump({name: array.tolist() for name, array in feeds.items()}), JSON)),
        Seed("V2 binary", _v2_binary(feeds)),
        Seed("parts of npy", Call({name: npy(array) for name, array in feeds.items()}, _type("multipart/form-data"))),
        Seed("parts of JSON", Call({name: _dump(array.tolist()) for name, array in feeds.items()}, _type(""))),
    ]
    if len(feeds) == 1:
        (array,) = feeds.values()
        made += [
            Seed("npy", _body(npy(array), NPY)),
            Seed("npy in Fortran order", _body(npy(np.asfortranarray(array)), NPY)),
            Seed("list in JSON", _body(_dump(array.tolist()), JSON)),
            Seed("npy as octets", _body(npy(array), OCTETS)),
            Seed("untold", _body(npy(array), "")),
        ]
    return [*made, *_raw_seeds(signature)]


def _raw_seeds(signature: Signature) -> Iterator[Seed]:
    """Requests with files and texts, for models that read them."""
    for spec in signature.preprocessing:
        name = spec.fields[0]
        if spec.kind == "image":  # the classes are those of the bundle, not of this package
            contents = [(kind, picture(kind), f"image/{kind.lower()}") for kind in PICTURES]
        elif spec.kind == "audio":
            contents = [("WAV", recording(), "audio/wav")]
        else:
            contents = [("text", "a text ä".encode(), "text/plain")]
        for form, content, kind in contents:
            yield Seed(form, _body(content, kind))
        form, content, _ = contents[0]
        value: Any = {"b64": base64.b64encode(content).decode()} if form != "text" else content.decode()
        plain = value["b64"] if isinstance(value, dict) else value
        v2 = {"name": name, "datatype": "BYTES", "shape": [1], "data": [plain]}
        yield Seed(f"{form} as a part", Call({name: content}, _type("multipart/form-data")))
        yield Seed(f"{form} in V1", _body(_dump({"instances": [value], "parameters": {"top_k": 3}}), JSON))
        yield Seed(f"{form} by name", _body(_dump({name: value}), JSON))
        yield Seed(f"{form} in V2", _body(_dump({"inputs": [v2]}), JSON))


def picture(kind: str, side: int = 9) -> bytes:
    """A picture of noise as a file of this kind."""
    from PIL import Image

    stream = io.BytesIO()
    pixels = np.random.default_rng(side).integers(0, 255, (side, side, 3), np.uint8)
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


def recording(samples_: int = 200) -> bytes:
    """A short recording with 16,000 samples a second as a WAV file."""
    data = np.arange(samples_, dtype="<i2").tobytes()
    head = struct.pack("<LHHLLHH", 16, 1, 1, 16_000, 32_000, 2, 16)
    size = struct.pack("<L", len(data))
    return b"RIFF" + struct.pack("<L", 36 + len(data)) + b"WAVEfmt " + head + b"data" + size + data


def npz(feeds: dict[str, Array], save: Callable[..., None] = np.savez) -> bytes:
    """Arrays as an npz file."""
    stream = io.BytesIO()
    save(stream, **feeds)
    return stream.getvalue()


def _body(content: bytes, kind: str) -> Call:
    return Call({"body": content}, _type(kind))


def _type(kind: str) -> dict[str, str]:
    return {"content-type": kind} if kind else {}


def _dump(value: object) -> bytes:
    return json.dumps(value).encode()


def _instances(feeds: dict[str, Array], rows: int) -> bytes:
    if len(feeds) == 1:
        return _dump({"instances": next(iter(feeds.values())).tolist()})
    return _dump({"instances": [{name: array[row].tolist() for name, array in feeds.items()} for row in range(rows)]})


def _v2_binary(feeds: dict[str, Array]) -> Call:
    items = [
        {
            "name": name,
            "datatype": V2_TYPES[str(array.dtype)],
            "shape": list(array.shape),
            "parameters": {"binary_data_size": array.nbytes},
        }
        for name, array in feeds.items()
    ]
    head = _dump({"inputs": items})
    content = head + b"".join(array.tobytes() for array in feeds.values())
    return Call({"body": content}, {"content-type": OCTETS, LENGTH_HEADER: str(len(head))})


def mutated(content: bytes, generator: random.Random) -> bytes:
    """Bytes with some changed, removed, repeated or put in."""
    made = bytearray(content)
    for _ in range(generator.choice((1, 1, 2, 8))):
        at = generator.randrange(len(made) + 1)
        how = generator.randrange(8)
        if how == 0 and at < len(made):
            made[at] = generator.randrange(256)
        elif how == 1 and at < len(made):
            made[at] ^= 1 << generator.randrange(8)
        elif how == 2:
            made[at : at + generator.randrange(1, 9)] = generator.randbytes(generator.randrange(9))
        elif how == 3:
            edge = generator.choice(_EDGES)
            made[at : at + len(edge)] = edge
        elif how in (4, 5):
            end = at + (0 if how == 4 else generator.randrange(1, 9))
            made[at:end] = generator.choice(_TOKENS)
        elif how == 6:
            made[at:at] = made[at : at + generator.randrange(64)] * generator.choice((1, 1, 2, 50))
        else:
            del made[at if generator.random() < 0.1 else len(made) - 1 :]
    return bytes(made)


def mutants(chosen: Sequence[Seed], seed: int) -> Iterator[tuple[str, Call]]:
    """Requests without end, each made of a valid one by changes of its body, its parts or its headers."""
    generator = random.Random(seed)
    while True:
        found = generator.choice(chosen)
        yield found.form, mutant(found.call, generator)


def mutant(call: Call, generator: random.Random) -> Call:
    """A request with other bytes, and now and then with other headers or parts."""
    parts = dict(call.parts)
    name = generator.choice(list(parts))
    content = parts[name]
    if isinstance(content, bytes) and generator.random() < 0.9:
        parts[name] = mutated(content, generator)
    if generator.random() < 0.05:
        parts = _other_parts(parts, name, generator)
    headers = dict(call.headers)
    if generator.random() < 0.15:
        headers["content-type"] = generator.choice(_KINDS)
    if generator.random() < 0.1:
        other = generator.choice(list(_HEADERS))
        headers[other] = generator.choice(_HEADERS[other])
    return replace(call, parts=parts, headers=headers)


def _other_parts(parts: dict[str, object], name: str, generator: random.Random) -> dict[str, object]:
    """Parts of which one is gone, has another name or is there again."""
    how = generator.randrange(4)
    content = parts[name]
    if how == 0:
        del parts[name]
    elif how == 1:
        parts[generator.choice(("x", "", "body", "data", "ä" * 50))] = parts.pop(name)
    elif how == 2:
        parts["x" * generator.randrange(1, 200)] = content
    else:
        parts |= {f"p{index}": b"1" for index in range(generator.choice((3, 100, 2000)))}
    return parts
