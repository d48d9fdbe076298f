"""Comparison of a program and its file on inputs that samples rarely contain: silence, constants, extreme values.

Samples rarely contain inputs that lead to a logarithm of zero, a division by a sum of zero, or a softmax of huge
values, but users' data sometimes do. On such inputs, an output may differ by as much as the program's own output
changes when its inputs are disturbed by rounding: for ties (the maximum of equal values), runtimes need not agree.
Integers cannot be disturbed, so the results of all operators are where no input is a floating-point number: a variance
of equal words that is computed as E[x²] − E[x]² consists of rounding errors. Whether such a value is zero, and what is
divided by it NaN, depends on the order of a sum: NaN on one side alone is no fault where rounding decides the number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ...core.errors import InputError, VerificationError
from ...core.facts.export_facts import HardInputs
from ...core.faults import first_line, raise_if_defect
from ...core.metrics.relative_error import differences, largest_magnitude
from ...core.session import Session
from ...core.tensors import Feeds

Numbers = NDArray[Any]


@dataclass(frozen=True)
class Allowed:
    """What is accepted of one output.

    Attributes:
        error: largest difference, in the output's own units.
        undefined: places where any value is accepted; None if there is none.
    """

    error: float
    undefined: Numbers | None = None


@runtime_checkable
class Disturbs(Protocol):
    """A session that can compute as other runtimes may: with other rounding errors and orders of equal values."""

    def run_rounded(self, feeds: Feeds, size: float, seed: int) -> dict[str, Numbers] | None:
        """The outputs with a random relative error of every operator; None if it cannot be done."""
        ...

    def run_with_ties_broken(self, feeds: Feeds, seed: int) -> dict[str, Numbers] | None:
        """The outputs; None if the program orders no values."""
        ...


Accepted = Callable[[dict[str, Numbers], dict[str, Numbers]], dict[str, Allowed]]
FLOATS: dict[str, Callable[[Numbers], Numbers]] = {
    "zeros": np.zeros_like,
    "ones": np.ones_like,
    "one constant": lambda value: np.full_like(value, value.mean()),
    "the samples negated": np.negative,
    "the samples times 1e-6": lambda value: value * np.asarray(1e-6, value.dtype),
    "denormal numbers": lambda value: np.full_like(value, 1e-40),
    "the samples times 1000": lambda value: value * np.asarray(1e3, value.dtype),
}
INTEGERS: dict[str, Callable[[Numbers], Numbers]] = {
    "zeros": lambda value: np.full_like(value, _low(value)),
    "ones": lambda value: np.full_like(value, _high(value)),
    "one constant": lambda value: np.full_like(value, value.flat[0]),
    "the first word alone": lambda value: _first_alone(value, _low(value), _high(value)),
    "all but the first word masked": lambda value: _first_alone(value, _high(value), _low(value)),
}
"""Integers are taken from the samples, because the valid range of a vocabulary or a category is unknown.

Masks (truth values, and integers that are all 0 or 1) take both values: everything masked, nothing, all but one word.
"""
WORDS = ("the first word alone", "all but the first word masked")
"""The kinds that change integers and masks only, in both meanings that a mask may have."""
IN_RANGE = ("zeros", "ones", "one constant", "the samples negated", *WORDS)
"""The kinds whose values half precision can represent."""
_AXES = 2  # of rows of words
DISTURBED, TRIES, OWN, LARGEST = 1e-6, 3, 3.0, 1e9
"""Relative size of a rounding disturbance, number of tries, and the accepted multiple of the program's own change."""
UNSTEADY = 0.01
"""A value consists of rounding errors if those of the operators change it by more than this share of the largest."""


def check_hard(
    program: Session, candidate: Session, feeds: Feeds, accepted: Accepted, half: bool = False
) -> list[HardInputs]:
    """Compare a program and its file on inputs that are hard to compute.

    Args:
        program: the reference.
        candidate: the file.
        feeds: a few real rows, which give shapes, types and magnitudes.
        accepted: what is accepted of each output, of given inputs and outputs.
        half: the file computes in half precision, which cannot represent the extremes.

    Returns:
        One entry per kind of inputs; none for a kind on which the program itself does not run.

    Raises:
        VerificationError: an output differs by more than is accepted, and by more than the program's own output
            changes with rounding; or it is NaN or infinite on one side alone.
    """
    found = []
    for inputs, made in hard_feeds(feeds, half):
        expected = _outputs(program, made)
        if expected is None:
            continue
        actual = run_file(candidate, made, f"on {inputs}")
        allowed, worst = accepted(made, expected), HardInputs(inputs=inputs, output="", share=0.0)
        count = sum(_undefined(value, allowed[name].undefined) for name, value in expected.items())
        for name, value in expected.items():
            bound, given = allowed[name].error, _defined(value, actual[name], allowed[name].undefined)
            error = error_of(value, given)
            if math.isinf(error) and (decided := _decided_by_rounding(program, made, name, value, given)) is not None:
                count, given = count + int(decided.sum()), np.where(decided, value, given)
                error = error_of(value, given)
            if error > bound:
                change = _own_change(program, made, feeds, name, value)
                given = np.where(np.isinf(change), value, given) if change.shape == given.shape else given
                error = error_of(value, given)
                if error > bound and error > OWN * largest_magnitude(change[np.isfinite(change)]):
                    raise _refused(inputs, name, value, given)
            worst = max(
                worst,
                HardInputs(inputs=inputs, output=name, share=min(error / max(bound, 1e-30), LARGEST)),
                key=lambda item: item.share,
            )
        found.append(worst.model_copy(update={"undefined": count}))
    return found


def _undefined(value: Numbers, places: Numbers | None) -> int:
    """The number of places where the program gives NaN."""
    if places is None:
        places = np.isnan(value) if value.dtype.kind == "f" else np.zeros(0, bool)
    return int(np.count_nonzero(places))


def _defined(expected: Numbers, actual: Numbers, undefined: Numbers | None) -> Numbers:
    """The file's output, with the program's own values where any value is accepted."""
    if undefined is None or expected.shape != actual.shape:
        return actual
    return np.where(undefined, expected, actual)


def _outputs(program: Session, feeds: Feeds) -> dict[str, Numbers] | None:
    """The program's outputs; None where the model itself does not run on such inputs."""
    try:
        return program.run(feeds)
    except (RuntimeError, IndexError, ValueError, ArithmeticError) as error:
        raise_if_defect(error)
        return None


def run_file(candidate: Session, feeds: Feeds, where: str) -> dict[str, Numbers]:
    """The outputs of a file.

    Args:
        where: words for the message, such as ``at batch size 4``.

    Raises:
        VerificationError: the file does not run, although the program does.
    """
    try:
        return candidate.run(feeds)
    except InputError:
        raise
    except Exception as error:  # the exceptions of onnxruntime have no narrower common base class
        raise_if_defect(error)
        raise VerificationError(
            f"the ONNX file does not run {where}, but the program does: {first_line(error, 300)}",
            "nothing was written; please report this model",
        ) from error


def hard_feeds(feeds: Feeds, half: bool = False) -> Iterator[tuple[str, dict[str, Numbers]]]:
    """Every kind of hard inputs with its name; kinds that change none of the inputs are left out."""
    for kind in (*FLOATS, *WORDS):
        if half and kind not in IN_RANGE:
            continue
        made = {name: _changed(np.asarray(value), kind) for name, value in feeds.items()}
        if any(not np.array_equal(made[name], value) for name, value in feeds.items()):
            yield kind, made


def _changed(value: Numbers, kind: str) -> Numbers:
    change = (FLOATS if value.dtype.kind == "f" else INTEGERS).get(kind)
    if not value.size or change is None:
        return value
    with np.errstate(over="ignore", under="ignore"):
        return change(value)


def _is_mask(value: Numbers) -> bool:
    return value.dtype.kind == "b" or set(np.unique(value).tolist()) <= {0, 1}


def _low(value: Numbers) -> Any:
    return 0 if _is_mask(value) else value.min()


def _high(value: Numbers) -> Any:
    return 1 if _is_mask(value) else value.max()


def _first_alone(value: Numbers, others: Any, first: Any) -> Numbers:
    """The first number of each row with all others replaced; in a mask, the first is ``first``."""
    if value.ndim < _AXES or (first == value.min() and not _is_mask(value)):
        return value
    made = np.full_like(value, others)
    made[..., 0] = first if _is_mask(value) else value[..., 0]
    return made


def error_of(expected: Numbers, actual: Numbers) -> float:
    """The largest difference; infinite if the shapes differ or only one side is NaN or infinite."""
    if expected.shape != actual.shape:
        return math.inf
    error = largest_magnitude(differences(expected, actual, equal_nan=True))
    return math.inf if math.isnan(error) else error


def _own_change(program: Session, made: Feeds, feeds: Feeds, name: str, value: Numbers) -> Numbers:
    """The program's own change when its inputs, results or values before they are ordered are disturbed, per place.

    It is infinite where a disturbed output is NaN or infinite and the other is not, or where nothing can be computed.
    """
    random, moved = np.random.default_rng(0), np.zeros(value.shape)
    floats = any(np.asarray(given).dtype.kind == "f" for given in made.values())
    for seed in range(TRIES):
        found: list[dict[str, Numbers] | None] = []
        if isinstance(program, Disturbs):
            found += [program.run_with_ties_broken(made, seed)]
            found += [None if floats else program.run_rounded(made, DISTURBED, seed)]
        disturbed = {key: _disturbed(np.asarray(given), np.asarray(feeds[key]), random) for key, given in made.items()}
        outputs = _outputs(program, disturbed)
        if outputs is None:
            return np.full(value.shape, np.inf)
        for other in [*(item for item in found if item is not None), outputs]:
            if other[name].shape != value.shape:
                return np.full(value.shape, np.inf)
            change = np.abs(differences(value, other[name], equal_nan=True))
            moved = np.maximum(moved, np.where(np.isnan(change), np.inf, change))
    return moved


def _decided_by_rounding(
    program: Session, made: Feeds, name: str, expected: Numbers, actual: Numbers
) -> Numbers | None:
    """Where one side alone is NaN or infinite and rounding in the program changes the value by a share of its size."""
    if expected.shape != actual.shape or expected.dtype.kind != "f" or not isinstance(program, Disturbs):
        return None
    apart = np.isfinite(expected) != np.isfinite(actual)
    size = largest_magnitude(np.where(np.isfinite(expected), expected, 0.0))
    unsteady = np.zeros(expected.shape, bool)
    for seed in range(TRIES):
        rounded = program.run_rounded(made, DISTURBED, seed)
        if rounded is None or rounded[name].shape != expected.shape:
            return None
        change = np.abs(differences(expected, rounded[name], equal_nan=True))
        unsteady |= ~(change <= UNSTEADY * size)
    return np.asarray(apart & unsteady)


def _disturbed(value: Numbers, sample: Numbers, random: np.random.Generator) -> Numbers:
    if value.dtype.kind != "f" or not value.size:
        return value
    size = DISTURBED * np.maximum(np.abs(value), largest_magnitude(sample))
    return np.asarray(value + size * random.uniform(-1, 1, value.shape), value.dtype)


def _refused(inputs: str, name: str, expected: Numbers, actual: Numbers) -> VerificationError:
    message = f"the file does not compute the same as the program on {inputs}: output '{name}'"
    if expected.shape != actual.shape:
        detail = f" has the shape {list(actual.shape)} instead of {list(expected.shape)}"
    else:
        where = int(np.argmax(np.nan_to_num(np.abs(differences(expected, actual, equal_nan=True)), nan=np.inf)))
        detail = f" is {actual.flat[where]:.6g} instead of {expected.flat[where]:.6g}"
    return VerificationError(
        message + detail, "nothing was written; please report this model", inputs=inputs, output=name
    )
