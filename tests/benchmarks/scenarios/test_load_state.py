"""Whether decisions can be based on a measurement under load, by what it keeps of the machine and of the answers."""

from __future__ import annotations

from typing import Any

import pytest
from load_results import load_result

from retort.benchmarks.scenarios.load_state import judged, state_of


def told(measurement: str = "single-stream", **changes: Any) -> tuple[str, str]:
    """The status and the reasons of a changed result."""
    found = state_of(load_result(measurement, **changes))
    return found.status, "; ".join(found.reasons)


def test_a_quiet_measurement_is_valid() -> None:
    """Steady windows on a quiet machine support decisions, in every scenario."""
    for measurement in ("single-stream", "server", "offline", "sweep", "sustain", "cold"):
        assert told(measurement) == ("VALID", "")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"pressure_percent": 40.0}, "processes waited for a CPU in 40 % of the time (limit 10 %)"),
        ({"steal_percent": 9.0}, "the hypervisor took 9.0 % of the CPU time (limit 2 %)"),
        ({"scatter": 0.3}, "windows of 'fp32' scatter by"),
        ({"drift": 0.3}, "'fp32' drifted by +"),
        ({"windows": 3}, "an interval needs 6 windows, and 'fp32' had 3"),
    ],
)
def test_a_disturbed_measurement_is_noisy(changes: dict[str, Any], reason: str) -> None:
    """Load of other processes, scatter, drift and too few windows are reasons, each with its figure."""
    status, reasons = told(**changes)
    assert status == "NOISY"
    assert reason in reasons


def test_what_a_load_does_itself_is_not_noise() -> None:
    """A server that waits for processors beside its clients, a queue that scatters, and heat in a long run."""
    assert told(pressure_percent=80.0, kind="endpoint") == ("VALID", "")
    assert told(pressure_percent=80.0, threads=2, cores=2) == ("VALID", "")
    assert told("server", scatter=0.4, windows=4) == ("VALID", "")
    assert told("sustain", drift=0.4) == ("VALID", "")


def test_a_measurement_without_answers_or_cold_files_is_invalid() -> None:
    """Queries without an answer above 1 %, none answered, and starts with the file in the cache."""
    assert told(failed=1) == ("VALID", "")
    status, reasons = told(failed=300)
    assert (status, "did not answer 300 queries of" in reasons) == ("INVALID", True)
    assert told(queries=0)[0] == "INVALID"
    status, reasons = told("cold", cached_percent=100.0)
    assert (status, "so these were no cold starts" in reasons) == ("INVALID", True)


def test_a_rate_that_was_not_kept_afterwards_is_noisy() -> None:
    """If the 99th percentile of the windows is certainly above the bound of the search, the rate was luck."""
    status, reasons = told("server", p99_ms=0.5)
    assert (status, "kept a 99th percentile of 0.5 ms while" in reasons) == ("NOISY", True)
    assert told("server", p99_ms=50.0) == ("VALID", "")


def test_a_ratio_of_a_noisy_measurement_decides_nothing() -> None:
    """The reasons are the doubts of every ratio; without them the ratio decides."""
    quiet, noisy = judged(load_result("single-stream")), judged(load_result("single-stream", steal_percent=9.0))
    first, second = (result.candidates[1].ratio for result in (quiet, noisy))
    assert first is not None
    assert second is not None
    assert (first.ratio().verdict, second.ratio().verdict) == ("faster", "cannot tell")
    assert (quiet.status, noisy.status, second.doubts) == ("VALID", "NOISY", noisy.reasons)
