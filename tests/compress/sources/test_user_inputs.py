"""Inputs of the data that a user's forward does not name are left out, if it needs no other."""

from __future__ import annotations

from pathlib import Path

import pytest
from data_files import write

from retort.compress.sources.trial_run import signature_in_trial
from retort.compress.sources.user_model import capture_source
from retort.core.console import Console
from retort.core.context import Context
from retort.core.data.data_sources import load_data
from retort.core.options.stage_options import CaptureOptions, DataSpec, ModelSpec

NET = """
import torch
from torch import nn


class Net(nn.Module):
    def forward(self, ids, mask=None):
        return ids.float().mean(1, keepdim=True)


class Other(nn.Module):
    def forward(self, first, second):
        return first.float() + second.float()


def net():
    return Net()


def other():
    return Other()


def data():
    rows = torch.ones(40, 3, dtype=torch.int64).numpy()
    return {"train": ({"ids": rows, "types": rows}, rows[:, 0])}
"""


def test_inputs_without_a_parameter_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A forward that names `ids` gets it alone, and it is said; one that names nothing gets all in order."""
    write(tmp_path / "partial_net.py", NET)
    data = load_data(DataSpec(source="partial_net:data"), tmp_path)
    context = Context(data, tmp_path, console=Console())
    made = capture_source(ModelSpec(source="partial_net:net"), context, CaptureOptions())
    assert [spec.name for spec in made.signature.inputs] == ["ids"]
    assert "takes ids, and not types" in capsys.readouterr().err
    tried = signature_in_trial(ModelSpec(source="partial_net:net"), context, CaptureOptions())
    assert [spec.name for spec in tried.inputs] == ["ids"]
    made = capture_source(ModelSpec(source="partial_net:other"), context, CaptureOptions())
    assert len(made.signature.inputs) == 2
