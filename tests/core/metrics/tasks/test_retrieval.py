"""recall@k and the overlap of neighbours, by hand and against a plain search."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retort.core.errors import DataError
from retort.core.metrics.task_metrics import evaluate, paired_difference, sample_scores
from retort.core.tensors import Array


def neighbours(rows: Array, index: int) -> list[int]:
    """All other rows, the nearest by cosine first."""
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    order = np.argsort(-(unit @ unit[index]), kind="stable")
    return [int(other) for other in order if other != index]


@settings(max_examples=30, deadline=None)
@given(st.integers(5, 40), st.integers(1, 4), st.integers(0, 10_000))
def test_they_equal_a_plain_search(n: int, k: int, seed: int) -> None:
    """A query is right if one of its k nearest has its class; two models share the same of k neighbours."""
    rng = np.random.default_rng(seed)
    one, two, classes = rng.normal(size=(n, 6)), rng.normal(size=(n, 6)), rng.integers(0, 3, n)
    counts = [i for i in range(n) if (classes == classes[i]).sum() > 1]
    hits = [any(classes[j] == classes[i] for j in neighbours(one, i)[:k]) for i in counts]
    assert evaluate(f"recall@{k}", one, classes) == pytest.approx(np.mean(hits))
    shared = [len({*neighbours(one, i)[:k]} & {*neighbours(two, i)[:k]}) / k for i in range(n)]
    assert sample_scores(f"overlap@{k}", one, two) == pytest.approx(shared)


def test_pairs_of_embeddings_find_each_other() -> None:
    """With embeddings as targets, a sample looks for its own; scale does not matter."""
    targets = np.eye(4)
    outputs = 7 * targets.copy()
    outputs[3] = [0, 0, 1, 0.5]
    assert sample_scores("recall@1", outputs, targets).tolist() == [1, 1, 1, 0]
    assert evaluate("recall@2", outputs, targets) == 1.0


def test_a_model_shares_all_neighbours_with_itself() -> None:
    """The overlap of a model with itself is 1, and a worse model has a positive difference."""
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(200, 8))
    near, far = truth + 0.05 * rng.normal(size=truth.shape), truth + rng.normal(size=truth.shape)
    assert evaluate("overlap@5", truth, truth) == 1.0
    assert paired_difference("overlap@5", near, far, truth).low > 0


def test_too_few_samples_are_told() -> None:
    """Ten neighbours need more than ten samples."""
    with pytest.raises(DataError, match="recall@10 needs more than 10 samples, and there are 5"):
        evaluate("recall@10", np.ones((5, 2)), np.zeros(5, int))
