"""The fake-quantize operator: its values, its gradients, export and reload."""

from __future__ import annotations

import importlib
import importlib.util
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from known import known
from numpy.typing import NDArray
from torch import Tensor, nn

from retort.core.backends import fake_quantize as module
from retort.core.backends.fake_quantize import codes, qdq


def reference(x: NDArray[Any], scale: Any, zero_point: Any, qmin: int, qmax: int) -> NDArray[np.float32]:
    """numpy in float32, ties to even: QuantizeLinear then DequantizeLinear."""
    ratio = (x / scale).astype(np.float32)
    code = np.clip(np.rint(ratio) + np.float32(zero_point), qmin, qmax).astype(np.float32)
    return ((code - np.float32(zero_point)) * scale).astype(np.float32)


FORMS = [(0, 255, 0), (0, 255, 128), (0, 255, 37), (-128, 127, 0), (-127, 127, 0), (0, 15, 7)]


@pytest.mark.parametrize(("qmin", "qmax", "zero_point"), FORMS)
def test_per_tensor_numbers_equal_numpys_bit_for_bit(qmin: int, qmax: int, zero_point: int) -> None:
    """Every code, every tie and values far outside the range give the same bits as numpy."""
    scale = np.float32(0.0371)
    ties = (np.arange(-300, 300, dtype=np.float32) + np.float32(0.5)) * scale
    x = np.concatenate([ties, np.random.default_rng(0).normal(0, 5, 4000).astype(np.float32), [0.0, 1e30, -1e30]])
    x = x.astype(np.float32)
    y = qdq(torch.from_numpy(x), torch.tensor(scale), torch.tensor(zero_point), -1, qmin, qmax)
    assert np.array_equal(y.numpy(), reference(x, scale, zero_point, qmin, qmax))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_per_channel_numbers_equal_numpys_bit_for_bit(axis: int) -> None:
    """Each channel along the axis has its own scale and zero point, for any axis and memory layout."""
    rng = np.random.default_rng(1)
    x = rng.normal(0, 2, (3, 4, 5)).astype(np.float32)
    count = x.shape[axis]
    scale = rng.uniform(0.01, 0.1, size=[count]).astype(np.float32)
    zero = rng.integers(0, 255, count)
    shape = [-1 if dim == axis else 1 for dim in range(3)]
    wanted = reference(x, scale.reshape(shape), zero.reshape(shape), 0, 255)
    tensor = torch.from_numpy(x)
    for layout in (tensor, tensor.permute(2, 0, 1).contiguous().permute(1, 2, 0)):
        y = qdq(layout, torch.from_numpy(scale), torch.from_numpy(zero), axis, 0, 255)
        assert np.array_equal(y.numpy(), wanted)


@settings(deadline=None, max_examples=60)
@given(
    st.floats(2.0**-20, 1024.0, width=32),
    st.integers(-128, 127),
    st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=20),
)
def test_rounding_twice_rounds_once(scale: float, zero_point: int, values: list[float]) -> None:
    """The operator is idempotent, so repeating it after a data movement changes nothing."""
    args = torch.tensor(scale), torch.tensor(zero_point), -1, -128, 127
    once = qdq(torch.tensor(values), *args)
    assert torch.equal(qdq(once, *args), once)


def test_codes_are_what_the_op_dequantizes() -> None:
    """`(codes - zero_point) * scale` is the operator's output, and the codes have the type of their range."""
    x = torch.randn(50) * 3
    for qmin, qmax, dtype in ((-127, 127, torch.int8), (0, 255, torch.uint8), (-1000, 1000, torch.int32)):
        scale, zero = torch.tensor([0.05]), torch.tensor([3])
        found = codes(x, scale, zero, -1, qmin, qmax)
        assert found.dtype == dtype
        assert torch.equal((found.float() - 3) * 0.05, qdq(x, scale, zero, -1, qmin, qmax))


def test_half_precision_keeps_its_type() -> None:
    """Under mixed precision, the operator computes in float32 and returns the type of its input."""
    x = torch.randn(100, dtype=torch.bfloat16)
    y = qdq(x, torch.tensor(0.1), torch.tensor(0), -1, -128, 127)
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, qdq(x.float(), torch.tensor(0.1), torch.tensor(0), -1, -128, 127).bfloat16())


@pytest.mark.parametrize("axis", [-1, 1])
def test_gradient_passes_straight_through_inside_the_range_and_stops_outside(axis: int) -> None:
    """d/dx is the incoming gradient where the value is representable, and zero where it is clamped."""
    x = torch.tensor([[-9.0, -1.0, 0.0], [0.4, 1.27, 9.0]], requires_grad=True)
    scale = torch.tensor(0.01) if axis < 0 else torch.full((3,), 0.01)
    zero = torch.tensor(0) if axis < 0 else torch.zeros(3, dtype=torch.int64)
    incoming = torch.arange(1.0, 7.0).reshape(2, 3)
    qdq(x, scale, zero, axis, -127, 127).backward(incoming)
    assert torch.equal(known(x.grad), incoming * torch.tensor([[0.0, 1, 1], [1, 1, 0]]))


def test_gradient_of_the_scale_is_the_learned_step_size() -> None:
    """LSQ, eq. 3: round(v) - v inside, the clamp's code outside, summed per channel."""
    x = torch.randn(6, 4, 3, dtype=torch.float64) * 4
    scale = torch.tensor([0.02, 0.05, 0.03, 0.04], dtype=torch.float64, requires_grad=True)
    zero = torch.tensor([0, 10, -5, 3])
    incoming = torch.randn(6, 4, 3, dtype=torch.float64)
    qdq(x, scale, zero, 1, -128, 127).backward(incoming)
    ratio = x / scale.detach().reshape(1, 4, 1)
    shift = zero.reshape(1, 4, 1).double()
    slope = torch.where(
        ratio.round() + shift < -128,
        -128 - shift,
        torch.where(ratio.round() + shift > 127, 127 - shift, ratio.round() - ratio),
    )
    assert torch.allclose(known(scale.grad), (incoming * slope).sum((0, 2)))


class _Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4)
        for name, scale, zero in (("act", torch.tensor(0.02), torch.tensor(128)), ("w", torch.full((4,), 0.01), 0)):
            self.register_buffer(f"{name}_scale", scale)
            self.register_buffer(f"{name}_zero", zero if isinstance(zero, torch.Tensor) else torch.zeros(4).long())

    def forward(self, x: Tensor) -> Tensor:
        x = torch.ops.retort.qdq(x, self.act_scale, self.act_zero, -1, 0, 255)
        weight = torch.ops.retort.qdq(self.conv.weight, self.w_scale, self.w_zero, 0, -127, 127)
        return self.norm(nn.functional.conv2d(x, weight, self.conv.bias))


@pytest.mark.parametrize("training", [True, False])
def test_the_op_survives_export_save_and_load(training: bool) -> None:
    """In training and in evaluation form the loaded program equals the module and still gives gradients."""
    net, x = _Net().train(training), torch.randn(3, 2, 6, 6)
    exported = torch.export.export(net, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    stream = io.BytesIO()
    torch.export.save(exported, stream)
    stream.seek(0)
    program = torch.export.load(stream).module(check_guards=False)
    x = torch.randn(5, 2, 6, 6)
    y = program(x)
    assert torch.equal(y, net(x))
    (y**2).sum().backward()
    assert all(value.grad is not None and bool(value.grad.any()) for value in program.parameters())


def test_scales_that_do_not_fit_are_refused_at_export() -> None:
    """A per-channel scale of the wrong length is an error in shape propagation and is not broadcast."""
    net = _Net()
    net.w_scale = torch.full((3,), 0.01)
    net.w_zero = torch.zeros(3).long()
    with pytest.raises(Exception, match="3 scales do not fit axis 0"):
        torch.export.export(net, (torch.randn(2, 2, 6, 6),))


def test_importing_again_keeps_the_op_that_is_there() -> None:
    """A reload and a second copy of the file, as in an archive, do not replace the registered operator."""
    before = torch.ops.retort.qdq.default
    importlib.reload(module)
    spec = importlib.util.spec_from_file_location("copy_of_qdq", Path(module.__file__))
    copy = importlib.util.module_from_spec(known(spec))
    known(known(spec).loader).exec_module(copy)
    assert torch.ops.retort.qdq.default is before
    x = torch.randn(9)
    args = torch.tensor(0.1), torch.tensor(0), -1, -128, 127
    assert torch.equal(copy.qdq(x, *args), qdq(x, *args))
