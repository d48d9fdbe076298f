"""Adaptive pooling: files give PyTorch's values for sizes that divide, do not divide, or are dynamic."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn
from torch.nn import functional

from retort.compress.capture.capture_program import capture
from retort.compress.program import reexport
from retort.export.translate import to_onnx

SIZES = ((2, 3, 16, 20), (1, 3, 17, 23), (2, 3, 10, 31))


class Pooled(nn.Module):
    """One call of an adaptive pooling."""

    def __init__(self, kind: str, size: Any) -> None:
        super().__init__()
        self.kind, self.size = kind, size

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[N, 3, H, W]``; for `places`, the place of each maximum is added to it."""
        if self.kind == "area":
            return functional.interpolate(x, size=self.size, mode="area")
        if self.kind == "mean":
            return functional.adaptive_avg_pool2d(x, self.size)
        maxima, places = functional.adaptive_max_pool2d_with_indices(x, self.size)
        return maxima + places if self.kind == "places" else maxima


class Shrunk(nn.Module):
    """Means over areas, to a share of the size."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[N, 3, H, W]``."""
        return functional.interpolate(x, scale_factor=0.4, mode="area")


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("size", [(1, 7), (7, 6), (24, 33)], ids=str)
@pytest.mark.parametrize("kind", ["mean", "places"])
def test_files_pool_as_pytorch_does(kind: str, size: tuple[int, int], dynamic: bool) -> None:
    """Windows that overlap, a size that is larger than the input, and images of other sizes than the example."""
    assert_equal(Pooled(kind, size), dynamic)


def test_a_size_that_is_computed_from_the_input() -> None:
    """The matrix of weights has a computed number of rows."""
    assert_equal(Shrunk(), dynamic=True)


def assert_equal(net: nn.Module, dynamic: bool) -> None:
    """Fail unless the file of a net gives its values."""
    axes = {"x": {2: "h", 3: "w"}} if dynamic else None
    program = capture(net.eval(), {"x": torch.randn(SIZES[0])}, dynamic=axes)
    session = onnxruntime.InferenceSession(to_onnx(reexport(program), program.signature).SerializeToString())
    for shape in SIZES if dynamic else SIZES[:1]:
        x = torch.randn(shape)
        np.testing.assert_allclose(session.run(None, {"x": x.numpy()})[0], net(x).numpy(), atol=1e-5)


def test_sizes_that_divide_are_ordinary_pooling() -> None:
    """One operator, as before."""
    program = capture(Pooled("area", (4, 5)).eval(), {"x": torch.randn(SIZES[0])})
    model = to_onnx(reexport(program), program.signature)
    assert [node.op_type for node in model.graph.node] == ["AveragePool"]
