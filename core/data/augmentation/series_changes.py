"""Transforms of series and recordings: masks of time and features (SpecAugment), gain, shift."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...options.augment_options import FeatureMaskOptions, GainOptions, TimeMaskOptions
from ...options.image_transforms import ShiftOptions
from ...tensors import Array
from .draws import Draws


def time_mask(options: TimeMaskOptions, values: Array, draws: Draws, recording: bool) -> Array:
    """Spans of time overwritten: with the sample's mean, in recordings with silence."""
    axis = -1 if recording or options.time == "last" else -2
    return _masked(values, axis, options.share, options.count, draws, silent=recording)


def feature_mask(options: FeatureMaskOptions, values: Array, draws: Draws) -> Array:
    """Neighbouring features overwritten with the sample's mean."""
    return _masked(values, -2 if options.time == "last" else -1, options.share, options.count, draws, silent=False)


def _masked(values: Array, axis: int, share: float, count: int, draws: Draws, silent: bool) -> Array:
    """Spans of 0 to ``share`` of an axis, at places that are all equally likely (Park et al., 2019, section 2)."""
    size = values.shape[axis]
    most = max(1, int(share * size))
    means = np.zeros(len(values)) if silent else [float(one.mean(dtype=np.float64)) for one in values]
    for _ in range(count):
        lengths = draws.below(most + 1)
        begins = (draws.uniform() * (size - lengths + 1)).astype(np.int64)
        for row, (begin, length) in enumerate(zip(begins, lengths, strict=True)):
            span = [slice(None)] * (values.ndim - 1)
            span[axis] = slice(begin, begin + length)
            values[row][tuple(span)] = means[row]
    return values


def gain(options: GainOptions, values: Array, draws: Draws) -> Array:
    """Recordings multiplied by a factor each."""
    factors = 10 ** (draws.signed(options.db) / 20)
    return values * factors.astype(np.float32)[:, None]


def shift(options: ShiftOptions, values: Array, draws: Draws) -> Array:
    """Recordings moved along time; silence follows."""
    steps = np.rint(draws.signed(options.share) * values.shape[1]).astype(np.int64)
    return rolled(values, steps, np.zeros(len(values), values.dtype))


def rolled(values: Array, steps: NDArray[np.int64], fill: Array) -> Array:
    """Rows ``[N, values]`` moved to the right by a number of places each; ``fill`` ``[N]`` takes the free places."""
    places = np.arange(values.shape[1])[None, :] - steps[:, None]
    inside = (places >= 0) & (places < values.shape[1])
    found = np.take_along_axis(values, np.clip(places, 0, values.shape[1] - 1), axis=1)
    return np.where(inside, found, fill[:, None])
