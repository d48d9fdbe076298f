"""The accepted difference between a program and its file.

Floating point: the largest error, relative to the largest magnitude of that output, must stay within a tolerance.

INT8: the runtime's integer kernels round at the same places as PyTorch's fake-quantization, but they add in another
order, keep the bias as INT32 and scale once. A value near the middle between two codes may then be rounded to the other
code, and deep networks amplify this until the two runs differ as two independent roundings do: measured on residual
networks of 3 to 36 blocks, their distance is up to 1.2 times the quantization noise, which is the distance between the
INT8 program and the same program without fake-quantization. So the bounds are relative to this noise: the root mean
square of the error may be :data:`RMS_FACTOR` times the noise, and the largest error :data:`MAX_FACTOR` times. If the
noise is very small, an error 30 dB below the part of the output that differs between samples is accepted. With few
distinct numbers (two scores of two samples), two independent roundings differ more by chance, so :func:`chance`
increases both factors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...core.metrics.relative_error import largest_magnitude, root_mean_square
from ...core.session import Session
from ...core.tensors import Feeds
from .hard_inputs import Accepted, Allowed

Numbers = NDArray[Any]
POOL_ROWS = 16
"""Smallest number of rows in a comparison."""
RMS_FACTOR = 2.0
_CHANCE = ((24, 1.0), (16, 1.15), (8, 1.75), (0, 3.65))
MAX_FACTOR = 3.0
FLOOR = 10 ** (-30 / 20)
DYNAMIC_FLOOR = 10 ** (-20 / 20)
_TINY = 1e-8


@dataclass(frozen=True)
class Bound:
    """The accepted errors of one output, in its own units.

    Attributes:
        scale: the output's largest magnitude.
        max_error: largest accepted error.
        rms_error: largest accepted root mean square of the error; None in floating point.
    """

    scale: float
    max_error: float
    rms_error: float | None


def bounds_of(
    program: Session, floating: Session | None, pool: Feeds, tolerance: float, share: float
) -> dict[str, Bound]:
    """The bounds of every output, from a pool of real inputs."""
    reference = program.run(pool)
    plain = floating.run(pool) if floating is not None else None
    return {
        name: _bound(value, None if plain is None else plain[name], tolerance, share)
        for name, value in reference.items()
    }


def _bound(value: Numbers, plain: Numbers | None, tolerance: float, least: float) -> Bound:
    if value.dtype.kind != "f":
        share = 0.0 if plain is None else max(float(np.mean(value != plain)), 1 / POOL_ROWS)
        return Bound(1.0, 1.0 if share else 0.0, RMS_FACTOR * math.sqrt(share))
    numbers = finite(value)
    scale = max(largest_magnitude(numbers), _TINY)
    if plain is None:
        return Bound(scale, tolerance * scale, None)
    noise = finite(value - plain)
    centred = numbers - numbers.mean(axis=0) if numbers.shape == value.shape and value.ndim else numbers
    floor = max(least * root_mean_square(centred), tolerance * scale)
    wider = chance(np.unique(noise.reshape(len(noise), -1), axis=0).size if noise.ndim else 1)
    largest = max(wider * MAX_FACTOR * largest_magnitude(noise), MAX_FACTOR * floor)
    return Bound(scale, largest, max(wider * RMS_FACTOR * root_mean_square(noise), floor))


def chance(count: int) -> float:
    """The factor on the bounds for outputs of ``count`` numbers, whose root mean squares vary more by chance.

    The 99.9 % quantile of the ratio of two such root mean squares is the square root of that of the F distribution with
    ``count`` degrees of freedom each: 7.3, 3.5, 2.3 and 1.9 for 4, 8, 16 and 24 numbers.
    """
    return next(factor for least, factor in _CHANCE if count >= least)


def accepted_by(bounds: dict[str, Bound], floating: Session | None) -> Accepted:
    """What is accepted on inputs that are no samples: as on samples, by the scale and the noise of these outputs.

    At the places where the INT8 program gives NaN, with or without its fake-quantization, anything is accepted of an
    INT8 file: codes have no NaN, and the spread of values that are equal up to rounding is zero in the program (which
    divides by it) and rounding noise in the file. All other places must agree.
    """

    def accepted(feeds: dict[str, Numbers], expected: dict[str, Numbers]) -> dict[str, Allowed]:
        plain = None if floating is None else floating.run(feeds)
        found = {}
        for name, value in expected.items():
            bound, scale = bounds[name], largest_magnitude(finite(value)) if value.dtype.kind == "f" else 1.0
            error, undefined = bound.max_error * max(1.0, scale / bound.scale), None
            if plain is not None and plain[name].shape == value.shape and value.dtype.kind == "f":
                error = max(error, MAX_FACTOR * largest_magnitude(finite(value - plain[name])))
                undefined = np.isnan(plain[name]) | np.isnan(value)
            found[name] = Allowed(error, undefined)
        return found

    return accepted


def finite(value: Numbers) -> Numbers:
    """The finite values in double precision; a flat array if some values are not finite."""
    mask = np.isfinite(value)
    return value.astype(np.float64) if mask.all() else value[mask].astype(np.float64)
