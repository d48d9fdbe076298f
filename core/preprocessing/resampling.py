"""Another sample rate of a recording, by a polyphase filter. Part of the runtime half: standard library and numpy only.

The filter is a sinc under a Kaiser window (Kaiser and Schafer 1980, "On the use of the I0-sinh window for spectrum
analysis") that ends after ten zeros, with its -6 dB point at the lower of the two Nyquist frequencies: what
``scipy.signal.resample_poly`` takes by default. Only those values of it are computed that the outputs need, so that a
short recording of an odd rate costs no more than any other.
"""

from __future__ import annotations

from functools import cache
from math import factorial, gcd

import numpy as np
from numpy.typing import NDArray

ZEROS = 10
"""Half the length of the filter, in samples of the lower rate."""
_BETA = 5.0
"""Form of the window."""
_SERIES = tuple((_BETA / 2) ** (2 * power) / factorial(power) ** 2 for power in range(17, -1, -1))
"""The power series of the Bessel function I0(_BETA √v) in v, from the highest power on; the rest is below 1e-15."""
_MOST_VALUES = 1 << 20
"""Samples that are gathered at a time."""
_SUM_STEPS = 4096
"""Steps per sample up to which the filter's sum is taken as it is; with more it changes by less than 1e-9."""


def resampled(sound: NDArray[np.float32], rate: int, wanted: int) -> NDArray[np.float32]:
    """The same sound at another sample rate, without delay; before its start and behind its end is silence.

    Args:
        sound: ``float32[samples]``.
        rate: samples per second of it.
        wanted: samples per second of the result.

    Returns:
        ``float32[ceil(samples × wanted / rate)]``.
    """
    step = gcd(rate, wanted)
    up, down = wanted // step, rate // step
    outputs = -(-len(sound) * up // down)
    reach = ZEROS * max(up, down)
    taps = 2 * reach // up + 1
    padded = np.concatenate([np.zeros(taps, np.float32), sound, np.zeros(taps + 1, np.float32)])
    made = np.empty(outputs, np.float32)
    period = min(up, outputs)
    for first in range(0, period, share := max(1, _MOST_VALUES // taps)):
        numbers = np.arange(first, min(first + share, period), dtype=np.int64)
        starts = -((reach - numbers * down) // up)
        weights = _weights(numbers * down - starts * up, up, down, taps)
        _apply(padded, starts + taps, weights, made[first:], (up, down), len(numbers))
    return made


def _weights(first: NDArray[np.int64], up: int, down: int, taps: int) -> NDArray[np.float32]:
    """Values of the filter, ``float32[outputs, taps]``.

    Args:
        first: where the filter's first used value of each output is, in steps from its middle.
    """
    longest = max(up, down)
    position = (first[:, None] - np.arange(taps, dtype=np.int64) * up) / longest
    values = _filter(position) * (up / longest / _sum(min(longest, _SUM_STEPS)))
    return values.astype(np.float32)


def _filter(position: NDArray[np.float64]) -> NDArray[np.float64]:
    """The sinc under its window, at positions in samples of the lower rate."""
    inside = 1 - (position / ZEROS) ** 2
    window = np.full_like(inside, _SERIES[0])
    for factor in _SERIES[1:]:
        window *= inside
        window += factor
    return np.where(inside >= 0, np.sinc(position) * window, 0) / np.i0(_BETA)


@cache
def _sum(steps: int) -> float:
    """Sum of the filter with so many steps per sample, divided by the steps: with it a constant keeps its value."""
    return float(_filter(np.arange(-ZEROS * steps, ZEROS * steps + 1) / steps).sum()) / steps


def _apply(
    padded: NDArray[np.float32],
    starts: NDArray[np.int64],
    weights: NDArray[np.float32],
    made: NDArray[np.float32],
    ratio: tuple[int, int],
    outputs: int,
) -> None:
    """Write one period's outputs, and those of all further periods, which have the same weights.

    Each output is summed by itself, and not by a matrix product, whose last bits depend on the number of outputs.

    Args:
        starts: of each output, the first sample in ``padded``.
        made: the results from the first of these outputs on.
        ratio: outputs and samples of a period.
        outputs: how many of a period are written.
    """
    up, down = ratio
    windows = np.lib.stride_tricks.sliding_window_view(padded, weights.shape[1])
    periods = -(-len(made) // up)
    for number in range(min(outputs, len(made)) if periods > outputs else 0):
        wanted = made[number::up]
        begins = windows[starts[number] :: down][: len(wanted)]
        for at in range(0, len(wanted), share := max(1, _MOST_VALUES // weights.shape[1])):
            wanted[at : at + share] = np.einsum("ot,t->o", begins[at : at + share], weights[number])
    for period in range(periods if periods <= outputs else 0):
        wanted = made[period * up : period * up + outputs]
        wanted[:] = np.einsum("ot,ot->o", windows[starts[: len(wanted)] + period * down], weights[: len(wanted)])
