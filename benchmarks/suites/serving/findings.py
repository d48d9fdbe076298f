"""What a suite of serving found: goals with what was reached, the conditions, and every figure behind them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ....core.console import Console
from ...machine import describe, fingerprint


@dataclass(frozen=True)
class Finding:
    """One goal and what was measured for it.

    Attributes:
        goal: its number on the page of these results, such as ``G6``.
        what: the quantity, in words.
        got: the measured value, with its unit.
        wanted: the goal, with its sign and unit; empty for a figure without a goal.
        reached: None for a figure without a goal.
    """

    goal: str
    what: str
    got: str
    wanted: str = ""
    reached: bool | None = None

    def row(self) -> list[str]:
        """Its row in a table."""
        verdict = "" if self.reached is None else "reached" if self.reached else "MISSED"
        return [self.goal, self.what, self.got, self.wanted, verdict]


def at_most(goal: str, what: str, got: float, limit: float, unit: str = "") -> Finding:
    """A finding that must not exceed a limit; NaN does."""
    return Finding(goal, what, shown(got, unit), f"≤ {shown(limit, unit)}", bool(got <= limit))


def at_least(goal: str, what: str, got: float, limit: float, unit: str = "") -> Finding:
    """A finding that must reach a limit; NaN does not."""
    return Finding(goal, what, shown(got, unit), f"≥ {shown(limit, unit)}", bool(got >= limit))


def figure(what: str, got: float, unit: str = "", goal: str = "") -> Finding:
    """A finding without a goal."""
    return Finding(goal, what, shown(got, unit))


def shown(value: float, unit: str = "") -> str:
    """A number with three digits, or all of a whole number, and its unit."""
    text = f"{value:,.0f}" if float(value).is_integer() or abs(value) >= 100 else f"{value:.3g}"
    return text if unit == "" else f"{text}×" if unit == "×" else f"{text} {unit}"


@dataclass(frozen=True)
class Report:
    """Everything that one run of a suite found.

    Attributes:
        suite: its name on the command line.
        load: what asked the server, in words; empty without load.
        requests: number of requests, or of other trials, that were judged.
        details: figures behind the findings.
        machine: fingerprint of the machine, with the load average of the last minute at the end of the run.
    """

    suite: str
    load: str
    requests: int
    findings: tuple[Finding, ...]
    details: Mapping[str, Any] = field(default_factory=dict)
    machine: Mapping[str, Any] = field(default_factory=lambda: {**fingerprint(), "load_average": os.getloadavg()[0]})

    @property
    def reached(self) -> bool:
        """Whether no goal was missed."""
        return all(finding.reached is not False for finding in self.findings)

    def show(self, console: Console, out: Path | None = None) -> None:
        """Print a table and the conditions, and write the JSON result."""
        rows = [finding.row() for finding in self.findings]
        console.table(f"{self.suite}: {self.requests:,}", ["goal", "what", "got", "wanted", ""], rows, words=True)
        console.say(f"load: {self.load or 'none'}")
        console.say(f"{describe(dict(self.machine))} · load average {self.machine['load_average']:.1f}")
        if out is None:
            console.result({}, self.to_json())
        else:
            out.write_text(self.to_json() + "\n")

    def to_json(self) -> str:
        """Everything in one line."""
        return json.dumps({**asdict(self), "reached": self.reached}, default=_plain)


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else str(value)
