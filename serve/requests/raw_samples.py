"""Raw samples in a request: pictures, texts and recordings as bodies, form fields, JSON strings and base64.

Part of the runtime half: standard library and numpy only.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ...core.counts import counted
from ...core.errors import InputError, LimitError
from ...core.preprocessing.decode_images import looks_like_image
from ...core.preprocessing.decode_sounds import looks_like_sound
from ...core.preprocessing.fitting import others, single_field
from ...core.preprocessing.sample_reader import Raw
from ...core.preprocessing.specs import A_SAMPLE, Preprocessing, TextInput
from ...core.signature import Signature
from ...core.tensors import listed
from ..settings import Limits
from .content_types import TYPES
from .wire import is_size

Layout = Literal["samples", "v2"]
B64 = "b64"
"""Key of an object whose value is the base64 of a file, as TensorFlow Serving and KServe V1 have it."""
_DATA_URL = "data:"


@dataclass(frozen=True)
class RawRequest:
    """A request with raw samples, before they are read.

    Attributes:
        given: for each field, one value per sample.
        rest: for each other input, its value: nested lists, or bytes of a form field.
        columns: whether the values of ``rest`` are one per sample.
        top_k: number of labels in the answer, if the request says it.
    """

    given: dict[str, list[Raw]]
    rest: dict[str, Any] = field(default_factory=dict)
    layout: Layout = "samples"
    columns: bool = False
    outputs: object = ()
    tag: str = ""
    top_k: int | None = None


def from_body(body: bytes | bytearray, mime: str, unspecific: bool, signature: Signature) -> RawRequest | None:
    """The request of a body that is one sample; None if it is none.

    Args:
        mime: content type in lower case, without parameters.
        unspecific: whether the content type says nothing, so that the first bytes decide.

    Raises:
        InputError: the body is a picture or a recording, and the model takes none, or takes more.
    """
    kind = mime.partition("/")[0]
    start = bytes(body[:12])
    if unspecific:
        kind = "image" if looks_like_image(start) else "audio" if looks_like_sound(start) else kind
    specs = {spec.kind: spec for spec in signature.preprocessing}
    if kind not in ("image", "audio", "text") or (kind == "text" and kind not in specs) or mime == "text/json":
        return None
    if kind not in specs:
        what = A_SAMPLE[kind]
        message = f"the body is {what}{f' ({mime[:80]})' if mime else ''}, and this model takes {_taken(signature)}"
        arrays = f"send {', '.join(TYPES)} with {_taken(signature)}"
        raise InputError(message, _remedy(signature) if specs else arrays, status=415)
    name = single_field(signature)
    if name is None:
        message = f"the body is one {kind}, and this model takes {_taken(signature)} together"
        raise InputError(message, "send multipart/form-data with a part of each name, or JSON")
    return RawRequest({name: [bytes(body)]})


def from_parts(parts: Mapping[str, object], signature: Signature) -> RawRequest | None:
    """The request of form fields or gRPC keys, of which at least one is a raw sample; None if none is.

    Raises:
        InputError: a field is missing or unknown.
    """
    fields = {name: spec for spec in signature.preprocessing for name in spec.fields}
    raw = {name: value for name, value in parts.items() if name in fields and _is_file(value, fields[name])}
    if not raw:
        return None
    rest = {name: value for name, value in parts.items() if name not in raw}
    top_k = rest.pop("top_k", None) if all(spec.name != "top_k" for spec in signature.inputs) else None
    _check_names(raw, rest, signature)
    given: dict[str, list[Raw]] = {name: [_raw(value, name)] for name, value in raw.items()}
    return RawRequest(given, rest, top_k=label_count(top_k))


def _is_file(value: object, spec: Preprocessing) -> bool:
    """Whether a part is a raw sample instead of an array in npy or JSON."""
    if isinstance(value, bytes | bytearray):
        return isinstance(spec, TextInput) or not (value[:6] == b"\x93NUMPY" or value[:1] in (b"[", b"{"))
    return isinstance(value, str) and isinstance(spec, TextInput)


def _raw(value: object, name: str) -> Raw:
    if isinstance(value, str):
        return value
    if isinstance(value, bytes | bytearray):
        return bytes(value)
    raise InputError(f"the part '{name}' is not a file", "send its bytes", input=name)


def from_json(value: Any, signature: Signature, limits: Limits) -> RawRequest | None:
    """The request of a JSON value in which texts or base64 stand; None if it has only arrays.

    The forms are ``"text"``, ``["text", …]``, ``{"b64": …}``, ``{"instances": […]}``, ``{field: value or values}`` and
    V2 with the datatype BYTES.

    Raises:
        InputError: a field is missing or unknown, or a value is no text and no base64.
        LimitError: there are more samples than allowed.
    """
    fields = {name: spec for spec in signature.preprocessing for name in spec.fields}
    if not fields:
        return None
    if isinstance(value, dict) and isinstance(value.get("inputs"), list) and "inputs" not in fields:
        return _of_v2(value, fields, signature, limits)
    top_k = None
    if isinstance(value, dict) and "instances" in value and "instances" not in fields:
        parameters = value.get("parameters")
        top_k = label_count(parameters.get("top_k")) if isinstance(parameters, Mapping) else None
        return _of_instances(value["instances"], fields, signature, limits, top_k)
    only = single_field(signature)
    if only is not None and (isinstance(value, str) or _is_b64(value) or _all_raw(value, fields[only])):
        value = {only: value}
    if not isinstance(value, dict) or not any(_has_raw(value.get(name), spec) for name, spec in fields.items()):
        return None
    raw = {name: item for name, item in value.items() if name in fields}
    rest = {name: item for name, item in value.items() if name not in fields}
    if "top_k" in rest and all(spec.name != "top_k" for spec in signature.inputs):
        top_k = label_count(rest.pop("top_k"))
    _check_names(raw, rest, signature)
    given = {name: _values(item, name, fields[name], limits) for name, item in raw.items()}
    return RawRequest(_equal(given), rest, top_k=top_k)


def _of_instances(
    instances: Any, fields: Mapping[str, Preprocessing], signature: Signature, limits: Limits, top_k: int | None
) -> RawRequest | None:
    if not isinstance(instances, list) or not instances:
        return None
    only, first = single_field(signature), instances[0]
    if only is not None and (isinstance(first, str) or _is_b64(first)):
        return RawRequest({only: _values(instances, only, fields[only], limits)}, top_k=top_k)
    if not isinstance(first, dict) or not any(_has_raw(first.get(name), spec) for name, spec in fields.items()):
        return None
    if len(instances) > limits.rows:
        raise LimitError(f"the request has {len(instances)} rows", f"at most {limits.rows} are allowed")
    if not all(isinstance(one, dict) and one.keys() == first.keys() for one in instances):
        raise InputError("the instances have different fields", f"send {_taken(signature)} in each")
    columns = {name: [one[name] for one in instances] for name in first}
    raw = {name: items for name, items in columns.items() if name in fields}
    rest = {name: items for name, items in columns.items() if name not in fields}
    _check_names(raw, rest, signature)
    given = {name: _values(items, name, fields[name], limits) for name, items in raw.items()}
    return RawRequest(given, rest, columns=True, top_k=top_k)


def _of_v2(
    value: Mapping[str, Any], fields: Mapping[str, Preprocessing], signature: Signature, limits: Limits
) -> RawRequest | None:
    items = [item for item in value["inputs"] if isinstance(item, dict) and isinstance(item.get("name"), str)]
    raw = {item["name"]: item.get("data") for item in items if item.get("datatype") == "BYTES"}
    if not raw or len(items) != len(value["inputs"]):
        return None
    rest = {item["name"]: item for item in items if item["name"] not in raw}
    if len(raw) + len(rest) != len(items):
        raise InputError("a V2 input appears twice", f"send {_taken(signature)}")
    _check_names(raw, rest, signature)
    given = {name: _values(data, name, fields[name], limits) for name, data in raw.items()}
    for item in items:
        if item["name"] in given:
            _check_shape(item.get("shape"), len(given[item["name"]]), item["name"])
    tag = value.get("id", "")
    outputs = value.get("outputs", [])
    return RawRequest(_equal(given), rest, "v2", outputs=outputs, tag=tag if isinstance(tag, str) else "")


def _check_shape(shape: object, count: int, name: str) -> None:
    if not isinstance(shape, list) or len(shape) > 2 or not all(map(is_size, shape)) or math.prod(shape) != count:
        message = f"input '{name}' has {counted(count, 'value')}, its shape is {str(shape)[:40]}"
        raise InputError(message, f"give the shape [{count}]", input=name)


def _values(value: Any, name: str, spec: Preprocessing, limits: Limits) -> list[Raw]:
    """One raw value per sample."""
    values = value if isinstance(value, list) else [value]
    if not values:
        raise InputError(f"'{name}' has no samples", "send at least one", input=name)
    if len(values) > limits.rows:
        raise LimitError(f"the request has {len(values)} rows", f"at most {limits.rows} are allowed", input=name)
    return [_value(item, name, spec) for item in values]


def _value(item: Any, name: str, spec: Preprocessing) -> Raw:
    if isinstance(spec, TextInput):
        if isinstance(item, str | bytes):
            return item
        raise InputError(f"'{name}' contains {type(item).__name__}, not only texts", "send strings", input=name)
    if isinstance(item, bytes | bytearray):
        return bytes(item)
    text = item.get(B64) if _is_b64(item) else item
    if not isinstance(text, str):
        raise InputError(f"'{name}' is no base64", f'send {{"{B64}": "…"}} with the bytes of a file', input=name)
    if text.startswith(_DATA_URL):
        text = text.partition(",")[2]
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InputError(f"'{name}' is not valid base64", "encode the bytes of a file", input=name) from error


def _is_b64(value: Any) -> bool:
    return isinstance(value, dict) and set(value) == {B64}


def _all_raw(value: Any, spec: Preprocessing) -> bool:
    return isinstance(value, list) and bool(value) and _has_raw(value, spec)


def _has_raw(value: Any, spec: Preprocessing) -> bool:
    """Whether a JSON value, or the first of a list, is a text or base64."""
    first = value[0] if isinstance(value, list) and value else value
    return isinstance(first, str) or (_is_b64(first) and not isinstance(spec, TextInput))


def _equal(given: dict[str, list[Raw]]) -> dict[str, list[Raw]]:
    counts = {name: len(values) for name, values in given.items()}
    if len(set(counts.values())) > 1:
        told = ", ".join(f"'{name}' has {count}" for name, count in counts.items())
        raise InputError(f"the fields have different numbers of samples: {told}", "send one value per sample in each")
    return given


def _check_names(raw: Mapping[str, Any], rest: Mapping[str, Any], signature: Signature) -> None:
    wanted = {name for spec in signature.preprocessing for name in spec.fields}
    wanted |= {spec.name for spec in others(signature)}
    found = {*raw, *rest}
    if found != wanted:
        missing, unknown = wanted - found, found - wanted
        faults = [f"{word} {listed(names)}" for word, names in (("missing", missing), ("unknown", unknown)) if names]
        raise InputError(f"the fields do not match: {'; '.join(faults)}", _remedy(signature))
    fields = {name: spec for spec in signature.preprocessing for name in spec.fields}
    for name in sorted(found):
        if name in raw and name not in fields:
            raise InputError(f"'{name}' is no array", _remedy(signature), input=name)
        if name in rest and isinstance(fields.get(name), TextInput):
            raise InputError(f"'{name}' is no text", _remedy(signature), input=name)


def _taken(signature: Signature) -> str:
    """The fields of a model in words."""
    raw = [f"{name} ({A_SAMPLE[spec.kind]})" for spec in signature.preprocessing for name in spec.fields]
    return ", ".join([*raw, *(spec.describe() for spec in others(signature))])


def _remedy(signature: Signature) -> str:
    return f"send {_taken(signature)}"


def label_count(value: object) -> int | None:
    """A number of labels from the request.

    Raises:
        InputError: it is no whole number from 1.
    """
    if value is None:
        return None
    text = bytes(value).decode("ascii", "replace") if isinstance(value, bytes | bytearray) else str(value)
    if isinstance(value, bool) or not text.isdecimal() or len(text) > 6 or int(text) < 1:
        raise InputError(f"top_k is '{text[:20]}'", "give a whole number from 1")
    return int(text)
