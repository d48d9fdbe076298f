"""False alarms, power and coverage of comparisons, from recorded comparisons of one file with itself.

    python -m retort.benchmarks.suites.ab_simulation --comparisons 1000 --minutes 30 --pairs 40
    python -m retort.benchmarks.suites.ab_simulation model.onnx --batch 8 --out runs/ab.jsonl

Compares a small convolutional network with itself, with the timing of this package, while another process computes.
Rows are appended to a file; the same command goes on where it was interrupted. Then it counts how often the file was
called faster or slower than itself, how often a true slowdown of 1, 2 and 5 % is found when the recorded times of one
side are scaled, what a gate for 5 % decides, and in how many simulations the intervals of percentiles hold the truth.
With `--pairs`, two networks are compared so many times before, and each time again at least five minutes later.
Goals (benchmarks.md): at most 1 % false alarms (B1), a slowdown of 1 % found with 90 % probability within 60 s (B2),
99 % intervals of percentiles (B3), runs minutes apart that agree within 5 % (B9). Prints tables and one JSON line.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ....core.artifact import Artifact, load_artifact, sha256_file
from ....core.console import Console
from ....core.errors import UserError
from ....core.options.stage_options import BenchOptions
from ...machine import describe, fingerprint
from ...repeatability.self_comparison import append_row, compared, rows_in
from ...small_networks import make_nets
from ..repetition import busy
from ..stopping import stoppable
from . import recorded_pairs, replicated_pairs, simulated_percentiles
from .recorded_pairs import Replication, Verdicts
from .replicated_pairs import WALL, Agreement, Pairs, agreements
from .simulated_percentiles import SIMULATIONS, Coverage

COMPARISONS, BUDGET_S, LOAD = 1000, 1.2, 1
FALSE_ALARMS, POWER, GATE_ALARMS, REPLICATED = 0.01, 0.9, 0.05, 0.95
LONG_S, PAIR_S = 60.0, 10.0
"""Longest comparison of the power, and one as `retort bench` makes beside other processes: half of its 20 seconds."""


def record(
    model: Artifact, options: BenchOptions, batch: int, comparisons: int, load: int, minutes: float, out: Path,
    console: Console,
) -> list[dict[str, Any]]:  # fmt: skip
    """Compare a model with itself until there are enough rows in the file, or the time is over.

    Args:
        load: number of other processes that compute meanwhile.
        out: file to which rows are appended.

    Raises:
        UserError: the rows in the file belong to another model or to other options.
    """
    asked = {
        "sha256": sha256_file(model.main),
        "batch": batch,
        "load": load,
        "options": options.model_dump(mode="json"),
    }
    known = rows_in(out)
    if known and known[0] != {"asked": asked}:
        raise UserError(f"{out} has comparisons of another model or with other options", "give another --out")
    if not known:
        append_row(out, {"asked": asked})
    rows = known[1 : comparisons + 1]
    ends = time.monotonic() + 60 * minutes
    with busy(load), console.progress("comparisons", comparisons) as bar:
        bar.skip(len(rows))
        time.sleep(0.3 * bool(load))
        for row in compared(model, options, range(len(rows), comparisons), batch):
            rows.append(row)
            append_row(out, row)
            bar.advance()
            if time.monotonic() > ends:
                console.say(f"the time is over after {len(rows)} of {comparisons} comparisons")
                break
    return rows


def goals(found: Sequence[Verdicts], coverage: Sequence[Coverage]) -> list[tuple[str, bool | None]]:
    """A sentence for each goal, and whether it is reached; None if too little was measured."""
    told: list[tuple[str, bool | None]] = []
    single = [one for one in found if one.separate == one.comparisons]
    for one in (one for one in single if one.slowdown_percent == 0):
        alarms, gate = one.share(one.alarms), one.share(one.gate_failed)
        told.append((_share("B1: false alarms", alarms, FALSE_ALARMS), alarms.value <= FALSE_ALARMS))
        told.append((_share("false alarms of a gate for 5 %", gate, GATE_ALARMS), gate.value <= GATE_ALARMS))
    for one in (one for one in single if one.slowdown_percent == recorded_pairs.BOUND_PERCENT):
        share = one.share(one.gate_failed)
        told.append((_share("a slowdown of 5 % found by the gate", share, POWER), share.value >= POWER))
    long = [one for one in found if one.slowdown_percent == 1 and one.seconds > LONG_S / 2]
    for one in long:
        share = one.share(one.slower)
        told.append((_share(f"B2: +1 % found in {one.seconds:.0f} s", share, POWER), share.value >= POWER))
    if not long:
        told.append(("B2: too few comparisons for one of 60 s", None))
    wrong = [one for one in coverage if not one.reached]
    independent = [one.share for one in coverage if not one.correlated]
    if independent:
        told.append((f"B3: coverage of independent times {min(independent):.2%} to {max(independent):.2%}", not wrong))
    return told


def replication_goal(found: Replication | None) -> list[tuple[str, bool | None]]:
    """A sentence on runs that begin five minutes apart, and whether 95 % of them agree within 5 %."""
    if found is None:
        return [("B9: the comparisons lasted less than five minutes", None)]
    agree = f"{found.within_5} of {found.pairs} pairs of runs agree within 5 %, {found.within_2} within 2 %"
    sentence = (
        f"B9: {agree}, the largest difference is {found.largest_percent:.1f} % (goal {REPLICATED:.0%} within 5 %)"
    )
    return [(sentence, found.within_5 >= REPLICATED * found.pairs)]


def pair_goals(found: Sequence[Agreement]) -> list[tuple[str, bool | None]]:
    """A sentence on each figure of two runs, and whether 95 % of the pairs agree within 5 % or say NOISY."""
    return [
        (
            f"B9: {one.what}: {one.within_5} of {one.pairs} pairs within 5 %, {one.within_2} within 2 %, {one.noisy} "
            f"NOISY (goal {REPLICATED:.0%} within 5 % or NOISY)",
            one.share >= REPLICATED,
        )
        for one in found
        if one.what != WALL
    ]


def _share(what: str, share: Any, goal: float) -> str:
    return f"{what} {share.value:.1%} [{share.low:.1%}, {share.high:.1%}] (goal {goal:.0%})"


@stoppable()
def main(arguments: Sequence[str] | None = None) -> None:
    """Run the suite and print its tables, then one JSON line."""
    parser = argparse.ArgumentParser(
        prog="retort.benchmarks.suites.ab_simulation", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("model", nargs="?", type=Path, help="model file; a small net by default")
    parser.add_argument("--comparisons", type=int, default=COMPARISONS, help="number of comparisons with itself")
    parser.add_argument("--budget", type=float, default=BUDGET_S, help="seconds of one comparison")
    parser.add_argument("--minutes", type=float, default=20.0, help="when to stop, if there are not enough before")
    parser.add_argument("--batch", type=int, default=1, help="batch size")
    parser.add_argument("--threads", type=int, default=1, help="threads of a session; wall-clock time decides above 1")
    parser.add_argument("--load", type=int, default=LOAD, help="number of busy processes meanwhile")
    parser.add_argument("--simulations", type=int, default=SIMULATIONS, help="simulations of percentiles")
    parser.add_argument("--out", type=Path, default=Path("runs/ab_simulation.jsonl"), help="file to append to")
    parser.add_argument("--pairs", type=int, default=0, help="number of comparisons that are made again minutes later")
    parser.add_argument("--pair-budget", type=float, default=PAIR_S, help="seconds of each of these comparisons")
    given = parser.parse_args(arguments)
    console = Console("text")
    options = BenchOptions(budget_s=given.budget, threads=given.threads, batch_sizes=(given.batch,))
    with tempfile.TemporaryDirectory() as folder:
        nets = {path.stem: load_artifact(path) for path in make_nets(Path(folder))}
        model = load_artifact(given.model) if given.model else next(iter(nets.values()))
        asked = (given.batch, given.comparisons, given.load, given.minutes, given.out)
        longer = options.model_copy(update={"budget_s": given.pair_budget})
        pairs = Pairs(nets, longer, given.pairs, given.out.with_suffix(".pairs.jsonl"))
        with busy(given.load):
            pairs.first_runs(console)
        rows = record(model, options, *asked, console)
        with busy(given.load):
            pairs.second_runs(console)
    found = recorded_pairs.verdicts(rows)
    coverage = simulated_percentiles.coverages(given.simulations) if given.simulations else []
    noisy = sum(bool(row["noisy"]) for row in rows)
    console.table(f"{len(rows) - noisy} valid of {len(rows)} comparisons of a file with itself",
                  *recorded_pairs.table(found))  # fmt: skip
    console.table("99 % intervals of percentiles", *simulated_percentiles.table(coverage))
    replicated = recorded_pairs.replication(rows)
    agreed = agreements(pairs.rows)
    if agreed:
        console.table("two runs, five minutes apart", *replicated_pairs.table(agreed))
    told = [*goals(found, coverage), *replication_goal(replicated), *pair_goals(agreed)]
    for sentence, reached in told:
        console.say(f"{'not measured' if reached is None else 'reached' if reached else 'MISSED'}: {sentence}")
    machine = describe(fingerprint())
    result = {
        "machine": machine,
        "comparisons": len(rows),
        "noisy": noisy,
        "verdicts": [one.to_dict() for one in found],
        "replication": None if replicated is None else asdict(replicated),
        "pairs": [one.to_dict() for one in agreed],
        "percentiles": [one.to_dict() for one in coverage],
        "goals": [{"goal": sentence, "reached": reached} for sentence, reached in told],
    }
    console.result({}, json.dumps(result, allow_nan=False))


if __name__ == "__main__":
    main()
