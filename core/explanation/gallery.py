"""Explained samples with what a person needs to read them: the samples, their classes, and names of their parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from ..signature import Signature
from ..tensors import Array
from .explanation import Explanation, Heatmap
from .text_pieces import words_of_pieces

BLOCKS = 40
"""Into so many blocks the longest axis of a large sample is divided to name its strongest part."""


@dataclass(frozen=True)
class Item:
    """One explanation of one sample.

    Attributes:
        row: number of the sample in its source.
        sample: the inputs without batch axes.
        truth: the sample's class or value in words; empty if it is not known.
        pieces: what the tokens of an input stand for in the text, by input, as far as it is known.
    """

    row: int
    sample: Mapping[str, Array]
    explanation: Explanation
    truth: str = ""
    pieces: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Gallery:
    """Explanations of several samples of one model.

    Attributes:
        model: the model in words, and ``source`` the samples.
        signature: with the names of classes, symbols and features, as far as they are known.
    """

    model: str
    source: str
    signature: Signature
    items: Sequence[Item]


def token_texts(item: Item, signature: Signature, name: str) -> list[str]:
    """The pieces or characters of an input of tokens, or their numbers where nothing says what they stand for."""
    symbols, spec, numbers = signature.symbols, signature.spelled, item.sample[name]
    if name in item.pieces:
        return list(item.pieces[name])
    if spec is None or spec.name != name:
        return [str(number) for number in numbers.tolist()]
    return [symbols[number - 2] if 1 < number < len(symbols) + 2 else "�" for number in numbers.tolist()]


def is_text(item: Item, signature: Signature, name: str) -> bool:
    """Whether the tokens of an input make up a text that is known."""
    return name in item.pieces or is_spelled(signature, name)


def is_spelled(signature: Signature, name: str) -> bool:
    """Whether the tokens of an input are characters that are known."""
    return signature.spelled is not None and signature.spelled.name == name


def feature_names(signature: Signature, name: str, count: int) -> list[str]:
    """The names of the features of a table, or their numbers."""
    spec = signature.tabulated
    known = spec is not None and spec.name == name and len(signature.features) == count
    return list(signature.features) if known else [f"feature {index}" for index in range(count)]


def strongest(item: Item, signature: Signature) -> str:
    """The part with the largest share in the score, in words."""
    name, heatmap = max(item.explanation.heatmaps.items(), key=lambda found: _largest(found[1]))
    values = heatmap.values
    if not np.abs(values).max(initial=0.0):
        return "none"
    several = f" of {name}" if len(item.explanation.heatmaps) > 1 else ""
    return f"{_where(item, signature, name, heatmap)}{several}"


def _largest(heatmap: Heatmap) -> float:
    return float(np.abs(heatmap.values).max(initial=0.0))


def _where(item: Item, signature: Signature, name: str, heatmap: Heatmap) -> str:
    values, step = heatmap.values, 1
    if heatmap.kind in ("image", "signal", "volume"):
        step = max(1, max(values.shape) // BLOCKS)
        values = _coarse(values, step)
    at = [int(index) for index in np.unravel_index(int(np.abs(values).argmax()), values.shape)] if values.ndim else []
    if heatmap.kind == "tokens":
        return _token(item, signature, name, values)
    if heatmap.kind == "table":
        names = feature_names(signature, name, values.size)
        return names[at[0]] if at else name
    if heatmap.kind == "sequence":
        return f"step {at[0]}, feature {at[1]}"
    axes = {"image": ("row", "column"), "signal": ("sample",)}.get(heatmap.kind, ("cell",) * values.ndim)
    spans = [_span(values, axis, at) for axis in range(values.ndim)]
    cells = zip(axes, spans, heatmap.values.shape, strict=True)
    return ", ".join(_named(name, start * step, min(stop * step, size)) for name, (start, stop), size in cells)


def _named(name: str, start: int, stop: int) -> str:
    return f"{name}s {start} to {stop - 1}" if stop > start + 1 else f"{name} {start}"


def _coarse(values: Array, step: int) -> Array:
    """Sums of blocks, because single cells of a large sample say little."""
    for axis, size in enumerate(values.shape):
        values = np.add.reduceat(values, range(0, size, step), axis=axis)
    return values


def _span(values: Array, axis: int, at: Sequence[int]) -> tuple[int, int]:
    """The cells around the largest along one axis that have at least half of its share."""
    line = values[tuple(slice(None) if index == axis else place for index, place in enumerate(at))]
    strong = line / line[at[axis]] >= 0.5
    start = stop = at[axis]
    while start > 0 and strong[start - 1]:
        start -= 1
    while stop + 1 < len(line) and strong[stop + 1]:
        stop += 1
    return start, stop + 1


def _token(item: Item, signature: Signature, name: str, values: Array) -> str:
    texts = token_texts(item, signature, name)
    if name in item.pieces:
        words = words_of_pieces(texts)
    elif is_spelled(signature, name):
        words = words_of(texts)
    else:
        words = [(index, index + 1) for index in range(len(texts))]
    start, stop = max(words, key=lambda word: abs(float(values[word[0] : word[1]].sum())), default=(0, 0))
    text = "".join(texts[start:stop]).strip()
    return f"'{text}'" if is_text(item, signature, name) else f"token {text} at {start}"


def words_of(texts: Sequence[str]) -> list[tuple[int, int]]:
    """Start and stop of each word of characters."""
    gaps = [index for index, text in enumerate(texts) if text.isspace()]
    edges = [-1, *gaps, len(texts)]
    return [(left + 1, right) for left, right in pairwise(edges) if right > left + 1]
