"""The latency budget: a measured table proposes a cut, the whole program is timed, and the proposal is corrected.

The table predicts how much time each group saves. The time of the whole program is always measured, together with the
original program.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from ....core.artifact import stable_hash
from ....core.console import SILENT, Console
from ....core.counts import counted
from ....core.errors import UserError, VerificationError
from ....core.facts.prune_facts import LatencyVerdict, PruneLatency
from ....core.metrics.ratio import Ratio, mean_of
from ....core.options.stage_options import PruneOptions
from ....core.system.atomic_files import write_atomically
from ...graph.rows import batch_axes, row_count
from ...program import Program
from ..coupling.labels import Mask
from ..selection.cut_options import build_group_cuts, remove
from ..step import Ranked
from ..surgery.slice_parameters import cut
from .latency_table import Compared, Table, Timer
from .predictor import Curves, State, path
from .search import TOLERANCE, OutOfReachError, Search
from .subgraphs import Subgraphs

_FINAL = 2
"""Number of final measurements of the finished program; twice as many before a miss is reported."""
_STATE = "prune-latency.json"


@dataclass
class Measured:
    """The measurements so far, stored in ``scratch`` so that a resumed run takes the same decisions.

    Attributes:
        found: comparisons with the dense program, by a key of the compared program.
    """

    scratch: Path | None
    identity: str
    found: dict[str, Compared] = field(default_factory=dict)

    def load(self) -> None:
        """Load the measurements of an interrupted run of the same pruning."""
        file = self.scratch / _STATE if self.scratch else None
        if file is None or not file.is_file():
            return
        stored = json.loads(file.read_text())
        if stored["identity"] == self.identity:
            self.found = {
                key: Compared(item["dense_ms"], item["ms"], Ratio.from_dict(item["speedup"]))
                for key, item in stored["found"].items()
            }

    def get(self, key: object, measure: Callable[[], Compared]) -> Compared:
        """The measurement with this key, which is made if it does not exist."""
        name = str(stable_hash(key))
        if name not in self.found:
            self.found[name] = measure()
            if self.scratch is not None:
                self.scratch.mkdir(parents=True, exist_ok=True)
                stored = {"identity": self.identity, "found": {k: asdict(v) for k, v in self.found.items()}}
                write_atomically(self.scratch / _STATE, json.dumps(stored).encode())
        return self.found[name]

    def clear(self) -> None:
        """Delete the stored measurements."""
        if self.scratch is not None:
            (self.scratch / _STATE).unlink(missing_ok=True)


@dataclass
class LatencyBudget:
    """The latency budget of one pruning.

    Attributes:
        original: the dense program with which candidates are compared.
        folder: folder of the latency table; the user's cache if None.
        tried: share of the dense time of every timed candidate, in order.
    """

    original: Program
    options: PruneOptions
    timer: Timer
    measured: Measured
    folder: Path | None = None
    console: Console = SILENT
    tried: list[float] = field(default_factory=list)

    def requested(self) -> tuple[float, float]:
        """The requested share of the dense program's time, and that time in milliseconds.

        Raises:
            UserError: the dense program already takes less time than the budget.
        """
        dense = self.compare("dense", self.original).dense_ms
        share = self.options.latency if self.options.latency_ms is None else self.options.latency_ms / dense
        assert share is not None  # the options ask for one of them
        if share >= 1:
            raise UserError(
                f"prune: the latency budget is {share * dense:.4g} ms, but the program already takes only {dense:.4g} "
                "ms",
                "give a budget below that latency",
                dense_ms=dense,
            )
        return share, dense

    def compare(self, key: object, candidate: Program) -> Compared:
        """Time a candidate together with the dense program, unless that was done before."""
        return self.measured.get(key, lambda: self.timer.compare(self.original, candidate))

    def decide(self, step: int, share: float, exact: bool) -> Callable[[Program, Ranked], Mask]:
        """The function that chooses the cut of a step so that this share of the dense time is left.

        Args:
            exact: time candidates until one meets the budget; otherwise use the table's prediction.
        """

        def _decide(program: Program, ranked: Ranked) -> Mask:
            search = self.search(step, program, ranked)
            try:
                state = search.reach(share) if exact else search.states[search.propose(share)]
            except OutOfReachError as error:
                raise self._out_of_reach(share, error.best) from error
            return remove(len(ranked.grouping.coupling.unions), search.curves.group_cuts, state)

        return _decide

    def search(self, step: int, program: Program, ranked: Ranked) -> Search:
        """The candidates of a step, from no cut to the largest, with their predicted times."""
        options, grouping = self.options, ranked.grouping
        align = 1 if options.align == "auto" else options.align
        group_cuts, fine = (
            build_group_cuts(grouping, ranked.scores, options.min_channels, align, ranked.fixed) for _ in range(2)
        )
        subgraphs = Subgraphs(program, options.batch, grouping.coupling.narrow)
        if len(subgraphs.coupling.unions) != len(grouping.coupling.unions):  # labels that depend on the batch size
            subgraphs = Subgraphs(
                program, row_count(program.example, batch_axes(program.signature)), grouping.coupling.narrow
            )
        table = Table(self.timer, self.folder, self.console)
        curves = Curves(grouping, group_cuts, subgraphs, table)
        self._report_table(table, curves.requests)
        start = 1.0 if step == 0 else self._share([step, "start"], program)
        states = path(curves, options.scope)
        times = [curves.total_ms(state) for state in states]
        fine_steps = [group_cut.steps if options.align == "auto" else [] for group_cut in fine]
        return Search(self._measure(step, program, ranked, curves), curves, states, times, fine_steps, {0: start})

    def _report_table(self, table: Table, wanted: int) -> None:
        """Print how many subgraphs were measured, and warn of those that cannot be timed.

        Raises:
            UserError: no subgraph could be timed.
        """
        self.console.say(f"latency table: {table.measured} subgraphs measured, {wanted - table.measured} already known")
        if table.unknown:
            reason = next(iter(table.unknown.values()))[:200]
            if len(table.unknown) == wanted:
                raise UserError(
                    f"prune: no subgraph of the model can be timed alone: {reason}", "use `macs` as the budget"
                )
            self.console.warn(
                f"{counted(table.unknown, 'subgraph')} cannot be timed alone, and so counted as zero: {reason}"
            )

    def _measure(self, step: int, program: Program, ranked: Ranked, curves: Curves) -> Callable[[State, bool], float]:
        coupling = ranked.grouping.coupling

        def _timed(state: State, again: bool) -> float:
            candidate = cut(program, coupling, remove(len(coupling.unions), curves.group_cuts, state))
            share = self._share([step, sorted(state.items()), again], candidate)
            self.tried.append(share)
            self.console.say(f"candidate {len(self.tried)}: {share:.3f}× of the dense time{', again' if again else ''}")
            return share

        return _timed

    def _share(self, key: object, candidate: Program) -> float:
        return 1 / self.compare(key, candidate).speedup.value

    def _out_of_reach(self, asked: float, best: float) -> UserError:
        dense, possible = self.requested()[1], best * 1.01
        remedy = f"set the share to {possible:.3f} or more, lower min_channels or align, or exclude fewer layers"
        if possible >= 1:
            remedy = (
                "pruning does not make this model faster here: use `macs` or `parameters` as the budget, lower "
                "min_channels or align, or exclude fewer layers"
            )
        return UserError(
            f"prune: {asked:.3g}× of the dense time ({asked * dense:.4g} ms) cannot be reached; the best found takes"
            f" {best:.3g}× ({best * dense:.4g} ms)",
            remedy,
            best=best,
            best_ms=best * dense,
        )

    def facts(self, program: Program) -> PruneLatency:
        """The latency of the finished program, timed together with the dense one.

        Raises:
            VerificationError: the finished program is not faster.
        """
        share, dense = self.requested()
        speedup = self._final(program, _FINAL)
        if _verdict(speedup, share) == "missed":  # measure again, because the cause can be noise of the machine
            speedup = self._final(program, 2 * _FINAL)
        if speedup.value <= 1 or speedup.tendency == "slower":
            raise VerificationError(
                f"the pruned program is not faster: {speedup.value:.2f}× the dense one's speed ({speedup.span})",
                "nothing was written; measure on a less busy machine, or give a smaller budget",
                speedup=speedup.to_dict(),
            )
        got = 1 / speedup.value
        return PruneLatency(
            asked_ms=share * dense,
            asked_share=share,
            dense_ms=dense,
            got_ms=got * dense,
            got_low_ms=None if speedup.high is None else dense / speedup.high,
            got_high_ms=None if speedup.low is None else dense / speedup.low,
            got_share=got,
            speedup=speedup,
            within=abs(got / share - 1) <= TOLERANCE,
            verdict=_verdict(speedup, share),
            device=self.timer.identity,
            batch=self.options.batch,
            threads=self.options.threads,
            tried=tuple(self.tried),
        )

    def _final(self, program: Program, turns: int) -> Ratio:
        return _pooled([self.compare(f"final {turn}", program).speedup for turn in range(turns)])


def _pooled(found: Sequence[Ratio]) -> Ratio:
    """Several measurements combined: their geometric mean, and the range of all intervals."""
    lows, highs = [item.low for item in found if item.low], [item.high for item in found if item.high]
    low, high = (min(lows), max(highs)) if all(item.bounded for item in found) else (None, None)
    doubts = tuple(dict.fromkeys(doubt for item in found for doubt in item.doubts))
    rounds = sum(item.rounds for item in found)
    return replace(found[0], value=mean_of(found), low=low, high=high, doubts=doubts, rounds=rounds, wall=None)


def _verdict(speedup: Ratio, share: float) -> LatencyVerdict:
    """Whether the requested share was met within the tolerance: ``landed``, ``missed`` or ``cannot tell``."""
    if speedup.low is None or speedup.high is None or speedup.verdict == "cannot tell":
        return "cannot tell"
    low, high = 1 / speedup.high / share - 1, 1 / speedup.low / share - 1
    if speedup.low <= 1 or (low < -TOLERANCE < high) or (low < TOLERANCE < high):
        return "cannot tell"
    return "landed" if low >= -TOLERANCE and high <= TOLERANCE else "missed"
