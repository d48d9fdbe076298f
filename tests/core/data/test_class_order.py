"""Names of classes: from data to a model whose classes have names too, and from datasets that know theirs."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from data_files import load, write

from retort.core.data.array_splits import classes_of
from retort.core.data.model_inputs import fit_to
from retort.core.data.splits import ArraySplit, Splits, Subset, targets_in_memory
from retort.core.errors import DataError
from retort.core.signature import Signature
from retort.core.tensors import TensorSpec

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


THREE = replace(SIGNATURE, outputs=(TensorSpec("y", "float32", ("batch", 3)),)).naming(["ant", "Bee", "cat"])


def named(*classes: str) -> Splits:
    """Samples whose labels are the indices of the classes in turn, and one that is not labelled."""
    labels = np.array([*range(len(classes)), -1], np.int64)
    part = ArraySplit({"x": np.zeros((len(labels), 2), np.float32)}, labels)
    return Splits(part, Subset(part, np.array([1])), part, part, classes)


@pytest.mark.parametrize(
    ("classes", "wanted"),
    [
        (("ant", "bee", "cat"), [0, 1, 2, -1]),
        (("cat", "bee", "ant"), [2, 1, 0, -1]),
        (("bee", "cat"), [1, 2, -1]),
        (("x", "y", "z"), [0, 1, 2, -1]),
    ],
)
def test_labels_get_the_numbers_of_the_model(classes: tuple[str, ...], wanted: list[int]) -> None:
    """Names in another order, or some of them, are found in the model; all others may be names of the same classes."""
    fitted = fit_to(named(*classes), THREE)
    assert np.asarray(fitted.train.read(range(len(wanted)))[1]).tolist() == wanted
    assert np.asarray(fitted.validation.read([0])[1]).tolist() == wanted[1:2]
    assert np.asarray(targets_in_memory(fitted.validation)).tolist() == wanted[1:2]
    again = fit_to(fitted, THREE)
    assert np.asarray(again.train.read(range(len(wanted)))[1]).tolist() == wanted
    student = fit_to(fitted, replace(SIGNATURE, inputs=(TensorSpec("z", "float32", ("batch", 2)),)))
    assert np.asarray(student.train.read(range(len(wanted)))[1]).tolist() == wanted
    moved = wanted[:3] != [0, 1, 2]
    assert fitted.classes == (THREE.classes if moved else classes)
    assert (fitted.train.fingerprint() != named(*classes).train.fingerprint()) == moved


@pytest.mark.parametrize("classes", [("ant", "bee", "cat", "dog"), ("ant", "dog"), ("dog", "eel")])
def test_classes_that_the_model_does_not_know_are_refused(classes: tuple[str, ...]) -> None:
    """Their labels would be those of other classes."""
    with pytest.raises(DataError, match=r"dog.* which the model does not know: its classes are ant, Bee, cat"):
        fit_to(named(*classes), THREE)


def test_a_label_without_a_name_is_refused() -> None:
    """A label beyond the names of the data has no number in the model."""
    part = ArraySplit({"x": np.zeros((2, 2), np.float32)}, np.array([0, 2]))
    fitted = fit_to(Splits(part, part, part, part, ("cat", "ant")), THREE)
    with pytest.raises(DataError, match="the label 2 and the names of 2 classes"):
        fitted.train.read([0, 1])


def numbered(base: Path, *labels: int) -> Splits:
    """A table of two features and whole numbers as labels."""
    return load(
        write(base / "n.csv", "a,b,label", *(f"{i}.5,1.5,{label}" for i, label in enumerate(labels * 10))).name, base
    )


FIVE = replace(SIGNATURE, outputs=(TensorSpec("y", "float32", ("batch", 5)),))


@pytest.mark.parametrize(
    ("labels", "names", "wanted"),
    [
        ((1, 4), "", {1, 4}),
        ((0, 4), "", {0, 4}),
        ((1, 2, 3, 4, 5), "", {0, 1, 2, 3, 4}),
        ((1, 4), "abcde", {1, 4}),
        ((2, 5), "12345", {1, 4}),
    ],
)
def test_some_of_the_whole_numbers_of_a_model(
    tmp_path: Path, labels: tuple[int, ...], names: str, wanted: set[int]
) -> None:
    """Whole numbers are the model's names or indices; as many as it has scores are numbered in order."""
    fitted = fit_to(numbered(tmp_path, *labels), FIVE.naming(tuple(names)))
    for split in (fitted.train, fitted.test):
        assert set(np.asarray(split.read(range(len(split)))[1]).tolist()) == wanted
    assert fitted.classes in (tuple(names), tuple(map(str, labels)))


@pytest.mark.parametrize("labels", [(1, 5), (-1, 1), (10, 20, 30)])
def test_whole_numbers_that_are_no_index_are_refused(tmp_path: Path, labels: tuple[int, ...]) -> None:
    """Numbers that fit none of the scores would be judged as those of other classes."""
    with pytest.raises(DataError, match="the model has 5 scores, which are those of the labels 0 to 4"):
        fit_to(numbered(tmp_path, *labels), FIVE)


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
