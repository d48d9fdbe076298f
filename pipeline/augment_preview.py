"""A contact sheet of augmentation: a few training samples, each with views of it, as a picture to look at."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ..core.data.augmentation.draws import view_seeds
from ..core.data.augmentation.input_kinds import InputForm
from ..core.data.augmentation.mixing import View
from ..core.data.augmentation.views import Views, views_of
from ..core.data.splits import Splits
from ..core.options.augment_options import Step
from ..core.options.metric_names import Task
from ..core.preprocessing.tokens import Tokenizer
from ..core.system.atomic_files import write_atomically
from ..core.tensors import Array

SAMPLES, VIEWS = 6, 7
"""Rows, and views beside each sample."""
CELL_INCHES = 1.25
WORDS = 24
"""Tokens of a text that are shown."""


def write_preview(path: Path, data: Splits, steps: Sequence[Step], seed: int, task: Task) -> tuple[str, ...]:
    """Write a PNG: in each row a training sample and its views of as many epochs as there are columns.

    Args:
        task: what the targets are for.

    Returns:
        The transforms in words.

    Raises:
        UserError: a transform is made for no input.
        StorageError: the file cannot be written.
    """
    views = views_of(data.train, steps, data.preprocessing, data.tokenizer, task=task)
    count = min(SAMPLES, len(data.train))
    indices = np.unique(np.linspace(0, len(data.train) - 1, count).astype(np.int64))
    plain = Views(data.train).read(indices, view_seeds(seed, 0, indices))
    epochs = [views.read(indices, view_seeds(seed, epoch, indices)) for epoch in range(VIEWS)]
    forms = views.augmentation.forms if views.augmentation else {}
    shown = [form for form in forms.values() if form.kinds]
    figure = _drawn(shown, [plain, *epochs], len(indices), data)
    content = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(content, format="png")
    write_atomically(path, content.getvalue())
    return views.augmentation.describe() if views.augmentation else ()


def _drawn(forms: Sequence[InputForm], columns: Sequence[View], rows: int, data: Splits) -> Figure:
    """All inputs of all samples: those of a sample below each other."""
    words = any("tokens" in form.kinds for form in forms)
    height = rows * max(1, len(forms))
    size = (CELL_INCHES * len(columns) * (2 if words else 1), CELL_INCHES * height * (0.5 if words else 1) + 0.4)
    figure = Figure(figsize=size, dpi=110, layout="constrained")
    tokenizer = Tokenizer(data.tokenizer) if words and data.tokenizer else None
    grid: Any = figure.subplots(height, len(columns), squeeze=False)
    for place, axes in enumerate(grid[0]):
        axes.set_title("sample" if place == 0 else f"epoch {place}", fontsize=7)
    for row in range(rows):
        for number, form in enumerate(forms):
            for place, view in enumerate(columns):
                axes = grid[row * len(forms) + number][place]
                axes.set_xticks([])
                axes.set_yticks([])
                _draw(axes, form, view, row, tokenizer)
                if number == 0:
                    axes.set_xlabel(_target(view, row, data.classes), fontsize=6, labelpad=1)
    return figure


def _draw(axes: Axes, form: InputForm, view: View, row: int, tokenizer: Tokenizer | None) -> None:
    values = view.inputs[form.name][row]
    if "tokens" in form.kinds:
        used = values[values != form.tokens.pad][:WORDS].tolist()
        text = " ".join(tokenizer.tokens(used) if tokenizer else map(str, used))
        axes.text(0.02, 0.95, text, fontsize=5, va="top", wrap=True, transform=axes.transAxes)
    elif "image" in form.kinds:
        axes.imshow(_picture(values, form), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        if view.targets is not None and view.targets.ndim == 3 and view.targets.shape[1:] == _size(form):
            mask = np.ma.masked_equal(view.targets[row], 0)
            axes.imshow(mask, alpha=0.5, cmap="tab10", vmin=0, vmax=9, interpolation="nearest")
    else:
        axes.plot(values.reshape(-1), linewidth=0.5)
        low, high = min(form.black), max(form.white)
        axes.set_ylim(low - 0.1 * (high - low), high + 0.1 * (high - low))


def _size(form: InputForm) -> tuple[int, ...]:
    return form.shape[:2] if form.channels_last else form.shape[-2:]


def _picture(values: Array, form: InputForm) -> Array:
    """Pixels from 0 to 1 in the layout of matplotlib; of other than three channels only the first."""
    opened = form.opened(values[None])
    low, high = form.levels(opened.shape[1])
    pixels = np.clip((opened[0] - low) / (high - low), 0, 1)
    made: Array = pixels.transpose(1, 2, 0) if len(pixels) == 3 else pixels[0]
    return made


def _target(view: View, row: int, classes: Sequence[str]) -> str:
    """The class of a sample, or the two of a mixed one with their shares."""
    if view.targets is None or view.targets.ndim != 1:
        return ""
    own = _name(view.targets[row], classes)
    if view.partners is None or view.shares is None or view.shares[row] == 1:
        return own
    return f"{view.shares[row]:.0%} {own}, {1 - view.shares[row]:.0%} {_name(view.partners[row], classes)}"


def _name(target: Any, classes: Sequence[str]) -> str:
    if isinstance(target, np.integer) and 0 <= target < len(classes):
        return classes[int(target)]
    return f"{target:.3g}" if isinstance(target, np.floating) else str(target)
