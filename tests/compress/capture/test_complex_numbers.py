"""Complex numbers in programs: rotary embeddings become pairs of real numbers, and Fourier transforms stay."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from retort.compress.capture.capture_program import capture
from retort.compress.program import reexport
from retort.export.translate import to_onnx

X = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(0))


class Rotary(nn.Module):
    """Positions as complex factors of pairs of channels; ``form`` is how the product is written."""

    turns: torch.Tensor

    def __init__(self, form: str) -> None:
        super().__init__()
        angles = torch.outer(torch.arange(16.0), 1 / 10 ** torch.arange(4.0))
        self.form = form
        self.register_buffer("turns", torch.polar(torch.ones_like(angles), angles), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """From ``[N, T, 8]`` to ``[N, T, 8]``."""
        turns = self.turns[: x.shape[1]][None]
        if self.form == "view":
            pairs = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2))
            return torch.view_as_real(pairs * turns).flatten(2)
        turned = torch.complex(x[..., 0::2], x[..., 1::2]).transpose(1, 2) * turns.conj().transpose(-1, -2) * 2.0
        turned = torch.cat([turned, -turned], 1)
        return torch.stack([turned.real, turned.imag], -1).sum(-1) + turned.abs()


@pytest.mark.parametrize("form", ["view", "parts"])
def test_rotary_embeddings_are_exported_as_pairs_of_real_numbers(form: str) -> None:
    """Program and file equal the model, and no value of the program is complex but the stored factors."""
    model = Rotary(form).eval()
    program = capture(model, {"x": X})
    values = [node.meta["val"] for node in program.module.graph.nodes if node.op == "call_function"]
    assert not any(value.dtype.is_complex for value in values if isinstance(value, torch.Tensor))
    session = onnxruntime.InferenceSession(to_onnx(reexport(program), program.signature).SerializeToString())
    wanted = model(X).numpy()
    np.testing.assert_allclose(program.module(X)[0].numpy(), wanted, atol=1e-5)
    np.testing.assert_allclose(session.run(None, {"x": X.numpy()})[0], wanted, atol=1e-5)


class Filter(nn.Module):
    """A filter in the frequency domain."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[N, T, 8]``."""
        filtered: torch.Tensor = torch.fft.irfft(torch.fft.rfft(x) * 0.5, n=8)
        return filtered


def test_fourier_transforms_stay_complex() -> None:
    """The exporter has forms of its own for them."""
    program = capture(Filter(), {"x": X})
    session = onnxruntime.InferenceSession(to_onnx(reexport(program), program.signature).SerializeToString())
    np.testing.assert_allclose(session.run(None, {"x": X.numpy()})[0], X.numpy() / 2, atol=1e-5)


class Operator(nn.Module):
    """A layer of a Fourier neural operator (arXiv:2010.08895): complex weights for the low frequencies."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 5, 4, 4, dtype=torch.cfloat) * 0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[N, 5, 10, 10]``."""
        found = torch.fft.rfft2(x)
        kept = torch.zeros(x.shape[0], 5, *found.shape[-2:], dtype=torch.cfloat)
        kept[:, :, :4, :4] = torch.einsum("bixy,ioxy->boxy", found[:, :, :4, :4], self.weight)
        result: torch.Tensor = torch.fft.irfft2(kept, s=x.shape[-2:])
        return result


def test_complex_weights_between_fourier_transforms_are_exported() -> None:
    """Contractions, slices and assignments of complex values between two transforms are written with pairs."""
    torch.manual_seed(0)
    model, x = Operator(), torch.randn(4, 3, 10, 10)
    program = capture(model, {"x": torch.randn(3, 3, 10, 10)})
    session = onnxruntime.InferenceSession(to_onnx(reexport(program), program.signature).SerializeToString())
    with torch.no_grad():
        np.testing.assert_allclose(session.run(None, {"x": x.numpy()})[0], model(x).numpy(), atol=1e-5)
