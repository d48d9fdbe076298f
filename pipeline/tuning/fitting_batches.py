"""Batch sizes that are timed: those of the options, as far as their activations fit into the memory of quantization."""

from __future__ import annotations

import sys

from ...core.artifact import Artifact
from ...core.options.stage_options import QuantizeOptions


def rows_fitting(options: QuantizeOptions, parent: Artifact) -> int:
    """The largest batch whose activations fit into the memory that quantization may use.

    Args:
        options: its ``memory``, by default three times the model and 1 GB.
        parent: the FP32 program; of a graph, nothing is known, and any batch fits.

    Raises:
        UserError: the memory is too small for the model.
    """
    if parent.kind == "graph":
        return sys.maxsize
    from ...compress.program import load_program
    from ...compress.quantization.memory_budget import budget_of, rows_within

    program = load_program(parent.main)
    return rows_within(program, budget_of(program, options).room_bytes)


def fitting_batches(options: QuantizeOptions, most: int) -> tuple[int, ...]:
    """The batch sizes to time, none over ``most`` rows and none twice."""
    return tuple(dict.fromkeys(min(batch, most) for batch in options.timed_batches))


def note_on(options: QuantizeOptions, batches: tuple[int, ...]) -> str | None:
    """A remark if smaller batches are timed than the options name."""
    if batches == options.timed_batches:
        return None
    return f"            batches of up to {max(batches)} are timed; larger ones need more than `memory`"
