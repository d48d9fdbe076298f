"""CPU time and throughput of a served model beside those of its runtime alone, by format (goals G1, G2 and G11).

Raw and served blocks alternate, so that both meet the same load of the machine; a ratio is the median over rounds.
The CPU time of the server is that of all its processes, Java's included. The client runs on the same machine, and its
CPU time is not counted.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from ....core.session import Session
from ...scenarios.request_load import Ask, Load, closed_loop
from .bundle_runtime import Runtime, open_runtime
from .findings import Finding, Report, at_least, at_most, figure
from .request_pool import TYPES, Form, RequestPool, npy, raw_session, samples, v2_json
from .running_server import serving
from .served_networks import WIDTHS, convolutions, packed, sums

BATCH_SIZE = 8
FORMS: tuple[Form, ...] = ("npy", "json")
RATIO_HEAVY, ABOVE_LIGHT_MS, JSON_RATIO = 1.3, 0.45, 1.5
THROUGHPUT = {"light": ("G2", 0.5), "heavy": ("G1", 0.8)}
DECODE_RATIO, STANDARD_LIBRARY_RATIO = 200.0, 1.1
DECODED = (3, 224, 224)


@dataclass(frozen=True)
class Block:
    """Some requests of one format, or some runs of the session.

    Attributes:
        cpu_ms: CPU time of one request.
        rate: requests per second.
        p50_ms: median latency; 0 for runs of the session.
    """

    cpu_ms: float
    rate: float
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    failed: int = 0
    wrong: int = 0


Round = Mapping[str, Block]


def rounds(
    asks: Mapping[Form, Ask], session: Session, cpu_s: Callable[[], float], count: int, requests: int, clients: int
) -> list[Round]:
    """Alternating blocks: the session alone at the batch size of the server, then the requests of each format.

    Args:
        asks: what sends requests, by format.
        cpu_s: CPU seconds of the server so far.
        requests: number of requests of a block.
    """
    for ask in asks.values():
        closed_loop(ask, clients, requests)
    found: list[Round] = []
    for index in range(count):
        blocks = {"raw": raw_block(session, max(BATCH_SIZE, requests // 2))}
        for form in FORMS if index % 2 else FORMS[::-1]:
            before = cpu_s()
            load = closed_loop(asks[form], clients, requests)
            blocks[form] = _block(load, cpu_s() - before)
        found.append(blocks)
    return found


def raw_block(session: Session, rows: int) -> Block:
    """CPU time and rate of the session for one row, in full batches."""
    feeds = samples(session.signature, BATCH_SIZE, 0)
    session.run(feeds)
    runs = max(1, rows // BATCH_SIZE)
    begin, cpu = time.perf_counter(), time.process_time()
    for _ in range(runs):
        session.run(feeds)
    spent, wall = time.process_time() - cpu, time.perf_counter() - begin
    return Block(1000 * spent / (runs * BATCH_SIZE), runs * BATCH_SIZE / wall)


def _block(load: Load, cpu_s: float) -> Block:
    failed = len(load.outcomes) - len(load.answered)
    cpu_ms = 1000 * cpu_s / len(load.outcomes)
    return Block(cpu_ms, load.rate, load.latency_ms(50), load.latency_ms(99), failed, load.wrong)


def judged(name: str, found: Sequence[Round]) -> list[Finding]:
    """The goals of one model.

    Args:
        name: light or heavy.
    """

    def of(value: Callable[[Round], float]) -> float:
        return median(map(value, found))

    raw = of(lambda one: one["raw"].cpu_ms)
    findings = [figure(f"{name}: model alone, CPU of a batch of {BATCH_SIZE}", BATCH_SIZE * raw, "ms")]
    for form in FORMS:
        cpu_ms = median(one[form].cpu_ms for one in found)
        findings.append(figure(f"{name}: CPU of a request, {form}", cpu_ms, "ms"))
    if name == "heavy":
        ratio = of(lambda one: one["npy"].cpu_ms / one["raw"].cpu_ms)
        findings.append(at_most("12.6", "heavy: CPU of a request by npy ÷ model alone", ratio, RATIO_HEAVY, "×"))
    else:
        above = of(lambda one: one["npy"].cpu_ms - one["raw"].cpu_ms)
        findings.append(at_most("12.6", "light: CPU of a request by npy above the model", above, ABOVE_LIGHT_MS, "ms"))
        findings.append(at_most("G2", "light: CPU of server and handler, npy", above, 0.8, "ms"))
    ratio = of(lambda one: one["json"].cpu_ms / one["npy"].cpu_ms)
    findings.append(at_most("12.6", f"{name}: CPU of a request by JSON ÷ by npy", ratio, JSON_RATIO, "×"))
    goal, share = THROUGHPUT[name]
    served = of(lambda one: one["npy"].rate / one["raw"].rate)
    findings.append(at_least(goal, f"{name}: throughput by npy ÷ model alone, client beside it", served, share, "×"))
    for fault in ("failed", "wrong"):
        bad = sum(getattr(one[form], fault) for one in found for form in FORMS)
        findings.append(at_most("", f"{name}: {fault} answers", bad, 0))
    return findings


def decoding(runtime: Runtime, name: str, repeats: int) -> list[Finding]:
    """Time to decode one float tensor as npy, as JSON, and as JSON with the standard library alone (G11).

    Args:
        name: of the input.
    """
    array = np.random.default_rng(0).standard_normal((1, *DECODED)).astype(np.float32)
    bodies = {"npy": npy(array), "json": v2_json({name: array})}
    took = {form: _fastest_ms(lambda form=form: runtime.decode(bodies[form], TYPES[form]), repeats) for form in FORMS}  # type: ignore[misc]
    plain = _fastest_ms(lambda: np.array(json.loads(bodies["json"])["inputs"][0]["data"], np.float32), repeats)
    return [
        figure(f"decoding {'×'.join(map(str, DECODED))} floats as npy", took["npy"], "ms"),
        figure("decoding them as JSON", took["json"], "ms"),
        at_least("G11", "JSON ÷ npy", took["json"] / took["npy"], DECODE_RATIO, "×"),
        at_most("G11", "JSON ÷ json.loads and numpy.array", took["json"] / plain, STANDARD_LIBRARY_RATIO, "×"),
    ]


def _fastest_ms(run: Callable[[], object], repeats: int) -> float:
    found = []
    for _ in range(repeats):
        begin = time.process_time_ns()
        run()
        found.append(time.process_time_ns() - begin)
    return min(found) / 1e6


def measure(folder: Path, count: int = 7, requests: int = 2000, clients: int = 16) -> Report:
    """Both models behind a server of one worker with one thread, and the decoding of one large tensor.

    Args:
        folder: where models and archives are written.
        count: number of rounds, of which the medians count.
        requests: number of requests of each format in a round.
        clients: number of connections that each wait for their answer before they send again.
    """
    findings: list[Finding] = []
    details: dict[str, Any] = {}
    total = 0
    for name, width in WIDTHS.items():
        model = convolutions(folder / f"{name}.onnx", width)
        with serving([packed(model, folder / name)], "--workers", "1") as server:
            pool = RequestPool.of(model)
            asks = {form: pool.ask(server.url, form) for form in FORMS}
            found = rounds(asks, raw_session(model), server.cpu_s, count, requests, clients)
        details[name] = [{key: asdict(block) for key, block in one.items()} for one in found]
        findings += judged(name, found)
        total += count * len(FORMS) * requests
    large = packed(sums(folder / "large.onnx", "image", DECODED), folder / "large", command="bundle")
    findings += decoding(open_runtime(large), "image", 15)
    load = f"closed loop, {clients} clients in one process, one worker with one thread, batches of {BATCH_SIZE}"
    return Report("cost", load, total, tuple(findings), details)
