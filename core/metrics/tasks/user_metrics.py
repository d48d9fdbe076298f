"""Metrics that are functions of the user: they return a value for each sample, or one for all samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...data.references import place, resolve
from ...errors import DataError, RetortError
from ...options.metric_names import LOWER
from ...tensors import Array
from ..intervals import Floats, Score
from .definition import Statistic

RESAMPLES = 2_000
"""Number of resamples for a function that gives one value for all samples: it is called once for each."""
Judged = Array | Mapping[str, Array]
"""The outputs that a metric judges: an array, or by name all outputs of a model with several, for a user's function."""


def user_statistic(name: str, outputs: Judged, targets: Array | None) -> Statistic:
    """Scores ``[N]`` of the user's function, or a function of weights that calls it on repeated samples.

    Args:
        name: ``package.module:function``, which is also looked up in the current folder.
        outputs: ``[N, …]``; by name, for a model with several outputs.
        targets: ``[N, …]``, or None.

    Raises:
        UserError: there is no such function.
        DataError: it raised, or returned something else than one finite number, or one for each sample.
    """
    function = resolve(name.removesuffix(LOWER), Path.cwd())
    count = _count(outputs)
    value = _called(function, name, outputs, targets)
    if value.shape == (count,) and count:
        return value
    if value.shape != ():
        raise DataError(
            f"the metric '{name}' returned an array of shape {list(value.shape)} for {count} samples",
            f"return one number, or an array of shape [{count}] with one number per sample",
        )
    return _of_set(function, name, outputs, targets, float(value))


def _of_set(function: Callable[..., Any], name: str, outputs: Judged, targets: Array | None, whole: float) -> Score:
    def _score(weights: Floats) -> Floats:
        found = np.empty(len(weights))
        for row, own in enumerate(weights):
            if bool((own == 1).all()):
                found[row] = whole
                continue
            chosen = np.repeat(np.arange(len(own)), own.astype(np.int64))
            picked = None if targets is None else targets[chosen]
            found[row] = float(_called(function, name, _taken(outputs, chosen), picked, finite=False))
        return found

    return _score


def _count(outputs: Judged) -> int:
    return len(next(iter(outputs.values())) if isinstance(outputs, Mapping) else outputs)


def _taken(outputs: Judged, chosen: Array) -> Judged:
    if isinstance(outputs, Mapping):
        return {name: value[chosen] for name, value in outputs.items()}
    return outputs[chosen]


def _called(
    function: Callable[..., Any], name: str, outputs: Judged, targets: Array | None, finite: bool = True
) -> Floats:
    try:
        found = np.asarray(function(outputs, targets), dtype=np.float64)
    except RetortError:
        raise
    except Exception as error:  # the user's function may raise anything
        raise DataError(
            f"the metric '{name}' raised {type(error).__name__}: {error}", f"fix the error in {place(error)}"
        ) from error
    if finite and not np.isfinite(found).all():
        bad = f", first for sample {int(np.argmin(np.isfinite(found)))}" if found.ndim == 1 else ""
        raise DataError(
            f"the metric '{name}' returned a value that is not finite{bad}",
            "return finite numbers, or leave such samples out of the data",
        )
    return found
