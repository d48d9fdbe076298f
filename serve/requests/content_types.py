"""Content types of requests, and the content type of an answer, which a request may choose (serve.md H12, H21).

Part of the runtime half: standard library only.
"""

from __future__ import annotations

from functools import lru_cache

from ...core.errors import InputError
from .wire import JSON, MAGIC_NPY, MAGIC_NPZ, NPY, NPZ

TYPES = (JSON, NPY, NPZ)
FORM = "application/x-www-form-urlencoded"
# what clients send if nobody chose a type: the first bytes decide, as without a type
UNSPECIFIC = ("", "text/plain", "application/octet-stream", "binary/octet-stream", FORM)


def kind_of(body: object, mime: str) -> str:
    """The format of a body with arrays: one of :data:`TYPES`.

    Args:
        mime: its content type without parameters; if it says nothing, the first bytes decide.

    Raises:
        InputError: no such content type is read.
    """
    if not isinstance(body, bytes | bytearray):
        return JSON  # a server that decodes JSON itself delivers the parsed value
    if mime in TYPES:
        return mime
    if mime == "text/json" or (mime.startswith("application/") and mime.endswith("+json")):
        return JSON
    if mime not in UNSPECIFIC:
        message = f"content type '{mime[:80]}' is not supported"
        raise InputError(message, f"send {', '.join(TYPES)}", status=415)
    start = bytes(body[:6])
    return NPY if start == MAGIC_NPY else NPZ if start[:4] == MAGIC_NPZ else JSON


def mime_of(content_type: str) -> str:
    """A content type in lower case, without parameters."""
    return content_type.partition(";")[0].strip().lower()


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
