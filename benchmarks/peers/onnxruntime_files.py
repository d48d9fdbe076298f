"""Results of ONNX Runtime's own tools: ``onnxruntime_perf_test`` (text and CSV), and the profile of a session."""

from __future__ import annotations

import re
from collections import defaultdict

from .peer_result import PeerRun, Summary, of_times, told
from .peer_text import Gathered, ascending, blocks, require, require_last_line, tree_of

TEST, PROFILE = "onnxruntime_perf_test", "ONNX Runtime's profiler"
QUANTILES = {50.0: "P50 Latency", 90.0: "P90 Latency", 95.0: "P95 Latency", 99.0: "P99 Latency", 99.9: "P999 Latency"}
ROW = re.compile(r"(?P<model>.*),(?P<time>[-+.\deE]+),(?P<memory>\d+),(?P<cpu>\d+),(?P<run>\d+)")


def perf_test_text(text: str, where: str) -> tuple[str, list[PeerRun]]:
    """What ``onnxruntime_perf_test -s`` prints.

    Raises:
        ArtifactError: it is cut off, or its percentiles fall.
    """
    require_last_line(text, where, TEST)
    gathered = Gathered("onnxruntime_perf_test")
    gathered.lines(text.splitlines())
    count, total = gathered.value("Total inference requests"), gathered.value("Total inference time cost")
    require(where, TEST, count is not None and total is not None, "it has no total time or number of requests")
    ends = [gathered.value("Min Latency"), *(gathered.value(name) for name in QUANTILES.values())]
    require(where, TEST, ascending([*ends, gathered.value("Max Latency")]), "its percentiles are not in order")
    require(where, TEST, ends[1] is None or ends[-1] is not None, "its percentiles end early")
    known = {q: value for q, name in QUANTILES.items() if (value := gathered.value(name)) is not None}
    speed, low, high = (gathered.value(n) for n in ("Number of inferences per second", "Min Latency", "Max Latency"))
    summary = Summary(
        n=int(count or 0),
        mean_ms=1e3 * float(total or 0) / int(count or 1),
        low_ms=None if low is None else 1e3 * float(low),
        high_ms=None if high is None else 1e3 * float(high),
        percentiles=tuple(told(q, 1e3 * float(value), int(count or 0)) for q, value in known.items()),
        per_second=None if speed is None else float(speed),
    )
    return "", [gathered.run(summary)]


def perf_test_rows(text: str, where: str) -> tuple[str, list[PeerRun]]:
    """The result file of ``onnxruntime_perf_test``: a row per run, and percentiles after an empty line.

    Raises:
        ArtifactError: a row is cut off, or a run is missing.
    """
    require_last_line(text, where, TEST)
    rows, *rest = list(blocks(text)) or [[]]
    found = [ROW.fullmatch(row) for row in rows]
    for number, one in enumerate(found, 1):
        require(where, TEST, one is not None, f"line {number} is no row of five values")
    whole = [one for one in found if one is not None]
    numbers = [int(one["run"]) for one in whole]
    starts = [index for index, one in enumerate(numbers) if one == 0]
    require(where, TEST, bool(starts) and starts[0] == 0, "its first run is missing")
    made = []
    for begin, end in zip(starts, [*starts[1:], len(whole)], strict=True):  # the tool appends to an existing file
        part = whole[begin:end]
        require(where, TEST, numbers[begin:end] == list(range(len(part))), "a run is missing")
        gathered, times = Gathered(part[0]["model"] or "model"), [float(one["time"]) for one in part]
        gathered.add("time", times, "s")
        gathered.add("run", [int(one["run"]) for one in part])
        gathered.add("peak working set size", int(part[-1]["memory"]), "bytes")
        gathered.add("average CPU usage", int(part[-1]["cpu"]), "%")
        if end == len(whole):
            for block in rest:
                gathered.lines(block)
        made.append(gathered.run(of_times(times, "s", len(times) / sum(times) if sum(times) else None)))
    return "", made


def session_profile(text: str, where: str) -> tuple[str, list[PeerRun]]:
    """The profile that a session writes: the runs of the model, and the time of each node in each run.

    Raises:
        ArtifactError: it is cut off, or has no run of the model.
    """
    events = tree_of(text, where, PROFILE)
    require(where, PROFILE, isinstance(events, list), "it is no list of events")
    gathered, durations = Gathered("session"), defaultdict[str, list[int]](list)
    moments = defaultdict[str, list[int]](list)
    for index, event in enumerate(events):
        whole = isinstance(event, dict) and {"cat", "name", "dur", "ts"} <= set(event)
        require(where, PROFILE, whole, f"event {index} has no name or duration")
        key = f"{event['cat']}.{event['name']}"
        durations[key].append(event["dur"])
        moments[key].append(event["ts"])
        if event.get("args"):
            gathered.add(f"{key} ({len(durations[key])})", event["args"])
    runs = durations.get("Session.model_run", [])
    require(where, PROFILE, bool(runs), "it has no run of the model")
    for key, values in durations.items():
        gathered.add(f"{key}.dur", values, "us")
        gathered.add(f"{key}.ts", moments[key], "us")
    ids = {name: event[name] for event in events[:1] for name in ("pid", "tid") if name in event}
    gathered.add("", ids)
    return "", [gathered.run(of_times(runs, "us", 1e6 * len(runs) / sum(runs) if sum(runs) else None))]
