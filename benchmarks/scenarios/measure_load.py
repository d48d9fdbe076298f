"""Measurement of the scenarios: candidates are opened, warmed up, asked in interleaved windows, and described."""

from __future__ import annotations

import datetime
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from ...core.console import Console
from ...core.data.splits import Splits
from ...core.errors import RetortError, ServingError
from ...core.options.load_options import LoadOptions
from ...core.options.option_types import Options
from ...core.session import model_faults
from ...core.system.garbage import no_collections
from ..build_result import this_command, tool
from ..machine import fingerprint
from ..timing.machine_noise import Watch
from ..timing_limits import time_limits
from .load_candidates import LoadCandidate, OpenedCandidate, described
from .load_entries import load_entry, notes_of, with_ratios
from .load_result import (
    LoadEntry,
    LoadResult,
    Measurement,
    StageSplitEntry,
    TrialEntry,
)
from .load_state import judged
from .query_loops import Served, server, stream, together
from .rate_search import PERCENTILE, RateSearch, highest_rates
from .stage_split import StageTimes, middle
from .windows import WARMUP_S, Ask, Window, interleaved, warmed_up

SPLIT_QUERIES, WARMUP_SHARE = 20, 0.25
ENDPOINT_CLIENTS = 64


@dataclass(frozen=True)
class Asked:
    """A candidate of a scenario while it is measured.

    Attributes:
        clients: queries that can be open at once.
    """

    candidate: LoadCandidate
    opened: OpenedCandidate
    clients: int

    def entry(self, windows: Sequence[Window], confidence: float, seed: int) -> LoadEntry:
        """Its measurements from its windows."""
        return load_entry(self.candidate, windows, self.opened.per_query, self.clients, confidence, seed)


@contextmanager
def opened_for(
    candidates: Sequence[LoadCandidate], threads: int, rows: int, clients: int | None = 1
) -> Iterator[dict[str, Asked]]:
    """All candidates, ready for queries of so many samples, until the context ends.

    Args:
        clients: queries that can be open at once; None for one with a model and :data:`ENDPOINT_CLIENTS` with an
            endpoint.

    Raises:
        RetortError: a candidate cannot be opened, or rejects its first query.
    """
    made: dict[str, Asked] = {}
    try:
        for one in candidates:
            opened = one.open(threads, rows)
            made[one.name] = Asked(one, opened, clients or (ENDPOINT_CLIENTS if one.endpoint else 1))
            with model_faults(one.name):  # a wrong address or shape is told before anything is measured
                next(opened.queries)()
        yield made
    finally:
        for asked in made.values():
            asked.opened.close()


def measure_load(
    candidates: Sequence[LoadCandidate], splits: Splits, options: LoadOptions, console: Console
) -> LoadResult:
    """Measure a scenario.

    Raises:
        RetortError: a candidate cannot be opened, or rejects its first query.
    """
    began = Began()
    rounds = max(1, round(options.seconds / options.length_s))
    clients = options.clients if options.at_once else 1
    with opened_for(candidates, options.threads, options.rows, clients) as asked, no_collections(True):
        streams = {name: stream_of(one) for name, one in asked.items()}
        warmup = warmed_up(streams, WARMUP_SHARE * options.seconds * len(asked), options.seed)
        searches = _searched(asked, options, console) if options.p99_ms is not None else {}
        rates = {name: options.rate or (searches[name].kept if searches else None) for name in asked}
        asks = {name: ask_of(one, options, rates[name]) for name, one in asked.items()}
        possible = {name: ask for name, ask in asks.items() if options.scenario != "server" or rates[name]}
        windows = interleaved(possible, options.length_s, rounds, options.seed, console)
        split = {name: splits_of(one) for name, one in asked.items()}
    entries = []
    for name, one in asked.items():
        entry = one.entry(windows.get(name, []), options.confidence, options.seed)
        more: dict[str, Any] = {"warmup_ms": warmup[name], "stages": split[name], "rate": rates[name]}
        more["threads"] = 0 if one.candidate.endpoint else options.threads
        more["trials"] = tuple(TrialEntry(**asdict(tried)) for tried in searches[name].tried) if searches else ()
        entries.append(entry.model_copy(update=more))
    compared = with_ratios(entries, windows, options.confidence, options.seed) if not searches else entries
    notes = [*notes_of(compared), *_scenario_notes(options, compared)]
    found = load_result(options.scenario, described(candidates), compared, splits, options, began, notes)
    return found.model_copy(update={"interrupted": windows.interrupted})


def stream_of(one: Asked) -> Ask:
    """One query after another, whatever the seed."""
    return lambda length_s, seed: stream(one.opened.queries, length_s)


def ask_of(one: Asked, options: LoadOptions, rate: float | None) -> Ask:
    """What a window of the scenario does with a candidate."""
    queries = one.opened.queries
    if options.scenario == "server":
        return lambda length_s, seed: server(queries, rate or 1.0, length_s, one.clients, seed)
    if options.scenario == "offline" and one.clients > 1:
        return lambda length_s, seed: together(queries, length_s, one.clients)
    return stream_of(one)


def _searched(asked: Mapping[str, Asked], options: LoadOptions, console: Console) -> dict[str, RateSearch]:
    """The highest rates that keep the bound; the capacity is that of as many clients as the server gets."""

    def trial(one: Asked, rate: float, length_s: float, seed: int) -> Served:
        return server(one.opened.queries, rate, length_s, one.clients, seed)

    capacities = {name: _capacity(one, 10 * WARMUP_S) for name, one in asked.items()}
    trials = {name: partial(trial, one) for name, one in asked.items()}
    return highest_rates(trials, capacities, options.p99_ms or 1.0, options.length_s, options.seed, console)


def _capacity(one: Asked, length_s: float) -> float:
    """Queries per second of a closed loop.

    Raises:
        ServingError: no query was answered.
    """
    found = stream_of(one)(length_s, 0) if one.clients == 1 else together(one.opened.queries, length_s, one.clients)
    if not found.queries:
        raise ServingError(f"{one.candidate.name} answered no query", "see the server's logs")
    return found.queries / found.seconds


def splits_of(one: Asked) -> StageSplitEntry | None:
    """The median time of each stage of a few queries; None if none of them was answered."""
    found: list[StageTimes] = []
    for number in range(SPLIT_QUERIES):
        try:
            found.append(one.opened.split(number))
        except RetortError:  # failed queries are counted in the windows
            continue
    stages = middle(found)
    return None if stages is None else StageSplitEntry(**asdict(stages))


def _scenario_notes(options: LoadOptions, entries: Sequence[LoadEntry]) -> list[str]:
    if options.scenario != "server":
        return []
    told = ["The latency counts from the moment at which a query was to be sent."]
    for entry in entries if options.p99_ms is not None else ():
        if entry.rate is None:
            told.append(f"'{entry.name}' kept a 99th percentile of {options.p99_ms:g} ms at no rate")
            continue
        (p99,) = (one.value_ms for one in entry.percentiles if one.percentile == PERCENTILE)
        if p99 is not None and p99 > (options.p99_ms or 0):
            told.append(
                f"'{entry.name}' kept {options.p99_ms:g} ms at {entry.rate:.4g} queries/s twice, but not in the "
                f"windows afterwards ({p99:.3g} ms): measure again when the machine is quiet"
            )
    return told


@dataclass
class Began:
    """When a measurement began, and what the machine did since."""

    at_s: float = field(default_factory=time.monotonic)
    watch: Watch = field(default_factory=Watch)


def load_result(
    measurement: Measurement,
    title: str,
    entries: Sequence[LoadEntry],
    splits: Splits | None,
    options: Options,
    began: Began,
    notes: Sequence[str] = (),
) -> LoadResult:
    """A result with the current time and this machine.

    Args:
        splits: the data whose test samples were used; None for a measurement without data.
    """
    pressure, steal = began.watch.read()
    told = time_limits({one.name: Path(one.where) for one in entries if one.sha256}, [one.threads for one in entries])
    found = LoadResult(
        id=uuid.uuid4().hex,
        started=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        seconds=time.monotonic() - began.at_s,
        measurement=measurement,
        title=title,
        command=this_command(),
        tool=tool(),
        env=fingerprint(),
        data={"fingerprint": splits.fingerprint(), "test_samples": len(splits.test)} if splits is not None else {},
        options=options.model_dump(mode="json"),
        candidates=tuple(entries),
        pressure_percent=pressure,
        steal_percent=steal,
        notes=(*notes, *told),
    )
    return judged(found)
