"""One cold start: a new process that imports the runtime, opens a model and calls it until its times are steady.

``python -m retort.benchmarks.scenarios.cold_process JSON``; it prints one line of JSON. The moment at which the process
was started is told by the process that starts it, on the monotonic clock, which is the same in all processes.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from ...core.errors import RetortError
from ...core.session import BACKENDS, PROVIDERS, SessionOptions, backend_of, open_session

MODULES = {"ort": "onnxruntime", "eager": "torch", "trt": "tensorrt", "openvino": "openvino"}
"""The module of each backend's runtime."""
ALIKE, AGREEMENT = 5, 0.10
"""So many calls in a row whose median is within this share of the median of the last half are steady."""


@dataclass(frozen=True)
class ColdStart:
    """One start, in milliseconds.

    Attributes:
        import_ms: from the start of the process until the runtime is imported.
        load_ms: opening the model.
        first_ms: the first call.
        steady_ms: from the start of the process until the first of the calls that are steady has ended.
        calls_ms: every call.
        peak_bytes: largest resident memory of the process.
    """

    import_ms: float
    load_ms: float
    first_ms: float
    steady_ms: float
    calls_ms: tuple[float, ...]
    peak_bytes: int


def cold_start(model: Path, provider: str, threads: int, batch: int, calls: int, began_ns: int) -> ColdStart:
    """The start of this process.

    Args:
        provider: the user's name of the provider of an ONNX file.
        batch: rows per call; inputs are zeros.
        calls: number of calls.
        began_ns: when the process was started, on the monotonic clock.

    Raises:
        ArtifactError: the file is damaged.
        MachineError: the runtime or the provider is missing.
    """
    providers = PROVIDERS[provider]
    backend = BACKENDS.get(model.suffix, "ort")
    name = MODULES[backend_of(providers) if backend == "ort" else backend]
    with suppress(ImportError):  # the session tells it with its remedy
        __import__(name)
    imported = time.monotonic_ns()
    session = open_session(model, SessionOptions(threads=threads, providers=providers))
    loaded = time.monotonic_ns()
    from ..footprint import peak_bytes, zero_feeds

    feeds = zero_feeds(session.signature, session.signature.fixed_batch or batch)
    ready, taken, ended = time.monotonic_ns(), [], []
    for _ in range(calls):
        before = time.perf_counter_ns()
        session.run(feeds)
        taken.append((time.perf_counter_ns() - before) / 1e6)
        ended.append(time.monotonic_ns())
    apart = (ready - loaded) / 1e6  # making the feeds is not part of a start
    steady = (ended[steady_at(taken)] - began_ns) / 1e6 - apart
    return ColdStart(
        (imported - began_ns) / 1e6, (loaded - imported) / 1e6, taken[0], steady, tuple(taken), peak_bytes()
    )


def steady_at(times: Sequence[float]) -> int:
    """The first call from which on a few calls are as fast as those of the last half."""
    goal = median(times[len(times) // 2 :]) * (1 + AGREEMENT)
    for index in range(len(times) - ALIKE):
        if times[index] <= goal and median(times[index : index + ALIKE]) <= goal:
            return index
    return len(times) - 1


def main(arguments: list[str]) -> int:
    """Start, and print what it took or what failed."""
    given: dict[str, Any] = json.loads(arguments[0])
    try:
        found: dict[str, Any] = asdict(cold_start(**{**given, "model": Path(given["model"])}))
    except RetortError as error:
        found = {"error": {"code": type(error).__name__, "message": error.message, "remedy": error.remedy}}
    sys.stdout.write(json.dumps(found) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
