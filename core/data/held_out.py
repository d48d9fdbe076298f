"""Samples that are held out of a set for validation, test and calibration."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..counts import counted, listed
from ..errors import DataError
from ..options.stage_options import DataSpec
from .splits import CALIBRATION, NAMES, TEST, TRAIN, VALIDATION, Named, Split, Splits, Subset, targets_in_memory


@dataclass(frozen=True)
class StandIn(Subset):
    """Test samples in the place of a split that a source lacks."""


def complete(named: Named, classes: tuple[str, ...], spec: DataSpec, seed: int, judging: bool = False) -> Splits:
    """The four splits of a source: those that it has, and the missing ones, which are held out of its train split.

    Args:
        judging: whether samples are only judged: then a test split is enough, and it stands for those that are missing.

    Raises:
        DataError: the source has no train split, or a split with an unknown name, or too few samples.
    """
    unknown = sorted(set(named) - set(NAMES))
    if unknown:
        raise DataError(
            f"{spec.source} has unknown split '{unknown[0]}'", "name them train, validation, test, calibration"
        )
    if TRAIN not in named:
        if judging and TEST in named:
            every = {**dict.fromkeys(NAMES, StandIn(named[TEST], np.arange(len(named[TEST])))), **named}
            return Splits(every[TRAIN], every[VALIDATION], every[CALIBRATION], every[TEST], classes)
        raise _without_train(named, spec.source, judging)
    parts, whole = dict(named), len(named[TRAIN])
    generator = np.random.default_rng(seed)
    for key, share in ((TEST, spec.test), (VALIDATION, spec.validation)):
        if key not in parts:
            of_all = share if TEST in named or key == TEST else share / (1 - spec.test)
            parts[TRAIN], parts[key] = hold_out(parts[TRAIN], of_all, generator, spec.source, whole)
    if CALIBRATION not in parts:
        count = min(spec.calibration, len(parts[TRAIN]))
        chosen = np.sort(generator.permutation(len(parts[TRAIN]))[:count])
        parts[CALIBRATION] = Subset(parts[TRAIN], chosen)
    return Splits(parts[TRAIN], parts[VALIDATION], parts[CALIBRATION], parts[TEST], classes)


def _without_train(named: Named, source: str, judging: bool) -> DataError:
    names = [key for key in NAMES if key in named]
    only = f"{source} has only {listed(names)} samples" if names else f"{source} has no samples"
    if judging:
        return DataError(f"{only}, and none to judge a model on", f"name them {TEST}, or add a {TRAIN} split")
    return DataError(
        f"{only}, and this needs training samples, of which it takes the example, the calibration and held-out samples",
        f"add a {TRAIN} split; `retort predict --data` and `retort bench --data` need only a {TEST} split",
    )


def hold_out(
    split: Split, share: float, generator: np.random.Generator, source: str, whole: int | None = None
) -> tuple[Split, Split]:
    """Divide a split into the part that remains and the held-out part; both have about the same shares of classes.

    Args:
        whole: number of samples of the source, for the message.

    Raises:
        DataError: there are too few samples.
    """
    count = round(len(split) * share)
    if count < 1 or count >= len(split):
        raise DataError(
            f"{source} has {counted(len(split) if whole is None else whole, 'sample')}: too few to hold out some of "
            "them for validation and test",
            "give more samples, or give your own splits",
        )
    order = _stratified(split, generator)
    held, kept = order[:count], order[count:]
    return Subset(split, np.sort(kept)), Subset(split, np.sort(held))


def _stratified(split: Split, generator: np.random.Generator) -> NDArray[np.int64]:
    """An order in which every prefix has about the same shares of classes as the whole."""
    order = generator.permutation(len(split))
    targets = targets_in_memory(split)
    if targets is None or targets.dtype.kind not in "iu" or targets.ndim != 1:
        return order
    ranks = np.empty(len(order))
    for label in np.unique(targets):
        members = order[targets[order] == label]
        ranks[members] = (np.arange(len(members)) + 0.5) / len(members)
    return order[np.argsort(ranks[order], kind="stable")]
