"""Drawings of explanations: a sample, the attributions of its parts, and the curve of their deletion."""

from __future__ import annotations

import io
from base64 import b64encode
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.image import imsave
from matplotlib.ticker import MaxNLocator, PercentFormatter

from ...core.explanation.explanation import Deletion, Heatmap
from ...core.preprocessing.specs import ImageInput
from ...core.signature import Signature
from ...core.tensors import Array
from .drawing import COLOUR

SUPPORTS, OPPOSES = (209, 98, 10), (22, 103, 200)
"""Colours of parts that raise the score, and of those that lower it; readable on light and dark, and for the
colour-blind."""
LIGHT = {"ink": "#16202c", "soft": "#5a6675", "s0": "#1667c8", "s1": "#d1620a", "ref": "#7b8694", "grid": "#eceff3"}
"""The colours of a page as they are, for pictures."""
MOST_BARS = 16
_MOST_POINTS = 2000
_SMALL = 64


def coloured(values: Array, most: float) -> Array:
    """Attributions as ``uint8[…, 4]``: orange where the score is raised, blue where it is lowered, clear for nothing.

    Args:
        most: the attribution with the full colour.
    """
    strength = np.clip(np.abs(values) / max(most, 1e-30), 0, 1) ** 0.7
    made = np.zeros((*values.shape, 4), np.uint8)
    made[..., :3] = np.where((values > 0)[..., None], SUPPORTS, OPPOSES)
    made[..., 3] = np.round(235 * strength)
    return made


def picture(sample: Array, axes: Sequence[int]) -> Array:
    """A picture as ``uint8[H, W, 3]``, from its darkest to its brightest value."""
    channels = next((axis for axis in range(sample.ndim) if axis not in axes), None)
    values = sample.astype(np.float64)
    values = values[..., None] if channels is None else np.moveaxis(values, channels, -1)
    values = values if values.shape[-1] == 3 else values.mean(axis=-1, keepdims=True)
    low, high = np.percentile(values, (0.5, 99.5))
    scaled = np.clip((values - low) / (high - low if high > low else 1), 0, 1)
    return np.round(255 * np.broadcast_to(scaled, (*scaled.shape[:2], 3))).astype(np.uint8)


def overlaid(shown: Array, values: Array, most: float) -> Array:
    """A picture in light grey under its attributions, ``uint8[H, W, 3]``."""
    colours = coloured(values, most)
    grey = np.repeat(shown.mean(axis=-1, keepdims=True), 3, axis=-1) * 0.4 + 125
    share = colours[..., 3:] / 255
    return np.round(grey * (1 - share) + colours[..., :3] * share).astype(np.uint8)


def flat(heatmap: Heatmap) -> Array:
    """Attributions of a picture ``[H, W]``; those of a volume added up along their first axes."""
    values = heatmap.values
    while values.ndim > 2:
        values = values.sum(axis=0)
    return values


def natural(sample: Array, spec: ImageInput) -> Array:
    """A picture in the colours that it was sent in, ``uint8[H, W, 3]``: the steps of ``spec`` are undone."""
    values = sample.astype(np.float64) if spec.channels_last else np.moveaxis(sample.astype(np.float64), 0, -1)
    pixels = np.clip((values * np.array(spec.std) + np.array(spec.mean)) * spec.scale, 0, 255)
    return np.round(np.broadcast_to(pixels, (*pixels.shape[:2], 3))).astype(np.uint8)


def flat_sample(sample: Array, heatmap: Heatmap, name: str, signature: Signature) -> Array:
    """The picture ``uint8[H, W, 3]`` of a sample; of a volume its mean along the first axes of the cells."""
    for spec in signature.preprocessing if heatmap.kind == "image" else ():
        if isinstance(spec, ImageInput) and spec.input == name:
            return natural(sample, spec)
    values = sample.mean(axis=tuple(heatmap.axes[:-2])) if len(heatmap.axes) > 2 else sample
    shift = len(heatmap.axes[:-2])
    return picture(values, [axis - shift for axis in heatmap.axes[-2:]])


def png_address(pixels: Array) -> str:
    """A picture as a ``data:`` address; small ones are enlarged, so that every pixel is a sharp square."""
    times = max(1, 256 // max(pixels.shape[:2])) if max(pixels.shape[:2]) < _SMALL else 1
    written = io.BytesIO()
    imsave(written, pixels.repeat(times, axis=0).repeat(times, axis=1), format="png")
    return f"data:image/png;base64,{b64encode(written.getvalue()).decode()}"


def draw_sequence(ax: Axes, values: Array, names: Sequence[str], most: float | None) -> None:
    """A sequence ``[T, F]``, with time to the right: attributions, or the values themselves if ``most`` is None."""
    if most is None:
        low, high = values.min(axis=0), values.max(axis=0)
        pixels = np.full((*values.shape, 4), 128, np.uint8)
        pixels[..., 3] = np.round(230 * (values - low) / np.where(high > low, high - low, 1))
    else:
        pixels = coloured(values, most)
    ax.imshow(pixels.swapaxes(0, 1), aspect="auto", interpolation="nearest")
    ax.grid(False)
    if len(names) <= MOST_BARS:
        ax.set_yticks(range(len(names)), [_short(name) for name in names])
    ax.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    ax.set_xlabel("step")


def draw_signal(ax: Axes, sample: Array, values: Array, most: float, colours: Mapping[str, str] = COLOUR) -> None:
    """A signal as a line before the colours of its attributions."""
    signal = sample.reshape(-1).astype(np.float64)
    low, high = float(signal.min()), float(signal.max())
    margin = 0.05 * (high - low) or 1.0
    step = max(1, len(signal) // _MOST_POINTS)
    ends = np.add.reduceat(values, range(0, len(values), step)) / step
    extent = (0.0, float(len(signal)), low - margin, high + margin)
    ax.imshow(coloured(ends[None], most), aspect="auto", extent=extent, interpolation="nearest")
    starts = np.arange(0, len(signal), step)
    tops, bottoms = np.maximum.reduceat(signal, starts), np.minimum.reduceat(signal, starts)
    line = np.stack([tops, bottoms], axis=1).reshape(-1) if step > 1 else signal
    ax.plot(np.repeat(starts, 2) if step > 1 else starts, line, color=colours["ink"], linewidth=0.9)
    ax.set_xlim(0, len(signal))
    ax.grid(False)
    ax.set_xlabel("sample")


def draw_bars(ax: Axes, labels: Sequence[str], values: Array, colours: Mapping[str, str] = COLOUR) -> None:
    """The strongest attributions as bars, the largest at the top."""
    chosen = np.argsort(-np.abs(values), kind="stable")[:MOST_BARS]
    ordered = [float(values[index]) for index in chosen]
    places = range(len(ordered))
    ax.barh(places, ordered, color=[colours["s1"] if value > 0 else colours["s0"] for value in ordered], height=0.66)
    ax.set_yticks(places, [_short(labels[index]) for index in chosen])
    ax.invert_yaxis()
    ax.axvline(0, color=colours["ref"], linewidth=1)
    ax.grid(axis="y", visible=False)
    ax.xaxis.set_major_locator(MaxNLocator(5))
    ax.set_xlabel("share in the score")


def draw_deletion(
    ax: Axes, deletion: Deletion, label: str, colours: Mapping[str, str] = COLOUR, size: float = 16
) -> None:
    """The score while the sample is deleted, by attribution and in random orders.

    Args:
        size: of the text, in points; a page shows the drawing smaller than it is.
    """
    ax.plot(deletion.shares, deletion.random, color=colours["ref"], linewidth=1.8, linestyle=(0, (4, 3)))
    ax.plot(deletion.shares, deletion.scores, color=colours["s1"], linewidth=2.2, marker="o", markersize=4)
    ax.xaxis.set_major_formatter(PercentFormatter(1.0))
    ax.yaxis.set_major_locator(MaxNLocator(5))
    ax.tick_params(labelsize=size)
    ax.set_xlabel("share of the sample that is deleted", fontsize=size)
    ax.set_title(label, loc="left", fontsize=size, color=colours["soft"])


def _short(text: str) -> str:
    shown = text if len(text) <= 30 else f"{text[:29]}…"
    return shown.replace("\n", "⏎")
