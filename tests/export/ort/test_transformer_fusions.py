"""INT8 Transformers on cpu: efficient masks, separate sums and norms, biases in the products, equal outputs."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from retort.compress.capture.capture_program import capture
from retort.compress.program import Program, clone, predict, reexport, save_program
from retort.compress.quantization import quantize_program
from retort.compress.quantization.prepare.attention_masks import soften_masks
from retort.core.data.splits import ArraySplit
from retort.core.metrics.task_metrics import sqnr_db
from retort.core.options.stage_options import QuantizeOptions
from retort.core.session import open_session
from retort.export.ort.integer_share import integer_share
from retort.export.ort.kernels import integer_kernels, optimized
from retort.export.translate import to_onnx

OPTIONS = QuantizeOptions(method="minmax", correction=("none",))
Case = tuple[Program, Program, Path, ArraySplit]


class Encoder(nn.Module):
    """A post-norm layer with padding masks, as in BERT."""

    def __init__(self, width: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.heads, self.embed, self.first = heads, nn.Embedding(50, width), nn.LayerNorm(width)
        self.layers = nn.ModuleList(
            nn.ModuleList(
                [
                    *(nn.Linear(width, width) for _ in range(4)),
                    nn.LayerNorm(width),
                    nn.Linear(width, 64),
                    nn.Linear(64, width),
                    nn.LayerNorm(width),
                ]
            )
            for _ in range(1)
        )

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        x, keep = self.first(self.embed(ids)), mask[:, None, None, :].bool()
        for layer in self.layers:
            q, k, v, out, one, up, down, two = cast(nn.ModuleList, layer)
            parts = [item(x).view(*x.shape[:2], self.heads, -1).transpose(1, 2) for item in (q, k, v)]
            mixed = functional.scaled_dot_product_attention(parts[0], parts[1], parts[2], attn_mask=keep)
            x = one(x + out(mixed.transpose(1, 2).reshape(x.shape)))
            x = two(x + down(functional.gelu(up(x))))
        weights = mask[..., None].float()
        return (x * weights).sum(1) / weights.sum(1)


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """A program, its INT8 form, the INT8 file, and samples of which a third is padding."""
    torch.manual_seed(0)
    model = Encoder()
    for parameter in model.parameters():
        if parameter.dim() == 2:
            nn.init.normal_(parameter, std=0.3)
    ids = torch.randint(0, 50, (32, 12))
    mask = (torch.arange(12)[None] < torch.randint(6, 13, (32, 1))).long()
    program = capture(
        model.eval(), {"ids": ids[:4], "mask": mask[:4]}, dynamic={"ids": {1: "time"}, "mask": {1: "time"}}
    )
    split = ArraySplit({"ids": ids.numpy(), "mask": mask.numpy()})
    result = quantize_program(program, OPTIONS, split, "cpu")
    path = tmp_path_factory.mktemp("encoder") / "model.pt2"
    save_program(result, path)
    onnx.save(to_onnx(path, target="cpu"), path.with_suffix(".onnx"))
    return program, result, path.with_suffix(".onnx"), split


def test_every_linear_layer_is_integer_with_its_bias_inside(case: Case) -> None:
    """6 products of codes and weights, none in FP32, and only one Q per tensor that they read."""
    kernels = integer_kernels(case[2])
    assert kernels.integer == {"MatMulIntegerToFloat": 6}
    assert kernels.conversions == {"QuantizeLinear": 4}
    assert kernels.unfused_names == ()
    biases = [node.input[6] for node in onnx.load(case[2]).graph.node if node.op_type == "MatMulIntegerToFloat"]
    assert all(biases)


def test_nine_tenths_of_the_products_run_in_integer_kernels(case: Case) -> None:
    """Only the two products of the attention, whose factors are activations, are in floating point."""
    share = integer_share(case[2], {name: value[:2] for name, value in case[3].inputs.items()})
    assert share.percent >= 90
    assert len(share.floating_nodes) == 2
    reasons = {item["reason"] for item in case[1].meta["quantization"]["float_nodes"]}
    assert reasons == {"both of its factors are activations"}


def test_the_runtime_fuses_no_sum_into_a_norm_and_looks_for_no_nan(case: Case) -> None:
    """The file has no SkipLayerNormalization and no IsNaN, which are slower than the nodes that they replace."""
    found = {node.op_type for node in optimized(case[2]).graph.node}
    assert not found & {"SkipLayerNormalization", "IsNaN", "BiasGelu"}
    assert {"Sum", "LayerNormalization", "Gelu"} <= found


@pytest.mark.parametrize("length", [12, 5])
def test_the_file_computes_what_the_program_says(case: Case, length: int) -> None:
    """At the captured length and at another, file and program agree far within the quantization noise."""
    program, result, path, split = case
    inputs = {name: value[:, :length] for name, value in split.inputs.items()}
    expected, plain = (predict(item, ArraySplit(inputs))["output"] for item in (result, program))
    found = open_session(path).run(inputs)["output"]
    assert sqnr_db(expected, found) > sqnr_db(plain, expected) + 3
    assert sqnr_db(plain, found) > 25


def test_softer_masks_change_no_output(case: Case) -> None:
    """Masked scores are lowered by 40 to 60, which avoids subnormal products: outputs agree to seven digits."""
    program, _, _, split = case
    softened = clone(program)
    amounts = soften_masks(softened, split, OPTIONS)
    assert all(40 <= amount <= 60 for amount in amounts.values())
    assert len(amounts) == 1
    one, two = (predict(item, split)["output"] for item in (program, softened))
    assert np.abs(one - two).max() <= 1e-6 * np.abs(one).max()


def test_a_row_that_is_masked_altogether_stays_finite(case: Case) -> None:
    """A sample of padding alone gives finite outputs and does not affect other samples."""
    _, _, path, split = case
    inputs = {name: value[:3].copy() for name, value in split.inputs.items()}
    before = open_session(path).run(inputs)["output"]
    inputs["mask"][1, 1:] = 0
    after = open_session(path).run(inputs)["output"]
    assert np.isfinite(after).all()
    assert np.array_equal(before[[0, 2]], after[[0, 2]])


def test_a_file_in_fp32_keeps_sums_apart_too(case: Case, tmp_path: Path) -> None:
    """It has no SkipLayerNormalization and no BiasGelu, transposes keys once, and agrees to six digits."""
    program, _, _, split = case
    path = tmp_path / "model.onnx"
    onnx.save(to_onnx(reexport(program), program.signature, target="cpu"), path)
    nodes = [node.op_type for node in optimized(path).graph.node]
    assert not set(nodes) & {"SkipLayerNormalization", "BiasGelu"}
    assert nodes.count("Sum") == 3
    assert nodes.count("Transpose") == 4
    expected, found = predict(program, split)["output"], open_session(path).run(dict(split.inputs))["output"]
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
    other = {node.op_type for node in to_onnx(reexport(program), program.signature, target="tensorrt").graph.node}
    assert "Sum" not in other
