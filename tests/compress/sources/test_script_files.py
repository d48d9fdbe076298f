"""TorchScript files as the source of a model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from data_files import write
from torch import nn

import retort
from retort.compress.sources.trial_run import signature_in_trial
from retort.compress.sources.user_model import capture_source
from retort.core.context import Context
from retort.core.data.splits import ArraySplit, Splits
from retort.core.errors import ModelError, UserError
from retort.core.options.stage_options import CaptureOptions, ModelSpec


def context() -> Context:
    """Two samples of three numbers."""
    split = ArraySplit({"x": torch.randn(2, 3).numpy()})
    return Context(Splits(split, split, split, split))


def test_a_script_is_named_with_what_to_give_instead(tmp_path: Path) -> None:
    """A TorchScript archive is one sentence, and a remedy with two ways."""
    path = tmp_path / "net.pt"
    torch.jit.save(torch.jit.trace(nn.Linear(3, 2), torch.randn(1, 3)), str(path))
    with pytest.raises(ModelError, match=r"net\.pt is a TorchScript file") as raised:
        capture_source(ModelSpec(source=str(path)), context(), CaptureOptions())
    assert "torch.onnx.export" in raised.value.remedy


def test_a_factory_of_a_script_is_one_sentence(tmp_path: Path) -> None:
    """A traced module, which has no signature, is refused in words by the stage, its trial and the function."""
    write(
        tmp_path / "scripted_net.py",
        "import torch",
        "def net(): return torch.jit.trace(torch.nn.Linear(3, 2), torch.zeros(1, 3))",
    )
    spec, given = ModelSpec(source="scripted_net:net"), replace(context(), base=tmp_path)
    for run in (
        lambda: capture_source(spec, given, CaptureOptions()),
        lambda: signature_in_trial(spec, given, CaptureOptions()),
        lambda: retort.capture(torch.jit.trace(nn.Linear(3, 2), torch.zeros(1, 3)), torch.zeros(2, 3)),
    ):
        with pytest.raises(ModelError, match="a TorchScript module cannot be captured"):
            run()


def test_only_inputs_of_onnx_files_are_fixed() -> None:
    """`fixed` with a factory is a fault of the user."""
    with pytest.raises(UserError, match=r"applies to an \.onnx file"):
        capture_source(ModelSpec(source="torch.nn:Identity"), context(), CaptureOptions(fixed={"x": 1}))
