"""Adaptive maximum pooling to several cells is exported with the same values, whether or not the sizes divide."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from retort.compress.capture.capture_program import capture
from retort.compress.program import reexport
from retort.export.translate import to_onnx

POOLS = {1: nn.AdaptiveMaxPool1d, 2: nn.AdaptiveMaxPool2d, 3: nn.AdaptiveMaxPool3d}


@pytest.mark.parametrize(
    ("sizes", "cells"), [((12,), (4,)), ((7,), (3,)), ((8, 6), (2, 3)), ((7, 5), (3, 2)), ((4, 5, 6), (2, 2, 1))]
)
def test_pooling_to_several_cells_is_exported(sizes: tuple[int, ...], cells: tuple[int, ...]) -> None:
    """Program and file equal the model at another batch size."""
    model = POOLS[len(sizes)](cells)
    program = capture(model, {"x": torch.randn(3, 4, *sizes)})
    x = torch.randn(5, 4, *sizes)
    torch.testing.assert_close(program.module(x)[0], model(x))
    session = onnxruntime.InferenceSession(to_onnx(reexport(program), program.signature).SerializeToString())
    np.testing.assert_array_equal(session.run(None, {"x": x.numpy()})[0], model(x).numpy())
