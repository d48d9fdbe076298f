"""Pooling whose size is rounded up: files have PyTorch's sizes and values where a window lies in the padding."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from retort.compress.capture.capture_program import capture
from retort.compress.program import reexport
from retort.core.options.stage_options import Target
from retort.export.translate import to_onnx

FORMS = {"max": {}, "mean": {"count_include_pad": True}, "mean without padding": {"count_include_pad": False}}


WINDOWS = [(1, 2, 0), (2, 2, 1), (2, 3, 0), (3, 3, 1), (3, 4, 1)]
"""Kernel, stride and padding."""


class Pools(nn.Module):
    """A pooling by each of the windows, of the same image."""

    def __init__(self, form: str) -> None:
        super().__init__()
        kind = nn.MaxPool2d if form == "max" else nn.AvgPool2d
        self.pools = nn.ModuleList(kind(*window, ceil_mode=True, **FORMS[form]) for window in WINDOWS)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """``[N, 3, H, W]``."""
        return tuple(pool(x) for pool in self.pools)


@pytest.mark.parametrize("form", FORMS)
def test_windows_that_begin_in_the_padding_are_left_out(form: str) -> None:
    """Height and width of every remainder, of which one can need what the other does not."""
    for height, width in ((7, 6), (8, 5)):
        assert_equal(Pools(form), torch.randn(2, 3, height, width))


def test_one_and_three_dimensions() -> None:
    """All ranks, with dilation."""
    assert_equal(nn.MaxPool1d(2, 3, 1, dilation=2, ceil_mode=True), torch.randn(2, 3, 9))
    assert_equal(nn.MaxPool3d(2, 2, 1, ceil_mode=True), torch.randn(2, 3, 5, 6, 7))
    assert_equal(nn.AvgPool3d(2, 3, ceil_mode=True), torch.randn(2, 3, 6, 7, 8))


def test_files_for_tensorrt() -> None:
    """TensorRT rounds up by ONNX's formula, too."""
    assert_equal(nn.MaxPool2d(2, 2, 1, ceil_mode=True), torch.randn(2, 3, 7, 6), "tensorrt")


def assert_equal(net: nn.Module, x: torch.Tensor, target: Target = "cpu") -> None:
    """Fail unless the checker accepts the file of a net, and the file gives its values."""
    program = capture(net.eval(), {"x": x})
    model = to_onnx(reexport(program), program.signature, target)
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    expected = net(x) if isinstance(net, Pools) else (net(x),)
    for found, wanted in zip(session.run(None, {"x": x.numpy()}), expected, strict=True):
        np.testing.assert_allclose(found, wanted.numpy(), atol=1e-6)
