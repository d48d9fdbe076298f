"""What LiteRT's (TensorFlow Lite's) benchmark_model prints."""

from __future__ import annotations

import re

from .peer_result import PeerRun, Summary, told
from .peer_text import NUMBER, Gathered, ascending, number, require

TOOL = "benchmark_model"
TIMINGS = "Inference timings in us:"
_PREFIX = re.compile(r"^(?:INFO: |[VDIWEF] +\w+ *: )")
_COUNTED = re.compile(rf"count=(?P<count>\d+)(?P<rest>(?: \w+={NUMBER})+)")
_PAIR = re.compile(rf"(\w+)=({NUMBER})")
_TIMED = re.compile(rf"([A-Z][\w ()]*): ({NUMBER})")
_MEMORY = re.compile(rf"(?P<name>[^:]*\(MB\)): (?P<rest>(?:\w+={NUMBER} ?)+)")


def benchmark_model(text: str, where: str) -> tuple[str, list[PeerRun]]:
    """The printed text of one run; times are in microseconds.

    Raises:
        ArtifactError: it ends before the timings, or they are not in order.
    """
    gathered = Gathered("benchmark_model")
    rounds = main = 0
    for raw in text.splitlines():
        line = _PREFIX.sub("", raw)
        counted, memory = _COUNTED.search(line), _MEMORY.search(line)
        if counted:
            rounds += 1
            for name, value in _PAIR.findall(counted.group()):
                gathered.add(f"{rounds}.{name}", number(value), "" if name == "count" else "us")
        elif TIMINGS in line:
            main = rounds  # the profiler has lines of the same form after it
            for name, value in _TIMED.findall(line.partition(TIMINGS)[2]):
                gathered.add(name.strip(), number(value), "us")
        elif memory:
            for name, value in _PAIR.findall(memory["rest"]):
                gathered.add(f"{memory['name'].strip()}.{name}", number(value), "MB")
        else:
            gathered.lines([line])
    mean = gathered.value("Inference (avg)")
    require(where, TOOL, mean is not None, "it ends before the timings")
    require(where, TOOL, main > 0, "it has no line with the number of runs")
    low, high = gathered.value(f"{main}.min"), gathered.value(f"{main}.max")
    middle = gathered.value(f"{main}.median")
    require(where, TOOL, ascending([low, mean, high]), "its average is not between minimum and maximum")
    count = int(gathered.value(f"{main}.count") or 0)
    gathered.name = gathered.texts.get("Graph", gathered.name).strip("[]")
    summary = Summary(
        n=count,
        mean_ms=float(mean or 0) / 1e3,
        low_ms=None if low is None else float(low) / 1e3,
        high_ms=None if high is None else float(high) / 1e3,
        percentiles=() if middle is None else (told(50.0, float(middle) / 1e3, count),),
        per_second=1e6 / float(mean) if mean else None,
    )
    return "", [gathered.run(summary)]
