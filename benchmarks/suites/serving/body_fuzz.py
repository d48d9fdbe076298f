"""Hostile requests to the runtime in this process, in batches that also have a good request (goals G6 and G7).

Each request gets one answer below 500, the good request of a batch its usual bits, and the memory does not grow.
Batches are counted from the seed, so that several processes, or a later run, go on elsewhere with ``--seed``.
"""

from __future__ import annotations

import json
import random
import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import psutil

from ....core.console import Console
from .bundle_runtime import Call, Reply, Runtime, open_runtime
from .findings import Finding, Report, at_most, figure
from .mutations import Seed, mutants, seeds
from .served_networks import HOSTILE, hostile_network, packed

MOST_IN_BATCH = 8
GROWTH_MB, DEAREST_MS = 20.0, 20.0
_KEPT = 20


@dataclass
class Fuzzed:
    """What hostile requests found.

    Attributes:
        statuses: number of hostile requests by status.
        faults: those that broke a rule, with what they sent: the first of them.
        spoiled: good requests whose answer a batch changed.
        dearest_ms: most CPU time of a batch, for each of its requests.
    """

    statuses: Counter[int] = field(default_factory=Counter)
    forms: Counter[str] = field(default_factory=Counter)
    faults: list[dict[str, Any]] = field(default_factory=list)
    faulty: int = 0
    good: int = 0
    spoiled: int = 0
    dearest_ms: float = 0.0
    dearest_form: str = ""

    def note(self, form: str, call: Call, why: str) -> None:
        """Keep a broken rule and the request."""
        self.faulty += 1
        if len(self.faults) < _KEPT:
            sent = {name: str(value)[:2000] for name, value in call.parts.items()}
            self.faults.append({"why": why[:500], "form": form, "headers": dict(call.headers), "parts": sent})


def fuzz(runtime: Runtime, chosen: Sequence[Seed], count: int, seed: int, found: Fuzzed) -> Fuzzed:
    """Send so many hostile requests in batches of different sizes, each with one good request at a random place."""
    generator, hostile = random.Random(seed + 1), mutants(chosen, seed)
    good = chosen[0].call
    (usual,) = runtime.answer([good])
    left = count
    while left:
        batch = list(islice(hostile, min(left, generator.randrange(1, MOST_IN_BATCH))))
        left -= len(batch)
        place = generator.randrange(len(batch) + 1)
        calls = [call for _, call in batch]
        calls.insert(place, good)
        begin = time.process_time()
        try:
            replies = runtime.answer(calls)
        except Exception as error:  # whatever it is, it would end a worker's batch
            found.note(batch[0][0], batch[0][1], f"raised {type(error).__name__}: {error}")
            continue
        _time(found, 1000 * (time.process_time() - begin) / len(batch), batch)
        found.good += 1
        found.spoiled += replies.pop(place) != usual
        for (form, call), reply in zip(batch, replies, strict=True):
            found.statuses[reply.status] += 1
            found.forms[form] += 1
            if why := broken(reply):
                found.note(form, call, why)
    return found


def _time(found: Fuzzed, spent_ms: float, batch: list[tuple[str, Call]]) -> None:
    if spent_ms > found.dearest_ms:
        found.dearest_ms, found.dearest_form = spent_ms, ", ".join(sorted({form for form, _ in batch}))


def broken(reply: Reply) -> str:
    """The rule that an answer to a hostile request breaks; empty if none."""
    if reply.status >= 500 and reply.status != 501:
        return f"status {reply.status}: {reply.body[:200]!r}"
    if reply.status < 400:
        return ""
    try:
        return "" if json.loads(reply.body)["message"] else "a refusal without a message"
    except (ValueError, KeyError, TypeError):
        return f"a refusal that is no JSON: {reply.body[:200]!r}"


def judged(found: Fuzzed, growth_mb: float) -> list[Finding]:
    """The goals of hostile requests in process."""
    refused = sum(number for status, number in found.statuses.items() if 400 <= status < 500)
    total = max(1, sum(found.statuses.values()))
    return [
        at_most("G6", "answers of 500 and above, exceptions, refusals without a message", found.faulty, 0),
        at_most("G6", "growth of resident memory after the first tenth", growth_mb, GROWTH_MB, "MB"),
        at_most("G7", "good requests whose bits a batch changed", found.spoiled, 0),
        figure("good requests compared", found.good, goal="G7"),
        figure("refused with 4xx", 100 * refused / total, "%"),
        figure(f"dearest batch, for each request ({found.dearest_form})", found.dearest_ms, "ms"),
    ]


def over_models(
    runtimes: Sequence[tuple[Runtime, Sequence[Seed]]], requests: int, seed: int, advance: Callable[[], None]
) -> tuple[Fuzzed, float]:
    """Hostile requests to several models in turns.

    Returns:
        What was found, and the growth of resident memory in megabytes after the first tenth.
    """
    found, process, before = Fuzzed(), psutil.Process(), 0.0
    block = max(1, min(1000, requests // 20))
    blocks = requests // block
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for index in range(blocks):
            runtime, chosen = runtimes[index % len(runtimes)]
            fuzz(runtime, chosen, block, 1_000_003 * seed + index, found)
            advance()
            if index <= blocks // 10:
                before = process.memory_info().rss / 1e6
    return found, process.memory_info().rss / 1e6 - before


def measure(folder: Path, requests: int = 1_000_000, seed: int = 0) -> Report:
    """Hostile requests to a model of every kind, in their bundles' own runtime.

    Args:
        folder: where models and bundles are written; those that are there are used.
        requests: number of hostile requests, of all models together.
        seed: other requests for another seed.
    """
    runtimes = []
    for kind, options in HOSTILE.items():
        out = folder / f"{kind}-bundle"
        bundle = out if out.is_dir() else packed(hostile_network(kind, folder), out, *options, command="bundle")
        runtime = open_runtime(bundle)
        runtimes.append((runtime, seeds(runtime.engine.signature)))
    with Console("text").progress("hostile requests", requests // max(1, min(1000, requests // 20))) as bar:
        found, growth_mb = over_models(runtimes, requests, seed, lambda: bar.advance())
    details = {"statuses": dict(found.statuses), "forms": dict(found.forms), "faults": found.faults, "seed": seed}
    load = f"in process, {len(HOSTILE)} models, batches of up to {MOST_IN_BATCH} with a good request, seed {seed}"
    return Report("fuzz", load, sum(found.statuses.values()), tuple(judged(found, growth_mb)), details)
