"""Arrays by name: one rule for .npz files and folders of .npy files, forgiving and told where it is unclear."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_files import assert_refused, load

X = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
Y = np.arange(40) % 2


@pytest.mark.parametrize(
    "names",
    [
        ("x_train", "y_train", "x_test", "y_test"),
        ("train_x", "train_y", "test_x", "test_y"),
        ("train/images", "train/labels", "test/images", "test/labels"),
        ("X_train", "Y_train", "X_test", "Y_test"),
        ("inputs.train", "targets.train", "inputs.test", "targets.test"),
        ("images_train", "label_train", "x_test", "y_test"),
        ("train", "labels_train", "test", "labels_test"),
    ],
)
def test_one_rule_for_names(names: tuple[str, str, str, str], tmp_path: Path) -> None:
    """Split before or behind, any case, usual words for input and labels: all are the same data."""
    np.savez(tmp_path / "plain.npz", x_train=X, y_train=Y, x_test=X[:9], y_test=Y[:9])
    given: dict[str, Any] = dict(zip(names, (X, Y, X[:9], Y[:9]), strict=True))
    np.savez(tmp_path / "d.npz", **given)
    data = load("d.npz", tmp_path)
    assert data.fingerprint() == load("plain.npz", tmp_path).fingerprint()
    assert len(data.test) == 9


def test_several_inputs_and_names_of_classes(tmp_path: Path) -> None:
    """Inputs keep their names; labels that are text, and an array of names, give the classes."""
    named: dict[str, Any] = {"train/input_ids": X, "train/mask": X, "train/labels": np.array(["no", "yes"])[Y]}
    np.savez(tmp_path / "a.npz", **named)
    data = load("a.npz", tmp_path)
    assert list(data.example()) == ["input_ids", "mask"]
    assert data.classes == ("no", "yes")
    np.savez(tmp_path / "b.npz", x=X, y=Y, class_names=np.array(["no", "yes"]))
    assert load("b.npz", tmp_path).classes == ("no", "yes")
    assert load("b.npz", tmp_path, classes="off,on").classes == ("off", "on")


def test_positional_arrays(tmp_path: Path) -> None:
    """`np.savez(file, x, y)` is an input with its labels."""
    np.savez(tmp_path / "d.npz", X, Y)
    inputs, targets = load("d.npz", tmp_path).train.read([0])
    assert list(inputs) == ["input"]
    assert targets is not None


def test_files_of_npy_are_mapped(tmp_path: Path) -> None:
    """A folder of .npy files has the same rule, and one file gives samples without labels."""
    (tmp_path / "d").mkdir()
    for name, array in (("x_train", X.astype(np.float64)), ("y_train", Y)):
        np.save(tmp_path / "d" / f"{name}.npy", array)
    data = load("d", tmp_path)
    inputs, targets = data.train.read([0, 1])
    assert inputs["input"].dtype == np.float32
    assert targets is not None
    before = data.fingerprint()
    np.save(tmp_path / "d/x_train.npy", X + 1)
    assert load("d", tmp_path).fingerprint() != before
    np.save(tmp_path / "x.npy", X)
    assert load("x.npy", tmp_path).train.read([0])[1] is None


def test_a_file_and_a_folder_of_arrays_are_read_alike(tmp_path: Path) -> None:
    """Types are the same, a number without axes is that of every sample, and text is no input in both."""
    arrays: dict[str, Any] = {
        "ids": Y.astype(np.int32),
        "mask": Y > 0,
        "x": X.astype(np.float64),
        "pixels": Y.astype(np.uint8),
        "scale": np.float32(0.5),
    }
    np.savez(tmp_path / "d.npz", **arrays)
    (tmp_path / "d").mkdir()
    for name, array in arrays.items():
        np.save(tmp_path / "d" / f"{name}.npy", array)
    one, other = load("d.npz", tmp_path), load("d", tmp_path)
    inputs, again = one.train.read([0, 1, 2])[0], other.train.read([0, 1, 2])[0]
    assert {name: value.dtype.name for name, value in inputs.items()} == {
        "ids": "int64",
        "mask": "bool",
        "x": "float32",
        "pixels": "uint8",
        "scale": "float32",
    }
    for name, value in inputs.items():
        assert value.dtype == again[name].dtype
        np.testing.assert_array_equal(value, again[name])
    arrays["ids"] = np.array(["a"] * 40)
    np.savez(tmp_path / "d.npz", **arrays)
    np.save(tmp_path / "d/ids.npy", arrays["ids"])
    assert_refused("d.npz", tmp_path, "contains text instead of numbers")
    assert_refused("d", tmp_path, "'ids' contains text instead of numbers")


def test_a_label_without_a_name_is_refused(tmp_path: Path) -> None:
    """A number beyond the names of the classes is named with its sample."""
    np.savez(tmp_path / "d.npz", x=X, y=np.where(np.arange(40) == 7, 2, Y), class_names=["no", "yes"])
    assert_refused("d.npz", tmp_path, "d.npz, 'y', sample 8: the label 2 is not one of the 2 classes")


def test_a_folder_of_npz_files(tmp_path: Path) -> None:
    """train.npz and test.npz are the splits."""
    (tmp_path / "d").mkdir()
    np.savez(tmp_path / "d/train.npz", x=X, y=Y)
    np.savez(tmp_path / "d/test.npz", x=X[:7], y=Y[:7])
    assert len(load("d", tmp_path).test) == 7


def test_npz_files_in_parts_keep_all_samples(tmp_path: Path) -> None:
    """The samples of all files of a split are used, in order; files with other arrays are refused."""
    (tmp_path / "d").mkdir()
    for part in range(2):
        rows = slice(20 * part, 20 * part + 20)
        np.savez(tmp_path / f"d/train-0000{part}-of-00002.npz", x=X[rows], y=Y[rows], class_names=["no", "yes"])
    np.savez(tmp_path / "d/test.npz", x=X[:7], y=Y[:7])
    data = load("d", tmp_path)
    np.savez(tmp_path / "whole.npz", x_train=X, y_train=Y, x_test=X[:7], y_test=Y[:7], class_names=["no", "yes"])
    assert data.fingerprint() == load("whole.npz", tmp_path).fingerprint()
    assert data.classes == ("no", "yes")
    np.savez(tmp_path / "d/train-00001-of-00002.npz", x=X[:, :2], y=Y)
    assert_refused("d", tmp_path, "train-00001-of-00002.npz has x [40, 2], y [40]", "class_names [2]")


def test_a_file_of_a_split_may_name_the_split_again(tmp_path: Path) -> None:
    """x_train in train.npz is x, and class_names in it are the names of the classes."""
    (tmp_path / "d").mkdir()
    for split in ("train", "test"):
        given: dict[str, Any] = {f"x_{split}": X, f"{split}/y": Y, "class_names": np.array(["no", "yes"])}
        np.savez(tmp_path / f"d/{split}.npz", **given)
    data = load("d", tmp_path)
    assert list(data.example()) == ["input"]
    assert data.classes == ("no", "yes")
    np.savez(tmp_path / "d/test.npz", x=X, y=Y, class_names=np.array(["yes", "no"]))
    assert_refused("d", tmp_path, "its files have different arrays 'class_names'")


def test_what_is_unclear_is_listed(tmp_path: Path) -> None:
    """Two arrays for one place, and splits with different inputs, are refused with how each array was read."""
    np.savez(tmp_path / "a.npz", x=X, y=Y, labels=Y)
    assert_refused("a.npz", tmp_path, "'y' and 'labels' are both read as the labels of train", "x [40, 3] → the input")
    np.savez(tmp_path / "b.npz", ids_train=X, mask_test=X)
    assert_refused("b.npz", tmp_path, "train and test have different inputs", "ids_train [40, 3] → the input 'ids'")
    np.savez(tmp_path / "c.npz", y=Y)
    assert_refused("c.npz", tmp_path, "train has labels and no input")


def test_bad_files(tmp_path: Path) -> None:
    """Python objects, damaged files and arrays of other kinds are refused with the name of the array."""
    ragged: Any = np.array([np.zeros(1), np.zeros(2)], dtype=object)
    np.savez(tmp_path / "a.npz", x=ragged)
    assert_refused("a.npz", tmp_path, "the array 'x' contains Python objects", "float32")
    np.save(tmp_path / "a.npy", ragged)
    assert_refused("a.npy", tmp_path, "contains Python objects")
    np.save(tmp_path / "b.npy", X)
    (tmp_path / "b.npy").rename(tmp_path / "b.npz")
    assert_refused("b.npz", tmp_path, "is a single array")
    np.savez(tmp_path / "c.npz", x=X)
    (tmp_path / "c.npz").write_bytes((tmp_path / "c.npz").read_bytes()[:200])
    assert_refused("c.npz", tmp_path, "c.npz cannot be read")
    np.savez(tmp_path / "d.npz")
    assert_refused("d.npz", tmp_path, "contains no array")
    (tmp_path / "e").mkdir()
    np.save(tmp_path / "e/x.npy", X)
    np.save(tmp_path / "e/y.npy", Y[:3])
    assert_refused("e", tmp_path, "arrays differ in length: input has 40, targets has 3")
    (tmp_path / "f.npz").write_text("a,b,label\n1,2,0\n")
    assert_refused("f.npz", tmp_path, "f.npz is not an .npz file\n", "name a table .csv")
    (tmp_path / "f.npy").write_text("a,b,label\n1,2,0\n")
    assert_refused("f.npy", tmp_path, "f.npy is not an .npy file\n", "name a table .csv")
    np.savez(tmp_path / "g.npz", x=X.astype(np.complex128), y=Y)
    assert_refused("g.npz", tmp_path, "contains complex numbers", "np.stack([x.real, x.imag], axis=1)")
    np.savez(tmp_path / "h.npz", x_train=np.float32(1), y_train=Y, x_test=np.float32(1), y_test=Y)
    assert_refused("h.npz", tmp_path, "only numbers without axes: input", "give one row per sample")
