"""A gate's outcome as Markdown for a comment on a change: the verdict first, a table, the machine, the command."""

from __future__ import annotations

from ...core.counts import counted
from .gate_models import Gated
from .regression_checks import Outcome

MARK = "<!-- retort bench gate -->"
"""First line of the page, by which a job finds its own comment, and Retort its own file."""
WORDS: dict[Outcome, str] = {
    "passed": "✅ Passed",
    "failed": "❌ Failed",
    "cannot tell": "❔ Cannot tell",
    "invalid": "❔ Not valid",
}
COLUMNS = ("model", "what", "baseline", "now", "change", "bound", "outcome")


def rows(gated: Gated) -> list[list[str]]:
    """The table, a row for each check."""
    return [
        [
            check.model,
            check.quantity if check.batch is None else f"{check.quantity}, batch {check.batch}",
            check.before,
            check.after,
            check.change,
            check.bound,
            check.outcome,
        ]
        for check in gated.checks
    ]


def verdict_line(gated: Gated) -> str:
    """The outcome in one sentence."""
    passed = [check for check in gated.checks if check.outcome == "passed"]
    share = "" if gated.outcome == "passed" else f" ({len(passed)} of {counted(gated.checks, 'check')} passed)"
    return f"{WORDS[gated.outcome]}{share}: {gated.sentence}."


def markdown(gated: Gated, command: str) -> str:
    """The page.

    Args:
        command: the command that measured it.
    """
    how = (
        "Both files were measured together, in interleaved blocks."
        if gated.together
        else "The figures come from two runs."
    )
    lines = [
        MARK,
        f"**{_cell(verdict_line(gated))}**",
        "",
        f"| {' | '.join(COLUMNS)} |",
        f"|{' --- |' * len(COLUMNS)}",
        *(f"| {' | '.join(map(_cell, row))} |" for row in rows(gated)),
        "",
        how,
        *(f"* {_cell(note)}" for note in gated.notes),
        "",
        f"Machine: {_cell(gated.machine)}",
        "",
        f"Command: `{command.replace('`', chr(39))}`",
    ]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")
