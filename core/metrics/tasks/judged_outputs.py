"""Which of the outputs of a model a metric judges, and in which form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ...options.metric_names import is_function, parse_metric
from ...tensors import Array
from .detection import joined_boxes
from .sequences import BLANK
from .user_metrics import Judged

_BOXES = ("map", "map50")
_SEQUENCES = ("cer", "wer", "wer[]")


def judged_outputs(name: str, outputs: Mapping[str, Array], main: Array) -> Judged:
    """What a metric judges of a model's outputs.

    Args:
        name: name of the metric.
        outputs: all outputs by name, ``[N, …]`` each.
        main: the output that most metrics judge.

    Returns:
        The main output; the boxes of a detector in one array; scores of frames with blanks behind the length of each
        sample; or all outputs by name, for a function of the user and a model with several.

    Raises:
        DataError: a metric of boxes finds none.
    """
    if is_function(name):
        return main if len(outputs) == 1 else outputs
    parsed = parse_metric(name)
    family = parsed.family if parsed is not None else ""
    if family in _BOXES:
        return joined_boxes(outputs)
    lengths = next((value for key, value in outputs.items() if is_lengths(key, value.shape, value)), None)
    if family in _SEQUENCES and main.ndim == 3 and lengths is not None:
        return _ended(main, lengths)
    return main


def is_lengths(name: str, shape: tuple[int, ...], value: Any) -> bool:
    """Whether an output (an array or a tensor) gives the number of frames of each sample."""
    return len(shape) == 1 and "length" in name.lower() and "int" in str(value.dtype)


def _ended(scores: Array, lengths: Array) -> Array:
    blank = np.full(scores.shape[2], -1.0, scores.dtype)
    blank[BLANK] = 1.0
    behind = np.arange(scores.shape[1])[None, :] >= lengths[:, None]
    return np.where(behind[..., None], blank, scores)
