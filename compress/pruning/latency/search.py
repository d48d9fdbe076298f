"""Search for a requested latency: candidates from slow to fast are timed until one meets it."""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from .predictor import Curves, State

TOLERANCE = 0.05
"""Largest accepted deviation from the requested latency, as a share of it."""
_CLOSE, _EAGER = 0.025, 4
_AIM = 0.985
_TRIES = 10
_EXCHANGED = 40


class OutOfReachError(Exception):
    """No candidate is fast enough.

    Attributes:
        best: share of the dense time that the fastest candidate takes.
    """

    def __init__(self, best: float) -> None:
        super().__init__(best)
        self.best = best


@dataclass
class Search:
    """A search among candidates, from slow to fast, for a requested share of the dense time.

    Attributes:
        measure: times a candidate, for the first time or again, and returns its share of the dense time.
        states: candidates, each with a smaller predicted time than the one before.
        times: their predicted times, in milliseconds.
        fine: counts between two candidates that can be tried if both miss, by place of the group.
        known: measured share of the dense time, by place of the candidate.
    """

    measure: Callable[[State, bool], float]
    curves: Curves
    states: list[State]
    times: list[float]
    fine: list[list[int]]
    known: dict[int, float]

    def predict(self, place: int) -> float:
        """Share of the dense time, by linear interpolation between the two nearest measured candidates."""
        known = sorted(self.known)
        if len(known) == 1:
            first = known[0]
            return self.known[first] * self.times[place] / max(self.times[first], 1e-12)
        right = min(range(1, len(known)), key=lambda i: (known[i] < place, abs(known[i] - place)))
        one, two = known[right - 1], known[right]
        width = self.times[one] - self.times[two]
        slope = (self.known[one] - self.known[two]) / width if width > 0 else 0.0
        return self.known[two] + slope * (self.times[place] - self.times[two])

    def propose(self, asked: float, low: int = -1, high: int | None = None) -> int:
        """The candidate between two places whose predicted share is nearest to the requested one."""
        places = range(low + 1, len(self.states) if high is None else high)
        return min(places, key=lambda place: abs(self.predict(place) - _AIM * asked))

    def reach(self, asked: float) -> State:
        """Time candidates until one takes the requested share of the dense time.

        Raises:
            OutOfReachError: the fastest candidate is too slow.
        """
        for tries in range(_TRIES):
            place = self._next(asked)
            if place is None:
                break
            wanted = _CLOSE if tries < _EAGER else TOLERANCE
            if abs(self._try(place) / asked - 1) <= wanted and abs(self._confirm(place) / asked - 1) <= TOLERANCE:
                break
        best = min(self.known, key=lambda place: abs(self.known[place] / asked - 1))
        if self.known[best] > (1 + TOLERANCE) * asked:
            faster = [place for place, share in self.known.items() if share <= asked]
            if not faster:
                raise OutOfReachError(min(self.known.values()))
            best = max(faster, key=lambda place: self.known[place])
        return self.states[best]

    def _next(self, asked: float) -> int | None:
        """The place to time next, inside the bracket; None if there is nothing left to try."""
        slow = [place for place, share in self.known.items() if share > asked]
        fast = [place for place, share in self.known.items() if share <= asked]
        low, high = max(slow, default=-1), min(fast, default=None)
        if high is not None and high <= low:  # two candidates are in the wrong order because of noise
            low = max((place for place in slow if place < high), default=-1)
        end = len(self.states) if high is None else high
        if low + 1 >= end:
            if high is None or not self._refine(low, high):
                return None
            return self._next(asked)
        return self.propose(asked, low, high)

    def _refine(self, low: int, high: int) -> bool:
        """Insert other cuts between two neighbouring candidates; False if there are none.

        These are cuts that differ from one of the two in other groups, or else finer cuts of the group in which the
        two differ.
        """
        before, after = self.states[low], self.states[high]
        start, end = self.times[low], self.times[high]
        found = [(time, state) for time, state in self._neighbours(before, after) if end < time < start]
        if not found:
            group = next((place for place in before if before[place] != after[place]), -1)
            counts = [count for count in self.fine[group] if before[group] < count < after[group]] if group >= 0 else []
            width = (end - start) / (len(counts) + 1)
            found = [(start + width * (n + 1), {**before, group: count}) for n, count in enumerate(counts)]
        return self._insert(high, sorted(found, reverse=True, key=lambda item: item[0]))

    def _neighbours(self, before: State, after: State) -> Iterable[tuple[float, State]]:
        """States that differ from one of the two in one group, or that exchange a step between two groups."""
        steps = [group_cut.steps for group_cut in self.curves.group_cuts]
        found = [{**state, place: count} for state in (before, after) for place in state for count in steps[place]]
        if len(steps) <= _EXCHANGED:
            for state in (before, after):
                found += [
                    {**state, one: less, two: more}
                    for one, two in itertools.permutations(state, 2)
                    for less in steps[one][max(bisect.bisect_left(steps[one], state[one]) - 1, 0) :][:1]
                    for more in steps[two][bisect.bisect_right(steps[two], state[two]) :][:1]
                ]
        return [(self.curves.total_ms(state), state) for state in found if state not in self.states]

    def _insert(self, high: int, found: list[tuple[float, State]]) -> bool:
        """Insert states before a place, and move the known measurements accordingly."""
        self.times[high:high] = [time for time, _ in found]
        self.states[high:high] = [state for _, state in found]
        self.known = {place + (len(found) if place >= high else 0): item for place, item in self.known.items()}
        return bool(found)

    def _try(self, place: int) -> float:
        self.known[place] = self.measure(self.states[place], False)
        return self.known[place]

    def _confirm(self, place: int) -> float:
        """Time a candidate once more, because a single measurement can be disturbed by the machine."""
        self.known[place] = math.sqrt(self.known[place] * self.measure(self.states[place], True))
        return self.known[place]
