"""Files that hold weights and no model, given where a model is expected."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import retort
from retort.core.artifact import load_artifact
from retort.core.errors import ModelError


@pytest.mark.parametrize("whole", [False, True], ids=["state dict", "module"])
@pytest.mark.parametrize("name", ["net.pt", "net.pth", "last.ckpt"])
def test_weights_are_named_with_what_builds_their_model(name: str, whole: bool, tmp_path: Path) -> None:
    """Capture and the stages that open a program say that the file belongs to `--weights` of a factory."""
    path, model = tmp_path / name, nn.Linear(3, 2)
    torch.save(model if whole else model.state_dict(), path)
    for opened in (lambda: retort.capture(str(path), data="digits"), lambda: load_artifact(path)):
        with pytest.raises(ModelError, match=rf"{name} holds weights or a pickled module") as caught:
            opened()
        assert f"retort capture my_net:build --weights {name}" in caught.value.remedy


def test_a_script_is_explained_wherever_a_program_is_opened(tmp_path: Path) -> None:
    """`retort quantize net.pt` has the sentence of capture."""
    path = tmp_path / "net.pt"
    torch.jit.save(torch.jit.trace(nn.Linear(3, 2), torch.randn(1, 3)), str(path))
    with pytest.raises(ModelError, match=r"net\.pt is a TorchScript file"):
        load_artifact(path)
