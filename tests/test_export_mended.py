"""What ONNX Runtime gets wrong is written so that it gets it right."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from retort.compress.program import capture, reexport
from retort.core.options import Target
from retort.core.session import open_session
from retort.export.onnx_graph import to_onnx


@pytest.mark.parametrize(("value", "target"), [(0.0, "cpu"), (0.0, "tensorrt"), (-0.5, "cpu"), (float("-inf"), "cpu")])
def test_a_padding_before_a_maximum_pooling_keeps_its_value(value: float, target: Target) -> None:
    """At the border the padded value takes part in the maximum, whatever the runtime makes of padding and pooling."""

    class Padded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 4, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.max_pool2d(F.pad(self.stem(x) - 9, (1, 1, 1, 1), value=value), 3, 2)

    image = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    program = capture(Padded(), {"image": image})
    session = open_session(to_onnx(reexport(program), program.signature, target).SerializeToString())
    with torch.no_grad():
        expected = program.module(image)[0].numpy()
    np.testing.assert_allclose(session.run({"image": image.numpy()})["output"], expected, rtol=1e-5)
