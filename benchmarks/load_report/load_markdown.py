"""A measurement under load as Markdown for a pull request: the verdict first, then tables, machine and command."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ...core.system.atomic_files import write_atomically
from ..machine import describe
from ..report.markdown_report import command_block, escaped, markdown_table
from ..scenarios.load_result import LoadResult
from .load_table import load_tables
from .load_verdict import load_verdict


def write_load_markdown(result: LoadResult, path: Path, faults: Sequence[str] = ()) -> None:
    """Write the page.

    Args:
        faults: figures that do not follow from what the result keeps; it is INVALID then.

    Raises:
        StorageError: the disk is full or not writable.
    """
    write_atomically(path, load_markdown(result, faults).encode())


def load_markdown(result: LoadResult, faults: Sequence[str] = ()) -> str:
    """The page as text."""
    first, *more = load_verdict(result, faults)
    parts = [f"<!-- Retort, {result.schema_} -->", f"**{escaped(first)}**", escaped(" ".join(more))]
    parts += ["\n".join(f"* {escaped(fault)}" for fault in faults[:20])] if faults else []
    for table in load_tables(result):
        parts += [f"{escaped(table.title)}:", markdown_table(table.columns, table.rows)]
    facts = [describe(result.env)] if "cpu" in result.env else []
    facts += [f"Retort {result.tool.get('version', 'unknown')}", f"measured {result.started[:16]} UTC"]
    parts += [f"* {escaped(line)}" for line in ("; ".join(facts), *result.notes)]
    parts.append(command_block(result.command))
    return "\n\n".join(part for part in parts if part) + "\n"
