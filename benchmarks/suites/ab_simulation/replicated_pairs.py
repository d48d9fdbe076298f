"""Comparisons of two files that are made again minutes later: how often both runs agree (benchmarks.md B9)."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ....core.artifact import Artifact, sha256_file
from ....core.console import Console
from ....core.errors import UserError
from ....core.options.stage_options import BenchOptions
from ...repeatability.self_comparison import append_row, rows_in
from ...sessions import opener
from ...small_networks import random_feeds
from ...timing.latency import LatencyComparison, compare_sessions

APART_S = 300.0
"""Seconds between the beginnings of both runs of a pair, at least."""
CLOSE, CLOSER = 0.05, 0.02
"""How far two runs of a loaded and of a quiet machine may differ."""
WALL = "wall-clock time of one file"
"""It does not decide where the processor's time does, and is only told."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Agreement:
    """How far the two runs of each pair differ.

    Attributes:
        what: the figure that both runs measured.
        pairs: number of pairs of which both runs were made.
        noisy: pairs in which a run was NOISY, which says itself that it supports no decision.
        within_2: other pairs whose runs differ by at most 2 %.
        within_5: other pairs whose runs differ by at most 5 %.
        largest_percent: the largest difference of a pair without a NOISY run; 0 if there is none.
    """

    what: str
    pairs: int
    noisy: int
    within_2: int
    within_5: int
    largest_percent: float

    @property
    def share(self) -> float:
        """Share of the pairs that agree within 5 % or say NOISY."""
        return (self.within_5 + self.noisy) / self.pairs

    def to_dict(self) -> dict[str, Any]:
        """All values, as JSON-ready values."""
        return {**asdict(self), "share": self.share}


class Pairs:
    """The recording of pairs, of which the second runs are made minutes after the first ones.

    Args:
        models: two models, the first of which is the reference.
        count: number of pairs.
        out: file to which rows are appended; the same recording goes on where it was interrupted.
        wait: pauses for so many seconds.

    Raises:
        UserError: the rows in the file belong to other models or to other options.
    """

    def __init__(
        self,
        models: Mapping[str, Artifact],
        options: BenchOptions,
        count: int,
        out: Path,
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        asked = {name: sha256_file(model.main) for name, model in models.items()}
        header = {"asked": {**asked, "options": options.model_dump(mode="json")}}
        self.models, self.options, self.count, self.out, self.wait = models, options, count, out, wait
        known = rows_in(out)
        if known and known[0] != header:
            raise UserError(f"{out} has pairs of other models or with other options", "give another --out")
        if not known:
            append_row(out, header)
        self.rows: list[Row] = known[1:]

    def first_runs(self, console: Console) -> None:
        """Make the first run of each pair."""
        self._runs(0, console)

    def second_runs(self, console: Console) -> None:
        """Make the second run of each pair, at least five minutes after its first one."""
        self._runs(1, console)

    def _runs(self, which: int, console: Console) -> None:
        made = {(row["pair"], row["run"]): row for row in self.rows}
        left = [pair for pair in range(self.count) if (pair, which) not in made]
        with console.progress(f"run {which + 1} of pairs", self.count) as bar:
            bar.skip(self.count - len(left))
            for pair in left:
                if which:
                    self.wait(max(0.0, made[pair, 0]["began"] + APART_S - time.time()))
                row = {"pair": pair, "run": which, **self._compared(2 * pair + which)}
                self.rows.append(row)
                append_row(self.out, row)
                bar.advance()

    def _compared(self, seed: int) -> Row:
        began, (batch,) = time.time(), self.options.batch_sizes
        openers = {name: opener(model, self.options) for name, model in self.models.items()}
        session = next(iter(openers.values()))()
        feeds = random_feeds(session.signature, batch)
        session.close()
        found = compare_sessions(openers, feeds, self.options.model_copy(update={"seed": seed}))[batch]
        return {"began": round(began, 3), **_figures(found)}


def _figures(found: LatencyComparison) -> Row:
    reference, candidate = found.candidates.values()
    return {
        "noisy": list(found.doubts),
        "ratio": found.ratio_of(candidate.name).value,
        "time_ms": reference.median_ms.value,
        "wall_ms": reference.wall_ms.value,
        "seconds": found.seconds,
        "pressure_percent": found.noise.pressure_percent,
    }


def agreements(rows: Sequence[Mapping[str, Any]]) -> list[Agreement]:
    """How far the runs of each pair agree, by the ratio of both files and by the times of one; empty without pairs."""
    runs: dict[int, dict[int, Mapping[str, Any]]] = {}
    for row in rows:
        runs.setdefault(row["pair"], {})[row["run"]] = row
    pairs = [(both[0], both[1]) for both in runs.values() if len(both) == 2]
    if not pairs:
        return []
    return [
        _agreement(what, key, pairs)
        for what, key in (("ratio of two files", "ratio"), ("time of one file", "time_ms"), (WALL, "wall_ms"))
    ]


def _agreement(what: str, key: str, pairs: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> Agreement:
    quiet = [pair for pair in pairs if not pair[0]["noisy"] and not pair[1]["noisy"]]
    apart = np.array([np.expm1(abs(np.log(one[key] / two[key]))) for one, two in quiet])
    return Agreement(
        what=what,
        pairs=len(pairs),
        noisy=len(pairs) - len(quiet),
        within_2=int(np.sum(apart <= CLOSER)),
        within_5=int(np.sum(apart <= CLOSE)),
        largest_percent=100 * float(apart.max()) if len(apart) else 0.0,
    )


def table(found: Sequence[Agreement]) -> tuple[list[str], list[list[str]]]:
    """Columns, and a row for each figure."""
    columns = ["figure", "pairs", "NOISY", "within 2 %", "within 5 %", "largest difference"]
    return columns, [
        [one.what, str(one.pairs), str(one.noisy), str(one.within_2), str(one.within_5), f"{one.largest_percent:.2f} %"]
        for one in found
    ]
