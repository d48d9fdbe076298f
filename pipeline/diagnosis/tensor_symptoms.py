"""Symptoms of quantized tensors on real samples, and the faults that explain them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...core.aten_names import SATURATING
from ...core.counts import counted
from ...core.metrics.relative_error import decibels
from ...core.tensors import Array

_ROBUST = 99.9
_INPUT_NARROW, _INPUT_WIDE = 2.5, 0.3
_NARROW, _WIDE = 1.25, 0.35
_MANY, _SOME = 0.3, 0.15
_ALIKE, _MOSTLY = 3.0, 0.75
_OUTLIER, _POOR_DB, _SATURATED = 8.0, 15.0, 0.7
_WHOLLY_SATURATED = 0.9
_BLATANT, _MISSED, _SPARE = 2.5, 0.05, 0.3
"""Limits that no correct calibration exceeds: reach of the values, and missed and unused shares of the grid."""

REMEDY = {
    "preprocessing scale": "scale the inputs in calibration and in production as in training",
    "outlier channel": "try `--correction full` (equalisation), or leave the layer in floating point (`mixed: auto`)",
    "clipping": "calibrate again, with `method: minmax` if rare values matter",
    "calibration set": "calibrate on samples of all kinds and classes that the model will process",
    "swapped channels": "give the channels in the order of training (RGB or BGR), or export again",
    "other weights": "export again from this program",
    "weight axis": "quantize weights along their output channels",
    "zero point": "calibrate again, and write the file with this version",
    "batch dependence": "set the model to evaluation mode before capture or export: `model.eval()`",
    "saturation": "leave this activation and the layer before it in floating point, or train with a smaller learning "
    "rate",
    "stale calibration": "calibrate again after every change of the weights",
    "few levels": "use more bits, or `--correction full`",
    "constant": "check the layer before it, whose output is the same for all inputs",
    "outlier weight": "try `--correction full`",
    "rounding": "try `--correction full`, then `mixed: auto`",
}


@dataclass(frozen=True)
class Finding:
    """A fault: its cause, its place, the numbers, and the remedy."""

    cause: str
    where: str
    detail: str

    @property
    def remedy(self) -> str:
        """The next step for the user."""
        return REMEDY[self.cause]


@dataclass(frozen=True)
class Seen:
    """A quantized tensor on samples.

    Attributes:
        name: name of the tensor, or of the layer that computes it.
        op: operator that computes it, in lower case; empty for an input.
        low: 0.1th percentile of its FP32 values.
        high: 99.9th percentile of its FP32 values.
        extent: 99.9th percentile of their absolute values.
        grid_low: smallest value of its grid.
        grid_high: largest value of its grid.
        saturated: share of values at the limits of a gate.
        channel: the channel with the largest absolute value.
        outlier: that value divided by the one of the median channel.
        noise_db: signal-to-noise ratio of the median channel after quantization, in dB.
    """

    name: str
    op: str
    low: float
    high: float
    extent: float
    grid_low: float
    grid_high: float
    saturated: float
    channel: int
    outlier: float
    noise_db: float

    @property
    def reach(self) -> float:
        """The largest magnitude of the values, as a share of the range of the grid."""
        return self.extent / max(abs(self.grid_low), abs(self.grid_high), 1e-30)


def seen(
    name: str,
    op: str,
    values: Array,
    scale: float,
    zero: float,
    codes: tuple[int, int],
    channels_first: bool = False,
) -> Seen:
    """Measure a tensor ``[N, …]`` and its grid.

    Args:
        channels_first: whether three axes are ``[N, C, L]``, as after a convolution, and not ``[N, L, C]``.
    """
    flat = values.astype(np.float64)
    low, high = (float(item) for item in np.percentile(flat, [100 - _ROBUST, _ROBUST]))
    grid_low, grid_high = ((code - zero) * scale for code in codes)
    first = values.ndim >= 4 or (values.ndim == 3 and (channels_first or "conv" in op))
    axis = 1 if first else values.ndim - 1
    rows = np.moveaxis(flat, axis, 0).reshape(values.shape[axis], -1)
    largest = np.abs(rows).max(1)
    median = float(np.median(largest))
    rounded = np.clip(np.round(rows / scale), codes[0] - zero, codes[1] - zero) * scale
    signal, noise = rows.var(1), ((rows - rounded) ** 2).mean(1)
    alive = signal > 1e-20
    ratio = np.median(signal[alive] / np.maximum(noise[alive], 1e-30)) if alive.any() else np.inf
    ends = float(((flat < 0.02) | (flat > 0.98)).mean()) if op in SATURATING else 0.0
    return Seen(
        name,
        op,
        low,
        high,
        float(np.percentile(np.abs(flat), _ROBUST)),
        grid_low,
        grid_high,
        ends,
        int(largest.argmax()),
        float(largest.max()) / max(median, 1e-12) if len(largest) > 1 else 1.0,
        float(decibels(max(ratio, 1e-30), 1.0)) if np.isfinite(ratio) else 200.0,
    )


def faults(tensors: Sequence[Seen]) -> list[Finding]:
    """Faults of the calibration: of the inputs' scale, of zero points, of single ranges or of all ranges."""
    found = [item for tensor in tensors if (item := _input(tensor) if not tensor.op else _zero_point(tensor))]
    if found:
        return sorted(found, key=lambda item: item.cause != "preprocessing scale")
    inner = [tensor for tensor in tensors if tensor.op and tensor.extent > 1e-9]
    middle = float(np.median([tensor.reach for tensor in inner])) if inner else 1.0
    alike = np.mean([middle / _ALIKE < tensor.reach < middle * _ALIKE for tensor in inner]) if inner else 0.0
    if alike >= _MOSTLY and not _INPUT_WIDE <= middle <= _INPUT_NARROW:
        detail = f"all ranges are about {max(middle, 1 / middle):.3g} times too {'narrow' if middle > 1 else 'wide'}"
        return [Finding("preprocessing scale", "the inputs", detail)]
    narrow = [tensor for tensor in inner if tensor.reach > _NARROW]
    wide = [tensor for tensor in inner if tensor.reach < _WIDE and tensor.op not in SATURATING]
    if (narrow and len(wide) >= max(2, _SOME * len(inner))) or len(wide) >= max(3, 0.6 * len(inner)):
        detail = f"{len(narrow)} of {counted(inner, 'range')} are too narrow and {len(wide)} far too wide"
        return [Finding("stale calibration", "the whole model", f"{detail}, so they belong to other weights")]
    if len(narrow) >= max(3, _MANY * len(inner)):
        detail = f"{len(narrow)} of {counted(inner, 'range')} are too narrow and none is too wide"
        reason = "so the calibration set contains only some kinds of samples"
        return [Finding("calibration set", "the whole model", f"{detail}, {reason}")]
    return [_clipped(tensor) for tensor in sorted(narrow, key=lambda item: -item.reach)]


def blatant(tensors: Sequence[Seen]) -> list[Finding]:
    """Faults of the calibration that are certain even if outputs are good: zero points, ranges far too narrow."""
    shifted = [found for tensor in tensors if tensor.op and (found := _zero_point(tensor, _MISSED, _SPARE))]
    narrow = [tensor for tensor in tensors if tensor.reach > _BLATANT]
    return shifted or [_clipped(tensor) for tensor in sorted(narrow, key=lambda item: -item.reach)]


def saturated(tensors: Sequence[Seen]) -> list[Finding]:
    """Gates whose values are mostly at their limits."""
    return [
        Finding("saturation", tensor.name, f"{tensor.saturated:.0%} of its values are at its limits")
        for tensor in tensors
        if tensor.saturated > _WHOLLY_SATURATED
    ]


def weaknesses(tensors: Sequence[Seen]) -> list[Finding]:
    """Tensors that are difficult to quantize even with good calibration, the worst first."""
    found = []
    for tensor in sorted(tensors, key=lambda item: item.noise_db):
        if tensor.outlier > _OUTLIER and tensor.noise_db < _POOR_DB:
            detail = f"channel {tensor.channel} has values {tensor.outlier:.0f} times as large as the median channel"
            found.append(Finding("outlier channel", tensor.name, detail))
        elif tensor.saturated > _SATURATED:
            found.append(Finding("saturation", tensor.name, f"{tensor.saturated:.0%} of its values are at its limits"))
    return found


def _input(tensor: Seen) -> Finding | None:
    if _INPUT_WIDE <= tensor.reach <= _INPUT_NARROW:
        return None
    detail = (
        f"the samples reach {tensor.extent:.4g}, but the grid is [{tensor.grid_low:.4g}, {tensor.grid_high:.4g}]: "
        f"they differ by a factor of {max(tensor.reach, 1 / max(tensor.reach, 1e-12)):.3g}"
    )
    return Finding("preprocessing scale", tensor.name, detail)


def _zero_point(tensor: Seen, least_missed: float = 0.15, least_spare: float = 0.15) -> Finding | None:
    """A grid that is as wide as the values but shifted."""
    width, spread = tensor.grid_high - tensor.grid_low, tensor.high - tensor.low
    if width <= 0 or not 0.3 <= spread / width <= 1.6:
        return None
    over, under = tensor.high - tensor.grid_high, tensor.grid_low - tensor.low
    missed, spare = (over, -under) if over > under else (under, -over)
    if missed < least_missed * width or spare < least_spare * width:
        return None
    detail = (
        f"its values are in [{tensor.low:.4g}, {tensor.high:.4g}], but its grid covers [{tensor.grid_low:.4g}, "
        f"{tensor.grid_high:.4g}]: shifted by {missed / width:.0%} of its width"
    )
    return Finding("zero point", tensor.name, detail)


def _clipped(tensor: Seen) -> Finding:
    detail = (
        f"its values reach {tensor.extent:.4g}, but its grid covers [{tensor.grid_low:.4g}, {tensor.grid_high:.4g}]"
    )
    return Finding("clipping", tensor.name, detail)
