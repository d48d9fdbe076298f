"""Decoding of a request from its bytes and headers, and its check against the signature (serve.md H12 to H14).

Part of the runtime half: standard library and numpy only.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from ...core.errors import InputError, LimitError
from ...core.preprocessing.sample_reader import SampleReader, Samples
from ...core.signature import Signature
from ...core.system.garbage import no_collections
from ...core.tensors import Array, TensorSpec, listed
from ..settings import Settings
from ..workarounds import PARTS_KEPT, TOO_MANY_PARTS
from .allowance import allowance, check_expanded
from .bodies import column, decode_value, parse_json, to_array
from .checked_inputs import validated
from .content_types import FORM, TYPES, UNSPECIFIC, kind_of, mime_of, negotiate
from .raw_numbers import looks_bare, raw_numbers
from .raw_samples import RawRequest, from_body, from_json, from_parts, label_count
from .v2 import (
    LENGTH_HEADER,
    classified_outputs,
    decode_v2,
    is_v2,
    parse_binary,
    requested,
    tag_of,
    tensor_of,
    wants_binary,
)
from .wire import JSON, MAGIC_NPY, NPY, NPZ, read_npy, read_npz

Layout = Literal["tensors", "bare", "instances", "v2", "samples"]
RAW = ("body", "data")
TOP_K_HEADER = "x-retort-top-k"
"""Header with the number of labels in the answer, as TorchServe passes no query of an address on."""


@dataclass(frozen=True)
class Incoming:
    """One request in the form in which the server delivers it.

    Attributes:
        parts: the raw body under ``body``, or one entry per form field or gRPC key.
        part_types: content type of each part.
        headers: request headers with lower-case names.
        request_id: the server's id of this request.
    """

    parts: Mapping[str, object]
    part_types: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    request_id: str = ""


@dataclass(frozen=True)
class Wishes:
    """What a request wants of its answer.

    Attributes:
        top_k: number of labels of each sample; None for the model's own.
        binary: the V2 outputs whose data are bytes: all (True), none (False) or those of the names.
        best: for each V2 output whose best classes are wanted instead of its scores, their number.
    """

    top_k: int | None = None
    binary: frozenset[str] | bool = False
    best: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Request:
    """A decoded and validated request.

    Attributes:
        feeds: one array per input, in signature order, of the signature's dtypes.
        rows: number of samples; 1 for a model without a batch axis.
        reply: content type of the answer.
        layout: form of a JSON answer.
        outputs: names of the requested outputs, in signature order.
        tag: the client's own id (V2), which the answer repeats.
        samples: what pictures, texts and recordings of the request became; None if it has only arrays.
        wishes: what the answer should contain.
        check_s: seconds that the check against the signature took.
    """

    feeds: dict[str, Array]
    rows: int
    reply: str
    layout: Layout
    outputs: tuple[str, ...]
    tag: str = ""
    samples: Samples | None = None
    wishes: Wishes = Wishes()
    check_s: float = 0.0


def decode(incoming: Incoming, signature: Signature, settings: Settings, reader: SampleReader | None = None) -> Request:
    """Decode and validate one request.

    Args:
        reader: makes inputs of pictures, texts and recordings, for a model that takes them.

    Raises:
        InputError: the request cannot be decoded, or does not fit the signature.
        LimitError: the request is larger than the limits allow.
    """
    _check_size(incoming, signature, settings)
    found = _decoded(incoming, signature, settings, reader)
    names = tuple(spec.name for spec in signature.outputs if not found.outputs or spec.name in found.outputs)
    reply = negotiate(incoming.headers.get("accept", ""), found.kind, len(names))
    begin = time.perf_counter()
    checked = validated(found.feeds, signature, settings)
    rows = signature.batch_size(checked)
    check_s = time.perf_counter() - begin
    return Request(checked, rows, reply, found.layout, names, found.tag, found.samples, found.wishes, check_s)


def of_arrays(arrays: Mapping[str, Array], incoming: Incoming, signature: Signature, settings: Settings) -> Request:
    """The request of arrays that code of the user made.

    Raises:
        InputError: the arrays do not fit the signature.
        LimitError: they have more rows than allowed.
    """
    checked = validated({name: np.asarray(array) for name, array in arrays.items()}, signature, settings)
    names = tuple(spec.name for spec in signature.outputs)
    reply = negotiate(incoming.headers.get("accept", ""), JSON, len(names))
    return Request(checked, signature.batch_size(checked), reply, "tensors", names)


@dataclass(frozen=True)
class _Decoded:
    """What a body holds, before it is checked against the signature."""

    feeds: Mapping[str, Array]
    kind: str = JSON
    layout: Layout = "tensors"
    outputs: tuple[str, ...] = ()
    tag: str = ""
    samples: Samples | None = None
    wishes: Wishes = Wishes()


def _decoded(incoming: Incoming, signature: Signature, settings: Settings, reader: SampleReader | None) -> _Decoded:
    parts = incoming.parts
    top_k, body = _beside_body(parts, signature)
    top_k = label_count(incoming.headers.get(TOP_K_HEADER)) or top_k
    if body is not None:
        found = _body(incoming, body, signature, settings, reader)
        return found if top_k is None else replace(found, wishes=replace(found.wishes, top_k=top_k))
    if TOO_MANY_PARTS in parts:
        _check_form(incoming)
        message = f"the request has more than {PARTS_KEPT} parts"
        raise LimitError(message, f"send one part for each of {signature.describe_inputs()}")
    raw = from_parts(parts, signature)
    if raw is not None:
        return _of_samples(raw, signature, settings, reader)
    known = {spec.name for spec in signature.inputs}
    if not known.issuperset(parts) or not parts:
        _check_form(incoming)
    if not parts:
        raise _empty(signature)
    if unknown := set(parts) - known:
        raise InputError(f"unknown parts: {listed(unknown)}", f"name parts after {signature.describe_inputs()}")
    signature.check_names(parts)
    return _Decoded({spec.name: _part(spec, parts[spec.name], signature, settings) for spec in signature.inputs})


def _beside_body(parts: Mapping[str, object], signature: Signature) -> tuple[int | None, str | None]:
    """The number of labels that a query of the address asks for, and the key of the body; None if there are parts."""
    names = set(parts)
    top_k = None
    if "top_k" in names and names & set(RAW) and all(spec.name != "top_k" for spec in signature.inputs):
        top_k = label_count(parts["top_k"])
        names.discard("top_k")
    key = next(iter(names)) if len(names) == 1 else None
    return top_k, key if key in RAW else None


def _body(
    incoming: Incoming, key: str, signature: Signature, settings: Settings, reader: SampleReader | None
) -> _Decoded:
    body = incoming.parts[key]
    if body in (b"", ""):
        raise _empty(signature)
    mime = mime_of(incoming.part_types.get(key) or incoming.headers.get("content-type", ""))
    length = incoming.headers.get(LENGTH_HEADER)
    if length is not None and isinstance(body, bytes | bytearray):
        if length == "0":
            return _Decoded(raw_numbers(body, signature), layout="v2", wishes=Wishes(binary=True))
        if length.isdecimal():
            allowance(signature, settings.limits).check_json(body[: int(length[:9])])
        with no_collections():
            return _json(parse_binary(body, length, settings.limits), signature, settings, reader)
    if isinstance(body, bytes | bytearray):
        raw = from_body(body, mime, mime in UNSPECIFIC and mime != "text/plain", signature)
        if raw is not None:
            return _of_samples(raw, signature, settings, reader)
    kind = kind_of(body, mime)
    if kind == JSON and isinstance(body, bytes | bytearray) and looks_bare(body, mime):
        return _Decoded(raw_numbers(body, signature))
    if kind == JSON:
        if isinstance(body, bytes | bytearray):
            allowance(signature, settings.limits).check_json(body)
        with no_collections():  # nested lists have no cycles, and the collector would visit them again and again
            return _json(parse_json(body), signature, settings, reader)
    data = _bytes(body)
    if kind == NPZ:
        return _Decoded(read_npz(data, settings.limits, signature), NPZ)
    name = signature.inputs[0].name
    if len(signature.inputs) > 1:
        message = f"npy can contain only one tensor, but this model takes {len(signature.inputs)}"
        raise InputError(message, f"send {NPZ} or {JSON} with {signature.describe_inputs()}")
    return _Decoded({name: read_npy(data, settings.limits, name)}, NPY)


def _json(value: Any, signature: Signature, settings: Settings, reader: SampleReader | None) -> _Decoded:
    raw = from_json(value, signature, settings.limits)
    if raw is None and not is_v2(value):
        feeds, layout = decode_value(value, signature, settings.limits)
        return _Decoded(feeds, layout=layout)
    found = _Decoded({}) if raw is None else _of_samples(raw, signature, settings, reader)
    if raw is not None and raw.layout == "samples":
        return found
    return replace(
        found,
        feeds=found.feeds if raw is not None else decode_v2(value, signature, settings.limits),
        layout="v2",
        outputs=requested(value.get("outputs", []), signature),
        tag=tag_of(value),
        wishes=Wishes(binary=wants_binary(value), best=classified_outputs(value)),
    )


def _of_samples(raw: RawRequest, signature: Signature, settings: Settings, reader: SampleReader | None) -> _Decoded:
    """The inputs of raw samples, and of the arrays that were sent with them."""
    if reader is None:
        raise InputError("this server takes only arrays", f"send {signature.describe_inputs()}", status=415)
    check_expanded({name: len(values) for name, values in raw.given.items()}, signature, settings.limits)
    samples = reader.read(raw.given)
    specs = {spec.name: spec for spec in signature.inputs}
    feeds = dict(samples.feeds)
    for name, value in raw.rest.items():
        if raw.layout == "v2":
            feeds[name] = tensor_of(value, name, settings.limits)
        elif raw.columns:
            feeds[name] = column(value, specs[name], settings.limits)
        else:
            feeds[name] = _part(specs[name], value, signature, settings)
    return _Decoded(feeds, JSON, raw.layout, samples=samples, wishes=Wishes(top_k=raw.top_k))


def _part(spec: TensorSpec, value: object, signature: Signature, settings: Settings) -> Array:
    if isinstance(value, bytes | bytearray) and value[:6] == MAGIC_NPY:
        return read_npy(value, settings.limits, spec.name)
    if isinstance(value, bytes | bytearray):
        allowance(signature, settings.limits).check_json(value)
    with no_collections():
        return to_array(parse_json(value), spec.name, settings.limits, spec)


def _empty(signature: Signature) -> InputError:
    return InputError("the request is empty", f"send {signature.describe_inputs()}")


def _check_form(incoming: Incoming) -> None:
    """Refuse a body that the server took for form fields: TorchServe does so before the handler sees it.

    Raises:
        InputError: the content type is that of a form, which curl and urllib send if none is given.
    """
    if mime_of(incoming.headers.get("content-type", "")) == FORM:
        message = f"the body has the content type {FORM}, the default of curl and urllib, so it was read as a form"
        raise InputError(message, f"send the header 'Content-Type: {JSON}', or {NPY} or {NPZ}", status=415)


def _bytes(body: object) -> bytes | bytearray:
    if isinstance(body, bytes | bytearray):
        return body
    raise InputError("the body is not bytes", f"send {', '.join(TYPES)}")


def _check_size(incoming: Incoming, signature: Signature, settings: Settings) -> None:
    size = sum(len(value) for value in incoming.parts.values() if isinstance(value, bytes | bytearray | str))
    allowance(signature, settings.limits).check_size(size)
