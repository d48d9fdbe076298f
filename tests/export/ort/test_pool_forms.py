"""MaxPool of an INT8 program on cpu: in integers after integer convolutions, in floating point elsewhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from retort.compress.capture.capture_program import capture
from retort.compress.program import Program, clone, reexport
from retort.compress.quantization import quantize_program
from retort.core.data.splits import ArraySplit
from retort.core.options.stage_options import QuantizeOptions
from retort.export import translate
from retort.export.ort import pool_forms
from retort.export.ort.kernels import optimized

OPTIONS = QuantizeOptions(method="minmax", correction=("none",))


class Stem(nn.Module):
    """A first convolution that stays in floating point, an activation, pooling, and an integer convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.slopes = nn.Conv2d(channels, 16, 3), nn.PReLU(16)
        self.pool, self.second, self.head = nn.MaxPool2d(3, 2), nn.Conv2d(16, 32, 3), nn.Conv2d(32, 32, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[N, C, 28, 28]``."""
        return self.head(torch.relu(self.pool(self.second(self.pool(self.slopes(self.first(x)))))))


def pools(program: Program, folder: Path) -> list[str]:
    """The operators that ONNX Runtime pools with."""
    path = folder / "model.onnx"
    path.write_bytes(translate.to_onnx(reexport(program), program.signature).SerializeToString())
    return [node.op_type for node in optimized(path).graph.node if "MaxPool" in node.op_type]


def quantized(channels: int, size: int, first_layer: str) -> tuple[Program, np.ndarray]:
    """The INT8 program of a net, and its samples."""
    torch.manual_seed(0)
    x = torch.randn(8, channels, size, size)
    program = capture(Stem(channels).eval(), {"x": x[:2]})
    options = OPTIONS.model_copy(update={"first_layer": first_layer})
    return quantize_program(clone(program), options, ArraySplit({"x": x.numpy()}), "cpu"), x.numpy()


def test_codes_are_pooled_only_after_integer_convolutions(tmp_path: Path) -> None:
    """After a convolution in floating point, the MaxPool is in floating point, in the convolution's layout."""
    program, _ = quantized(3, 28, "float")
    path = tmp_path / "model.onnx"
    path.write_bytes(translate.to_onnx(reexport(program), program.signature).SerializeToString())
    found = optimized(path)
    kinds = {node.op_type for node in found.graph.node}
    assert "QLinearConv" in kinds
    producers = {output: node for node in found.graph.node for output in node.output}
    plain = [node for node in found.graph.node if node.op_type == "MaxPool"]
    assert len(plain) == 1
    assert producers[plain[0].input[0]].op_type != "QuantizeLinear"
    assert sum(node.op_type == "NhwcMaxPool" for node in found.graph.node) == 1


def test_with_an_integer_first_layer_both_pools_are_of_codes(tmp_path: Path) -> None:
    """The layout of the integer convolution stays."""
    assert pools(quantized(3, 28, "int8")[0], tmp_path) == ["NhwcMaxPool", "NhwcMaxPool"]


def test_the_values_do_not_change(monkeypatch: pytest.MonkeyPatch) -> None:
    """The codes of the maxima are the maxima of the codes: both files give the same numbers."""
    program, x = quantized(3, 28, "float")
    found = []
    for forms in (pool_forms.FORMS, ()):
        monkeypatch.setattr(pool_forms, "FORMS", forms)
        data = translate.to_onnx(reexport(program), program.signature).SerializeToString()
        found.append(onnxruntime.InferenceSession(data).run(None, {"x": x})[0])
    np.testing.assert_array_equal(found[0], found[1])
