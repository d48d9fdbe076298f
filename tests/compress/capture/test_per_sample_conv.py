"""Convolutions whose kernels depend on the sample."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch import nn
from torch.nn import functional

from retort.compress.capture.capture_program import capture
from retort.compress.program import store
from retort.core.context import Context, Place
from retort.core.data.splits import ArraySplit, Splits
from retort.core.options.stage_options import ExportOptions
from retort.core.session import SessionOptions, open_session
from retort.pipeline.stages import export

torch.set_num_threads(1)


class Modulated(nn.Module):
    """As in StyleGAN2: a batch of kernels, samples in the channels, upsampled by a transposed convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.style, self.bias = nn.Linear(3, 4), nn.Parameter(torch.randn(6))
        self.down, self.up = nn.Parameter(torch.randn(6, 4, 3, 3)), nn.Parameter(torch.randn(6, 2, 4, 4))

    def forward(self, x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        """Half the size and back again."""
        rows, channels, height, width = x.shape
        kernels = (self.down * self.style(z)[:, None, :, None, None]).view(rows * 6, channels, 3, 3)
        wide = x.reshape(1, rows * channels, height, width)
        y = functional.conv2d(wide, kernels, self.bias.repeat(rows), padding=1, stride=2, groups=rows)
        y = functional.conv_transpose2d(y, self.up.repeat(rows, 1, 1, 1), stride=2, padding=1, dilation=1, groups=rows)
        return y.view(rows, 2, height, width)


def test_kernels_per_sample_are_products_that_any_runtime_takes(tmp_path: Path) -> None:
    """A convolution whose groups are the batch becomes a product: program and file agree with the model."""
    model = Modulated()
    program = capture(model, {"x": torch.randn(2, 4, 6, 8), "z": torch.randn(2, 3)})
    assert not [node for node in program.module.graph.nodes if "conv" in str(node.target)]
    feeds = {"x": torch.randn(5, 4, 6, 8), "z": torch.randn(5, 3)}
    wanted = model(**feeds)
    assert torch.allclose(program.module(*feeds.values())[0], wanted, atol=1e-4)
    split = ArraySplit({name: value.numpy() for name, value in feeds.items()}, None)
    artifact = store(program, Place(tmp_path / "program"), "capture")
    graph = export(ExportOptions(), artifact, Place(tmp_path / "graph"), Context(Splits(split, split, split, split)))
    found = open_session(graph.main, SessionOptions(threads=1)).run(split.inputs)["output"]
    assert torch.allclose(torch.from_numpy(found), wanted, atol=1e-4)
