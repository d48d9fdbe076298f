"""Augmentation: the transforms of one data set, applied to batches of views that each have a seed of their own."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...options.augment_options import Step
from ...options.image_transforms import Transform
from ...tensors import Array
from . import colors, pixels, series_changes, token_changes
from .draws import Draws, Seeds
from .following import Boxes, Following, Follows, Mask
from .geometry import GEOMETRY
from .input_kinds import InputForm
from .mixing import Mixing, image_shape
from .randaugment import randaugment
from .warping import Maps, moved

Values = dict[str, Array]
CHUNK = 1 << 18
"""Values of an input that are changed at once: they and the intermediate results fit into a core's cache."""
TOKENS: Mapping[str, Callable[[Any, Values, InputForm, Draws], Values]] = {
    "mask": token_changes.mask,
    "drop": token_changes.drop,
    "shift": token_changes.shift,
}


@dataclass(frozen=True)
class Augmentation:
    """The transforms of a data set; it can be sent to other processes.

    Attributes:
        steps: in the order in which they are applied, without those that mix samples.
        forms: of the inputs.
        mixing: what mixes samples, after all other transforms.
        follows: which targets move with the images.
    """

    steps: tuple[Step, ...]
    forms: Mapping[str, InputForm]
    mixing: Mixing = field(default=Mixing())
    follows: Follows = "nothing"

    def apply(self, inputs: Mapping[str, Array], targets: Array | None, seeds: Seeds) -> tuple[Values, Array | None]:
        """The views of samples, without mixing.

        Args:
            inputs: with the samples on axis 0.
            seeds: ``uint64[N]``, one for each view.
        """
        size = max(1, CHUNK // max(math.prod(form.shape) for form in self.forms.values()))
        if len(seeds) <= size:
            return self._changed(inputs, targets, seeds)
        parts = []
        for start in range(0, len(seeds), size):
            rows = slice(start, start + size)
            part = {name: array[rows] for name, array in inputs.items()}
            parts.append(self._changed(part, None if targets is None else targets[rows], seeds[rows]))
        whole = {name: np.concatenate([part[name] for part, _ in parts]) for name in inputs}
        return whole, None if targets is None else np.concatenate([np.asarray(part) for _, part in parts])

    def describe(self) -> tuple[str, ...]:
        """Each transform with the inputs that it changes, as ``rotate: 'image' (an image, values 0 to 1)``."""
        found = []
        for step in self.steps:
            inputs = [form.summary() for form in self.forms.values() if applies(step, form)]
            found.append(f"{step.name}: {', '.join(inputs)}")
        mixers = {"mixup": self.mixing.mixup, "cutmix": self.mixing.cutmix}
        return (*found, *(f"{name}: whole samples" for name, options in mixers.items() if options is not None))

    def _changed(self, inputs: Mapping[str, Array], targets: Array | None, seeds: Seeds) -> tuple[Values, Array | None]:
        made = dict(inputs)
        following = None if targets is None else self._following(targets)
        for name, form in self.forms.items():
            used = [(number, step.options) for number, step in enumerate(self.steps) if applies(step, form)]
            names = [self.steps[number].name for number, _ in used]
            if "tokens" in form.kinds:
                for (number, options), step in zip(used, names, strict=True):
                    made = _some(TOKENS[step], options, made, form, Draws(seeds, number))
            elif used:
                first = following if "image" in form.kinds else None
                work = _Work(form, form.opened(made[name]), first, seeds)
                for (number, options), step in zip(used, names, strict=True):
                    work.add(step, options, number)
                made[name] = work.result()
                following, targets = (None, first.result()) if first is not None else (following, targets)
        return made, targets

    def _following(self, targets: Array) -> Following | None:
        """The targets of a batch that move with its first image."""
        if self.follows == "mask":
            return Mask(targets)
        if self.follows == "boxes":
            shape = next(image_shape(form) for form in self.forms.values() if "image" in form.kinds)
            return Boxes(targets, (shape[-2], shape[-1]))
        return None


def applies(step: Step, form: InputForm) -> bool:
    """Whether a transform changes an input."""
    options = step.options
    return bool(form.kinds & {*options.kinds}) and options.input in (None, form.name)


def _some(apply: Callable[..., Values], options: Transform, rows: Values, form: InputForm, draws: Draws) -> Values:
    """Rows of tokens of which a share is changed."""
    chosen = draws.chance(options.probability)
    changed = apply(options, rows, form, draws)
    made = dict(rows)
    for name, values in changed.items():
        if values is not rows[name]:
            made[name] = np.where(chosen.reshape((-1,) + (1,) * (values.ndim - 1)), values, rows[name])
    return made


class _Work:
    """Images, series or recordings in the layout of transforms; consecutive moves are joined to one map.

    Args:
        following: targets that move with the images, or None.
    """

    def __init__(self, form: InputForm, values: Array, following: Following | None, seeds: Seeds) -> None:
        self.form, self.values, self.following, self.seeds = form, values, following, seeds
        self.maps: Maps | None = None
        self.fill = "black"

    def add(self, name: str, options: Any, number: int) -> None:
        """Apply a transform to the views for which it is drawn."""
        draws = Draws(self.seeds, number)
        chosen = draws.chance(options.probability)
        if name in GEOMETRY and self.values.ndim == 4:
            self._move(GEOMETRY[name](options, draws, self._size), chosen, getattr(options, "fill", "black"))
            return
        self._interpolate()
        if not chosen.any():
            return
        part, own = self.values[chosen], draws.of(chosen)
        if name == "randaugment":
            places = np.flatnonzero(chosen)

            def follow(maps: Maps, rows: NDArray[np.bool_]) -> None:
                self._follow(maps, np.isin(np.arange(len(chosen)), places[rows]))

            part = self._restored(randaugment(options, self._scaled(part), self._grey(options.fill), own, follow))
        else:
            part = self._changed(name, options, part, own)
        self.values[chosen] = part

    def result(self) -> Array:
        """The input in its own layout."""
        self._interpolate()
        return self.form.closed(self.values)

    @property
    def _size(self) -> tuple[int, int]:
        return self.values.shape[2], self.values.shape[3]

    def _changed(self, name: str, options: Any, part: Array, draws: Draws) -> Array:
        if name == "color":
            return self._restored(colors.color(options, self._scaled(part), draws))
        recording = part.ndim == 2
        made: dict[str, Callable[[], Array]] = {
            "blur": lambda: pixels.blur(options, part, draws),
            "noise": lambda: pixels.noise(options, part, self.form, draws),
            "erase": lambda: pixels.erase(options, part, self.form, draws),
            "time_mask": lambda: series_changes.time_mask(options, part, draws, recording),
            "feature_mask": lambda: series_changes.feature_mask(options, part, draws),
            "gain": lambda: series_changes.gain(options, part, draws),
            "shift": lambda: series_changes.shift(options, part, draws),
        }
        return made[name]()

    def _move(self, maps: Maps, chosen: Array, fill: str) -> None:
        maps = np.where(chosen[:, None, None], maps, np.eye(3))
        if self.maps is not None and fill != self.fill:
            self._interpolate()
        self.maps, self.fill = (maps if self.maps is None else self.maps @ maps), fill

    def _interpolate(self) -> None:
        if self.maps is None:
            return
        self.values = moved(self.values, self.maps, self._value(self.fill))
        self._follow(self.maps, np.ones(len(self.maps), np.bool_))
        self.maps = None

    def _follow(self, maps: Maps, rows: NDArray[np.bool_]) -> None:
        if self.following is not None:
            self.following.move(maps, rows)

    def _value(self, fill: str) -> Array | None:
        """Value of places without pixels in the input's units; None for the edge."""
        low, high = self.form.levels(self.values.shape[1])
        return None if fill == "edge" else low if fill == "black" else (low + high) / 2

    def _grey(self, fill: str) -> Array | None:
        """The same for pixels from 0 to 1."""
        return None if fill == "edge" else np.full((self.values.shape[1], 1, 1), 0.5 * (fill == "mean"), np.float32)

    def _scaled(self, values: Array) -> Array:
        """Values as pixels from 0 (black) to 1 (white)."""
        low, high = self.form.levels(values.shape[1])
        return colors.clipped((values - low) / (high - low))

    def _restored(self, values: Array) -> Array:
        low, high = self.form.levels(values.shape[1])
        made: Array = values * (high - low) + low
        return made


def followed_by(targets: Array | None, forms: Sequence[InputForm], boxes: bool) -> Follows:
    """Which targets move with the images.

    Args:
        boxes: whether the targets are boxes; targets with the height and the width of the images are masks.
    """
    sizes = {image_shape(form)[-2:] for form in forms if "image" in form.kinds}
    if targets is None or not sizes:
        return "nothing"
    if boxes:
        return "boxes"
    return "mask" if targets.ndim in (3, 4) and targets.shape[-2:] in sizes else "nothing"
