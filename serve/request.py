"""Decoding of a request from its bytes and headers, and its check against the signature (serve.md H12 to H14).

Part of the runtime half: standard library and numpy only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

import numpy as np

from ..core.errors import InputError, LimitError
from ..core.system.garbage import no_collections
from ..core.tensors import Array, Signature, TensorSpec, listed, raise_if_nan
from .allowance import allowance
from .bodies import decode_json, parse_json, to_array
from .settings import Settings
from .wire import JSON, MAGIC_NPY, MAGIC_NPZ, NPY, NPZ, check_rows, read_npy, read_npz
from .workarounds import PARTS_KEPT, TOO_MANY_PARTS

Layout = Literal["tensors", "bare", "instances", "v2"]
RAW = ("body", "data")
TYPES = (JSON, NPY, NPZ)
FORM = "application/x-www-form-urlencoded"
# what clients send if nobody chose a type: the first bytes decide, as without a type
UNSPECIFIC = ("", "text/plain", "application/octet-stream", "binary/octet-stream", FORM)


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
class Request:
    """A decoded and validated request.

    Attributes:
        feeds: one array per input, in signature order, of the signature's dtypes.
        rows: number of samples; 1 for a model without a batch axis.
        reply: content type of the answer.
        layout: form of a JSON answer.
        outputs: names of the requested outputs, in signature order.
        tag: the client's own id (V2), which the answer repeats.
    """

    feeds: dict[str, Array]
    rows: int
    reply: str
    layout: Layout
    outputs: tuple[str, ...]
    tag: str = ""


def decode(incoming: Incoming, signature: Signature, settings: Settings) -> Request:
    """Decode and validate one request.

    Raises:
        InputError: the request cannot be decoded, or does not fit the signature.
        LimitError: the request is larger than the limits allow.
    """
    _check_size(incoming, signature, settings)
    feeds, layout, outputs, tag, kind = _tensors(incoming, signature, settings)
    names = tuple(spec.name for spec in signature.outputs if not outputs or spec.name in outputs)
    reply = negotiate(incoming.headers.get("accept", ""), kind, len(names))
    checked = _validate(feeds, signature, settings)
    return Request(checked, signature.batch_size(checked), reply, layout, names, tag)


Tensors = tuple[Mapping[str, Array], Layout, tuple[str, ...], str, str]


def _tensors(incoming: Incoming, signature: Signature, settings: Settings) -> Tensors:
    parts = incoming.parts
    if len(parts) == 1 and (key := next(iter(parts))) in RAW:
        content_type = incoming.part_types.get(key) or incoming.headers.get("content-type", "")
        return _body(parts[key], content_type, signature, settings)
    if TOO_MANY_PARTS in parts:
        _check_form(incoming)
        message = f"the request has more than {PARTS_KEPT} parts"
        raise LimitError(message, f"send one part for each of {signature.describe_inputs()}")
    known = {spec.name for spec in signature.inputs}
    if not known.issuperset(parts) or not parts:
        _check_form(incoming)
    if not parts:
        raise _empty(signature)
    if unknown := set(parts) - known:
        raise InputError(f"unknown parts: {listed(unknown)}", f"name parts after {signature.describe_inputs()}")
    signature.check_names(parts)
    feeds = {spec.name: _part(spec, parts[spec.name], signature, settings) for spec in signature.inputs}
    return feeds, "tensors", (), "", JSON


def _body(body: object, content_type: str, signature: Signature, settings: Settings) -> Tensors:
    if body in (b"", ""):
        raise _empty(signature)
    kind = _kind(body, content_type)
    if kind == JSON:
        return *decode_json(body, signature, settings.limits), JSON
    data = _bytes(body)
    if kind == NPZ:
        return read_npz(data, settings.limits, signature), "tensors", (), "", NPZ
    name = signature.inputs[0].name
    if len(signature.inputs) > 1:
        message = f"npy can contain only one tensor, but this model takes {len(signature.inputs)}"
        raise InputError(message, f"send {NPZ} or {JSON} with {signature.describe_inputs()}")
    return {name: read_npy(data, settings.limits, name)}, "tensors", (), "", NPY


def _part(spec: TensorSpec, value: object, signature: Signature, settings: Settings) -> Array:
    if isinstance(value, bytes | bytearray) and value[:6] == MAGIC_NPY:
        return read_npy(value, settings.limits, spec.name)
    if isinstance(value, bytes | bytearray):
        allowance(signature, settings.limits).check_json(value)
    with no_collections():
        return to_array(parse_json(value), spec.name, settings.limits, spec)


def _kind(body: object, content_type: str) -> str:
    if not isinstance(body, bytes | bytearray):
        return JSON  # a server that decodes JSON itself delivers the parsed value
    mime = _mime(content_type)
    if mime in TYPES:
        return mime
    if mime == "text/json" or (mime.startswith("application/") and mime.endswith("+json")):
        return JSON
    if mime not in UNSPECIFIC:
        message = f"content type '{mime[:80]}' is not supported"
        raise InputError(message, f"send {', '.join(TYPES)}", status=415)
    start = bytes(body[:6])
    return NPY if start == MAGIC_NPY else NPZ if start[:4] == MAGIC_NPZ else JSON


def _mime(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


def _empty(signature: Signature) -> InputError:
    return InputError("the request is empty", f"send {signature.describe_inputs()}")


def _check_form(incoming: Incoming) -> None:
    """Refuse a body that the server took for form fields: TorchServe does so before the handler sees it.

    Raises:
        InputError: the content type is that of a form, which curl and urllib send if none is given.
    """
    if _mime(incoming.headers.get("content-type", "")) == FORM:
        message = f"the body has the content type {FORM}, the default of curl and urllib, so it was read as a form"
        raise InputError(message, f"send the header 'Content-Type: {JSON}', or {NPY} or {NPZ}", status=415)


def _bytes(body: object) -> bytes | bytearray:
    if isinstance(body, bytes | bytearray):
        return body
    raise InputError("the body is not bytes", f"send {', '.join(TYPES)}")


def _check_size(incoming: Incoming, signature: Signature, settings: Settings) -> None:
    size = sum(len(value) for value in incoming.parts.values() if isinstance(value, bytes | bytearray | str))
    allowance(signature, settings.limits).check_size(size)


def _validate(feeds: Mapping[str, Array], signature: Signature, settings: Settings) -> dict[str, Array]:
    for spec in signature.inputs:
        if spec.name in feeds:
            check_rows(spec, np.shape(feeds[spec.name]), settings.limits)
    try:
        checked = signature.validate(feeds)
    except InputError as error:
        raise _detailed(error, feeds, signature) from error
    if not settings.allow_nan:
        for name, array in checked.items():
            raise_if_nan(name, array)
    return checked


def _detailed(error: InputError, feeds: Mapping[str, Array], signature: Signature) -> InputError:
    name = error.facts.get("input")
    spec = next((spec for spec in signature.inputs if spec.name == name), None)
    if spec is None or spec.name not in feeds:
        return InputError(error.message, error.remedy, expected=signature.describe_inputs(), got=_listed(feeds))
    got = TensorSpec(spec.name, feeds[spec.name].dtype.name, np.shape(feeds[spec.name]))
    return InputError(error.message, error.remedy, input=name, expected=spec.describe(), got=got.describe())


def _listed(feeds: Mapping[str, Array]) -> str:
    found = [TensorSpec(name, value.dtype.name, value.shape).describe() for name, value in list(feeds.items())[:8]]
    return ", ".join(found)


@lru_cache(maxsize=256)
def negotiate(accept: str, kind: str, outputs: int) -> str:
    """Content type of the answer: the one that ``Accept`` prefers, else the content type of the request.

    Raises:
        InputError: no accepted content type is supported.
    """
    own = NPZ if kind == NPY and outputs > 1 else kind
    offers = [own, *(kind for kind in TYPES if kind != own and not (kind == NPY and outputs > 1))]
    ranked = sorted(filter(None, map(_range, (accept or "*/*").split(","))), key=lambda item: -item[1])
    for wanted, quality in ranked:
        for offer in offers:
            if quality > 0 and wanted in (offer, "*/*", "application/*"):
                return offer
    raise InputError(f"the answer cannot have the content type '{accept[:80]}'", f"accept one of {', '.join(offers)}")


def _range(item: str) -> tuple[str, float] | None:
    kind, *parameters = (part.strip().lower() for part in item.split(";"))
    quality = next((part[2:] for part in parameters if part.startswith("q=")), "1")
    try:
        return (kind, float(quality)) if kind else None
    except ValueError:
        return kind, 1.0
