"""Parameters, buffers and constants with names that the exporter gives to the inputs of its graph."""

from __future__ import annotations

import onnxruntime
import pytest
import torch
from torch import nn

import retort


class Meeting(nn.Module):
    """A layer ``x`` and tensors whose names are those of the graph's inputs for ``x.weight`` and for each other."""

    def __init__(self, buffers: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.x, self.last = nn.Linear(16, 16), nn.Linear(16, 4)
        for name in ("p_x_weight", "p_p_x_weight", "p_x_bias"):
            value = torch.randn(16)
            if buffers:
                self.register_buffer(name, value)
            else:
                self.register_parameter(name, nn.Parameter(value))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scores ``[N, 4]``."""
        first, second, third = (getattr(self, name) for name in ("p_x_weight", "p_p_x_weight", "p_x_bias"))
        result: torch.Tensor = self.last(torch.relu(self.x(x) * first + second) - third)
        return result


@pytest.mark.parametrize("buffers", [False, True])
def test_every_tensor_keeps_its_own_values(buffers: bool) -> None:
    """The file computes what the model does; before, a weight was replaced by the tensor with its name."""
    model, x = Meeting(buffers).eval(), torch.randn(8, 16, generator=torch.Generator().manual_seed(1))
    graph = retort.export(retort.capture(model, x))
    session = onnxruntime.InferenceSession(str(graph.path), providers=["CPUExecutionProvider"])
    with torch.no_grad():
        wanted = model(x)
    assert torch.allclose(torch.from_numpy(session.run(None, {"x": x.numpy()})[0]), wanted, atol=1e-5)
