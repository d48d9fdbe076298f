"""Parquet files, and folders that `save_to_disk` of `datasets` wrote; they are read with pyarrow."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_files import assert_refused, load
from PIL import Image

from retort.core.console import Console
from retort.core.data.data_sources import load_data
from retort.core.options.stage_options import DataSpec
from retort.core.system.installation import install_command

pyarrow: Any = pytest.importorskip("pyarrow")
parquet: Any = pytest.importorskip("pyarrow.parquet")

CLASS_LABEL = {"label": {"names": ["neg", "pos"], "_type": "ClassLabel"}, "v": {"_type": "List"}}


def rows(count: int = 40) -> Any:
    """A table of numbers, lists, text and indices."""
    generator = np.random.default_rng(0)
    return pyarrow.table(
        {
            "a": generator.normal(size=count),
            "b": np.arange(count),
            "v": generator.normal(size=(count, 3)).tolist(),
            "text": [f"text {i}" for i in range(count)],
            "label": [i % 2 for i in range(count)],
        }
    )


def save(folder: Path, table: Any, features: object = CLASS_LABEL) -> None:
    """Write a table as `Dataset.save_to_disk` of datasets 5.2 does."""
    folder.mkdir(parents=True)
    name = "data-00000-of-00001.arrow"
    with pyarrow.OSFile(str(folder / name), "wb") as sink, pyarrow.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name}], "_split": None}))
    (folder / "dataset_info.json").write_text(json.dumps({"features": features}))


def test_parquet(tmp_path: Path) -> None:
    """Numbers are features, lists of equal length an input, and several files make one split."""
    table = rows()
    parquet.write_table(table, tmp_path / "d.parquet")
    found = load("d.parquet", tmp_path, features="a,b").train.read([0, 1])[0]["features"]
    assert found.shape == (2, 2)
    assert load("d.parquet", tmp_path, ignore="text").example()["v"].shape == (2, 3)
    for part in range(2):
        (tmp_path / "parts").mkdir(exist_ok=True)
        parquet.write_table(table.slice(20 * part, 20), tmp_path / f"parts/train-0000{part}-of-00002.parquet")
    both = load("parts", tmp_path, features="a,b")
    assert np.array_equal(both.train.read([0, 1])[0]["features"], found)


def test_a_saved_dataset_keeps_its_class_names(tmp_path: Path) -> None:
    """The names of a ClassLabel are the classes, of one set and of a dictionary of splits."""
    save(tmp_path / "one", rows())
    assert load("one", tmp_path, features="v").classes == ("neg", "pos")
    save(tmp_path / "two/train", rows())
    save(tmp_path / "two/test", rows(9))
    (tmp_path / "two/dataset_dict.json").write_text(json.dumps({"splits": ["train", "test"]}))
    data = load("two", tmp_path, text="text", vocabulary="bytes")
    assert data.classes == ("neg", "pos")
    assert len(data.test) == 9
    assert list(data.example()) == ["input_ids"]


def test_a_split_whose_labels_are_secret_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Labels that are all -1 are not known: such a test split is held out of train instead."""
    secret = rows(12).set_column(4, "label", pyarrow.array([-1] * 12))
    save(tmp_path / "two/train", rows())
    save(tmp_path / "two/test", secret)
    (tmp_path / "two/dataset_dict.json").write_text(json.dumps({"splits": ["train", "test"]}))
    data = load_data(DataSpec(source="two", args={"features": "a"}), tmp_path, console=Console())
    assert "test is left out: every label in column 'label' is -1" in " ".join(capsys.readouterr().err.split())
    assert data.classes == ("neg", "pos")
    assert (len(data.test), set(np.asarray(data.test.read(range(8))[1]).tolist())) == (8, {0, 1})
    save(tmp_path / "one", secret)
    assert load("one", tmp_path, features="a").train.read([0])[1] is None


def test_images_in_a_table_are_decoded_when_they_are_read(tmp_path: Path) -> None:
    """A column of images gives pixels; a damaged one is named with its row."""
    stream = io.BytesIO()
    Image.new("RGB", (6, 5), (255, 0, 0)).save(stream, "PNG")
    images = [{"bytes": stream.getvalue(), "path": None}] * 29 + [{"bytes": b"no image", "path": None}]
    table = pyarrow.table({"image": images, "label": [i % 2 for i in range(30)]})
    save(tmp_path / "d", table, {"image": {"_type": "Image"}})
    parquet.write_table(table.slice(0, 29), tmp_path / "d.parquet")
    pixels = load("d.parquet", tmp_path, size=4).example()["image"]
    assert pixels.shape == (2, 3, 4, 4)
    assert pixels[0, 0].min() == 1
    assert_refused("d", tmp_path, "row 30, column 'image' is not a readable image", size=4)


def test_bad_files(tmp_path: Path) -> None:
    """Truncated files, missing parts and missing values are told with file, row and column."""
    parquet.write_table(rows(), tmp_path / "d.parquet")
    whole = (tmp_path / "d.parquet").read_bytes()
    (tmp_path / "cut.parquet").write_bytes(whole[: len(whole) // 2])
    assert_refused("cut.parquet", tmp_path, "cut.parquet cannot be read", "truncated")
    table = pyarrow.table({"a": [1.0, None] * 20, "label": [i % 2 for i in range(40)]})
    parquet.write_table(table, tmp_path / "null.parquet")
    assert_refused("null.parquet", tmp_path, "null.parquet, row 2, column 'a': the value is missing")
    table = pyarrow.table({"a": [1.0, float("inf")] * 20, "label": [i % 2 for i in range(40)]})
    parquet.write_table(table, tmp_path / "inf.parquet")
    assert_refused("inf.parquet", tmp_path, "row 2, column 'a': the value is inf")
    save(tmp_path / "lost", rows())
    (tmp_path / "lost/data-00000-of-00001.arrow").unlink()
    assert_refused("lost", tmp_path, "lacks its file data-00000-of-00001.arrow")
    save(tmp_path / "torn", rows())
    file = tmp_path / "torn/data-00000-of-00001.arrow"
    file.write_bytes(file.read_bytes()[:300])
    assert_refused("torn", tmp_path, "data-00000-of-00001.arrow cannot be read")
    parquet.write_table(rows().slice(0, 0), tmp_path / "empty.parquet")
    assert_refused("empty.parquet", tmp_path, "has no rows")


def test_without_pyarrow_the_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where pyarrow is not installed, the message says what to install."""
    from retort.core.data.tables import arrow_table
    from retort.core.errors import MachineError

    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(arrow_table, "import_module", missing)
    (tmp_path / "d.parquet").write_bytes(b"PAR1")
    with pytest.raises(MachineError, match="Parquet files need the package pyarrow") as caught:
        load("d.parquet", tmp_path)
    assert caught.value.remedy == install_command("data")
