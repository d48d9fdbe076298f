"""The figures of a measurement under load computed again from what it keeps: latencies, windows and starts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ...core.errors import RetortError
from ..scenarios.load_entries import window_figures, with_ratios
from ..scenarios.load_result import ColdEntry, LoadEntry, LoadResult, WindowEntry
from ..scenarios.load_state import state_of
from ..scenarios.query_loops import Served
from ..scenarios.sustain import by_last_minute
from ..scenarios.sweep import pareto_marked
from ..scenarios.windows import Window
from ..spreads import Spread
from ..timing.statistics import median_interval
from .recomputed import Recomputed, equal, leaves, shown

CLOSE = 1e-6
"""Relative difference of two figures that are the same."""
STEPS = ("import_ms", "load_ms", "first_ms", "steady_ms")


class LoadRecomputation(Recomputed):
    """The figures of a measurement under load, computed again from its latencies, windows and starts."""

    def __init__(self, result: LoadResult) -> None:
        super().__init__()
        self._confidence = float(result.options.get("confidence", 0.95))
        self._seed = int(result.options.get("seed", 0))
        windows: dict[str, list[Window]] = {}
        for index, entry in enumerate(result.candidates):
            where = f"candidates.{index}"
            if entry.starts:
                self._starts(where, entry)
            elif entry.raw is not None:
                self._from_raw(where, entry, windows)
        state = state_of(result)
        self._doubts = {"doubts": state.reasons if result.status is not None else ()}
        if result.status is not None:
            self._same("status", result.status, state.status)
            self._same("reasons", result.reasons, state.reasons)
        if result.measurement == "sweep":
            self._front(result)
        elif len(windows) == len(result.candidates):
            self._compared(result, windows)

    def _from_raw(self, where: str, entry: LoadEntry, windows: dict[str, list[Window]]) -> None:
        """The figures of one candidate; its windows are kept for the comparison."""
        try:
            mine = rebuilt(entry)
        except RetortError as error:
            self.faults.append(f"{where}.raw: {error.message}")
            return
        windows[entry.name] = mine
        again = window_figures([window.served for window in mine], entry.per_query, self._confidence, self._seed)
        for key, value in again.items():
            self._same(f"{where}.{key}", getattr(entry, key), value)
        for place, (said, found) in enumerate(zip(entry.windows, mine, strict=True)):
            median = found.served.median_ms if found.served.queries else None
            self._same(f"{where}.windows.{place}.median_ms", said.median_ms, median)
        self._same(f"{where}.failed", entry.failed, sum(window.failed for window in entry.windows))

    def _compared(self, result: LoadResult, windows: Mapping[str, list[Window]]) -> None:
        """Ratios to the first candidate, and the ranking of the last minute."""
        if result.measurement == "sustain":
            ranked, _ = by_last_minute(result.candidates, dict(windows))
            for index, (said, found) in enumerate(zip(result.candidates, ranked, strict=True)):
                self._same(f"candidates.{index}.name", said.name, found.name)
                self._same(f"candidates.{index}.last_minute_ms", said.last_minute_ms, found.last_minute_ms)
                self._same(f"candidates.{index}.first_minute_ms", said.first_minute_ms, found.first_minute_ms)
        first = [one for one in result.candidates if one.ratio is None]
        if len(first) != 1:
            return
        order = [first[0], *(one for one in result.candidates if one is not first[0])]
        for entry in with_ratios(order, windows, self._confidence, self._seed)[1:]:
            index = next(at for at, one in enumerate(result.candidates) if one.name == entry.name)
            again = None if entry.ratio is None else entry.ratio.model_copy(update=self._doubts)
            self._same(f"candidates.{index}.ratio", result.candidates[index].ratio, again)

    def _front(self, result: LoadResult) -> None:
        self.notes.append("a sweep keeps no single times, so its medians are believed")
        for index, (said, found) in enumerate(zip(result.candidates, pareto_marked(result.candidates), strict=True)):
            self._same(f"candidates.{index}.pareto", said.pareto, found.pareto)

    def _starts(self, where: str, entry: LoadEntry) -> None:
        """The four numbers of each state of the page cache."""
        for place, cold in enumerate(entry.cold):
            for step in STEPS:
                times = np.array([getattr(one, step) for one in entry.starts if one.page_cache == cold.page_cache])
                if len(times):
                    found = Spread.of(median_interval(times, self._confidence))
                    self._same(f"{where}.cold.{place}.{step}", _step(cold, step), found)

    def _same(self, where: str, said: Any, found: Any) -> None:
        for path, one, other in leaves(where, _plain(said), _plain(found)):
            self.figures += 1
            if not equal(one, other, CLOSE, 1e-9):
                self.faults.append(f"{path} says {shown(one)}; what the result keeps gives {shown(other)}")


def _step(cold: ColdEntry, step: str) -> Spread:
    found: Spread = getattr(cold, step)
    return found


def rebuilt(entry: LoadEntry) -> list[Window]:
    """The windows of a candidate with their latencies.

    Raises:
        ArtifactError: the stored times are damaged.
    """
    times = entry.raw.times_ns() if entry.raw is not None else np.zeros(0)
    ends = np.cumsum([window.queries for window in entry.windows]).astype(int)
    parts = np.split(times, ends[:-1]) if len(ends) else []
    return [_window(window, part) for window, part in zip(entry.windows, parts, strict=True)]


def _window(entry: WindowEntry, times: Any) -> Window:
    return Window(entry.round, entry.place, entry.began_s, Served(times, entry.failed, entry.seconds, np.zeros(0)))


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    return value.model_dump() if hasattr(value, "model_dump") else value
