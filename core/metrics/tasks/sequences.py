"""Metrics of recognised sequences: the edits that turn them into the true ones (Levenshtein, 1966).

Outputs are scores of frames ``[N, T, C]`` with the CTC blank as class 0, which are decoded greedily, or symbols
``[N, L]`` as integers. Targets are symbols ``[N, L]``; negative numbers fill them up and do not count.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ...errors import DataError
from ...tensors import Array
from ..intervals import Floats
from .definition import Evidence, largest_share

Symbols = NDArray[np.int64]
BLANK = 0
"""The class of no symbol in CTC, as in PyTorch."""


def greedy_symbols(outputs: Array) -> list[Symbols]:
    """The best symbol of each frame, without repetitions and blanks (Graves et al., 2006, best path decoding).

    Raises:
        DataError: the outputs are not scores of frames, and not symbols.
    """
    if outputs.ndim == 2 and outputs.dtype.kind in "iu":
        return [row[row >= 0].astype(np.int64) for row in outputs]
    if outputs.ndim != 3 or outputs.shape[2] < 2 or outputs.dtype.kind != "f":
        raise DataError(
            f"outputs of shape {list(outputs.shape)} are no scores of frames",
            "return [batch, frames, classes] with the blank as class 0, or integer symbols [batch, length]",
        )
    best = outputs.argmax(axis=2)
    new = np.diff(best, axis=1, prepend=-1) != 0
    return [row[kept].astype(np.int64) for row, kept in zip(best, new & (best != BLANK), strict=True)]


def edits(outputs: Array, targets: Array) -> Evidence:
    """The number of edits of each sample, and the number of its true symbols."""
    return _compared(greedy_symbols(outputs), true_symbols(targets))


def longest(evidence: Evidence) -> float:
    """How much one sample can change a rate, relative to ``1 / N``."""
    return largest_share(np.asarray(evidence[1], np.float64))


def word_edits(space: int, outputs: Array, targets: Array) -> Evidence:
    """As :func:`edits`, for the words that a symbol separates."""
    words: dict[bytes, int] = {}
    parts = [
        [_as_words(symbols, space, words) for symbols in rows]
        for rows in (greedy_symbols(outputs), true_symbols(targets))
    ]
    return _compared(*parts)


def true_symbols(targets: Array) -> list[Symbols]:
    """The symbols of each sample.

    Raises:
        DataError: the targets are not rows of whole numbers.
    """
    if targets.ndim != 2 or targets.dtype.kind not in "iub":
        raise DataError(
            f"targets {targets.dtype}{list(targets.shape)} are no sequences of symbols",
            "give integers [samples, length], filled up with -100",
        )
    return [row[row >= 0].astype(np.int64) for row in targets]


def _as_words(symbols: Symbols, space: int, words: dict[bytes, int]) -> Symbols:
    parts = np.split(symbols, np.flatnonzero(symbols == space))
    found = [part[part != space].tobytes() for part in parts]
    return np.array([words.setdefault(word, len(words)) for word in found if word], np.int64)


def _compared(found: Sequence[Symbols], wanted: Sequence[Symbols]) -> Evidence:
    lengths = np.array([len(row) for row in wanted], np.int64)
    return edit_distances(found, wanted), lengths


def edit_distances(found: Sequence[Symbols], wanted: Sequence[Symbols]) -> Floats:
    """The least number of insertions, deletions and replacements between the sequences of each pair, ``[N]``."""
    lengths = [np.array([len(row) for row in rows], np.int64) for rows in (found, wanted)]
    one, two = (_padded(rows, fill) for rows, fill in ((found, -1), (wanted, -2)))
    columns = np.arange(two.shape[1] + 1, dtype=np.float64)
    row = np.tile(columns, (len(found), 1))
    result = row[np.arange(len(found)), lengths[1]]
    for step in range(1, one.shape[1] + 1):
        moved = np.minimum(row[:, 1:] + 1, row[:, :-1] + (one[:, step - 1, None] != two))
        moved = np.concatenate([np.full((len(found), 1), float(step)), moved], axis=1)
        row = np.minimum.accumulate(moved - columns, axis=1) + columns  # insertions from the left
        ended = lengths[0] == step
        result[ended] = row[ended, lengths[1][ended]]
    return np.asarray(result, np.float64)


def _padded(rows: Sequence[Symbols], fill: int) -> Symbols:
    made = np.full((len(rows), max(map(len, rows), default=0)), fill, np.int64)
    for index, row in enumerate(rows):
        made[index, : len(row)] = row
    return made
