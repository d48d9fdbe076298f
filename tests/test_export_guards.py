"""Conditions that PyTorch keeps beside a program and cannot decide on symbols do not stand in the way of its file."""

from pathlib import Path

import onnx
import torch
from torch import nn

from retort.compress.program import capture, save_program
from retort.core.backends.eager import load_exported
from retort.export.onnx_graph import to_onnx


def test_conditions_on_sizes_do_not_stop_an_export(tmp_path: Path) -> None:
    """A loaded program whose conditions fail while it is translated is written all the same, and keeps its methods."""
    program = capture(nn.Linear(4, 3).eval(), {"input": torch.randn(4, 4)})
    save_program(program, tmp_path / "model.pt2")
    exported, signature, _ = load_exported(tmp_path / "model.pt2")
    exported._guards_code = ["1 > 2"]
    onnx.checker.check_model(to_onnx(exported, signature), full_check=True)
    assert "module" not in vars(exported)
