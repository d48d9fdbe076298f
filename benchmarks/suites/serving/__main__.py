"""The suites of serving by their names: ``python -m retort.benchmarks.suites.serving cost --out cost.json``."""

from __future__ import annotations

import argparse
import inspect
import re
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from ....core.console import Console
from ..stopping import stoppable
from . import (
    batch_isolation,
    bit_flips,
    body_fuzz,
    cold_start,
    http_fuzz,
    latency_crosscheck,
    log_lines,
    offered_load,
    peer_servers,
    provider_faults,
    reachable_interfaces,
    request_cost,
    soak,
    version_swaps,
    worker_kills,
)
from .findings import Report

SUITES: dict[str, Callable[..., Report]] = {
    "cost": request_cost.measure,
    "latency": offered_load.measure,
    "fuzz": body_fuzz.measure,
    "fuzz-http": http_fuzz.measure,
    "isolation": batch_isolation.measure,
    "kills": worker_kills.measure,
    "swaps": version_swaps.measure,
    "bits": bit_flips.measure,
    "soak": soak.measure,
    "cold-start": cold_start.measure,
    "peers": peer_servers.measure,
    "loadgen": latency_crosscheck.measure,
    "logs": log_lines.measure,
    "providers": provider_faults.measure,
    "exposure": reachable_interfaces.measure,
}
"""What measures, by name: its arguments after the folder are options of the command line."""


@stoppable()
def main(arguments: Sequence[str] | None = None) -> int:
    """Run one suite, print its table, and write or print its JSON result; 1 if a goal was missed."""
    parser = argparse.ArgumentParser(
        prog="retort.benchmarks.suites.serving", description=(__doc__ or "").split("\n")[0]
    )
    commands = parser.add_subparsers(dest="suite", required=True)
    for name, measure in SUITES.items():
        said = (__import__(measure.__module__, fromlist=["_"]).__doc__ or "").split("\n")[0]
        command = commands.add_parser(name, help=said.replace("%", "%%"), description=said)
        told = descriptions(measure)
        command.add_argument("--out", type=Path, help="file for the JSON result; printed by default")
        command.add_argument("--work", type=Path, help="folder for models and archives; a temporary one by default")
        for key, value in defaults(measure).items():
            shown = f"{told[key]} ({value})" if value != "" else told[key]
            command.add_argument(
                f"--{key.replace('_', '-')}",
                type=type(value),
                default=value,
                metavar=type(value).__name__.upper(),
                help=shown.replace("%", "%%"),
            )
    given = vars(parser.parse_args(arguments))
    suite, out, work = given.pop("suite"), given.pop("out"), given.pop("work")
    with tempfile.TemporaryDirectory(prefix="retort-proof-") as scratch:
        folder = work or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        report = SUITES[suite](folder, **given)
    report.show(Console("text"), out)
    return 0 if report.reached else 1


def defaults(measure: Callable[..., Report]) -> dict[str, int | float | str]:
    """The options of a suite with their defaults, from its signature."""
    names = measure.__code__.co_varnames[1 : measure.__code__.co_argcount]
    return dict(zip(names, measure.__defaults__ or (), strict=True))


def descriptions(measure: Callable[..., Report]) -> dict[str, str]:
    """What the options of a suite are, from the section ``Args`` of its docstring."""
    listed = (inspect.getdoc(measure) or "").partition("Args:\n")[2].partition("\n\n")[0]
    entries = re.findall(r"^    (\w+): (.*(?:\n     .*)*)", listed, re.MULTILINE)
    return {name: " ".join(text.split()).removesuffix(".") for name, text in entries}


if __name__ == "__main__":
    raise SystemExit(main())
