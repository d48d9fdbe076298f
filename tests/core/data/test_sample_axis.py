"""Which axis of given arrays has the samples: the first one, unless only the layout of the model fits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from retort.core.data.sample_axis import rows_first
from retort.core.tensors import BATCH, TensorSpec

STATES = [TensorSpec("x", "float32", ("time", BATCH, 4)), TensorSpec("h", "float32", (1, BATCH, 8))]


@pytest.mark.parametrize(
    ("shape", "given", "wanted"),
    [
        ((6, "N", 4), (6, 16, 4), (16, 6, 4)),
        ((6, "N", 4), (16, 6, 4), (16, 6, 4)),
        ((6, "N", 4), (16, 7, 4), (16, 7, 4)),
        (("T", "N", 4), (6, 16, 4), (6, 16, 4)),
        ((BATCH, 6, 4), (6, 16, 4), (6, 16, 4)),
        ((6, "N", 4), (6, 4), (6, 4)),
        ((1, "T", 4), (1, 9, 4), (1, 9, 4)),
    ],
    ids=["own", "rows first", "neither", "both", "batch first", "other rank", "one row"],
)
def test_one_array(shape: tuple[Any, ...], given: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    """An array is turned only if the sizes of the model leave no other reading."""
    value = np.arange(np.prod(given), dtype=np.float32).reshape(given)
    found = rows_first({"x": value}, [TensorSpec("x", "float32", shape)])["x"]
    assert found.shape == wanted
    np.testing.assert_array_equal(found, value if wanted == given else np.moveaxis(value, 1, 0))


def test_several_arrays_have_one_number_of_samples() -> None:
    """Sequences and states in the layout of the model are turned together; with samples first they stay."""
    own = rows_first({"x": np.zeros((6, 16, 4)), "h": np.zeros((1, 16, 8))}, STATES)
    first = rows_first({"x": np.zeros((16, 6, 4)), "h": np.zeros((16, 1, 8))}, STATES)
    for found in (own, first):
        assert {name: value.shape for name, value in found.items()} == {"x": (16, 6, 4), "h": (16, 1, 8)}


def test_a_shared_value_is_repeated() -> None:
    """The value of an input without a batch is given once or once per sample."""
    specs = [
        TensorSpec("x", "float32", (BATCH, 4)),
        TensorSpec("rate", "float32", ()),
        TensorSpec("w", "float32", (3,)),
    ]
    for rate, w in ((np.float32(2), np.arange(3.0)), (np.full(5, 2.0), np.tile(np.arange(3.0), (5, 1)))):
        found = rows_first({"x": np.zeros((5, 4)), "rate": np.asarray(rate), "w": w}, specs)
        assert {name: value.shape for name, value in found.items()} == {"x": (5, 4), "rate": (5,), "w": (5, 3)}
        assert found["rate"].tolist() == [2.0] * 5
        assert found["w"][4].tolist() == [0.0, 1.0, 2.0]


def test_arrays_of_several_lengths_stay() -> None:
    """An axis other than the batch that all inputs share is no reason to turn arrays that differ in length."""
    texts = [TensorSpec(name, "int64", (BATCH, "time")) for name in ("ids", "mask")]
    found = rows_first({"ids": np.zeros((8, 16)), "mask": np.zeros((7, 16))}, texts)
    assert {name: value.shape for name, value in found.items()} == {"ids": (8, 16), "mask": (7, 16)}
