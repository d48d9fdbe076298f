"""Latency at 60 % and refusals at 150 % of the measured capacity, with Poisson arrivals (goals G3 and G4)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...scenarios.request_load import NO_ANSWER, Ask, Load, closed_loop, open_loop
from .findings import Finding, Report, at_least, at_most, figure
from .request_cost import BATCH_SIZE, raw_block
from .request_pool import RequestPool, raw_session
from .running_server import serving
from .served_networks import WIDTHS, convolutions, packed

MODERATE, TOO_MUCH = 0.6, 1.5
REFUSED = (429, 503)
REFUSAL_MS, P99_BATCHES, P99_MS, TAIL = 50.0, 3.0, 5.0, 6.0
CLIENTS_OF_ONE_BATCH = 2
"""For capacity: clients per place in the batches of all workers."""


def capacity(ask: Ask, requests: int, workers: int) -> float:
    """Answers per second in a closed loop that keeps all workers busy with full batches."""
    clients = CLIENTS_OF_ONE_BATCH * BATCH_SIZE * workers
    closed_loop(ask, clients, requests)
    return closed_loop(ask, clients, requests).rate


def judged(moderate: Load, too_much: Load, batch_ms: float, goal_ms: float) -> list[Finding]:
    """The goals of both loads.

    Args:
        batch_ms: time of a full batch of the session alone.
        goal_ms: the goal for the 99th percentile that the server was started with.
    """
    p99, tail = moderate.latency_ms(99), moderate.latency_ms(99.9)
    bound = P99_BATCHES * batch_ms + P99_MS
    others = len(moderate.outcomes) - len(moderate.answered)
    findings = [
        figure("a full batch of the model alone", batch_ms, "ms"),
        figure("60 %: p50", moderate.latency_ms(50), "ms"),
        at_most("G3", "60 %: p99", p99, bound, "ms"),
        at_most("G3", "60 %: p99.9", tail, TAIL * batch_ms + P99_MS, "ms"),
        at_most("G3", "60 %: not answered", others, 0),
        at_most("G4", "150 %: p99 of the accepted", too_much.latency_ms(99), 2 * goal_ms, "ms"),
        figure("150 %: accepted", 100 * len(too_much.answered) / len(too_much.outcomes), "%"),
    ]
    refusals = [one for one in too_much.outcomes if one.status in REFUSED]
    status = refusals[0].status if refusals else REFUSED[-1]
    findings.append(at_least("G4", "150 %: refused", len(refusals), 1))
    findings.append(at_most("G4", "150 %: p99 of the refusals", too_much.latency_ms(99, status), REFUSAL_MS, "ms"))
    other = [one for one in too_much.outcomes if one.status not in (200, *REFUSED)]
    findings.append(at_most("G4", "150 %: neither answered nor refused", len(other), 0))
    hangs = sum(one.status == NO_ANSWER for load in (moderate, too_much) for one in load.outcomes)
    findings.append(at_most("G4", "without an answer within 60 s, or reset", hangs, 0))
    findings.append(at_most("", "wrong answers", moderate.wrong + too_much.wrong, 0))
    findings.append(figure("150 %: p99 of how late the client sent", too_much.lateness_ms(99), "ms"))
    return findings


def details_of(load: Load) -> dict[str, Any]:
    """The figures of a load for the JSON result."""
    latency = {f"p{percent}_ms": load.latency_ms(percent) for percent in (50, 90, 99, 99.9)}
    return {
        "requests": len(load.outcomes),
        "statuses": load.statuses,
        "rate": load.rate,
        "late_p99_ms": load.lateness_ms(99),
        "client_cpu_s": load.client_cpu_s,
        **latency,
    }


def measure(
    folder: Path, model: str = "heavy", seconds: int = 60, workers: int = 1, p99_ms: int = 250, clients: int = 256
) -> Report:
    """One model in a server: its capacity in a closed loop, then both loads.

    Args:
        folder: where the model and the archive are written.
        model: light or heavy.
        seconds: length of each load.
        workers: number of workers, each with one thread.
        p99_ms: goal for accepted requests, from which `retort serve` computes the length of the queue.
        clients: number of requests that can be open at once.
    """
    file = convolutions(folder / f"{model}.onnx", WIDTHS[model])
    pool, session = RequestPool.of(file), raw_session(file)
    options = ("--workers", str(workers), "--p99-ms", str(p99_ms))
    with serving([packed(file, folder / model)], *options) as server:
        ask = pool.ask(server.url)
        rate = capacity(ask, 3000, workers)
        moderate = open_loop(ask, MODERATE * rate, seconds, clients, seed=1)
        batch_ms = BATCH_SIZE * 1000 / raw_block(session, 400).rate
        too_much = open_loop(ask, TOO_MUCH * rate, seconds, clients, seed=2)
    findings = (figure("capacity", rate, "requests/s"), *judged(moderate, too_much, batch_ms, p99_ms))
    details = {"capacity": rate, "moderate": details_of(moderate), "too_much": details_of(too_much)}
    load = f"open loop, Poisson, {seconds} s each, the {model} model, {workers} worker(s) with one thread"
    return Report("latency", load, len(moderate.outcomes) + len(too_much.outcomes), findings, details)
