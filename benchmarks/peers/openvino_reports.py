"""Results of OpenVINO's benchmark_app: what it prints, and its reports in CSV and JSON."""

from __future__ import annotations

import re

from .peer_result import Number, PeerRun, Summary, told
from .peer_text import Gathered, ascending, blocks, is_number, number, require, require_last_line, tree_of

TOOL = "benchmark_app"
_PREFIX = re.compile(r"^\[ *\w+ *\]\s*")
_STEP = "Step "
_BUILD = re.compile(r"Build \.+ (\S+)")


def benchmark_app_text(text: str, where: str) -> tuple[str, list[PeerRun]]:
    """What benchmark_app prints.

    Raises:
        ArtifactError: it is cut off before the throughput, or its latencies are not in order.
    """
    gathered = Gathered("benchmark_app")
    for line in text.splitlines():
        gathered.lines([_PREFIX.sub("", line)])
    count = gathered.value("Count")
    require(where, TOOL, gathered.value("Throughput") is not None and count is not None, "its end is missing")
    values = {name: _in_ms(gathered, name) for name in ("Min", "Median", "Average", "Max")}
    require(where, TOOL, ascending([values["Min"], values["Median"], values["Max"]]), "its latencies are not in order")
    built = _BUILD.search(text)
    return built.group(1) if built else "", [gathered.run(_summary(gathered.value("Throughput"), count, values))]


def _in_ms(gathered: Gathered, name: str) -> float | None:
    found = next((one for one in gathered.figures if one.name == name), None)
    return None if found is None else float(found.value) * {"us": 1e-3, "ms": 1.0, "s": 1e3}.get(found.unit, 1.0)


def benchmark_app_csv(text: str, where: str) -> tuple[str, list[PeerRun]]:
    """The file ``benchmark_report.csv``; latencies are in milliseconds.

    Raises:
        ArtifactError: it has no results, or a line is cut off.
    """
    require_last_line(text, where, TOOL)
    gathered = Gathered("benchmark_app")
    for title, *lines in blocks(text):
        for line in lines:
            name, separator, value = line.partition(";")
            require(where, TOOL, bool(separator), f"'{line[:60]}' has no value")
            _add(gathered, title, name, value.rstrip(";"))
    return "", [_report(gathered, where, "Execution results")]


def benchmark_app_json(text: str, where: str) -> tuple[str, list[PeerRun]]:
    """The file ``benchmark_report.json``; latencies are in milliseconds.

    Raises:
        ArtifactError: it is cut off, or has no results.
    """
    tree, gathered = tree_of(text, where, TOOL), Gathered("benchmark_app")
    for title, part in tree.items() if isinstance(tree, dict) else ():
        for name, value in part.items() if isinstance(part, dict) else {title: part}.items():
            _add(gathered, title, str(name), value if isinstance(value, str) else str(value))
    return "", [_report(gathered, where, "execution_results")]


def _add(gathered: Gathered, title: str, name: str, value: str) -> None:
    if is_number(value):
        gathered.add(f"{title}.{name}", number(value), "ms" if name.endswith("latency") else "")
    else:
        gathered.tell(f"{title}.{name}", value)


def _report(gathered: Gathered, where: str, title: str) -> PeerRun:
    def found(name: str) -> Number | None:
        return gathered.value(f"{title}.{name}")

    speed, count = found("throughput"), found("total number of iterations")
    require(where, TOOL, speed is not None and count is not None, "it has no results")
    values = {"Min": found("min latency"), "Median": found("latency (ms)"), "Max": found("max latency")}
    require(where, TOOL, ascending(list(values.values())), "its latencies are not in order")
    latencies = {name: None if value is None else float(value) for name, value in values.items()}
    mean = found("avg latency")
    gathered.name = gathered.texts.get("Configuration setup.topology", gathered.name)
    return gathered.run(_summary(speed, count, {**latencies, "Average": None if mean is None else float(mean)}))


def _summary(speed: Number | None, count: Number | None, values: dict[str, float | None]) -> Summary:
    median, total = values["Median"], None if count is None else int(count)
    return Summary(
        n=total,
        mean_ms=values["Average"],
        low_ms=values["Min"],
        high_ms=values["Max"],
        percentiles=() if median is None else (told(50.0, median, total),),
        per_second=None if speed is None else float(speed),
    )
