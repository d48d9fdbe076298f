"""Branches on data that a program does not need: those that only skip work, and those that only check inputs.

A program that always takes one side of ``if mask.any(): …`` is the model wherever the condition has that value. If that
side gives the model's outputs on samples where the condition has the other value too, the condition only saved work.
The side that the samples do not take by themselves is tried first, because it is the one that they cannot show.
"""

from __future__ import annotations

import dis
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import torch
from torch import Tensor

from ...core.errors import CaptureError, RetortError
from .failures import difference
from .workarounds import truth_by

Check = tuple[Any, list[Tensor]]
Run = Callable[[Any], list[Tensor]]
_TORCH = Path(torch.__file__).resolve().parent
_MOST = 64
"""How often one condition may be asked in a run before it is taken for that of a loop."""


@dataclass(frozen=True)
class Place:
    """A condition in the code of a model; a line may have several."""

    code: CodeType
    instruction: int
    line: int

    def describe(self) -> str:
        """``net.py line 12``."""
        return f"{Path(self.code.co_filename).name} line {self.line}"


@dataclass
class Guards:
    """The conditions on data in the forward of a model.

    Attributes:
        seen: the values that each condition had.
        answers: the values that they have from now on.
    """

    seen: dict[Place, set[bool]] = field(default_factory=dict)
    answers: dict[Place, bool] = field(default_factory=dict)
    _asked: dict[Place, int] = field(default_factory=dict)

    @contextmanager
    def active(self) -> Iterator[None]:
        """Answer the conditions, or note their values, during one run of the model."""
        self._asked.clear()
        with truth_by(self._truth):
            yield

    def _truth(self, value: Tensor, plain: Callable[[Tensor], bool], frame: FrameType) -> bool:
        place = Place(frame.f_code, frame.f_lasti, frame.f_lineno)
        self._asked[place] = self._asked.get(place, 0) + 1
        if place in self.answers:
            if self._asked[place] > _MOST:
                raise CaptureError(
                    f"the model repeats a step as long as its data require it, at {place.describe()}",
                    "write a fixed number of steps, and use torch.where for those that change nothing",
                )
            return self.answers[place]
        result = plain(value)
        self.seen.setdefault(place, set()).add(result)
        return result


def settle(guards: Guards, run: Run, checks: Sequence[Check]) -> tuple[str, ...]:
    """Give every condition the value with which the model computes the same on all samples, if there is one.

    Args:
        run: the outputs of the model for inputs by name.
        checks: inputs, and the outputs of the model when its conditions have their own values.

    Returns:
        Notes for the user. A condition without such a value gets none, so that its trace fails.
    """
    notes: list[str] = []
    for place, values in list(guards.seen.items()):
        own = next(iter(values))
        for value in (True, False) if len(values) > 1 else (not own, own):
            shown = checks if value != own or len(values) > 1 else _opposite(guards, place, own, run, checks[0][0])
            outcome = _with(guards, place, value, run, shown) if shown else "is not shown by any sample"
            if outcome is None:
                guards.answers[place] = value
                notes.append(
                    f"the condition at {place.describe()} is always {value} in the program, because the outputs on "
                    "samples are the same with both values"
                )
            elif isinstance(outcome, Exception) and _is_check(outcome) and len(values) == 1:
                guards.answers[place] = own
                notes.append(f"the check of values at {place.describe()} is not part of the program")
            if place in guards.answers:
                break
    return tuple(notes)


def _is_check(error: BaseException) -> bool:
    """Whether the model's own code raised an error by ``raise`` or ``assert``."""
    while error.__cause__ is not None:
        error = error.__cause__
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    if last is None or dis.opname[last.tb_frame.f_code.co_code[last.tb_lasti]] != "RAISE_VARARGS":
        return False
    code = last.tb_frame.f_code
    return not Path(code.co_filename).is_relative_to(_TORCH) or code.co_name == "_assert"


def _opposite(guards: Guards, place: Place, own: bool, run: Run, feeds: Mapping[str, Tensor]) -> list[Check]:
    """Other inputs on which a condition has the other value, with the outputs of the model."""
    found, seen = [], {key: set(values) for key, values in guards.seen.items()}
    for other in _other_inputs(feeds):
        guards.seen[place] = set()
        try:
            outputs = run(other)
        except RetortError:  # these inputs are outside of what the model takes
            continue
        if guards.seen[place] == {not own}:
            found.append((other, outputs))
    guards.seen = seen
    return found


def _other_inputs(feeds: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """The inputs with one of them, or all, replaced by extreme values of its kind."""
    for low in (True, False):
        changed = {name: _extreme(value, low) for name, value in feeds.items()}
        yield changed
        for name in feeds if len(feeds) > 1 else ():
            yield {**feeds, name: changed[name]}


def _extreme(value: Tensor, low: bool) -> Tensor:
    if value.dtype == torch.bool:
        return torch.full_like(value, not low)
    if value.is_floating_point():
        return -value.abs() if low else value.abs()
    return torch.full_like(value, int(value.min() if low else value.max()))


def _with(guards: Guards, place: Place, value: bool, run: Run, checks: Sequence[Check]) -> str | Exception | None:
    """None if the model computes the same with a fixed value of a condition; else the difference, or what it raised."""
    answers, seen = dict(guards.answers), {key: set(found) for key, found in guards.seen.items()}
    guards.answers[place] = value
    try:
        for feeds, wanted in checks:
            got = run(feeds)
            if len(got) != len(wanted):
                return "has another number of outputs"
            fault = next(filter(None, map(difference, got, wanted)), None)
            if fault is not None:
                return fault
    except Exception as error:  # a check raises what it likes
        return error
    finally:
        guards.answers, guards.seen = answers, seen
    return None
