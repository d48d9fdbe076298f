"""The picture of what augmentation makes of training samples."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from retort.__main__ import _guarded
from retort.core.data.splits import ArraySplit, Splits
from retort.core.options.stage_options import TrainOptions
from retort.core.tensors import Array
from retort.pipeline.augment_preview import write_preview


def _written(path: Path, data: Splits, *augment: Any) -> Array:
    """The pixels of a sheet."""
    write_preview(path, data, TrainOptions(augment=augment).augment, 0, "classification")
    return np.asarray(Image.open(path).convert("L"))


def test_the_command_writes_a_sheet_and_says_what_it_shows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A PNG, the transforms in words, and the usual result of the command."""
    sheet = tmp_path / "sheet.png"
    code = _guarded(
        ["data", "digits", "--augment", "flip", "--augment", "rotate=10", "--preview", str(sheet), "--json"]
    )
    shown = capsys.readouterr()
    assert code == 0
    assert json.loads(shown.out.splitlines()[-1])["splits"]["train"]["samples"] > 1000
    assert Image.open(sheet).size[0] > 800
    assert _guarded(["data", "digits", "--augment", "flip"]) == 2
    assert "--augment and --preview belong together" in capsys.readouterr().err
    assert _guarded(["data", "digits", "--augment", "flp", "--preview", str(sheet)]) == 2
    assert "unknown transform 'flp'; did you mean 'flip'?" in capsys.readouterr().err


def test_a_sheet_shows_samples_of_any_kind(tmp_path: Path) -> None:
    """Images with masks, recordings and tokens are drawn, and stronger changes give another picture."""
    rng = np.random.default_rng(0)
    image = rng.random((8, 3, 16, 16)).astype(np.float32)
    kinds: list[tuple[Array, Array | None, Any, Any]] = [
        (image, image[:, 0].round().astype(np.int64), {"rotate": 5}, {"rotate": 60}),
        (rng.random((8, 200)).astype(np.float32), None, {"noise": 0.01}, {"noise": 0.9}),
        (rng.integers(1, 50, (8, 12)), np.arange(8), {"shift": 0.1}, {"shift": 0.9}),
    ]
    for inputs, targets, weak, strong in kinds:
        split = ArraySplit({"x": inputs}, targets)
        data = Splits(split, split, split, split)
        one, other = (_written(tmp_path / f"{n}.png", data, step) for n, step in enumerate((weak, strong)))
        assert one.std() > 5
        assert one.shape != other.shape or not np.array_equal(one, other)
