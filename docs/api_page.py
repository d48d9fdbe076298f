"""The Python interface as Markdown: each name that `import retort` offers, from its signature and docstring."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Iterator
from typing import Any

import retort

from .markdown import as_markdown

WIDTH = 118
SECTION = re.compile(r"^(Args|Options|Returns|Raises|Example|Attributes):\n((?:    .*\n?|\n)*)", re.M)
ENTRY = re.compile(r"^(\w+): (.*(?:\n +.*)*)", re.M)


def api() -> Iterator[tuple[str, str]]:
    """The parts of the page: functions and classes."""
    names = [(name, getattr(retort, name)) for name in retort.__all__]
    yield "functions", "\n\n".join(_function(name, item) for name, item in names if not isinstance(item, type))
    yield "classes", "\n\n".join(_class(name, item) for name, item in names if isinstance(item, type))


def _function(name: str, function: Any) -> str:
    doc = inspect.getdoc(function) or ""
    options = {entry[0] for title, body in SECTION.findall(doc) if title == "Options" for entry in _entries(body)}
    given = inspect.signature(function).parameters.values()
    words = [_word(item) for item in given if item.name not in options]
    first = next((index for index, item in enumerate(given) if item.kind is item.KEYWORD_ONLY), len(words))
    words = [
        *words[:first],
        *(["*"] if first < len(words) else []),
        *words[first:],
        *(["**options"] if options else []),
    ]
    return f"### retort.{name}\n\n```python\nretort.{name}({', '.join(words)})\n```\n\n{_described(doc)}"


def _word(item: inspect.Parameter) -> str:
    return item.name if item.default is item.empty else f"{item.name}={item.default!r}"


def _class(name: str, kind: type) -> str:
    parts = [f"### retort.{name}", _described(inspect.getdoc(kind) or "")]
    for member, value in sorted(_members(kind).items()):
        call = "()" if callable(value) or isinstance(value, (classmethod, staticmethod)) else ""
        text = as_markdown(inspect.getdoc(value) or "").split("\n\n")[0]
        parts.append(_bullet(f"{member}{call}", text))
    head, members = parts[:2], parts[2:]
    return "\n\n".join([*head, *(["\n".join(["**Members**\n", *members])] if members else [])])


def _members(kind: type) -> dict[str, Any]:
    """Public methods and properties with a docstring, those that the class inherits from ours included."""
    found: dict[str, Any] = {}
    for base in reversed([base for base in kind.__mro__ if base.__module__.startswith("retort.")]):
        found |= {name: value for name, value in vars(base).items() if not name.startswith("_") and _documented(value)}
    return found


def _documented(value: Any) -> bool:
    known = callable(value) or isinstance(value, (property, classmethod, staticmethod))
    return known and bool(inspect.getdoc(value))


def _described(doc: str) -> str:
    """A Google-style docstring: its sections as lists, its example as code."""
    head = SECTION.split(doc, maxsplit=1)[0]
    parts = [as_markdown(head)]
    for title, body in SECTION.findall(doc):
        text = inspect.cleandoc(body)
        if title == "Example":
            parts.append(f"```pycon\n{text}\n```")
        elif title == "Returns":
            parts.append(textwrap.fill(f"**Returns** {_line(text)}", WIDTH))
        else:
            entries = [_bullet(name, meaning) for name, meaning in _entries(body)]
            parts.append("\n".join([f"**{title}**\n", *entries]))
    return "\n\n".join(parts)


def _entries(body: str) -> list[tuple[str, str]]:
    return ENTRY.findall(inspect.cleandoc(body))


def _bullet(name: str, meaning: str) -> str:
    return textwrap.fill(
        f"* `{name}`: {_line(meaning)}", WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )


def _line(text: str) -> str:
    return " ".join(as_markdown(text).split())
