"""Operators that TensorRT's parser does not support are written with others, and can be imported again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from retort.compress.capture.capture_program import capture
from retort.compress.onnx_import import import_onnx
from retort.compress.program import reexport
from retort.core.session import open_session
from retort.export.lint import lint
from retort.export.translate import to_onnx


class Spectral(nn.Module):
    """A linear layer, then a transform."""

    def __init__(self, transform: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.first, self.transform = nn.Linear(12, 12), transform

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """See the class."""
        return self.transform(self.first(x))


class GlobalFilter(nn.Module):
    """A learned filter on the spectrum of an image (Rao et al., 2021), and a Fourier layer over words."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 8, 7, 2) * 0.3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """See the class."""
        spectrum = torch.fft.rfft2(x, dim=(2, 3), norm="ortho") * torch.view_as_complex(self.weight)
        return torch.fft.irfft2(spectrum, s=(8, 12), dim=(2, 3), norm="ortho")


class Patches(nn.Module):
    """Overlapping patches that are summed at their positions."""

    def __init__(self, stride: int, padding: int) -> None:
        super().__init__()
        self.stride, self.padding = stride, padding

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """See the class."""
        patches = nn.functional.unfold(x, 3, padding=self.padding, stride=self.stride)
        return nn.functional.fold(torch.tanh(patches), (9, 12), 3, padding=self.padding, stride=self.stride)


class Along(nn.Module):
    """A transform along the dynamic axis, and optionally its inverse."""

    def __init__(self, back: bool) -> None:
        super().__init__()
        self.first, self.back = nn.Linear(12, 12), back

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """See the class."""
        spectrum = torch.fft.fft(self.first(x), dim=1)
        return torch.fft.ifft(spectrum * spectrum, dim=1).real if self.back else spectrum.imag


WORDS, PICTURE = (3, 12), (3, 8, 12)
MODELS: dict[str, tuple[nn.Module, Sequence[int]]] = {
    "fft": (Spectral(lambda x: torch.fft.fft(torch.fft.fft(x, dim=-1), dim=1).real), WORDS),
    "rfft": (Spectral(lambda x: torch.fft.rfft(x).abs()), WORDS),
    "irfft": (Spectral(lambda x: torch.fft.irfft(torch.fft.rfft(x, n=15), n=15)), WORDS),
    "ifft": (Spectral(lambda x: torch.fft.ifft(torch.fft.fft(x, norm="ortho")).real), WORDS),
    "filter": (GlobalFilter(), PICTURE),
    "fold": (Patches(2, 1), (3, 9, 12)),
    "tiles": (Patches(3, 0), (3, 9, 12)),
}


@pytest.mark.parametrize("name", MODELS)
def test_transforms_and_patches_reach_tensorrt_and_come_back(name: str, tmp_path: Path) -> None:
    """The file for TensorRT has no fault and computes the same; the one for a CPU can be imported."""
    module, shape = MODELS[name]
    torch.manual_seed(0)
    x = torch.randn(4, *shape, generator=torch.Generator().manual_seed(0))
    program = capture(module, {"x": x})
    for target in ("cpu", "tensorrt"):
        model = to_onnx(reexport(program), program.signature, target)
        onnx.save(model, tmp_path / f"{target}.onnx")
        session = open_session(tmp_path / f"{target}.onnx")
        for rows in (1, 3):
            wanted = module(x[:rows]).detach().numpy()
            np.testing.assert_allclose(session.run({"x": x[:rows].numpy()})["output"], wanted, atol=3e-4)
    assert [item for item in lint(model) if item.verdict != "advice"] == []
    back = import_onnx(tmp_path / "cpu.onnx", {"x": x.numpy()})
    np.testing.assert_allclose(back.module(x)[0].detach(), module(x).detach(), atol=3e-4)


@pytest.mark.parametrize("name", ["fft", "ifft"])
def test_a_transform_of_any_length_is_computed_where_the_length_is_known(name: str, tmp_path: Path) -> None:
    """With a dynamic axis, the matrix is computed in the graph, for odd and even lengths."""
    moved = Along(back=name == "ifft")
    program = capture(moved, {"x": torch.randn(4, 6, 12)}, dynamic={"x": {1: "length"}})
    model = to_onnx(reexport(program), program.signature, "tensorrt")
    assert [item for item in lint(model) if item.verdict != "advice"] == []
    session = open_session(model.SerializeToString())
    for length in (3, 8, 17):
        x = torch.randn(2, length, 12)
        np.testing.assert_allclose(session.run({"x": x.numpy()})["output"], moved(x).detach(), atol=2e-4)


def test_a_short_time_transform_is_read_back(tmp_path: Path) -> None:
    """STFT, which both runtimes support, can be imported from a file."""
    window = torch.hann_window(16)

    def _spectrogram(x: torch.Tensor) -> torch.Tensor:
        return torch.view_as_real(torch.stft(x.flatten(1), 16, 8, window=window, return_complex=True))

    module, x = Spectral(_spectrogram), torch.randn(4, 3, 12)
    program = capture(module, {"x": x})
    onnx.save(to_onnx(reexport(program), program.signature), tmp_path / "model.onnx")
    back = import_onnx(tmp_path / "model.onnx", {"x": x.numpy()})
    np.testing.assert_allclose(back.module(x)[0].detach(), module(x).detach(), atol=1e-5)
