"""Operators on signals and patches: Fourier transforms (the last axis has the real and imaginary part) and Col2Im."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.nn import functional

from .operator_call import Call, Operator
from .shape_arithmetic import whole

_TRANSPOSED: dict[int, Any] = {
    1: functional.conv_transpose1d,
    2: functional.conv_transpose2d,
    3: functional.conv_transpose3d,
}


def _dft(call: Call) -> torch.Tensor:
    axis = call.get("axis", 1) if call.opset < 20 else _number(call, 2, -2)
    value, length = call.tensor(0), _number(call, 1, None)
    axis %= value.dim()
    inverse, onesided = bool(call.get("inverse", 0)), bool(call.get("onesided", 0))
    if value.shape[-1] == 1:
        value = value[..., 0]
        if onesided and not inverse:
            return torch.view_as_real(torch.fft.rfft(value, n=length, dim=axis))
        value = torch.complex(value, torch.zeros_like(value))
    else:
        value = torch.view_as_complex(value.contiguous())
    if inverse and onesided:
        real: torch.Tensor = torch.fft.irfft(value, n=length, dim=axis)
        return real.unsqueeze(-1)
    result = torch.fft.ifft(value, n=length, dim=axis) if inverse else torch.fft.fft(value, n=length, dim=axis)
    return torch.view_as_real(result.narrow(axis, 0, result.shape[axis] // 2 + 1) if onesided else result)


def _number(call: Call, index: int, default: Any) -> Any:
    return whole(call.host(index))[0] if call.has(index) else default


def _stft(call: Call) -> torch.Tensor:
    signal, window, step = call.tensor(0), call.optional(2), _number(call, 1, None)
    length = _number(call, 3, None if window is None else window.shape[0])
    if length is None:
        raise call.refuse("it has neither a window nor a frame length")
    if signal.dim() == 3 and signal.shape[-1] == 2:
        raise call.refuse("its signal is complex")
    frames = signal.reshape(signal.shape[0], -1).unfold(1, int(length), int(step))
    frames = frames if window is None else frames * window
    transform = torch.fft.rfft if call.get("onesided", 1) else torch.fft.fft
    return torch.view_as_real(transform(frames, dim=-1))


def _fold(call: Call) -> torch.Tensor:
    size, block = (tuple(whole(call.host(index))) for index in (1, 2))
    rank = len(block)
    pads = call.get("pads") or [0] * 2 * rank
    stride, dilation = (tuple(call.get(name) or [1] * rank) for name in ("strides", "dilations"))
    if rank == 2 and pads[:2] == pads[2:]:
        return functional.fold(call.tensor(0), size, block, dilation, tuple(pads[:2]), stride)
    if rank not in _TRANSPOSED:
        raise call.refuse(f"its patches have {rank} axes")
    # The sum of patches is a transposed convolution, each of whose kernels has a single 1.
    count, value = math.prod(block), call.tensor(0)
    whole_size = [n + pads[axis] + pads[axis + rank] for axis, n in enumerate(size)]
    steps = [(n - d * (k - 1) - 1) // s + 1 for n, k, s, d in zip(whole_size, block, stride, dilation)]
    kernel = torch.eye(count, dtype=value.dtype).reshape(count, 1, *block)
    extra = [n - (m - 1) * s - d * (k - 1) - 1 for n, m, k, s, d in zip(whole_size, steps, block, stride, dilation)]
    patches = value.reshape(-1, count, *steps)
    found = _TRANSPOSED[rank](patches, kernel, None, stride, 0, 0, 1, dilation)
    found = functional.pad(found, [n for more in reversed(extra) for n in (0, more)])
    for axis, n in enumerate(size):
        found = found.narrow(axis + 2, pads[axis], n)
    return found.reshape(value.shape[0], -1, *size)


OPERATORS: dict[str, Operator] = {"DFT": _dft, "STFT": _stft, "Col2Im": _fold}
