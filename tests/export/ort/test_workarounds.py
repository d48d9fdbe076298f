"""Workarounds for ONNX Runtime and the exporter's libraries: each is still needed and works."""

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
    schemas: Any = importlib.import_module("torch.onnx._internal.exporter._schemas")
    read = getattr(schemas.op_signature_from_function, "__wrapped__", schemas.op_signature_from_function)
    function, domain = first[0].function, first[0].function.function_ir.domain
    kept = read(function, domain) is read(function, domain)
    assert not kept, "the exporter keeps them itself: remove that half of export.ort.workarounds.parse_operators_once"
    exporting.parse_operators_once()
    assert lazy.get_torchlib_ops() is lazy.get_torchlib_ops()
    found = schemas.op_signature_from_function(function, domain)
    assert found is schemas.op_signature_from_function(function, domain)
    assert found == read(function, domain)


def test_some_rules_of_the_exporter_still_compare_all_nodes_with_all() -> None:
    """During an export, every rewriting rule starts from one node; afterwards all rules are there again."""
    rewriter: Any = importlib.import_module("onnxscript.rewriter")
    before = rewriter._DEFAULT_REWRITE_RULES
    assert not all(map(exporting.starts_from_one_node, before)), "remove export.ort.workarounds.linear_rules"
    with exporting.linear_rules():
        during = rewriter._DEFAULT_REWRITE_RULES
    assert rewriter._DEFAULT_REWRITE_RULES is before
    assert 0 < len(during) < len(before)
    assert all(map(exporting.starts_from_one_node, during))


def run(model: onnx.ModelProto, x: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
    """The outputs by ONNX Runtime, of a model with one input."""
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return list(session.run(None, {session.get_inputs()[0].name: x}))


class Logarithm(nn.Module):
    """A power spectrum with the small constant that keeps its logarithm finite."""

    def __init__(self, least: float) -> None:
        super().__init__()
        self.least = least

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.log(x * x + self.least)


def test_the_exporter_still_drops_small_constants() -> None:
    """Without the patch `x * x + 1e-10` loses its constant, so that zeros become minus infinity."""
    program = torch.export.export(Logarithm(1e-10), (torch.rand(2, 3),))
    made = torch.onnx.export(program, dynamo=True, verbose=False)
    assert made is not None
    assert "Add" not in {node.op_type for node in made.model.graph}, "remove export.ort.workarounds.exact_constants"


@pytest.mark.parametrize("least", [1e-7, 1.1e-8, 1e-8, 9e-9, 1e-9, 1e-10, 1e-12, 1e-30])
def test_a_small_constant_stays_in_the_file(least: float) -> None:
    """`log(x * x + c)` of zeros is `log(c)` in the file as in the program, however small the constant is."""
    program = capture(Logarithm(least), {"x": torch.rand(4, 3)})
    (answer,) = run(to_onnx(reexport(program), program.signature), np.zeros((2, 3), np.float32))
    np.testing.assert_allclose(answer, np.full((2, 3), np.log(np.float32(least))), rtol=1e-5)


class NearlyNeutral(nn.Module):
    """Constants that are almost 0 or almost 1, beside some that are exactly that."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return x / (x.abs().sum(1, keepdim=True) + 1e-9), x - 1e-9, x * 1.000001, x / 0.999999, x * 1.0 + 0.0


def test_a_constant_that_is_almost_neutral_stays_in_the_file() -> None:
    """Sums, differences, products and quotients keep constants that are not exactly 0 or 1."""
    program = capture(NearlyNeutral(), {"x": torch.rand(4, 3)})
    model = to_onnx(reexport(program), program.signature)
    for x in (np.zeros((2, 3), np.float32), np.full((2, 3), 1e-9, np.float32), np.ones((2, 3), np.float32)):
        expected = NearlyNeutral()(torch.from_numpy(x))
        for one, two in zip(expected, run(model, x), strict=True):
            np.testing.assert_allclose(two, one.numpy(), rtol=1e-7, atol=0)


def test_conditions_on_sizes_still_stop_an_export(tmp_path: Path) -> None:
    """A loaded program whose conditions fail during translation is exported anyway, and keeps its methods."""
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
    """Zeros around values of -1 are the maximum at the border; the runtime computes -1."""
    model = onnx.parser.parse_model(PADDED).SerializeToString()
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    found = session.run(None, {"x": -np.ones((1, 1, 4, 4), np.float32)})[0]
    assert (found == -1).all(), "ONNX Runtime keeps the padding: remove export.ort.workarounds.keep_padding"


@pytest.mark.parametrize(("value", "target"), [(0.0, "cpu"), (0.0, "tensorrt"), (-0.5, "cpu"), (float("-inf"), "cpu")])
def test_a_padding_before_a_maximum_pooling_keeps_its_value(value: float, target: Target) -> None:
    """At the border, the padded value is part of the maximum, whether or not the runtime fuses the nodes."""

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
