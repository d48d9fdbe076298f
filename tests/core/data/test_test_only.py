"""Sources that have only a test split: enough to judge models, and refused where training samples are needed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from data_files import csv_lines, write
from PIL import Image

from retort.core.data.data_sources import load_data
from retort.core.errors import DataError
from retort.core.options.stage_options import DataSpec


def _npz(base: Path) -> str:
    np.savez(base / "d.npz", x_test=np.zeros((40, 2), np.float32), y_test=np.arange(40) % 2)
    return "d.npz"


def _folder(base: Path) -> str:
    write(base / "d" / "test.csv", *csv_lines())
    return "d"


def _arrays(base: Path) -> str:
    (base / "d").mkdir()
    np.savez(base / "d" / "test.npz", x=np.zeros((40, 2), np.float32), y=np.arange(40) % 2)
    return "d"


def _column(base: Path) -> str:
    write(base / "d.csv", "a,b,kind,split", *(f"{line},test" for line in csv_lines()))
    return "d.csv"


def _images(base: Path) -> str:
    for number in range(40):
        path = base / "d" / "test" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (2, 2)).save(path)
    return "d"


def _texts(base: Path) -> str:
    for name in "ab":
        write(base / "d" / "test" / f"{name}.txt", *(f"line {number}" for number in range(20)))
    return "d"


@pytest.mark.parametrize("make", [_npz, _folder, _arrays, _column, _images, _texts])
def test_a_test_split_is_enough_to_judge(tmp_path: Path, make: Callable[[Path], str]) -> None:
    """All samples are the test split; elsewhere the message says that training samples are missing."""
    spec = DataSpec(source=make(tmp_path), args={"vocabulary": "bytes"} if make is _texts else {})
    splits = load_data(spec, tmp_path, judging=True)
    assert len(splits.test) == 40
    assert set(np.asarray(splits.test.read(range(40))[1]).tolist()) == {0, 1}
    assert splits.train.read([0])[0]
    with pytest.raises(DataError, match="has only test samples, and this needs training samples") as caught:
        load_data(spec, tmp_path)
    assert "retort predict --data" in str(caught.value.remedy)


def test_other_splits_are_no_test_split(tmp_path: Path) -> None:
    """Samples for calibration are not judged."""
    np.savez(tmp_path / "d.npz", x_calibration=np.zeros((40, 2), np.float32), y_calibration=np.arange(40) % 2)
    with pytest.raises(DataError, match="only calibration samples, and none to judge a model on"):
        load_data(DataSpec(source="d.npz"), tmp_path, judging=True)
