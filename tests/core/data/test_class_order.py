"""Names of classes: from data to a model whose classes have names too, and from datasets that know theirs."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from data_files import load, write

from retort.core.data.array_splits import classes_of
from retort.core.data.model_inputs import fit_to
from retort.core.data.splits import ArraySplit, Splits
from retort.core.errors import DataError
from retort.core.tensors import Signature, TensorSpec

SIGNATURE = Signature((TensorSpec("x", "float32", ("batch", 2)),), (TensorSpec("y", "float32", ("batch", 2)),))
PART = ArraySplit({"x": np.zeros((4, 2), np.float32)}, np.zeros(4, np.int64))


@dataclass
class Dataset:
    """A dataset that knows its classes, as those of torchvision do."""

    classes: list[str] = field(default_factory=lambda: ["cat", "dog"])

    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return np.zeros(2, np.float32), index % 2


def test_data_with_the_classes_in_another_order_are_refused() -> None:
    """If data and model number the same names differently, all labels would be wrong."""
    named = SIGNATURE.naming(["Negative", "Positive"])
    with pytest.raises(DataError, match="the data number the classes as positive, negative") as caught:
        fit_to(Splits(PART, PART, PART, PART, ("positive", "negative")), named)
    assert "classes: [Negative, Positive]" in str(caught.value)
    assert fit_to(Splits(PART, PART, PART, PART, ("negative", "positive")), named).classes == ("negative", "positive")


def test_a_model_names_the_classes_of_data_without_names() -> None:
    """Labels that are bare numbers get the model's names."""
    assert fit_to(Splits(PART, PART, PART, PART), SIGNATURE.naming(["a", "b"])).classes == ("a", "b")


def test_names_make_another_identity() -> None:
    """Renamed classes are other data, so that artifacts get the new names."""
    one, two = (Splits(PART, PART, PART, PART, names) for names in (("a", "b"), ("a", "c")))
    assert one.fingerprint() != two.fingerprint()


def test_datasets_know_their_classes(tmp_path: Path) -> None:
    """`classes` of a dataset, of what a loader or a subset reads, and the names of a ClassLabel are found."""
    assert classes_of(Dataset()) == ("cat", "dog")
    assert classes_of(SimpleNamespace(dataset=SimpleNamespace(dataset=Dataset()))) == ("cat", "dog")
    assert classes_of(SimpleNamespace(features={"label": SimpleNamespace(names=["a", "b"])})) == ("a", "b")
    assert classes_of([1, 2]) == ()
    write(
        tmp_path / "own_dataset.py",
        "import numpy as np",
        "class Set:",
        "    classes = ['cat', 'dog']",
        "    def __len__(self): return 40",
        "    def __getitem__(self, i): return np.zeros(2, np.float32), i % 2",
        "def make(): return Set()",
        "def two(): return {'train': Set()}",
    )
    assert load("own_dataset:make", tmp_path).classes == ("cat", "dog")
    assert load("own_dataset:two", tmp_path).classes == ("cat", "dog")
