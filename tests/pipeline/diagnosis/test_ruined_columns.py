"""The doctor calls an INT8 form broken whose output has one ruined column, whatever its other columns are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

from retort.compress.capture.capture_program import capture
from retort.compress.program import save_program
from retort.compress.quantization import quantize_program
from retort.core.context import Context
from retort.core.data.splits import ArraySplit, Splits
from retort.core.options.stage_options import QuantizeOptions
from retort.pipeline.diagnosis.diagnose import diagnose


def boxes() -> nn.Module:
    """Four columns in the thousands, and one of scores from features a thousand times smaller than theirs."""
    torch.manual_seed(0)
    first, last = nn.Linear(32, 64), nn.Linear(64, 5)
    with torch.no_grad():
        first.weight[32:] *= 1e-3
        first.bias[32:] *= 1e-3
        last.weight[:4, 32:] = 0
        last.weight[:4] *= 1000
        last.weight[4, :32] = 0
        last.weight[4] *= 1000
        last.bias.zero_()
    return nn.Sequential(first, nn.ReLU(), last).eval()


def test_a_ruined_column_is_a_broken_form(tmp_path: Path) -> None:
    """Its ratio over all columns is above every bound of the doctor."""
    rows = ArraySplit({"x": np.random.default_rng(0).normal(size=(96, 32)).astype(np.float32)})
    program = capture(boxes(), {"x": torch.randn(4, 32)})
    plain = QuantizeOptions(correction=("none",), method="minmax", smooth=False)
    paths = tmp_path / "fp32.pt2", tmp_path / "int8.pt2"
    save_program(program, paths[0])
    save_program(quantize_program(program, plain, rows, "cpu"), paths[1])
    found = diagnose(paths, Context(Splits(rows, rows, rows, rows), task="regression")).forms[1]
    assert found.broken
    assert found.sqnr_db is not None
    assert found.sqnr_db > 25
