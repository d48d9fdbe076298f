"""Faults of ONNX Runtime and of the exporter's libraries: each workaround is still needed and does what it says."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from needed import needed
from torch import nn
from torch.nn import functional as F

from retort.compress.capture.capture_program import capture
from retort.compress.program import reexport, save_program
from retort.core.backends.eager import load_exported
from retort.core.options.stage_options import Target
from retort.core.session import open_session
from retort.export.ort import workarounds as exporting
from retort.export.translate import to_onnx


def test_the_exporter_still_parses_its_operators_each_time() -> None:
    """What the exporter learns about its operators is new at each call; with the patch it is the same."""
    lazy: Any = importlib.import_module("torch.onnx._internal._lazy_import").onnxscript_apis
    listed = getattr(lazy.get_torchlib_ops, "__wrapped__", lazy.get_torchlib_ops)
    first, second = listed(), listed()
    kept = first is second or first[0] is second[0]
    assert not kept, "onnxscript keeps them itself: remove export.ort.workarounds.parse_operators_once"
    exporting.parse_operators_once()
    assert lazy.get_torchlib_ops() is lazy.get_torchlib_ops()


def test_some_rules_of_the_exporter_still_compare_all_nodes_with_all() -> None:
    """While a program is written every rewriting rule starts from one node; afterwards all rules are there again."""
    rewriter: Any = importlib.import_module("onnxscript.rewriter")
    before = rewriter._DEFAULT_REWRITE_RULES
    assert not all(map(exporting.starts_from_one_node, before)), "remove export.ort.workarounds.linear_rules"
    with exporting.linear_rules():
        during = rewriter._DEFAULT_REWRITE_RULES
    assert rewriter._DEFAULT_REWRITE_RULES is before
    assert 0 < len(during) < len(before)
    assert all(map(exporting.starts_from_one_node, during))


def test_conditions_on_sizes_still_stop_an_export(tmp_path: Path) -> None:
    """A loaded program whose conditions fail while it is translated is written all the same, and keeps its methods."""
    program = capture(nn.Linear(4, 3).eval(), {"input": torch.randn(4, 4)})
    save_program(program, tmp_path / "model.pt2")
    exported, signature, _ = load_exported(tmp_path / "model.pt2")
    exported._guards_code = ["1 > 2"]
    with needed("export.ort.workarounds.without_guards", "Guard failed|Failed to decompose"):
        torch.onnx.export(exported, dynamo=True, verbose=False)
    onnx.checker.check_model(to_onnx(exported, signature), full_check=True)
    assert "module" not in vars(exported)


PADDED = """<ir_version: 8, opset_import: ["" : 18]>
padded (float[1, 1, 4, 4] x) => (float[1, 1, 2, 2] y)
<int64[8] pads = {0, 0, 1, 1, 0, 0, 1, 1}, float zero = {0}> {
    p = Pad(x, pads, zero)
    y = MaxPool<kernel_shape = [3, 3], strides = [3, 3]>(p)
}"""


def test_a_padding_is_still_folded_into_a_pooling_that_pads_otherwise() -> None:
    """Zeros around values of -1 are the maximum at the border; the runtime says -1."""
    model = onnx.parser.parse_model(PADDED).SerializeToString()
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    found = session.run(None, {"x": -np.ones((1, 1, 4, 4), np.float32)})[0]
    assert (found == -1).all(), "ONNX Runtime keeps the padding: remove export.ort.workarounds.keep_padding"


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
