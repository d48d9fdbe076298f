"""A gate of speed on a simulated machine that is disturbed now and then."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from retort.core.console import SILENT
from retort.core.metrics.ratio import Ratio
from retort.core.options.stage_options import BenchOptions, Gate
from retort.pipeline import gates, measure

GATE = Gate(after="quantize", speedup=2.0, batch_size=32)
FAST, SLOW = Ratio(6.6, 6.0, 7.2, 0.95), Ratio(1.2, 1.1, 1.3, 0.95)
NOISY = replace(FAST, doubts=("the ratio changed during the measurement",))


@pytest.mark.parametrize(
    ("said", "used", "verdict"),
    [
        ([FAST], 1, "passed"),
        ([NOISY, FAST], 2, "passed"),
        ([NOISY, SLOW, FAST], 2, "failed"),
        ([NOISY, NOISY, NOISY, FAST], 3, "cannot tell"),
    ],
)
def test_only_noise_is_measured_again(
    monkeypatch: pytest.MonkeyPatch, said: list[Ratio], used: int, verdict: str
) -> None:
    """A disturbed measurement is repeated, a quiet one decides whatever it says, and lasting noise passes nothing."""
    told = iter(said)

    def compared(*_: object) -> dict[int, Any]:
        ratio = next(told)
        return {32: SimpleNamespace(ratio_of=lambda _: ratio)}

    monkeypatch.setattr(measure, "compare", compared)
    line: Any = SimpleNamespace(console=SILENT)
    found = measure._quiet_ratio(line, GATE, {}, BenchOptions())
    assert len(said) - len(list(told)) == used
    assert gates.judge(GATE, found.interval, "train", "accuracy", found.doubts).verdict == verdict
