"""The parts of a multipart form, for servers that deliver a body as it was sent.

Part of the runtime half: standard library only.
"""

from __future__ import annotations

import re
from email.parser import HeaderParser

from ...core.errors import InputError, LimitError
from ..workarounds import PARTS_KEPT

MULTIPART = "multipart/form-data"
_REMEDY = "send multipart/form-data as `curl -F name=@file` does"


def read_form(body: bytes, content_type: str) -> tuple[dict[str, object], dict[str, str]]:
    """The parts of a form by name, and the content types of those that have one.

    Args:
        content_type: with the boundary.

    Raises:
        InputError: the body is no form, or a name appears twice.
        LimitError: there are more parts than any request has.
    """
    found = re.search(r'boundary=(?:"([^"\r\n]{1,70})"|([^\s;"]{1,70}))', content_type, re.IGNORECASE)
    if found is None:
        raise InputError("the multipart form has no boundary", _REMEDY)
    mark = b"\r\n--" + (found[1] or found[2]).encode("latin-1", "replace")
    pieces = (b"\r\n" + body).split(mark, PARTS_KEPT + 2)
    if len(pieces) > PARTS_KEPT + 2:
        raise LimitError(f"the request has more than {PARTS_KEPT} parts", "send one part for each input")
    if len(pieces) < 3 or not pieces[-1].startswith(b"--"):
        raise InputError("the multipart form does not end with its boundary", _REMEDY)
    parts: dict[str, object] = {}
    types: dict[str, str] = {}
    for piece in pieces[1:-1]:
        name, kind, content = _part(piece)
        if name in parts:
            raise InputError(f"the part '{name[:80]}' appears twice", "send one part for each input")
        parts[name] = content
        if kind:
            types[name] = kind
    return parts, types


def _part(piece: bytes) -> tuple[str, str, bytes]:
    """Name, content type and content of a part."""
    lines, blank, content = piece.lstrip(b" \t").removeprefix(b"\r\n").partition(b"\r\n\r\n")
    headers = HeaderParser().parsestr(lines.decode("utf-8", "replace"))
    name = headers.get_param("name", header="content-disposition")
    if not blank or not isinstance(name, str) or not name:
        raise InputError("a part of the multipart form has no name", _REMEDY)
    return name, str(headers.get("content-type") or ""), content
