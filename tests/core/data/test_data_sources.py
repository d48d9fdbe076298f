"""Data sources: built-in sets, the user's function, an npz, an image folder; errors for bad data."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from retort.core.data.data_sources import load_data
from retort.core.data.model_inputs import fit_to, matched
from retort.core.data.splits import ArraySplit, Splits, as_arrays
from retort.core.errors import DataError, MissingFileError, UserError
from retort.core.options.stage_options import DataSpec
from retort.core.signature import Signature
from retort.core.tensors import TensorSpec


def load(source: str, base: Path, **keys: object) -> Splits:
    """Load a source with default shares."""
    return load_data(DataSpec(source=source, **keys), base)  # type: ignore[arg-type]


def test_digits_are_split_by_class_and_disjoint(tmp_path: Path) -> None:
    """The built-in digits are in disjoint splits that contain the classes in equal shares."""
    data = load("digits", tmp_path)
    parts = [as_arrays(part) for part in (data.train, data.validation, data.test)]
    rows = [row.tobytes() for part in parts for row in part.inputs["image"]]
    assert len(rows) == 1797
    assert len(set(rows)) >= 1797 - 5  # the set itself holds a few equal images
    counts = np.bincount(parts[2].targets)  # type: ignore[arg-type]
    assert counts.max() - counts.min() <= 2


def test_same_seed_same_data(tmp_path: Path) -> None:
    """Equal sources and seeds give equal fingerprints, another seed another."""
    spec = DataSpec(source="digits")
    assert load_data(spec, tmp_path, 1).fingerprint() == load_data(spec, tmp_path, 1).fingerprint()
    assert load_data(spec, tmp_path, 1).fingerprint() != load_data(spec, tmp_path, 2).fingerprint()


def test_npz_with_named_splits(tmp_path: Path) -> None:
    """An npz with x_train, y_train, x_test, y_test keeps those splits, and the others are made from them."""
    x, y = np.random.default_rng(0).normal(size=(40, 3)), np.arange(40) % 2
    np.savez(tmp_path / "d.npz", x_train=x, y_train=y, x_test=x[:10], y_test=y[:10])
    data = load("d.npz", tmp_path)
    assert len(data.test) == 10
    assert len(data.train) + len(data.validation) == 40
    inputs, targets = data.test.read([0])
    assert inputs["input"].dtype == np.float32
    assert targets is not None
    assert targets.dtype == np.int64


def test_npz_with_two_inputs(tmp_path: Path) -> None:
    """An npz may contain several inputs by name."""
    np.savez(tmp_path / "d.npz", input_ids=np.ones((20, 4), int), mask=np.ones((20, 4), int), y=np.arange(20) % 2)
    assert set(load("d.npz", tmp_path).train.read([0])[0]) == {"input_ids", "mask"}


def test_image_folder(tmp_path: Path) -> None:
    """A folder with one folder per class gives images in NCHW and the class names."""
    for name, shade in (("dark", 10), ("light", 200)):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for index in range(12):
            Image.fromarray(np.full((9, 7, 3), shade + index, np.uint8)).save(
                tmp_path / "pictures" / name / f"{index}.png"
            )
    data = load("pictures", tmp_path, args={"size": 8})
    assert data.classes == ("dark", "light")
    inputs, targets = data.train.read(range(len(data.train)))
    assert inputs["image"].shape[1:] == (3, 8, 8)
    assert set(np.asarray(targets)) == {0, 1}
    assert float(inputs["image"].max()) <= 1


def test_broken_image_is_named(tmp_path: Path) -> None:
    """The error for an unreadable image has its name."""
    for name in ("a", "b"):
        (tmp_path / "p" / name).mkdir(parents=True)
        for index in range(6):
            Image.new("RGB", (4, 4)).save(tmp_path / "p" / name / f"{index}.png")
    for path in (tmp_path / "p").rglob("*.png"):
        path.write_bytes(b"not an image")
    with pytest.raises(DataError, match=r"\.png is not a readable image"):
        load("p", tmp_path, args={"size": 4}).train.read([0])


def test_users_function_from_outside_the_package(tmp_path: Path) -> None:
    """A function in a module next to the recipe is found and called with its arguments."""
    (tmp_path / "own_data_a.py").write_text(
        "import numpy as np\n"
        "def make(n):\n"
        "    x = np.random.default_rng(0).normal(size=(n, 5)).astype('float32')\n"
        "    return {'train': (x, (x[:, 0] > 0).astype(int)), 'classes': ['no', 'yes']}\n"
    )
    data = load("own_data_a:make", tmp_path, args={"n": 50})
    assert data.classes == ("no", "yes")
    assert len(data.train) + len(data.validation) + len(data.test) == 50


@pytest.mark.parametrize("returned", ["(x, None)", "{'train': (x, None)}", "{'train': [{'audio': x}, None]}", "x"])
def test_samples_may_have_no_targets(returned: str, tmp_path: Path) -> None:
    """`(inputs, None)` are so many samples without targets, and not two samples."""
    name = f"unlabelled_{abs(hash(returned))}"
    (tmp_path / f"{name}.py").write_text(
        f"import numpy as np\nx = np.ones((40, 5), 'float32')\ndef make(): return {returned}\n"
    )
    data = load(f"{name}:make", tmp_path)
    assert len(data.train) + len(data.validation) + len(data.test) == 40
    inputs, targets = data.train.read([0, 1])
    assert targets is None
    assert [value.shape for value in inputs.values()] == [(2, 5)]


def test_function_that_raises_names_the_line(tmp_path: Path) -> None:
    """An exception in the user's function becomes one message with file and line."""
    (tmp_path / "own_data_b.py").write_text("def make():\n    return 1 / 0\n")
    with pytest.raises(DataError, match=r"ZeroDivisionError[\s\S]*own_data_b.py, line 2"):
        load("own_data_b:make", tmp_path)


def test_function_with_a_typo_gives_the_nearest(tmp_path: Path) -> None:
    """If the module has no such name, the message has the nearest one."""
    (tmp_path / "own_data_c.py").write_text("def splits(): ...\n")
    with pytest.raises(UserError, match="did you mean 'splits'"):
        load("own_data_c:split", tmp_path)


def test_nan_is_named(tmp_path: Path) -> None:
    """NaN in the data is rejected with split, input and sample."""
    x = np.zeros((40, 3), np.float32)
    x[7, 1] = np.nan
    np.savez(tmp_path / "d.npz", x_train=x, x_test=x[:5], x_validation=x[:5])
    with pytest.raises(DataError, match="the input has NaN or infinite values, first in sample 7"):
        load("d.npz", tmp_path)


def test_ragged_and_empty_sets_are_refused(tmp_path: Path) -> None:
    """Arrays of different lengths, and an empty split, are rejected."""
    np.savez(tmp_path / "ragged.npz", x=np.zeros((4, 2)), y=np.zeros(3, int))
    with pytest.raises(DataError, match="input has 4, targets has 3"):
        load("ragged.npz", tmp_path)
    x = np.zeros((9, 2))
    np.savez(tmp_path / "empty.npz", x_train=x, x_test=x, x_validation=x, x_calibration=x[:0])
    with pytest.raises(DataError, match="calibration split is empty"):
        load("empty.npz", tmp_path)


def test_unknown_sources_are_told_apart(tmp_path: Path) -> None:
    """For a misspelled built-in, the message has the nearest name, for a missing file its path."""
    with pytest.raises(UserError, match="did you mean 'digits'"):
        load("digit", tmp_path)
    with pytest.raises(MissingFileError, match=r"none\.npz"):
        load("none.npz", tmp_path)
    (tmp_path / "rows.h5").write_bytes(b"\x89HDF")
    with pytest.raises(UserError, match=r"rows\.h5 is not a kind of data that Retort reads") as caught:
        load("rows.h5", tmp_path)
    assert ".csv" in str(caught.value)
    (tmp_path / "cut.npz").write_bytes(b"PK\x03\x04 cut")
    with pytest.raises(DataError, match="cannot be read"):
        load("cut.npz", tmp_path)


def test_inputs_take_the_models_names() -> None:
    """Data and model may have different names for a single input; the number of inputs must agree."""
    part = ArraySplit({"x": np.zeros((3, 2), np.float32)})
    data = Splits(part, part, part, part)
    output = TensorSpec("y", "float32", ("batch",))
    named = fit_to(data, Signature((TensorSpec("features", "float32", ("batch", 2)),), (output,)))
    assert list(named.test.read([0])[0]) == ["features"]
    two = Signature((TensorSpec("a", "float32", ("batch", 2)), TensorSpec("b", "float32", ("batch", 2))), (output,))
    with pytest.raises(DataError, match="the data have the inputs x"):
        fit_to(data, two)


def test_names_that_agree_are_not_moved() -> None:
    """All but one: the last one is what is left. None: in order. Some: nothing is guessed."""
    assert matched(["key", "qeury"], ["query", "key"]) == {"query": "qeury", "key": "key"}
    assert matched(["a", "b"], ["query", "key"]) == {"query": "a", "key": "b"}
    assert matched(["key", "a", "b"], ["query", "key", "value"]) is None
    assert matched(["value", "query", "key", "more"], ["query", "key"]) == {"query": "query", "key": "key"}


@pytest.mark.parametrize("name", ["d.csv", "d.jsonl", "d.npz", "d.npy", "d.txt", "d.parquet"])
def test_a_pipe_is_refused_instead_of_waiting_for_a_writer(name: str, tmp_path: Path) -> None:
    """Data that are a pipe are told as such."""
    os.mkfifo(tmp_path / name)
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    with pytest.raises(DataError, match="pipe or a device"):
        load_data(DataSpec(source=name), tmp_path)
