"""The outputs of a device beside those of the same file on this machine: values, classes, and McNemar's test."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...core.counts import counted
from ...core.cpu_targets import ARM_MACHINES
from ...core.errors import DataError, RetortError
from ...core.metrics.mcnemar import McNemar, mcnemar
from ...core.metrics.tasks.classification import class_labels
from ...core.session import SessionOptions, model_faults, open_session
from ...core.tensors import Array
from ..accuracy import prediction_of
from .device_result import outputs_of
from .pulled_results import Pulled

EQUAL = 1e-3
"""Share of the range of outputs within which those of two machines are equal; other kernels add in another order."""


@dataclass(frozen=True)
class BesideHere:
    """The outputs of a device beside those that the same file gives on this machine.

    Attributes:
        samples: number of compared samples.
        largest: largest difference of any output, as a share of its range here; infinite for what is no number.
        decisions: number of samples whose class in the prediction differs; None if it has no scores of classes.
        first: number of the first sample with a difference of more than :data:`EQUAL` or another class; None without.
        right: the samples that are right only here (lost) and only on the device (gained); None without classes.
    """

    samples: int
    largest: float
    decisions: int | None
    first: int | None
    right: McNemar | None = None


def beside_here(pulled: Pulled, name: str) -> BesideHere | None:
    """The outputs of a candidate beside those of this machine; None if the device computed none.

    Raises:
        RetortError: this machine cannot run the file.
    """
    part = next((one for one in pulled.of_kind("accuracy") if one.said["candidate"] == name and one.arrays), None)
    if part is None:
        return None
    (candidate,) = (one for one in pulled.described["candidates"] if one["name"] == name)
    there = outputs_of(part)
    here = _outputs_here(pulled, candidate, len(next(iter(there.values()))))
    apart = np.max([_apart(here[output], values) for output, values in there.items()], axis=0)
    prediction = prediction_of(there)
    ours, theirs = here[prediction], there[prediction]
    other = theirs.argmax(-1) != ours.argmax(-1) if ours.ndim == 2 and ours.shape[1] > 1 else None
    wrong = apart > EQUAL if other is None else (apart > EQUAL) | other
    first = int(np.argmax(wrong)) if wrong.any() else None
    decisions = None if other is None else int(other.sum())
    right = None if other is None else _right(pulled, ours, theirs)
    return BesideHere(len(ours), float(apart.max(initial=0.0)), decisions, first, right)


def _apart(ours: Array, theirs: Array) -> Array:
    """The largest difference of each sample, as a share of the range of our values, ``[N]``.

    What is not a number on one side alone is infinitely far; at the same place on both sides it is equal.
    """
    left, right = ours.astype(np.float64), theirs.astype(np.float64)
    known = left[np.isfinite(left)]
    scale = float(np.ptp(known)) if known.size else 0.0
    with np.errstate(invalid="ignore"):
        equal = (left == right) | (np.isnan(left) & np.isnan(right))
        apart = np.where(equal, 0.0, np.abs(right - left)) / (scale or 1.0)
    largest: Array = np.nan_to_num(apart, nan=np.inf).reshape(len(ours), -1).max(axis=1, initial=0.0)
    return largest


def _right(pulled: Pulled, ours: Array, theirs: Array) -> McNemar | None:
    """On which samples only one of the machines is right; None if the targets are no classes."""
    file = pulled.described["data"]["targets"]
    targets = None if file is None else np.load(pulled.bundle / file, allow_pickle=False)[: len(ours)]
    if targets is None or targets.dtype.kind not in "iub":
        return None
    try:
        (here, truth), (there, _) = class_labels(ours, targets), class_labels(theirs, targets)
    except DataError:  # classes that these scores do not have
        return None
    return mcnemar(here == truth, there == truth) if here.ndim == 1 else None


def _outputs_here(pulled: Pulled, candidate: Mapping[str, Any], rows: int) -> dict[str, Array]:
    """The outputs of the first rows on this machine, one row per sample.

    Raises:
        InputError: the model cannot compute them here.
    """
    signed = str(pulled.device.get("machine", "")).lower() in ARM_MACHINES  # where ONNX Runtime takes INT8 as it is
    session = open_session(pulled.bundle / str(candidate["file"]), SessionOptions(threads=0, signed=signed))
    data, axes, size = pulled.described["data"], candidate["batch_axis"], int(candidate["fixed_batch"]) or 16
    inputs = {name: np.load(pulled.bundle / file, mmap_mode="r") for name, file in data["inputs"].items()}
    made: dict[str, list[Array]] = {}
    try:
        for start in range(0, rows, size):
            chosen = np.arange(start, start + size) % rows  # those beyond may have no answer
            feeds = {
                name: np.take(a, chosen, axes[name]) if name in axes else np.array(a) for name, a in inputs.items()
            }
            with model_faults("the model"):
                found = session.run(feeds)
            for name, values in found.items():
                if (axis := candidate["output_axis"].get(name)) is not None:
                    made.setdefault(name, []).append(np.moveaxis(values, axis, 0))
    finally:
        session.close()
    return {name: np.concatenate(parts)[:rows] for name, parts in made.items()}


def sentence(pulled: Pulled, name: str) -> str:
    """How the outputs of a candidate differ from those of this machine, for a cell of a table."""
    try:
        found = beside_here(pulled, name)
    except RetortError as error:
        return f"not compared: {error.message}"
    if found is None:
        return "–"
    if found.first is None:
        return f"as here, within {found.largest:.0e}" if found.largest else "as here, bit for bit"
    far = f" by up to {found.largest:.1%}" if math.isfinite(found.largest) else ", some are not numbers"
    told = f"differ{far}, first in sample {found.first}"
    if found.decisions is None:
        return told
    told += f"; {counted(found.decisions, 'other class', 'other classes')} of {found.samples:,}"
    if found.right is None or not found.decisions:
        return told
    return (
        f"{told}, right {found.right.gained} more and {found.right.lost} fewer (McNemar p = {found.right.p_value:.2g})"
    )
