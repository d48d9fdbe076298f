"""The built-in data sets, which scikit-learn brings."""

from __future__ import annotations

import importlib

import numpy as np

from ..system.installation import needed
from .splits import TRAIN, ArraySplit, Named

BUILT_IN = ("digits", "breast-cancer", "wine", "iris", "diabetes")


def built_in(name: str) -> tuple[Named, tuple[str, ...]]:
    """A built-in set and the names of its classes; features are standardised.

    Raises:
        MachineError: scikit-learn is not installed.
    """
    with needed("sklearn", "the built-in sets"):
        datasets = importlib.import_module("sklearn.datasets")
    bunch = getattr(datasets, f"load_{name.replace('-', '_')}")()
    if name == "digits":
        images = (bunch.images / 16.0).astype(np.float32)[:, None]
        return {TRAIN: ArraySplit({"image": images}, bunch.target.astype(np.int64))}, tuple("0123456789")
    features = bunch.data.astype(np.float32)
    features = (features - features.mean(axis=0)) / (features.std(axis=0) + 1e-12)
    if name == "diabetes":
        return {TRAIN: ArraySplit({"features": features}, bunch.target.astype(np.float32)[:, None])}, ()
    return {TRAIN: ArraySplit({"features": features}, bunch.target.astype(np.int64))}, tuple(
        map(str, bunch.target_names)
    )
