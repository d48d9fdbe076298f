"""Comparison of a program and its file on the same inputs, within the bounds of :mod:`retort.export.verify.bounds`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ...core.errors import VerificationError
from ...core.facts.export_facts import HardInputs, ParityEntry
from ...core.faults import first_line, raise_if_defect
from ...core.metrics.relative_error import decibels, differences, largest_magnitude, root_mean_square
from ...core.session import Session
from ...core.signature import Signature
from ...core.tensors import BATCH, Feeds, multiple
from .bounds import DYNAMIC_FLOOR, FLOOR, POOL_ROWS, Bound, accepted_by, bounds_of
from .hard_inputs import check_hard, run_file

Numbers = NDArray[Any]
CONFIRMED_ROWS = 128
"""Samples on which a quantized program and its file are compared again before the file is refused."""
_CAUSE = "nothing was written; increase export.tolerance only if you know the cause of the difference"
_UNDEFINED = (
    "nothing was written; if the model computes NaN on these samples, give others: ONNX does not define what maxima, "
    "signs and bounds of NaN are, and ONNX Runtime computes numbers"
)
FileForm = Literal["static", "dynamic", "half"]


@dataclass(frozen=True)
class Parity:
    """The result of a comparison.

    Attributes:
        differences: one entry per output and size.
        unchecked: why there was no comparison at half the length of the dynamic axes; empty if there was one, and for a
            program in which only the batch axis is dynamic.
        hard: one entry per kind of inputs that are hard to compute.
    """

    differences: list[ParityEntry]
    unchecked: str = ""
    hard: tuple[HardInputs, ...] = ()


def check(
    program: Session,
    candidate: Session,
    samples: Feeds,
    batch_sizes: Sequence[int],
    tolerance: float,
    floating: Session | None = None,
    form: FileForm = "static",
    more: Callable[[int], Feeds] | None = None,
) -> Parity:
    """Compare a program and its file at several batch sizes.

    Args:
        program: the reference, in the target's form.
        candidate: the file.
        samples: real inputs; they are repeated or truncated to the batch size.
        batch_sizes: rows per run; each size sees at least :data:`POOL_ROWS` rows in all.
        tolerance: largest relative error in floating point.
        floating: the program without fake-quantization, if it is quantized.
        form: how the file computes: ``dynamic`` with activations that are quantized at run time, which the program does
            not do; then :data:`DYNAMIC_FLOOR` is accepted, and inputs that are no samples are left out. ``half`` in
            half precision, which cannot represent the extremes.
        more: a function that reads more samples. If a quantized program and its file differ too much, they are compared
            again on :data:`CONFIRMED_ROWS`: where few decisions change at all, as in a classifier with certain
            outputs, a small pool shows neither how large the noise nor how large the difference is.

    Returns:
        One entry per output and size, and the reason if a comparison was not possible.

    Raises:
        VerificationError: the difference is too large; the message has the first output and batch size.
    """
    sizes = list(batch_sizes) if _has_batch(program.signature) else [1]
    pool = rows(program.signature, samples, max(POOL_ROWS, *sizes))
    least = DYNAMIC_FLOOR if form == "dynamic" else FLOOR
    bounds = bounds_of(program, floating, pool, tolerance, least)
    shorter = _shorter(program, candidate, pool, bounds)
    found = _at_every_size(program, candidate, pool, sizes, bounds)
    if floating is not None and more is not None and any(item.refused for item in found):
        pool = _wider(program.signature, pool, more)
        bounds = bounds_of(program, floating, pool, tolerance, least)
        found = _at_every_size(program, candidate, pool, sizes, bounds)
    found += shorter.differences
    off = next((item for item in found if item.refused), None)
    if off is not None:
        raise VerificationError(
            f"the file does not compute the same as the program: at batch size {off.batch_size}, output "
            f"'{off.output}' is {_described(off)}",
            _CAUSE if np.isfinite(off.error) else _UNDEFINED,
            differences=[item.to_json() for item in found],
        )
    few = rows(program.signature, pool, min(sizes))
    hard: list[HardInputs] = []
    if form != "dynamic":
        hard = check_hard(program, candidate, few, accepted_by(bounds, floating), form == "half")
    return Parity(found, shorter.unchecked, tuple(hard))


def _at_every_size(
    program: Session, candidate: Session, pool: Feeds, sizes: Sequence[int], bounds: Mapping[str, Bound]
) -> list[ParityEntry]:
    found = []
    for size in sizes:
        feeds = list(_chunks(program.signature, pool, size))
        expected, actual = (
            [program.run(batch) for batch in feeds],
            [run_file(candidate, batch, f"at batch size {size}") for batch in feeds],
        )
        for name, bound in bounds.items():
            pairs = [(one[name], two[name]) for one, two in zip(expected, actual, strict=True)]
            found.append(_compare(name, size, pairs, bound))
    return found


def _wider(signature: Signature, pool: dict[str, Numbers], more: Callable[[int], Feeds]) -> dict[str, Numbers]:
    """A pool of more samples, or the same one if there are no more or no axis for them."""
    if not _has_batch(signature):
        return pool
    read = more(CONFIRMED_ROWS)
    return rows(signature, read, max(signature.batch_size(read), signature.batch_size(pool)))


def rows(signature: Signature, samples: Feeds, count: int) -> dict[str, Numbers]:
    """``count`` rows of the samples, repeated in order if there are fewer; inputs without batch axis are unchanged."""
    result: dict[str, Numbers] = {}
    for spec in signature.inputs:
        array = np.asarray(samples[spec.name])
        if BATCH in spec.shape:
            axis = spec.shape.index(BATCH)
            array = np.take(array, np.arange(count) % array.shape[axis], axis=axis)
        result[spec.name] = array
    return result


def _has_batch(signature: Signature) -> bool:
    return any(BATCH in spec.shape for spec in signature.inputs)


def _chunks(signature: Signature, pool: Feeds, size: int) -> Iterator[dict[str, Numbers]]:
    """The pool in runs of ``size`` rows, without the last rows that do not fill a run."""
    if not _has_batch(signature):
        yield dict(pool)
        return
    total = signature.batch_size(pool)
    for start in range(0, total - size + 1, size):
        yield {
            spec.name: np.take(pool[spec.name], np.arange(start, start + size), axis=spec.shape.index(BATCH))
            if BATCH in spec.shape
            else np.asarray(pool[spec.name])
            for spec in signature.inputs
        }


def _compare(name: str, size: int, pairs: list[tuple[Numbers, Numbers]], bound: Bound) -> ParityEntry:
    expected, actual = (np.concatenate([np.atleast_1d(pair[side]).reshape(-1) for pair in pairs]) for side in (0, 1))
    if expected.shape != actual.shape or expected.dtype != actual.dtype:
        return _difference(name, size, bound, np.full(1, np.inf), -300.0, None)
    if expected.dtype.kind != "f":
        wrong = (expected != actual).astype(np.float64)
        return _difference(name, size, bound, wrong, _sqnr(np.ones(1), wrong), None)
    error = differences(expected, actual, equal_nan=True)
    sqnr = _sqnr(np.where(np.isfinite(expected), expected, 0.0), error)
    return _difference(name, size, bound, error, sqnr, _agreement(pairs))


def _difference(
    name: str, size: int, bound: Bound, error: Numbers, sqnr: float, agreement: float | None
) -> ParityEntry:
    largest, rms = largest_magnitude(error) / bound.scale, root_mean_square(error) / bound.scale
    tolerance = bound.max_error / bound.scale
    allowed = None if bound.rms_error is None else bound.rms_error / bound.scale
    within = largest <= tolerance and (allowed is None or rms <= allowed)  # false for a NaN on one side alone
    return ParityEntry(
        output=name,
        batch_size=size,
        error=largest,
        tolerance=tolerance,
        rms_error=rms,
        rms_tolerance=allowed,
        sqnr_db=sqnr,
        agreement=agreement,
        refused=not within,
    )


def _described(off: ParityEntry) -> str:
    """``off by 2.0e-02 of its scale (1.0e-03 is accepted, 33.5 dB)``, in the measure that is too large.

    A difference of NaN or infinity is none in numbers.
    """
    if not np.isfinite(off.error):
        return "undefined (NaN or infinite) or of another shape in one of them, and not in the other"
    if off.rms_tolerance is not None and off.error <= off.tolerance:
        measure = f"{off.rms_error:.2e} of its scale in the root mean square ({off.rms_tolerance:.2e}"
    else:
        measure = f"{off.error:.2e} of its scale ({off.tolerance:.2e}"
    return f"off by {measure} is accepted, {off.sqnr_db:.1f} dB)"


def _shorter(program: Session, candidate: Session, pool: Feeds, bounds: dict[str, Bound]) -> Parity:
    """Compare again with all dynamic axes except the batch cut by half, if the program itself runs at that size."""
    signature = program.signature
    free = {axis for spec in signature.inputs for axis in spec.shape if isinstance(axis, str) and axis != BATCH}
    if not free:
        return Parity([])
    size = min(2, signature.batch_size(pool))
    feeds = {spec.name: _cut(rows(signature, pool, size)[spec.name], spec.shape, free) for spec in signature.inputs}
    try:
        expected = program.run(feeds)
    except (RuntimeError, IndexError, ValueError) as error:  # the model itself does not support that size
        raise_if_defect(error)
        shown = ", ".join(f"{name}: {list(value.shape)}" for name, value in feeds.items())
        return Parity([], f"the program does not run on inputs of half the length ({shown}): {first_line(error)}")
    actual = run_file(candidate, feeds, f"at batch size {size}")
    return Parity([_compare(name, size, [(expected[name], actual[name])], bound) for name, bound in bounds.items()])


def _cut(array: Numbers, shape: tuple[int | str, ...], free: set[str]) -> Numbers:
    for axis, size in enumerate(shape):
        if size in free:
            step = multiple(str(size))[0]
            kept = max(1, array.shape[axis] // (2 * step)) * step
            array = np.take(array, np.arange(min(kept, array.shape[axis])), axis=axis)
    return array


def _sqnr(signal: Numbers, error: Numbers) -> float:
    """Raw SQNR between -300 and 300 dB; -300 where an error is not finite."""
    ratio = decibels(max(root_mean_square(signal), 1e-30) ** 2, root_mean_square(error) ** 2)
    return float(np.clip(np.nan_to_num(ratio, nan=-300.0), -300.0, 300.0))


def _agreement(pairs: list[tuple[Numbers, Numbers]]) -> float | None:
    if any(one.ndim != 2 or one.shape[1] < 2 for one, _ in pairs):
        return None
    return float(np.mean(np.concatenate([one.argmax(1) == two.argmax(1) for one, two in pairs])))
