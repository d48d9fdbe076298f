"""Raw samples in requests: every form is read alike or refused with a reason, and no bytes raise anything else."""

from __future__ import annotations

import base64
import json
import random
import resource
import tracemalloc
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from retort.benchmarks.suites.serving.mutations import mutated, picture, recording
from retort.core.errors import InputError, LimitError, UserError
from retort.core.preprocessing.sample_reader import SampleReader
from retort.core.preprocessing.specs import ImageInput, SoundInput, TextInput
from retort.core.signature import Signature
from retort.core.tensors import TensorSpec
from retort.serve.requests.request import TOP_K_HEADER, Incoming, Request, decode
from retort.serve.requests.v2 import LENGTH_HEADER
from retort.serve.requests.wire import JSON, write_npy
from retort.serve.settings import Settings

FUZZ = 1_500
"""Number of bodies that are tried; 1,000,000 take half an hour."""
OUTPUTS = (TensorSpec("y", "float32", ("batch", 2)),)
IMAGE = Signature(
    (TensorSpec("image", "float32", ("batch", 3, 8, 8)),), OUTPUTS, preprocessing=(ImageInput("image", (8, 8)),)
)
MIXED = Signature(
    (TensorSpec("image", "float32", ("batch", 3, 8, 8)), TensorSpec("rate", "int64", ("batch",))),
    OUTPUTS,
    preprocessing=(ImageInput("image", (8, 8)),),
)
TEXT = Signature((TensorSpec("input_ids", "int64", ("batch", 16)),), OUTPUTS, preprocessing=(TextInput(length=16),))
SOUND = Signature(
    (TensorSpec("audio", "float32", ("batch", 160)),), OUTPUTS, preprocessing=(SoundInput("audio", 16_000, 0.01),)
)


PICTURE = picture("PNG")
B64 = {"b64": base64.b64encode(PICTURE).decode()}


def _ask(body: object, signature: Signature, kind: str = JSON, **headers: str) -> Request:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return _parts({"body": content}, signature, kind, **headers)


def _parts(parts: Mapping[str, object], signature: Signature, kind: str = "", **headers: str) -> Request:
    incoming = Incoming(parts, {}, {"content-type": kind, **{k.replace("_", "-"): v for k, v in headers.items()}})
    return decode(incoming, signature, Settings(), SampleReader(signature))


def _v2(*items: dict[str, Any]) -> dict[str, Any]:
    return {"inputs": list(items)}


def _bytes(name: str, data: list[Any], shape: list[Any] | None = None) -> dict[str, Any]:
    return {"name": name, "datatype": "BYTES", "shape": [len(data)] if shape is None else shape, "data": data}


FORMS: dict[str, Callable[[], Request]] = {
    "body": lambda: _ask(PICTURE, IMAGE, "image/png"),
    "octets": lambda: _ask(PICTURE, IMAGE, "application/octet-stream"),
    "no type": lambda: _ask(PICTURE, IMAGE, ""),
    "base64": lambda: _ask(B64, IMAGE),
    "text of base64": lambda: _ask(B64["b64"], IMAGE),
    "data URL": lambda: _ask({"image": "data:image/png;base64," + B64["b64"]}, IMAGE),
    "list": lambda: _ask([B64], IMAGE),
    "instances": lambda: _ask({"instances": [B64]}, IMAGE),
    "named instances": lambda: _ask({"instances": [{"image": B64}]}, IMAGE),
    "column": lambda: _ask({"image": [B64]}, IMAGE),
    "v2": lambda: _ask(_v2(_bytes("image", [B64["b64"]])), IMAGE),
    "part": lambda: _parts({"image": PICTURE}, IMAGE, "multipart/form-data"),
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_a_picture_agree(form: str) -> None:
    """A picture has the same array in every form in which it may be sent."""
    np.testing.assert_array_equal(FORMS[form]().feeds["image"], FORMS["body"]().feeds["image"])


WRONG: dict[str, Callable[[], Request]] = {
    "base64 of a number": lambda: _ask({"b64": 1}, IMAGE),
    "no base64": lambda: _ask({"image": "\ud800"}, IMAGE),
    "data URL without data": lambda: _ask({"image": "data:image/png;base64"}, IMAGE),
    "null among pictures": lambda: _ask([B64, None], IMAGE),
    "mixed instances": lambda: _ask({"instances": [B64, {"image": B64}]}, IMAGE),
    "text for tensor in V2": lambda: _ask(_v2(_bytes("rate", ["a"]), _bytes("image", [B64["b64"]])), MIXED),
    "only the tensor as text": lambda: _ask(
        _v2(_bytes("rate", ["a"]), {"name": "image", "datatype": "FP32", "shape": [1, 3, 8, 8], "data": [0] * 192}),
        MIXED,
    ),
    "texts in a tensor": lambda: _ask({"image": B64, "rate": ["x"]}, MIXED),
    "fewer tensors": lambda: _ask({"image": [B64, B64], "rate": [1]}, MIXED),
    "missing field": lambda: _ask({"image": B64}, MIXED),
    "V2 shape of another size": lambda: _ask(_v2(_bytes("text", ["a"], [2])), TEXT),
    "V2 shape of texts": lambda: _ask(_v2(_bytes("text", ["a"], ["x"])), TEXT),
    "V2 shape too deep": lambda: _ask(_v2(_bytes("text", ["a"], [1] * 9)), TEXT),
    "number among texts": lambda: _ask(["a", 1], TEXT),
    "top_k of zero": lambda: _ask({"text": "a", "top_k": 0}, TEXT),
    "top_k of a list": lambda: _ask({"text": "a", "top_k": [1]}, TEXT),
    "top_k in a header": lambda: _ask(PICTURE, IMAGE, "image/png", **{TOP_K_HEADER: "x"}),
    "recording for pictures": lambda: _ask(recording(), IMAGE, "audio/wav"),
    "picture for recordings": lambda: _ask(PICTURE, SOUND, ""),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_forms_are_faults_of_the_request(name: str) -> None:
    """What does not fit is refused with a message and what to send instead."""
    with pytest.raises(UserError) as caught:
        WRONG[name]()
    assert caught.value.message
    assert caught.value.remedy


def test_a_text_of_a_pair_that_is_no_text_is_said() -> None:
    """The second text as numbers, in a part or in V2, is a fault of the request."""
    names = ("input_ids", "token_type_ids")
    inputs = tuple(TensorSpec(name, "int64", ("batch", 16)) for name in names)
    spec = TextInput(tuple(zip(names, names, strict=True)), "characters", 16, pair=True)
    pair = Signature(inputs, OUTPUTS, preprocessing=(spec,))
    numbers = {"name": "text_pair", "datatype": "FP32", "shape": [1], "data": [1]}
    with pytest.raises(InputError, match="'text_pair' is no text"):
        _parts({"text": b"a", "text_pair": ["b"]}, pair, "multipart/form-data")
    with pytest.raises(InputError, match="'text_pair' is no text"):
        _ask(_v2(_bytes("text", ["a"]), numbers), pair)


def test_all_rows_are_allowed_in_every_form() -> None:
    """As many pictures as the limit says are read as objects too; more are refused, and so are large tensors."""
    assert _ask({"instances": [{"image": B64}] * 256}, IMAGE).rows == 256
    with pytest.raises(LimitError, match="257 rows"):
        _ask({"instances": [{"image": B64}] * 257}, IMAGE)
    spec = ImageInput("image", (512, 512))
    large = Signature((TensorSpec("image", "float32", ("batch", 3, 512, 512)),), OUTPUTS, preprocessing=(spec,))
    with pytest.raises(LimitError, match="at most 21 at once"):
        _ask([B64] * 40, large)


def test_json_before_bytes_is_counted_too() -> None:
    """The JSON text of a binary request has the limits of every JSON text, before it is parsed."""
    body = b'{"inputs":[' + b",".join([b"[]"] * 50_000) + b"]}"
    with pytest.raises(LimitError, match="lists"):
        _ask(body, TEXT, "application/octet-stream", **{LENGTH_HEADER: str(len(body))})


def test_a_megabyte_of_one_text_costs_no_more_than_its_start() -> None:
    """Of a long text only what the model takes becomes numbers."""
    tracemalloc.start()
    found = _ask(b"a" * 5_000_000, TEXT, "text/plain")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.feeds["input_ids"].tolist() == [[98] * 16]
    assert peak < 40e6


def _seeds() -> list[tuple[bytes, str, Signature]]:
    kinds = ("PNG", "JPEG", "GIF", "TIFF", "BMP", "PPM", "WEBP")
    made = [(picture(kind), "image/x", IMAGE) for kind in kinds] + [(recording(), "audio/wav", SOUND)]
    values: list[tuple[object, Signature]] = [
        ({"image": B64, "rate": 1}, MIXED),
        (_v2(_bytes("image", [B64["b64"]]), {"name": "rate", "datatype": "INT64", "shape": [1], "data": [1]}), MIXED),
        ({"instances": [{"text": "a"}], "parameters": {"top_k": 3}}, TEXT),
        (_v2(_bytes("text", ["a"])), TEXT),
    ]
    made += [(json.dumps(value).encode(), JSON, signature) for value, signature in values]
    return [*made, (write_npy(np.zeros((1, 3, 8, 8), np.float32)), "", IMAGE)]


@pytest.mark.filterwarnings("ignore")
def test_changed_bodies_are_read_or_refused() -> None:
    """Bodies with changed, missing and additional bytes raise only errors about the request, in little memory."""
    generator, seeds, said = random.Random(12), _seeds(), set()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(FUZZ):
        body, kind, signature = generator.choice(seeds)
        try:
            assert _ask(mutated(body, generator), signature, generator.choice((kind, kind, ""))).rows >= 1
        except UserError as error:
            said.add(error.message)
    assert all(said)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000
