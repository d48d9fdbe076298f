"""Answers as bytes: outputs in the requested format, errors with status and readable body (serve.md H21, H22).

Part of the runtime half: standard library and numpy only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from ...core.errors import UserError
from ...core.postprocessing import Reading, read_outputs
from ...core.preprocessing.sample_reader import Samples
from ...core.signature import Signature
from ...core.tensors import BATCH, Array
from ..settings import Settings
from .json_text import dump
from .request import Request
from .v2 import LENGTH_HEADER, OCTETS, binary_tensor, text_tensor, v2_tensor
from .wire import JSON, NPY, NPZ, write_npy, write_npz

OUTPUTS_HEADER = "x-retort-outputs"
CLASSES_HEADER = "x-retort-classes"
HEADER_LIMIT = 4096
CLASSES = "classes"
"""Key of a JSON answer that names the class of every row, if the names are known."""
PHRASES = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    413: "Payload Too Large",
    415: "Unsupported Media Type",
    500: "Internal Server Error",
    501: "Not Implemented",
    503: "Service Unavailable",
    507: "Insufficient Storage",
}


Operation = Literal["predict", "explain", "other"]


@dataclass(frozen=True)
class Answer:
    """One answer: HTTP status, body, content type, further headers, the class of the error for the log, and what was
    asked for."""

    status: int
    body: bytes
    content_type: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict)
    cause: str = ""
    operation: Operation = "predict"


def encode(outputs: Mapping[str, Array], request: Request, signature: Signature, settings: Settings) -> Answer:
    """The outputs of one request in the negotiated format."""
    chosen = {name: outputs[name] for name in request.outputs}
    names = signature.class_names(chosen)
    headers = classes_header(names)
    if request.reply == NPY:
        name, array = next(iter(chosen.items()))
        return Answer(200, write_npy(array), NPY, {OUTPUTS_HEADER: name, **headers})
    if request.reply == NPZ:
        return Answer(200, write_npz(chosen), NPZ, headers)
    if request.layout == "v2":
        return _v2_answer(chosen, request, signature, settings, headers)
    value = _json_value(chosen, request, signature, settings)
    if names is not None and isinstance(value, dict) and CLASSES not in value and request.layout != "samples":
        value[CLASSES] = names
    return Answer(200, dump(value), headers=headers)


def _v2_answer(
    chosen: Mapping[str, Array],
    request: Request,
    signature: Signature,
    settings: Settings,
    headers: Mapping[str, str],
) -> Answer:
    """A V2 answer: its tensors as lists, as bytes behind the JSON, or as the best classes, as the request wants."""
    binary, tensors, blobs = request.wishes.binary, [], []
    for name, array in chosen.items():
        count = request.wishes.best.get(name)
        if count is not None and array.ndim == 2 and array.dtype.kind == "f":
            tensors.append(text_tensor(name, _best(array, signature, count)))
        elif binary is True or (isinstance(binary, frozenset) and name in binary):
            tensor, data = binary_tensor(name, array)
            tensors.append(tensor)
            blobs.append(data)
        else:
            tensors.append(v2_tensor(name, array))
    tag = {"id": request.tag} if request.tag else {}
    value: dict[str, Any] = {"model_name": settings.name, "model_version": settings.version, **tag, "outputs": tensors}
    names = signature.class_names(chosen)
    text = dump(value if names is None else {**value, CLASSES: names})
    if not blobs:
        return Answer(200, text, headers=headers)
    return Answer(200, b"".join((text, *blobs)), OCTETS, {**headers, LENGTH_HEADER: str(len(text))})


def _best(scores: Array, signature: Signature, count: int) -> list[list[str]]:
    """The best classes of each row as ``score:index:name``, in the form of Triton's classification extension."""
    names = signature.classes if len(signature.classes) == scores.shape[1] else ()
    order = np.argsort(-scores, axis=1, kind="stable")[:, :count]
    return [
        [f"{scores[row, index]}:{index}{f':{names[index]}' if names else ''}" for index in best]
        for row, best in enumerate(order.tolist())
    ]


def classes_header(names: Sequence[str | None] | None) -> dict[str, str]:
    """The header with the names of the rows' classes as a JSON list in ASCII; none for more than 4096 characters."""
    text = "" if names is None else json.dumps(list(names), separators=(",", ":"))
    return {CLASSES_HEADER: text} if 0 < len(text) <= HEADER_LIMIT else {}


def _json_value(chosen: dict[str, Array], request: Request, signature: Signature, settings: Settings) -> object:
    if request.layout == "samples":
        reading = Reading(settings.scores, request.wishes.top_k or settings.top_k)
        return {"predictions": read_outputs(chosen, signature, request.samples or Samples(), reading)}
    if request.layout == "instances":
        return {"predictions": _predictions(chosen, signature)}
    if request.layout == "bare" and len(chosen) == 1:
        return next(iter(chosen.values()))
    return dict(chosen)


def _predictions(chosen: dict[str, Array], signature: Signature) -> list[Any]:
    axes = {spec.name: spec.shape.index(BATCH) for spec in signature.outputs}
    rows = {name: np.ascontiguousarray(np.moveaxis(array, axes[name], 0)) for name, array in chosen.items()}
    if len(rows) == 1:
        return list(next(iter(rows.values())))
    return [dict(zip(rows, row, strict=True)) for row in zip(*rows.values(), strict=True)]


def refuse(error: BaseException, request_id: str = "") -> Answer:
    """The answer to a failed request; only errors of the user are explained (serve.md H22)."""
    if isinstance(error, MemoryError):
        return _problem(
            507, "OutOfMemory", "the request needs more memory than is available", "send fewer rows", request_id
        )
    if not isinstance(error, UserError):
        answer = _problem(500, "InternalError", "the server failed on this request", "see the server's log", request_id)
        return replace(answer, cause=type(error).__name__)
    given = error.facts.get("status")
    status = given if isinstance(given, int) else error.http_status
    facts = {key: error.facts[key] for key in ("input", "expected", "got") if error.facts.get(key)}
    return _problem(status, type(error).__name__, error.message, error.remedy, request_id, facts)


def _problem(
    status: int, code: str, message: str, remedy: str, request_id: str, facts: Mapping[str, object] | None = None
) -> Answer:
    texts = {"code": code, "status": status, "message": message[:500], "remedy": remedy[:500]}
    details = {key: str(value)[:500] for key, value in (facts or {}).items()}
    return Answer(status, dump({**texts, **details, "request_id": request_id}))
