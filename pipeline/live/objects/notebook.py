"""Display of live objects in a terminal and in a notebook."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from ....core.signature import Signature

_CELL = "text-align:left;padding:2px 12px 2px 0;vertical-align:top"


def table(rows: Iterable[Sequence[str]], heading: str = "", columns: Sequence[str] = ()) -> str:
    """Rows as an HTML table; all text is escaped."""
    title = f"<div><b>{escape(heading)}</b></div>" if heading else ""
    head = "".join(f'<th style="{_CELL}">{escape(column)}</th>' for column in columns)
    body = "".join(
        "<tr>" + "".join(f'<td style="{_CELL}">{escape(str(cell))}</td>' for cell in row) + "</tr>" for row in rows
    )
    return f"{title}<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>" if head else (
        f"{title}<table><tbody>{body}</tbody></table>"
    )  # fmt: skip


def ports(signature: Signature) -> str:
    """``image: float32[batch, 1, 8, 8] → output: float32[batch, 10]``."""
    outputs = ", ".join(spec.describe() for spec in signature.outputs)
    return f"{signature.describe_inputs()} → {outputs}"


def size_text(size_bytes: int) -> str:
    """``383 kB``."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size_bytes >= factor:
            return f"{size_bytes / factor:.3g} {unit}"
    return f"{size_bytes} bytes"


def text(value: str) -> str:
    """Text as HTML."""
    return escape(value)
