"""Random batches of good and bad requests: each answer equals the answer to the same request alone (goal G7)."""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from .bundle_runtime import Call, Reply, Runtime, open_runtime
from .findings import Finding, Report, at_least, at_most, figure
from .mutations import mutants, seeds
from .request_pool import LENGTH, npy, samples
from .served_networks import hostile_network, packed

MODELS = {"vector": (), "tokens": (), "picture": ("--set", "pixels.size=[8,8]")}
"""Models and the options that pack them: of one input, of two with a free axis, and of images."""
MOST_IN_BATCH = 16
_GOOD, _BAD = 64, 400


@dataclass(frozen=True)
class Known:
    """A request with its answer when it was alone."""

    call: Call
    reply: Reply


@dataclass
class Isolated:
    """What random batches showed.

    Attributes:
        slots: number of requests in them.
        good: those of them that are answered with 200.
        changed: good requests with another answer than alone.
        misjudged: bad requests with another answer than alone.
    """

    slots: int = 0
    good: int = 0
    changed: int = 0
    misjudged: int = 0


def known(runtime: Runtime, seed: int = 0) -> tuple[list[Known], list[Known]]:
    """Good requests of different rows, formats and values, and bad ones, each with its answer alone."""
    signature = runtime.engine.signature
    calls = [seed.call for rows in (1, 2, 3) for seed in seeds(signature, rows)]
    for number in range(_GOOD):
        parts = {name: npy(array) for name, array in samples(signature, 1 + number % 3, number).items()}
        calls.append(Call(parts, {"content-type": "multipart/form-data"}))
    good = [one for one in _alone(runtime, calls) if one.reply.status == 200]
    hostile = (call for _, call in mutants(seeds(signature), seed))
    bad = [one for one in _alone(runtime, islice(hostile, 3 * _BAD)) if 400 <= one.reply.status < 500]
    return good, bad[:_BAD]


def _alone(runtime: Runtime, calls: Iterable[Call]) -> list[Known]:
    return [Known(call, runtime.answer([call])[0]) for call in calls]


def isolate(runtime: Runtime, good: Sequence[Known], bad: Sequence[Known], slots: int, seed: int) -> Isolated:
    """Compare the answers of random batches with those of their requests alone.

    Args:
        slots: number of requests in all batches together, or a few more.
    """
    generator, found = random.Random(seed), Isolated()
    while found.slots < slots:
        share = generator.random()
        size = generator.randrange(1, MOST_IN_BATCH + 1)
        batch = [generator.choice(good if generator.random() < share else bad) for _ in range(size)]
        replies = runtime.answer([one.call for one in batch])
        found.slots += size
        for one, reply in zip(batch, replies, strict=True):
            if one.reply.status == 200:
                found.good += 1
                found.changed += reply != one.reply
            else:
                found.misjudged += _without_time(reply) != _without_time(one.reply)
    return found


def _without_time(reply: Reply) -> Reply:
    return replace(reply, body=b"") if reply.status == 200 else reply


def judged(by_model: Mapping[str, Isolated], slots: int, kinds: int) -> list[Finding]:
    """The goals of isolation.

    Args:
        slots: number of requests that are wanted.
        kinds: number of different requests.
    """
    total = sum(found.slots for found in by_model.values())
    good = sum(found.good for found in by_model.values())
    misjudged = sum(found.misjudged for found in by_model.values())
    return [
        at_least("G7", "requests in random batches", total, slots),
        *(
            at_most("G7", f"{name}: good requests with other bits than alone", found.changed, 0)
            for name, found in by_model.items()
        ),
        at_most("G7", "bad requests with another answer than alone", misjudged, 0),
        figure("share of good requests", 100 * good / total, "%"),
        figure("different requests", kinds),
    ]


def measure(folder: Path, slots: int = 1_000_000, seed: int = 0) -> Report:
    """Random batches for three models, in the runtime of their bundles.

    Args:
        folder: where models and bundles are written; those that are there are used.
        slots: number of requests in all batches together.
        seed: other requests and batches for another seed.
    """
    by_model, kinds = {}, 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, options in MODELS.items():
            out = folder / f"{name}-bundle"
            bundle = out if out.is_dir() else packed(hostile_network(name, folder), out, *options, command="bundle")
            runtime = open_runtime(bundle)
            good, bad = known(runtime, seed)
            kinds += len(good) + len(bad)
            by_model[name] = isolate(runtime, good, bad, slots // len(MODELS), seed)
    findings = judged(by_model, slots // len(MODELS) * len(MODELS), kinds)
    total = sum(found.slots for found in by_model.values())
    load = f"in process, batches of 1 to {MOST_IN_BATCH}, {len(MODELS)} models, free length {LENGTH}, seed {seed}"
    return Report("isolation", load, total, tuple(findings))
