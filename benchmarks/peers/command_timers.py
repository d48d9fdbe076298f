"""Results of tools that time commands and snippets: hyperfine and pyperf, both in JSON."""

from __future__ import annotations

import statistics
from typing import Any

from .peer_result import PeerRun, Summary, of_times
from .peer_text import Gathered, close, part_of, require, tree_of

SECONDS = ("mean", "stddev", "median", "user", "system", "min", "max", "times")
_TOLERANCE = 1e-9


def hyperfine(text: str, where: str) -> tuple[str, list[PeerRun]]:
    """The file of ``hyperfine --export-json``.

    Raises:
        ArtifactError: it is cut off, or its statistics are not those of its times.
    """
    tool, tree = "hyperfine", tree_of(text, where, "hyperfine")
    results = part_of(tree, "results")
    require(where, tool, isinstance(results, list) and bool(results), "it has no results")
    made = []
    for one in results:
        times = part_of(one, "times")
        require(where, tool, _times(times) and isinstance(one.get("command"), str), "a result has no command or times")
        for name, value in (("mean", statistics.fmean(times)), ("min", min(times)), ("max", max(times))):
            found = one.get(name)
            require(
                where, tool, isinstance(found, int | float) and close(found, value, _TOLERANCE),
                f"the {name} of '{one['command']}' is not that of its times",
            )  # fmt: skip
        gathered = Gathered(one["command"])
        for key, value in one.items():
            gathered.add(key, value, "s" if key in SECONDS else "")
        made.append(gathered.run(of_times(times, "s", 1 / statistics.fmean(times))))
    return "", made


def pyperf(text: str, where: str) -> tuple[str, list[PeerRun]]:
    """The JSON file of pyperf; warm-ups and calibrations are kept beside the values.

    Raises:
        ArtifactError: it is cut off, or has no values.
    """
    tool, tree = "pyperf", tree_of(text, where, "pyperf")
    benchmarks = part_of(tree, "benchmarks")
    require(where, tool, isinstance(benchmarks, list) and bool(benchmarks), "it has no benchmarks")
    common = tree.get("metadata", {})
    made = []
    for index, one in enumerate(benchmarks):
        described: dict[str, Any] = {**common, **one.get("metadata", {})}
        runs = part_of(one, "runs")
        values = [value for run in runs or () for value in run.get("values", ())]
        require(where, tool, _times(values), f"benchmark {index} has no values")
        unit = str(described.get("unit", "second"))
        gathered = Gathered(str(described.get("name", f"benchmark {index}")))
        gathered.add("metadata", described)
        for number, run in enumerate(runs):
            gathered.add(f"runs.{number}.values", run.get("values", []), unit)
            gathered.add(f"runs.{number}.warmups", run.get("warmups", []), unit)
            gathered.add(f"runs.{number}.metadata", run.get("metadata", {}))
        timed = unit == "second" and min(values) > 0
        summary = of_times(values, unit, 1 / statistics.fmean(values)) if timed else Summary(n=len(values))
        made.append(gathered.run(summary))
    return str(common.get("perf_version", "")), made


def _times(values: Any) -> bool:
    return isinstance(values, list) and bool(values) and all(isinstance(one, int | float) for one in values)
