"""Coverage of a ratio's interval when the comparison is repeated, under a load that changes from 0 to 4 processes.

    python -m retort.benchmarks.suites.repetition
    python -m retort.benchmarks.suites.repetition before.onnx after.onnx --batch 1 32 --repetitions 30

Compares two models repeatedly with the timing of this package, each time with another number of busy processes: 0, 1,
2, 3, 4, and again from 0. Reports in how many repetitions the 95 % interval contains the true ratio, and the spread of
the ratios. The median of all repetitions is taken as the true ratio. Without files, two small convolutional networks of
different width are used. Goals: coverage of at least 93 %, a spread of at most 3 %. Prints a table and one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ...core.console import Console
from ...core.metrics.ratio import Ratio
from ...core.options.stage_options import BenchOptions
from ...core.session import SessionOptions, open_session
from ..machine import describe, fingerprint
from ..small_networks import make_nets, random_feeds
from ..timing.latency import compare_sessions
from .stopping import stoppable

LOADS = (0, 1, 2, 3, 4)
REPETITIONS, BATCHES, BUDGET_S = 100, (1, 32), 20.0
COVERAGE, SPREAD_PERCENT = 0.93, 3.0
BUSY = """
import os, sys
import numpy as np
x = np.ones((256, 256), np.float32)
while os.getppid() == int(sys.argv[1]):
    x = x @ x * 0
"""
"""Computes and uses the caches until the process that started it has ended, in whatever way."""


@dataclass(frozen=True)
class Repeated:
    """All repetitions at one batch size.

    Attributes:
        load: number of busy processes during each repetition.
        ratios: one per repetition.
    """

    batch: int
    load: tuple[int, ...]
    ratios: tuple[Ratio, ...]

    @property
    def truth(self) -> float:
        """The median of all ratios."""
        return float(np.median([ratio.value for ratio in self.ratios]))

    @property
    def coverage(self) -> float:
        """Share of the valid repetitions whose interval contains the true ratio; 1 if none was valid."""
        valid = [ratio for ratio in self.ratios if ratio.bounded and not ratio.doubts]
        held = [ratio.interval.low <= self.truth <= ratio.interval.high for ratio in valid]
        return float(np.mean(held)) if held else 1.0

    @property
    def spread_percent(self) -> float:
        """Standard deviation of the logarithms of the valid ratios, in percent."""
        return spread_percent([ratio.value for ratio in self.ratios if not ratio.doubts])

    @property
    def wall_spread_percent(self) -> float:
        """The same for the ratios of wall-clock times."""
        return spread_percent([ratio.wall for ratio in self.ratios if ratio.wall is not None])

    @property
    def noisy(self) -> int:
        """Number of NOISY repetitions."""
        return sum(bool(ratio.doubts) for ratio in self.ratios)

    def to_dict(self) -> dict[str, Any]:
        """All values as JSON-ready values, with every repetition."""
        return {
            "batch": self.batch,
            "truth": self.truth,
            "coverage": self.coverage,
            "noisy": self.noisy,
            "spread_percent": self.spread_percent,
            "wall_spread_percent": self.wall_spread_percent,
            "half_width_percent": _percent([ratio.half_width for ratio in self.ratios if ratio.bounded]),
            "repetitions": [
                {"load": load, **ratio.to_dict()} for load, ratio in zip(self.load, self.ratios, strict=True)
            ],
        }


def spread_percent(values: Sequence[float]) -> float:
    """Standard deviation of the logarithms, in percent; 0 for fewer than two."""
    return 100 * float(np.std(np.log(values), ddof=1)) if len(values) > 1 else 0.0


@contextmanager
def busy(count: int) -> Iterator[None]:
    """Run ``count`` processes that compute continuously within this context."""
    started = [subprocess.Popen([sys.executable, "-c", BUSY, str(os.getpid())]) for _ in range(count)]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def repeat(
    files: Sequence[Path], batches: Sequence[int], repetitions: int, budget_s: float, threads: int = 1
) -> list[Repeated]:
    """Compare the second file with the first repeatedly."""
    console = Console()
    found: dict[int, tuple[list[int], list[Ratio]]] = {batch: ([], []) for batch in batches}
    openers = {
        name: partial(open_session, file, SessionOptions(threads=threads))
        for name, file in zip(("before", "after"), files, strict=True)
    }
    samples = random_feeds(open_session(files[0], SessionOptions()).signature, max(BATCHES))
    for index in console.track(range(repetitions), "repetitions"):
        load = LOADS[index % len(LOADS)]
        with busy(load):
            time.sleep(0.3 * bool(load))
            options = BenchOptions(batch_sizes=tuple(batches), budget_s=budget_s, seed=index, threads=threads)
            for batch, compared in compare_sessions(openers, samples, options).items():
                found[batch][0].append(load)
                found[batch][1].append(compared.ratio_of("after"))
    return [Repeated(batch, tuple(loads), tuple(ratios)) for batch, (loads, ratios) in found.items()]


def table(found: Sequence[Repeated]) -> tuple[list[str], list[list[str]]]:
    """Columns, and a row per batch size and load and for all loads together."""
    columns = ["batch", "load", "repetitions", "ratio", "coverage", "half width", "spread", "spread of wall", "NOISY"]
    rows = []
    for item in found:
        for load in (*sorted(set(item.load)), None):
            rows.append(_row(item, load))
    return columns, rows


def _row(item: Repeated, load: int | None) -> list[str]:
    kept = [ratio for own, ratio in zip(item.load, item.ratios, strict=True) if load is None or own == load]
    valid = [ratio for ratio in kept if ratio.bounded and not ratio.doubts]
    held = [ratio.interval.low <= item.truth <= ratio.interval.high for ratio in valid]
    wall = [ratio.wall for ratio in kept if ratio.wall is not None]
    return [
        str(item.batch),
        "all" if load is None else str(load),
        str(len(kept)),
        f"{np.median([ratio.value for ratio in kept]):.3f}",
        f"{np.mean(held):.0%}" if held else "",
        f"{_percent([ratio.half_width for ratio in valid]):.1f} %" if valid else "",
        f"{spread_percent([ratio.value for ratio in valid]):.1f} %",
        f"{spread_percent(wall):.1f} %",
        str(sum(bool(ratio.doubts) for ratio in kept)),
    ]


def _percent(values: Sequence[float]) -> float | None:
    """Median in percent; None without values."""
    return 100 * float(np.median(values)) if values else None


@stoppable()
def main(arguments: Sequence[str] | None = None) -> None:
    """Run the suite and print its table, then one JSON line."""
    parser = argparse.ArgumentParser(
        prog="retort.benchmarks.suites.repetition", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("files", nargs="*", type=Path, help="two ONNX files; two small nets by default")
    parser.add_argument("--batch", nargs="+", type=int, default=list(BATCHES), help="batch sizes")
    parser.add_argument("--repetitions", type=int, default=REPETITIONS, help="number of comparisons")
    parser.add_argument("--budget", type=float, default=BUDGET_S, help="seconds for one comparison")
    parser.add_argument("--threads", type=int, default=1, help="threads of a session; wall-clock time decides above 1")
    given = parser.parse_args(arguments)
    if len(given.files) not in (0, 2):
        parser.error("give two files, or none")
    with tempfile.TemporaryDirectory() as folder:
        files = given.files or make_nets(Path(folder))
        found = repeat(files, given.batch, given.repetitions, given.budget, given.threads)
    console = Console("text")
    console.table(f"{given.repetitions} repetitions with {LOADS[0]} to {LOADS[-1]} busy processes", *table(found))
    for item in found:
        reached = item.coverage >= COVERAGE and item.spread_percent <= SPREAD_PERCENT
        console.say(
            f"batch {item.batch}: {'reached' if reached else 'MISSED'}:"
            f" coverage {item.coverage:.0%} (goal {COVERAGE:.0%}),"
            f" spread {item.spread_percent:.1f} % (goal {SPREAD_PERCENT:.0f} %)"
        )
    machine = describe(fingerprint())
    console.result({}, json.dumps({"machine": machine, "results": [item.to_dict() for item in found]}, allow_nan=False))


if __name__ == "__main__":
    main()
