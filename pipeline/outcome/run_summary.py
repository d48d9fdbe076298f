"""What a run says at its end: the table, the gates, where its report is, and the file to ship."""

from __future__ import annotations

from typing import Any

from ...core.console import Console
from ..line import Outcome


def show(outcome: Outcome, console: Console) -> None:
    """Print the table of the stages, every gate, the report and, in the last line, the file to ship."""
    if outcome.result is not None:
        from ...benchmarks.report.table import print_table

        print_table(outcome.result, console)
    if console.mode != "text":
        return
    for gate in outcome.gates:
        console.result({}, f"{'✓' if gate.passed else '✗'} {gate.sentence}")
    console.result({}, f"\nreport: {outcome.report}" if outcome.report else f"\nartifacts: {outcome.folder}")
    if outcome.ship is not None:
        console.result({}, outcome.ship.sentence)


def as_json(outcome: Outcome) -> dict[str, Any]:
    """The outcome as JSON-ready values."""
    return {
        "folder": str(outcome.folder),
        "artifacts": {name: str(artifact.path) for name, artifact in outcome.artifacts.items()},
        "gates": [gate.to_dict() for gate in outcome.gates],
        "report": None if outcome.report is None else str(outcome.report),
        "ship": None if outcome.ship is None else outcome.ship.model_dump(),
        "reused": outcome.reused,
        "result": None if outcome.result is None else outcome.result.model_dump(mode="json"),
    }
