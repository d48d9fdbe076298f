"""Results of Triton's perf_analyzer: its CSV with a row per load, and its profile with the time of every request."""

from __future__ import annotations

import csv
import re

from ...core.counts import counted
from .peer_result import Number, PeerRun, Summary, of_times, told
from .peer_text import Gathered, ascending, blocks, is_number, number, part_of, require, require_last_line, tree_of

TOOL = "perf_analyzer"
LOADS = ("Concurrency", "Request Rate", "Inferences/Second")
_QUANTILE = re.compile(r"p(\d+) latency")


def perf_analyzer_csv(text: str, where: str) -> tuple[str, list[PeerRun]]:
    """The file of ``perf_analyzer -f``; times are in microseconds.

    Raises:
        ArtifactError: a row is cut off, or its percentiles fall.
    """
    require_last_line(text, where, TOOL)
    made: list[PeerRun] = []
    for part in blocks(text):  # the models of an ensemble have tables of their own
        header, *rows = list(csv.reader(part))
        if "Inferences/Second" not in header:
            require(where, TOOL, bool(made), f"its first line is '{part[0][:60]}'")
            made[-1] = made[-1].model_copy(update={"texts": {**made[-1].texts, f"table {len(made)}": "\n".join(part)}})
            continue
        require(where, TOOL, bool(rows), "it has no rows")
        for row in rows:
            require(
                where, TOOL, len(row) == len(header), f"a row has {counted(row, 'column')} instead of {len(header)}"
            )
            made.append(_row(dict(zip(header, row, strict=True)), where))
    require(where, TOOL, bool(made), "it is empty")
    return "", made


def _row(row: dict[str, str], where: str) -> PeerRun:
    load = next((name for name in LOADS if name in row), "load")
    gathered = Gathered(f"{load} {row.get(load, '')}".strip())
    for name, text in row.items():
        if is_number(text):
            latency = name not in LOADS and "Util" not in name and "Power" not in name and "Memory" not in name
            gathered.add(name, number(text), "us" if latency else "1/s" if name == "Inferences/Second" else "")
        elif text:
            gathered.tell(name, text)
    found: dict[float, Number] = {}
    for name in row:
        value = gathered.value(name)
        if (quantile := _QUANTILE.fullmatch(name)) and value is not None:
            found[float(quantile.group(1))] = value
    require(where, TOOL, ascending(list(found.values())), f"the percentiles of {gathered.name} are not in order")
    speed, mean = gathered.value("Inferences/Second"), gathered.value("Avg latency")
    require(where, TOOL, speed is not None, "Inferences/Second is not a number")
    return gathered.run(
        Summary(
            mean_ms=None if mean is None else float(mean) / 1e3,
            percentiles=tuple(told(q, float(value) / 1e3, None) for q, value in sorted(found.items())),
            per_second=float(speed or 0),
        )
    )


def perf_analyzer_profile(text: str, where: str) -> tuple[str, list[PeerRun]]:
    """The file of ``--profile-export-file``; moments are in nanoseconds, a latency ends with the last response.

    The inputs and outputs of requests are only in the original file.

    Raises:
        ArtifactError: it is cut off, or a request has no response in order.
    """
    tree = tree_of(text, where, TOOL)
    experiments = part_of(tree, "experiments")
    require(where, TOOL, isinstance(experiments, list) and bool(experiments), "it has no experiments")
    made = []
    for one in experiments:
        load, requests = one.get("experiment", {}), one.get("requests")
        require(where, TOOL, isinstance(requests, list) and bool(requests), "an experiment has no requests")
        gathered = Gathered(f"{load.get('mode', 'experiment')} {load.get('value', '')}".strip())
        gathered.add("experiment", load)
        sent, ends, moments = [], [], list[list[int]]()
        for index, request in enumerate(requests):
            answers = request.get("response_timestamps")
            whole = isinstance(request.get("timestamp"), int) and isinstance(answers, list) and bool(answers)
            require(where, TOOL, whole, f"request {index} has no response")
            require(where, TOOL, ascending([request["timestamp"], *answers]), f"request {index} ends before it begins")
            sent.append(request["timestamp"])
            ends.append(answers[-1])
            moments.append(answers)
        gathered.add("timestamp", sent, "ns")
        gathered.add("response_timestamps", [moment for answers in moments for moment in answers], "ns")
        gathered.add("responses of each request", list(map(len, moments)))
        gathered.add("window_boundaries", one.get("window_boundaries", []), "ns")
        seconds = (max(ends) - min(sent)) / 1e9
        latencies = [end - begin for begin, end in zip(sent, ends, strict=True)]
        made.append(gathered.run(of_times(latencies, "ns", len(sent) / seconds if seconds else None)))
    for key in ("service_kind", "endpoint"):
        if key in tree:
            made[0] = made[0].model_copy(update={"texts": {**made[0].texts, key: str(tree[key])}})
    return str(tree.get("version", "")), made
