"""Mixing of samples: mixup (Zhang et al., 2018) and CutMix (Yun et al., 2019).

The partner of a sample is any sample of the training split. Its number, the share and the rectangle are drawn from the
seed of the sample's view, so that they depend neither on the batch nor on the process that reads it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...options.augment_options import CutmixOptions, MixupOptions
from ...tensors import Array
from .draws import Draws, Seeds
from .input_kinds import InputForm
from .pixels import rectangles

MIXUP, CUTMIX, PARTNER = 1001, 1002, 1003
"""Streams of random numbers."""


@dataclass(frozen=True)
class View:
    """A batch of views.

    Attributes:
        inputs: arrays by name.
        targets: of the samples, or None.
        partners: targets of the samples with which they are mixed, or None without mixing or targets.
        shares: ``float32[N]``, the share of each sample's own target, or None without mixing.
    """

    inputs: dict[str, Array]
    targets: Array | None
    partners: Array | None = None
    shares: NDArray[np.float32] | None = None

    def rows(self, chosen: NDArray[Any]) -> View:
        """Some of the views, which are not mixed yet."""
        targets = None if self.targets is None else self.targets[chosen]
        return View({name: array[chosen] for name, array in self.inputs.items()}, targets)


@dataclass(frozen=True)
class Mixing:
    """What mixes samples.

    Attributes:
        mixup: None without it.
        cutmix: None without it.
    """

    mixup: MixupOptions | None = None
    cutmix: CutmixOptions | None = None

    def __bool__(self) -> bool:
        return self.mixup is not None or self.cutmix is not None

    def chosen(self, seeds: Seeds) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Which views are mixed, and which are cut; no view is both."""
        none = np.zeros(len(seeds), np.bool_)
        mixed = Draws(seeds, MIXUP).chance(self.mixup.probability) if self.mixup else none
        cut = Draws(seeds, CUTMIX).chance(self.cutmix.probability) & ~mixed if self.cutmix else none
        return mixed, cut

    def rows(self, seeds: Seeds) -> NDArray[np.int64]:
        """The numbers of the views that are changed."""
        return np.flatnonzero(np.logical_or(*self.chosen(seeds)))

    def partners(self, seeds: Seeds, count: int) -> NDArray[np.int64]:
        """The number of the sample with which each view is mixed, of ``count`` samples."""
        return Draws(seeds, PARTNER).below(count)


def mixup(options: MixupOptions, own: View, other: View, seeds: Seeds) -> View:
    """Values of two samples each, mixed by the same share in all inputs."""
    draws = Draws(seeds, MIXUP)
    draws.uniform()  # decided whether the view is mixed
    shares = draws.beta(options.alpha).astype(np.float32)
    made = {}
    for name, values in own.inputs.items():
        share = shares.reshape((-1,) + (1,) * (values.ndim - 1))
        made[name] = _typed(share * values + (1 - share) * other.inputs[name], values)
    return View(made, own.targets, other.targets, shares)


def cutmix(
    options: CutmixOptions, own: View, other: View, forms: Mapping[str, InputForm], seeds: Seeds, dense: bool
) -> View:
    """Images with a rectangle of another one each; dense targets get the same rectangle, others the share of area."""
    draws = Draws(seeds, CUTMIX)
    draws.uniform()
    height, width = image_shape(next(iter(forms.values())))[-2:]
    places = rectangles(draws, 1 - draws.beta(options.alpha), (height, width))
    made = {
        name: _pasted(values, other.inputs[name], places, forms[name].channels_last)
        for name, values in own.inputs.items()
    }
    covered = [np.empty((height, width), np.bool_)[place].size for place in places]
    shares = (1 - np.array(covered) / (height * width)).astype(np.float32)
    if dense and own.targets is not None and other.targets is not None:
        mask = _pasted(own.targets, other.targets, places, False)
        return View(made, mask, mask, np.ones_like(shares))
    return View(made, own.targets, other.targets, shares)


def _pasted(values: Array, others: Array, places: Sequence[tuple[slice, slice]], channels_last: bool) -> Array:
    result = values.copy()
    for row, (rows, columns) in enumerate(places):
        at: Any = (rows, columns, slice(None)) if channels_last else (..., rows, columns)
        result[row][at] = others[row][at]
    return result


def combined_views(
    mixing: Mixing, own: View, other: View, forms: Mapping[str, InputForm], seeds: Seeds, dense: bool
) -> View:
    """All views of a batch, of which :meth:`Mixing.rows` are mixed with one other each, in that order."""
    rows = mixing.rows(seeds)
    copies = [None if own.targets is None else own.targets.copy() for _ in range(2)]
    inputs = {name: array.copy() for name, array in own.inputs.items()}
    made = View(inputs, copies[0], copies[1], np.ones(len(seeds), np.float32))
    blended, pasted = (chosen[rows] for chosen in mixing.chosen(seeds))
    if mixing.mixup is not None and blended.any():
        at = rows[blended]
        _put(made, at, mixup(mixing.mixup, own.rows(at), other.rows(blended), seeds[at]))
    if mixing.cutmix is not None and pasted.any():
        at = rows[pasted]
        _put(made, at, cutmix(mixing.cutmix, own.rows(at), other.rows(pasted), forms, seeds[at], dense))
    return made


def _put(whole: View, at: NDArray[np.int64], part: View) -> None:
    for name, values in part.inputs.items():
        whole.inputs[name][at] = values
    pairs = ((whole.targets, part.targets), (whole.partners, part.partners), (whole.shares, part.shares))
    for target, new in pairs:
        if target is not None and new is not None:
            target[at] = new


def image_shape(form: InputForm) -> tuple[int, ...]:
    """The shape of an image with the channels first."""
    return (form.shape[2], *form.shape[:2]) if form.channels_last else form.shape


def _typed(values: Array, like: Array) -> Array:
    """In the type of the input."""
    if like.dtype == np.uint8:
        values = np.clip(np.rint(values), 0, 255)
    return values.astype(like.dtype, copy=False)
