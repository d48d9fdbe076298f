"""The memory of quantization, measured in a process of its own."""

from __future__ import annotations

import pytest

from retort.benchmarks.suites.quantization_memory import GOAL_BYTES, GOAL_COPIES, run
from retort.core.console import SILENT


@pytest.mark.slow
def test_quantization_needs_three_copies_of_the_model_and_a_gigabyte() -> None:
    """A network with 89 MB of weights and wide convolutions stays below the goal."""
    (row,) = run(["crepe"], "", timed=False, console=SILENT)
    assert row["model_bytes"] > 80e6
    assert row["goal_bytes"] == GOAL_COPIES * row["model_bytes"] + GOAL_BYTES
    assert row["peak_bytes"] < row["goal_bytes"], row
    assert row["sqnr_db"] > 20


@pytest.mark.slow
@pytest.mark.long
def test_a_given_memory_is_kept() -> None:
    """With 500 MB, calibration, corrections and timing stay below them."""
    (row,) = run(["crepe"], "500MB", timed=True, console=SILENT)
    assert row["peak_bytes"] < row["goal_bytes"] == 500_000_000, row
    assert row["sqnr_db"] > 20
