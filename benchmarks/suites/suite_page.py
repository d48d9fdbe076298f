"""The page of results of all suites for one commit, as JSON and as Markdown, and its comparison with another page.

The figures of a suite are the numbers in the last line that it prints, which is JSON in every suite, by their paths.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from ...core.counts import counted
from ...core.errors import ArtifactError, MissingFileError
from ...core.system.atomic_files import write_atomically
from ..machine import describe
from ..spreads import Entry

PAGE_SCHEMA: Literal["retort.suites/1"] = "retort.suites/1"
JSON_NAME = "page.json"
MARKDOWN_NAME = str(Path(JSON_NAME).with_suffix(".md"))
NAMES = ("name", "stage", "net", "network", "model", "layer", "case", "method", "what", "suite")
"""Keys whose text names an entry of a list."""
LEFT_OUT = {
    "machine", "env", "tool", "command", "id", "started", "pid", "fingerprint", "samples", "noise", "spikes", "drift",
}  # fmt: skip
"""Parts of a result that are not figures."""
ACCOMPANYING = {
    "low", "high", "low_ms", "high_ms", "confidence", "rounds", "seconds", "p_value", "n", "needed", "dependence",
}  # fmt: skip
"""Figures that say something about another one, and are not compared."""
_INTERVAL = re.compile(r" \[[^\]]*\]")
_LEADING = re.compile(r"[-−]?\d[\d,]*\.?\d*(?:e[-+]?\d+)?")


class SuiteEntry(Entry):
    """One suite."""

    name: str
    command: str
    status: Literal["finished", "missed", "failed", "timed out", "left out"] = Field(
        description="missed: it finished, and a goal was missed"
    )
    why: str = Field(default="", description="of a suite that did not finish")
    seconds: float = Field(ge=0)
    figures: dict[str, float] = Field(default_factory=dict)
    text: str = Field(default="", description="what it printed, without its line of JSON")


class SuitePage(Entry):
    """The results of all suites for one commit."""

    schema_: Literal["retort.suites/1"] = Field(default=PAGE_SCHEMA, alias="schema")
    kind: Literal["short", "full"]
    started: str
    tool: dict[str, str]
    env: dict[str, Any]
    suites: tuple[SuiteEntry, ...]

    @property
    def commit(self) -> str:
        """The commit, or the version where there is none."""
        return self.tool.get("git") or self.tool.get("version", "unknown")


def figures_of(printed: str) -> tuple[dict[str, float], str]:
    """The figures in the last line of JSON, and the text before it; no figures if there is no such line."""
    lines = printed.rstrip().splitlines()
    for index in range(len(lines) - 1, max(-1, len(lines) - 5), -1):
        if lines[index].lstrip()[:1] not in ("{", "["):
            continue
        try:
            tree = json.loads(lines[index])
        except ValueError:
            continue
        rest = "\n".join(line.rstrip() for line in [*lines[:index], *lines[index + 1 :]])
        return dict(flattened(tree)), rest
    return {}, "\n".join(line.rstrip() for line in lines)


def flattened(tree: Any, path: str = "") -> Iterator[tuple[str, float]]:
    """Every finite number of a tree by its path; entries of lists are named if they have a name.

    Of findings and the details behind them, those are taken that have intervals, or else the findings.
    """
    if isinstance(tree, bool):
        yield path, float(tree)
    elif isinstance(tree, int | float):
        if math.isfinite(tree):
            yield path, float(tree)
    elif isinstance(tree, Mapping):
        if {"what", "got"} <= set(tree):  # a finding of a suite of serving
            number = _LEADING.match(str(tree["got"]))
            if number:
                yield path, float(number.group().replace(",", "").replace("−", "-"))
            return
        skipped = (
            {"details" if "'low'" not in repr(tree.get("details")) else "findings"} if "findings" in tree else set()
        )
        for key, inner in tree.items():
            if key not in LEFT_OUT | skipped:
                yield from flattened(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(tree, list):
        if tree and all(isinstance(one, int | float) for one in tree):
            return  # raw series are in the suite's own file
        for index, inner in enumerate(tree):
            yield from flattened(inner, f"{path}[{_name(inner, index)}]")


def _name(entry: Any, index: int) -> str:
    """What names an entry of a list; intervals in a name would be another name in the next run."""
    if isinstance(entry, Mapping):
        for key in NAMES:
            if isinstance(entry.get(key), str) and entry[key]:
                return _INTERVAL.sub("", entry[key])
    return str(index)


def write_page(page: SuitePage, folder: Path, compared: str = "") -> None:
    """Write the JSON and the Markdown.

    Args:
        compared: Markdown of a comparison, which stands before the suites.
    """
    write_atomically(folder / JSON_NAME, (page.model_dump_json(by_alias=True, indent=1) + "\n").encode())
    write_atomically(folder / MARKDOWN_NAME, markdown(page, compared).encode())


def markdown(page: SuitePage, compared: str = "") -> str:
    """The page for people."""
    parts = [
        f"# Results of the suites at {page.commit}",
        f"{page.kind} form, begun {page.started}, on {describe(page.env)}.",
        "| suite | status | seconds | figures |\n| --- | --- | --- | --- |\n"
        + "\n".join(
            f"| {one.name} | {one.status}{f': {one.why}' if one.why else ''} | {one.seconds:.0f} | {len(one.figures)} |"
            for one in page.suites
        ),
        *([compared] if compared else []),
    ]
    for one in page.suites:
        shown = f"\n\n```\n{one.text.strip()}\n```" if one.text.strip() else ""
        parts.append(f"## {one.name}\n\n`{one.command}`{shown}")
    return "\n\n".join(parts) + "\n"


def read_page(path: Path) -> SuitePage:
    """Read a page from its file or from its folder.

    Raises:
        MissingFileError: there is none.
        ArtifactError: it is no page of results.
    """
    file = path / JSON_NAME if path.is_dir() else path
    if not file.is_file():
        raise MissingFileError(f"no page of results: {file}", "make one with `make bench`")
    try:
        return SuitePage.model_validate_json(file.read_bytes())
    except (ValidationError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ArtifactError(f"{file} is no page of results ({PAGE_SCHEMA}): {reason}", "make it again") from error


def changes(before: SuitePage, after: SuitePage, least: float) -> tuple[list[list[str]], list[str]]:
    """Rows of the figures that changed, the largest change first, and sentences about the rest.

    Args:
        least: smallest change that is told, as a share.
    """
    rows, notes, same = list[tuple[float, list[str]]](), list[str](), 0
    if before.env.get("cpu") != after.env.get("cpu"):
        notes.append("the pages are from different machines")
    if before.kind != after.kind:
        notes.append(f"one page is {before.kind} and the other {after.kind}")
    old = {one.name: one for one in before.suites}
    for suite in after.suites:
        other = old.pop(suite.name, None)
        if other is None:
            notes.append(f"{suite.name} is new")
            continue
        if other.status != suite.status:
            notes.append(f"{suite.name} was {other.status} and is {suite.status}")
        for name in sorted({*suite.figures} & {*other.figures}):
            if name.rpartition(".")[2] in ACCOMPANYING:
                continue
            then, now = other.figures[name], suite.figures[name]
            size = _change(then, now)
            if size >= least and _apart(other.figures, suite.figures, name):
                shown = f"{100 * (now / then - 1):+.1f} %" if then else "–"
                rows.append((size, [suite.name, name, f"{then:.6g}", f"{now:.6g}", shown]))
            else:
                same += 1
        missing = len({*other.figures} - {*suite.figures})
        if missing:
            notes.append(f"{counted(missing, 'figure')} of {suite.name} not there any more")
    notes += [f"{name} is missing" for name in old]
    notes.append(f"{counted(same, 'figure')} changed by less than {100 * least:g} %, or within their intervals")
    rows.sort(key=lambda row: -row[0])
    return [row for _, row in rows], notes


def _apart(before: Mapping[str, float], after: Mapping[str, float], name: str) -> bool:
    """Whether the intervals of a figure do not overlap; true for one without intervals.

    Args:
        name: the path of the figure, whose interval stands beside it as ``low`` and ``high``, with its unit.
    """
    where, _, last = name.rpartition("value")
    ends = [page.get(f"{where}{end}{last}") for page in (before, after) for end in ("low", "high")]
    low, high, other_low, other_high = ends
    if low is None or high is None or other_low is None or other_high is None:
        return True
    return high < other_low or other_high < low


def _change(then: float, now: float) -> float:
    """The change as a share of the smaller value; infinite if one is zero or the sign differs."""
    if then == now:
        return 0.0
    if then * now <= 0:
        return math.inf
    ratio = abs(now / then)
    return max(ratio, 1 / ratio) - 1


def changes_markdown(rows: list[list[str]], notes: list[str], against: str) -> str:
    """A comparison as a part of the page."""
    lines = ["| suite | figure | before | after | change |", "| --- | --- | --- | --- | --- |"]
    lines += [f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in rows]
    table = "\n".join(lines) if rows else "No figure changed more."
    return "\n\n".join([f"## Compared with {against}", table, "\n".join(f"* {note}" for note in notes)])
