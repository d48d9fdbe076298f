"""Resizing: files give PyTorch's sizes and values for every factor, mode and size."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn
from torch.nn import functional

import retort
from retort.compress.capture.capture_program import capture
from retort.compress.program import reexport
from retort.core.errors import CaptureError
from retort.export.translate import to_onnx

SIZES = ((4, 3, 16, 20), (2, 3, 17, 23), (1, 3, 10, 31), (1, 3, 13, 7))


class Resized(nn.Module):
    """One call of `interpolate`."""

    def __init__(self, **how: Any) -> None:
        super().__init__()
        self.how = how

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[N, 3, H, W]``."""
        return functional.interpolate(x, **self.how)


class Several(nn.Module):
    """Several calls of `interpolate` on the same image."""

    def __init__(self, *calls: dict[str, Any]) -> None:
        super().__init__()
        self.calls = nn.ModuleList(Resized(**how) for how in calls)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """``[N, 3, H, W]``."""
        return tuple(call(x) for call in self.calls)


def written(net: nn.Module, dynamic: bool) -> onnx.ModelProto:
    """The file of a net for images of 16 x 20 or of any size, which ONNX's checker has accepted."""
    program = capture(net.eval(), {"x": torch.randn(SIZES[0])}, dynamic={"x": {2: "h", 3: "w"}} if dynamic else None)
    model = to_onnx(reexport(program), program.signature)
    onnx.checker.check_model(model, full_check=True)
    return model


def assert_equal(model: onnx.ModelProto, net: Several, sizes: tuple[tuple[int, ...], ...]) -> None:
    """ONNX Runtime gives the net's shapes and values."""
    session = onnxruntime.InferenceSession(model.SerializeToString())
    for size in sizes:
        x = torch.randn(size)
        for call, found, wanted in zip(net.calls, session.run(None, {"x": x.numpy()}), net(x), strict=True):
            np.testing.assert_allclose(found, wanted.numpy(), atol=1e-4, err_msg=str(call.how))


@pytest.mark.parametrize("dynamic", [False, True])
def test_files_resize_as_pytorch_does(dynamic: bool) -> None:
    """Sizes that single precision would round down, and coordinates of the factor, not of the ratio of the sizes."""
    calls: list[dict[str, Any]] = [
        {"scale_factor": 1.3, "mode": "bicubic"},
        {"scale_factor": 0.7, "mode": "bilinear"},
        {"scale_factor": 1.3, "mode": "bilinear", "align_corners": True},
        {"scale_factor": (1.3, 0.6), "mode": "nearest"},
        {"scale_factor": 0.7, "mode": "bilinear", "antialias": True},
        {"scale_factor": 1.3, "mode": "bicubic", "antialias": True},
        {"size": (7, 1), "mode": "bilinear"},
        {"size": (10, 31), "mode": "bicubic", "antialias": True},
    ]
    net = Several(*calls)
    assert_equal(written(net, dynamic), net, SIZES if dynamic else SIZES[:1])


def test_antialiasing_with_aligned_corners_is_right_for_fixed_sizes_and_refused_for_others() -> None:
    """Products with PyTorch's weights; where the size is not known, the message names the reason."""
    net = Several({"mode": "bilinear", "antialias": True, "align_corners": True, "scale_factor": 1.3})
    model = written(net, dynamic=False)
    assert {node.op_type for node in model.graph.node} == {"MatMul"}
    assert_equal(model, net, SIZES[:1])
    with pytest.raises(CaptureError, match="on axes of dynamic size has no form in ONNX"):
        written(net, dynamic=True)


def test_elements_that_resize_would_take_elsewhere_are_taken_by_index() -> None:
    """No factor in single precision gives PyTorch's elements: they are gathered, for fixed and for dynamic sizes."""
    net = Resized(scale_factor=(1.3, 0.6), mode="nearest")
    for dynamic in (False, True):
        assert "Gather" in {node.op_type for node in written(net, dynamic).graph.node}


def test_a_factor_of_two_stays_one_resize() -> None:
    """The usual case has no other operator."""
    model = written(Resized(scale_factor=2.0, mode="nearest"), dynamic=True)
    assert [node.op_type for node in model.graph.node] == ["Resize"]


class Pyramid(nn.Module):
    """A feature map that is enlarged to the size of another one, and added to it."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.narrow = nn.Conv2d(3, 16, 3, 1, 1), nn.Conv2d(16, 16, 3, 2, 1)
        self.side, self.last = nn.Conv2d(16, 16, 1), nn.Conv2d(16, 16, 3, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        wide = torch.relu(self.wide(x))
        half = self.side(torch.relu(self.narrow(wide)))
        result: torch.Tensor = self.last(wide + nn.functional.interpolate(half, size=wide.shape[2:], mode="nearest"))
        return result


def test_an_int8_file_whose_sizes_are_computed_loads() -> None:
    """Enlarging to a size that another tensor has, with a dynamic height and width, gives a file that runs in INT8."""
    torch.manual_seed(0)
    images = np.random.default_rng(0).normal(size=(32, 3, 16, 16)).astype(np.float32)
    dynamic = {"x": {2: "height", 3: "width"}}
    program = retort.capture(Pyramid(), torch.from_numpy(images[:2]), data=images, dynamic=dynamic)
    made = retort.quantize(program, data=images, timed=False, correction=["none"])
    session = retort.open_session(retort.export(made))
    assert session.run({"x": images[:2, :, :12]})["output"].shape == (2, 16, 12, 16)
