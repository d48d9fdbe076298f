"""Cross-validation: folds that are stratified and complete, no leak between them, and resuming."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from training_kit import Killed, Unplugged, blobs, net, splits

from retort.compress.program import store
from retort.compress.training.folds import cross_validate, fold_rows
from retort.core.artifact import Artifact, load_artifact
from retort.core.context import Context, Place
from retort.core.data.splits import ArraySplit, Splits
from retort.core.errors import DataError
from retort.core.facts.fold_facts import FoldsFacts
from retort.core.options.stage_options import TrainOptions


def test_folds_are_stratified_complete_and_repeatable() -> None:
    """Every sample is in one fold, every class is spread to within one sample, and a seed gives the same folds."""
    targets = np.repeat([0, 1, 2], [50, 23, 7])
    folds = fold_rows(targets, 5, seed=1)
    assert np.array_equal(np.sort(np.concatenate(folds)), np.arange(80))
    for kind in range(3):
        counts = [int((targets[rows] == kind).sum()) for rows in folds]
        assert max(counts) - min(counts) <= 1
    assert all(np.array_equal(one, other) for one, other in zip(folds, fold_rows(targets, 5, seed=1), strict=True))
    assert any(not np.array_equal(one, other) for one, other in zip(folds, fold_rows(targets, 5, seed=2), strict=True))
    with pytest.raises(DataError, match="2 samples, and there are 5 folds"):
        fold_rows(targets[:2], 5, seed=1)


def measured(folder: Path, data: Splits, folds: int = 3) -> Artifact:
    """A cross-validation of the small net."""
    start = folder / "start"
    if not start.exists():
        store(net(), Place(start), "capture")
    context = Context(data, seed=3, scratch=folder / "scratch")
    options = TrainOptions(epochs=2, batch_size=16, learning_rate=0.02)
    return cross_validate(options, load_artifact(start), Place(folder / "folds", "key"), context, folds)


def test_the_mean_has_an_interval_and_the_test_split_is_not_read(tmp_path: Path) -> None:
    """Each fold is judged on its own samples, and the test split may be anything."""
    broken = ArraySplit({"x": np.full((5, 6), np.nan, np.float32)}, np.arange(5))
    made = measured(tmp_path, splits(90, test=broken))
    facts = made.facts_as(FoldsFacts)
    values = [fold.value for fold in facts.folds]
    assert (made.kind, facts.metric, [fold.samples for fold in facts.folds]) == (
        "measurement",
        "accuracy",
        [30, 30, 30],
    )
    half = 4.3027 * float(np.std(values, ddof=1)) / 3**0.5
    assert facts.value == pytest.approx(np.mean(values))
    assert (facts.low, facts.high) == pytest.approx((facts.value - half, facts.value + half), abs=1e-4)
    assert not list((tmp_path / "scratch").glob("*"))


def test_an_interrupted_cross_validation_goes_on(tmp_path: Path) -> None:
    """Folds that were finished are not trained again, and the result is that of a run without a stop."""
    whole = measured(tmp_path / "whole", splits(60)).facts_as(FoldsFacts)
    original = blobs(60, 1)
    data = replace(splits(60), train=Unplugged(original.inputs, original.targets))
    Unplugged.reads, Unplugged.limit = 0, 14
    with pytest.raises(Killed):
        measured(tmp_path / "broken", data)
    Unplugged.limit, before = 10**9, Unplugged.reads
    found = measured(tmp_path / "broken", data).facts_as(FoldsFacts)
    assert found == whole
    again = Unplugged.reads - before
    Unplugged.reads = 0
    measured(tmp_path / "third", data)
    assert again < Unplugged.reads
