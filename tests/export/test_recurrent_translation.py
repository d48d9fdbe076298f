"""LSTMs with projections: the file computes the same, both sizes can be pruned, and INT8 leaves them in FP32."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from retort.compress.capture.capture_program import capture
from retort.compress.program import Program, reexport, save_program
from retort.compress.pruning.step import prune_program
from retort.compress.quantization.placement.place import place
from retort.core.options.stage_options import PruneOptions
from retort.export.translate import to_onnx


class _Projected(nn.Module):
    """All states and last states of an LSTM with learned initial states, or without."""

    def __init__(self, both: bool, starts: bool, layers: int = 2) -> None:
        super().__init__()
        self.rnn = nn.LSTM(6, 20, layers, proj_size=8, batch_first=True, bidirectional=both, bias=starts)
        ways = layers * (2 if both else 1)
        self.starts = nn.ParameterList([torch.randn(ways, 1, 8), torch.randn(ways, 1, 20)]) if starts else None

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        states = None
        if self.starts is not None:
            hidden, cell = (start.expand(-1, x.shape[0], -1).contiguous() for start in self.starts)
            states = (hidden, cell)
        steps, (last, cells) = self.rnn(x, states)
        return steps, last.transpose(0, 1), cells.transpose(0, 1)


class _Head(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.out = nn.LSTM(6, 20, proj_size=8, batch_first=True), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.out(self.rnn(x)[0].mean(1))
        return result


def _captured(model: nn.Module) -> Program:
    return capture(model.eval(), {"x": torch.randn(4, 7, 6)}, dynamic={"x": {1: "sequence"}})


@pytest.mark.parametrize(("both", "starts"), [pytest.param(False, False, marks=pytest.mark.slow), (True, True)])
def test_a_projected_lstm_is_written_as_it_computes(both: bool, starts: bool, tmp_path: Path) -> None:
    """At any batch and length, the file computes the model's states for any initial state."""
    torch.manual_seed(0)
    model = _Projected(both, starts)
    save_program(_captured(model), tmp_path / "model.pt2")
    file = to_onnx(tmp_path / "model.pt2", target="tensorrt").SerializeToString()
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    for rows, steps in ((1, 7), (3, 4), (2, 1)):
        x = torch.randn(rows, steps, 6)
        for found, wanted in zip(session.run(None, {"x": x.numpy()}), model(x), strict=True):
            np.testing.assert_allclose(found, wanted.detach().numpy(), atol=1e-5)


def test_both_sizes_of_a_projected_lstm_are_pruned() -> None:
    """Hidden and projected units are cut and proven, and the smaller layer runs at another length."""
    torch.manual_seed(0)
    pruned = prune_program(_captured(_Head()), PruneOptions(macs=0.5, min_channels=2)).program
    sizes = {name.rpartition(".")[2]: list(value.shape) for name, value in pruned.module.named_parameters()}
    projected, hidden = sizes["weight_hr_l0"]
    assert hidden < 20
    assert projected < 8
    assert sizes["weight_hh_l0"] == [4 * hidden, projected]
    assert reexport(pruned).module(check_guards=False)(torch.randn(2, 3, 6))[0].shape == (2, 3)


def test_a_projected_lstm_stays_in_floating_point() -> None:
    """No integer kernel supports its recurrent matrix, which is a product: only the linear layer is quantized."""
    placed = place(_captured(_Head()), "cpu", ends=("auto", "int8"))
    assert not placed.recurrent
    assert any("lstm" in str(node.target) for node in placed.floating)
