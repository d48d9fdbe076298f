"""Reading numbers and names from the text of other tools, so that no number is lost."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from ...core.errors import ArtifactError
from .peer_result import FigureEntry, Number, PeerRun, SeriesEntry, Summary

NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_WHOLE = re.compile(r"[-+]?\d+")
_NAMED = re.compile(rf"(?P<name>[^:=]*[^:=\s])\s*[:=]\s*(?P<value>{NUMBER})\s*(?P<unit>[A-Za-zµ%/]+)?\s*")
_TEXT = re.compile(r"(?P<name>[^:]*[^:\s])\s*:\s*(?P<text>\S.*)")
_UNIT = re.compile(r"\((\w+)\)\s*$|_(ns|us|ms|s)$")


def number(text: str) -> Number:
    """A number as it stands in a file: whole numbers stay whole."""
    return int(text) if _WHOLE.fullmatch(text.strip()) else float(text)


def is_number(text: str) -> bool:
    """Whether a text is nothing but a number."""
    return re.fullmatch(NUMBER, text.strip()) is not None


def unit_of(name: str) -> str:
    """The unit in a name, such as ``min_duration (ms)`` or ``result_min_latency_ns``; empty without one."""
    found = _UNIT.search(name)
    return (found.group(1) or found.group(2) or "") if found else ""


@dataclass
class Gathered:
    """The numbers and texts of one run while its file is read."""

    name: str
    figures: list[FigureEntry] = field(default_factory=list)
    series: list[SeriesEntry] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, value: Any, unit: str = "") -> None:
        """Take a number, a list of numbers or a text; nested values get names with dots."""
        if isinstance(value, bool) or value is None:
            self.tell(name, json.dumps(value))
        elif isinstance(value, int | float):
            self.figures.append(FigureEntry(name=name, value=value, unit=unit or unit_of(name)))
        elif isinstance(value, str):
            self.tell(name, value)
        elif isinstance(value, Mapping):
            for key, inner in value.items():
                self.add(f"{name}.{key}" if name else str(key), inner, unit)
        elif _numbers(value):
            self.series.append(SeriesEntry(name=name, values=tuple(value), unit=unit))
        else:
            for index, inner in enumerate(value):
                self.add(f"{name}.{index}", inner, unit)

    def tell(self, name: str, text: str) -> None:
        """Take a text; a second one under the same name gets a number."""
        free, count = name, 2
        while free in self.texts:
            free, count = f"{name} ({count})", count + 1
        self.texts[free] = text

    def line(self, text: str) -> None:
        """Take a line of the form ``name: 1.5 ms``, or the whole line if it has another form."""
        found = _NAMED.fullmatch(text.strip())
        if found:
            unit = found["unit"] or unit_of(found["name"])
            self.figures.append(FigureEntry(name=found["name"], value=number(found["value"]), unit=unit))
            return
        told = _TEXT.fullmatch(text.strip())
        self.tell(*(told["name"], told["text"]) if told else ("text", text.strip()))

    def lines(self, texts: Iterable[str]) -> None:
        """Take all lines that are not empty."""
        for text in texts:
            if text.strip():
                self.line(text)

    def value(self, name: str) -> Number | None:
        """The number under a name; None if there is none."""
        return next((one.value for one in self.figures if one.name == name), None)

    def run(self, summary: Summary) -> PeerRun:
        """What was gathered."""
        return PeerRun(
            name=self.name, figures=tuple(self.figures), series=tuple(self.series), texts=self.texts, summary=summary
        )


def _numbers(values: Any) -> bool:
    return bool(values) and all(isinstance(one, int | float) and not isinstance(one, bool) for one in values)


def tree_of(text: str, where: str, tool: str) -> Any:
    """A JSON file.

    Raises:
        ArtifactError: it is cut off, or was edited so that it is no JSON any more.
    """
    try:
        return json.loads(text)
    except ValueError as error:
        raise ArtifactError(f"{where} is no whole JSON file of {tool}: {error}", "export it again") from error


def require_last_line(text: str, where: str, tool: str) -> None:
    """Fail if the last line of a table does not end.

    Raises:
        ArtifactError: it does not.
    """
    require(where, tool, text.endswith("\n"), "its last line is cut off")


def part_of(tree: Any, key: str) -> Any:
    """The value under a key; None if the tree is no object, or lacks it."""
    return tree.get(key) if isinstance(tree, dict) else None


def require(where: str, tool: str, holds: bool, what: str) -> None:
    """Fail if something about a file is not as its tool writes it.

    Raises:
        ArtifactError: it is not.
    """
    if not holds:
        raise ArtifactError(f"{where} is no whole, unaltered file of {tool}: {what}", "export it again")


def ascending(values: Sequence[Number | None]) -> bool:
    """Whether the known values do not fall."""
    known = [one for one in values if one is not None]
    return all(before <= after for before, after in pairwise(known))


def close(one: float, other: float, share: float = 1e-6) -> bool:
    """Whether two values that should be equal are."""
    return abs(one - other) <= share * max(abs(one), abs(other), 1e-300)


def blocks(text: str) -> Iterator[list[str]]:
    """The parts of a text between empty lines."""
    part: list[str] = []
    for line in [*text.splitlines(), ""]:
        if line.strip():
            part.append(line)
        elif part:
            yield part
            part = []
