"""Candidates of a timing: calls, sessions on real samples, and models whose sessions are opened several times."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping

import numpy as np

from ...core.options.stage_options import BenchOptions
from ...core.session import Session
from ...core.tensors import BATCH, Array, Feeds
from ..edge.runner.slots import Call
from .clocks import Clocks, clocks_for

Opener = Callable[[], Session]
"""Opens a model; several sessions show how much the times of one file differ between sessions."""
Floor = Callable[[float], float]
"""The largest difference between a file and itself in a comparison of so many seconds, such as 0.012."""
Candidate = Call | tuple[Session | Opener, Feeds]


class Bench:
    """The candidates as calls; models are opened again when :meth:`open` is called again.

    They are opened in another random order each time: what is opened first gets the same memory again after it was
    closed, and of two sessions of one file in a process, one was 0.3 % faster for minutes
    (docs/benchmarks/ab_simulation.md).
    """

    def __init__(self, candidates: Mapping[str, Candidate], batch: int, seed: int = 0) -> None:
        self.candidates, self.batch, self.order = candidates, batch, random.Random(seed)
        self.openers = [name for name, item in candidates.items() if isinstance(item, tuple) and callable(item[0])]
        self.opened: list[Session] = []
        self.ready: dict[str, Call] = {}
        self.opening_s = 0.0

    def open(self) -> dict[str, Call]:
        """All calls by name; sessions that were opened before are closed first."""
        if self.ready:
            calls, self.ready = self.ready, {}
            return calls
        self.close()
        names = list(self.candidates)
        self.order.shuffle(names)
        made = {name: self._call(self.candidates[name]) for name in names}
        return {name: made[name] for name in self.candidates}

    def close(self) -> None:
        """Close the sessions that were opened here."""
        for session in self.opened:
            session.close()
        self.opened = []

    def clocks(self, options: BenchOptions) -> Clocks:
        """The clocks that fit the candidates."""
        before = time.perf_counter()
        self.ready = calls = self.open()
        self.opening_s = time.perf_counter() - before
        given = [item[0] for item in self.candidates.values() if isinstance(item, tuple) and not callable(item[0])]
        return clocks_for(options.threads, options.provider, [*given, *self.opened], calls.values())

    def _call(self, candidate: Candidate) -> Call:
        if not isinstance(candidate, tuple):
            return candidate
        session, samples = candidate
        if callable(session):
            session = session()
            self.opened.append(session)
        return callable_of((session, samples), self.batch)


def repeat_rows(samples: Feeds, session: Session, batch: int) -> dict[str, Array]:
    """Real samples, repeated or truncated to ``batch`` rows; inputs without a batch axis are not changed.

    A model that was made for a single batch size has its rows on axis 0.

    Raises:
        InputError: the samples do not fit the session's signature.
    """
    signature = session.signature
    axes = {spec.name: spec.shape.index(BATCH) for spec in signature.inputs if BATCH in spec.shape}
    if signature.fixed_batch == batch:
        axes = {spec.name: 0 for spec in signature.inputs if spec.shape and spec.shape[0] == batch}
    made = {name: _repeated(np.asarray(array), axes.get(name), batch) for name, array in samples.items()}
    return signature.validate(made)


def _repeated(array: Array, axis: int | None, batch: int) -> Array:
    return array if axis is None else np.take(array, np.arange(batch) % array.shape[axis], axis)


def callable_of(candidate: tuple[Session, Feeds], batch: int) -> Call:
    """The timed call: a session runs real samples that are repeated to ``batch`` rows."""
    session, samples = candidate
    feeds = repeat_rows(samples, session, batch)
    run: Callable[[Feeds], object] = getattr(session, "run_unchecked", session.run)
    return lambda: run(feeds)
