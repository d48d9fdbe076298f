"""The calibration suite: images that are made when read, the table's ratio, and unknown names."""

from __future__ import annotations

import numpy as np
import pytest

from retort.benchmarks.suites import calibration


def test_images_are_the_same_each_time_and_differ() -> None:
    """The same index gives the same image, and another index another image, independent of the batch."""
    images = calibration.Images(8)
    one, targets = images.read([3, 4])
    again, _ = images.read([4])
    assert targets is None
    assert one["pixel_values"].shape == (2, 3, calibration.SIDE, calibration.SIDE)
    np.testing.assert_array_equal(one["pixel_values"][1], again["pixel_values"][0])
    assert not np.array_equal(one["pixel_values"][0], one["pixel_values"][1])


def test_the_table_compares_with_min_max(capsys: pytest.CaptureFixture[str]) -> None:
    """The table has every method's time relative to min-max and its memory in megabytes; unknown ones are rejected."""
    rows = [
        {"method": "minmax", "cpu_s": 20.0, "above_model_bytes": 100e6},
        {"method": "mse", "cpu_s": 25.0, "above_model_bytes": 120e6},
    ]
    assert [line[2:] for line in calibration.table(rows)[1]] == [["1.00×", "100"], ["1.25×", "120"]]
    assert calibration.table(rows[1:])[1][0][2] == ""
    with pytest.raises(SystemExit):
        calibration.main(["median"])
    assert "entropy" in capsys.readouterr().err
