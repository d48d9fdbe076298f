"""Models of any batch: one size only, rows that influence each other, inputs without a batch axis."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from retort.core.errors import InputError, VerificationError
from retort.core.explanation.explain import Setting, explain
from retort.core.explanation.explanation import Asked
from retort.core.signature import Signature
from retort.core.tensors import Array, Feeds, TensorSpec

SIGNED = Signature((TensorSpec("x", "float32", ("batch", 6)),), (TensorSpec("y", "float32", ("batch", 1)),))
SAMPLES = np.arange(12, dtype=np.float32).reshape(2, 6)
WEIGHTS = np.array([[0.0], [0], [5], [0], [-1], [0]], np.float32)


class Model:
    """A linear model that remembers the sizes of its batches."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def __call__(self, feeds: Feeds) -> dict[str, Array]:
        """The outputs of a batch."""
        self.sizes.append(len(feeds["x"]))
        return {"y": feeds["x"] @ WEIGHTS}


def test_each_sample_of_a_batch_is_explained() -> None:
    """There is one explanation per row, and each equals that of the row alone."""
    made = explain(Setting(Model(), SIGNED), {"x": SAMPLES}, Asked())
    alone = [explain(Setting(Model(), SIGNED), {"x": row[None]}, Asked())[0] for row in SAMPLES]
    assert [found.to_dict() for found in made] == [found.to_dict() for found in alone]


def test_a_model_of_one_batch_size_is_explained() -> None:
    """A model that was made for four rows always gets four."""
    fixed = Signature((TensorSpec("x", "float32", (4, 6)),), (TensorSpec("y", "float32", (4, 1)),))
    model = Model()
    found = explain(Setting(model, fixed), {"x": np.resize(SAMPLES, (4, 6))}, Asked())
    assert (len(found), set(model.sizes)) == (4, {4})
    assert found[0].heatmaps["x"].values.argmax() == 2


def test_rows_that_influence_each_other_run_alone() -> None:
    """A model whose rows are not independent of their neighbours gets one row at a time."""
    model = Model()
    explain(Setting(model, replace(SIGNED, batch_invariant=False)), {"x": SAMPLES[:1]}, Asked())
    assert set(model.sizes) == {1}


def test_a_model_that_is_not_finite_is_told() -> None:
    """NaN for a changed sample is an error with a remedy, and so is a batch of outputs that is too short."""

    def fails(feeds: Feeds) -> dict[str, Array]:
        return {"y": np.where(feeds["x"][:, 2:3] == 0, np.nan, 1.0)}

    with pytest.raises(InputError, match="baseline"):
        explain(Setting(fails, SIGNED), {"x": SAMPLES[:1]}, Asked())
    with pytest.raises(VerificationError, match="rows"):
        explain(Setting(lambda feeds: {"y": np.ones((1, 1))}, SIGNED), {"x": SAMPLES[:1]}, Asked())


def test_progress_counts_every_evaluation() -> None:
    """What is reported while it works adds up to the number of evaluations of the explanation."""
    counts: list[int] = []
    found = explain(Setting(Model(), SIGNED, done=counts.append), {"x": SAMPLES[:1]}, Asked())[0]
    assert sum(counts) == found.used
