"""SmoothQuant moves outlier channels into the weights: FP32 outputs do not change, and INT8 outputs improve."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from retort.compress.capture.capture_program import capture
from retort.compress.program import Program, clone, predict
from retort.compress.quantization import quantize_program
from retort.compress.quantization.correction.smoothquant import smooth
from retort.core.data.splits import ArraySplit
from retort.core.metrics.task_metrics import sqnr_db
from retort.core.options.stage_options import Correction, QuantizeOptions

OPTIONS = QuantizeOptions(method="minmax", correction=("none",))
Case = tuple[Program, ArraySplit, bool]


class Feed(nn.Module):
    """Two feed-forward blocks after layer norms with outlier channels, where the residual may read the norm as well."""

    def __init__(self, post: bool) -> None:
        super().__init__()
        self.post = post
        self.norm, self.up, self.down = nn.LayerNorm(32), nn.Linear(32, 64), nn.Linear(64, 32)
        self.head = nn.Linear(32, 6)
        with torch.no_grad():
            self.norm.weight[3], self.norm.weight[11], self.up.weight[:, [3, 11]] = 60.0, 40.0, 0.002
            self.up.weight[5] *= 30

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        z = self.down(functional.gelu(self.up(y)))
        return self.head((y if self.post else x) * 0.01 + z)


@pytest.fixture(scope="module", params=[True, False], ids=["post", "pre"])
def case(request: pytest.FixtureRequest) -> Case:
    """A program and its calibration data."""
    torch.manual_seed(0)
    x = torch.randn(32, 6, 32)
    return capture(Feed(request.param).eval(), {"x": x[:4]}), ArraySplit({"x": x.numpy()}), request.param


def test_the_fp32_outputs_stay(case: Case) -> None:
    """The activation is divided and the weights after it are multiplied by the same factors: the outputs are equal."""
    program, split, _ = case
    smoothed = clone(program)
    facts = smooth(smoothed, split, OPTIONS, "cpu")
    one, two = (predict(item, split)["output"] for item in (program, smoothed))
    assert facts[0]["layers"] == ["up"]
    assert np.abs(one - two).max() <= 1e-5 * np.abs(one).max()


def test_a_norm_that_nobody_else_reads_takes_the_factors(case: Case) -> None:
    """If a norm has only one reader, the division is folded into the norm; with a residual, a product is inserted."""
    program, split, post = case
    smoothed = clone(program)
    smooth(smoothed, split, OPTIONS, "cpu")
    names = [str(node.target) for node in smoothed.module.graph.find_nodes(op="get_attr")]
    assert any("layer_norm_smoothing" in name for name in names) is post


def test_int8_gets_nearer_to_fp32(case: Case) -> None:
    """With outlier channels, smoothing gains several decibels; `smooth: false` switches it off."""
    program, split, _ = case
    wanted = predict(program, split)["output"]
    noise = {}
    for on in (False, True):
        done = quantize_program(program, OPTIONS.model_copy(update={"smooth": on}), split, "cpu")
        noise[on] = sqnr_db(wanted, predict(done, split)["output"])
        assert bool(done.meta["quantization"]["smoothed"]) is on
    assert noise[True] > noise[False] + 6


def test_where_nothing_is_gained_nothing_is_touched() -> None:
    """If all channels have a similar range, the program is not changed."""
    torch.manual_seed(0)
    x = torch.randn(32, 5, 32)
    program = capture(nn.Sequential(nn.LayerNorm(32), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 4)).eval(), {"x": x})
    assert smooth(program, ArraySplit({"x": x.numpy()}), OPTIONS, "cpu") == []
    assert not [node for node in program.module.graph.nodes if "mul" in node.name]


class Joined(nn.Module):
    """A class token before the tokens, as in CvT: the layer reads a concatenation with outlier channels."""

    spread: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.token, self.up, self.head = nn.Parameter(torch.randn(1, 1, 32)), nn.Linear(32, 64), nn.Linear(64, 6)
        self.register_buffer("spread", torch.ones(32).index_fill(0, torch.tensor([3, 11]), 50.0))
        with torch.no_grad():
            self.up.weight[:, [3, 11]] = 0.002

    def forward(self, x: Tensor) -> Tensor:
        y = torch.cat([self.token.expand(x.shape[0], -1, -1), x * self.spread], 1)
        return self.head(torch.relu(self.up(y)))


def test_what_several_tensors_are_put_together_from_is_smoothed() -> None:
    """A concatenation is not the output of one layer, so it is divided itself, and the outputs do not change."""
    torch.manual_seed(0)
    x = torch.randn(32, 6, 32)
    program, split = capture(Joined().eval(), {"x": x[:4]}), ArraySplit({"x": x.numpy()})
    smoothed = clone(program)
    assert smooth(smoothed, split, OPTIONS, "cpu")[0]["layers"] == ["up"]
    one, two = (predict(item, split)["output"] for item in (program, smoothed))
    assert np.abs(one - two).max() <= 1e-5 * np.abs(one).max()


class Tied(nn.Module):
    """A language model whose output layer shares the embedding's weight, after a norm with outlier channels."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.norm = nn.Embedding(40, 32), nn.LayerNorm(32)
        self.head = nn.Linear(32, 40, bias=False)
        self.head.weight = self.words.weight
        with torch.no_grad():
            self.norm.weight[3], self.norm.weight[11], self.words.weight[:, [3, 11]] = 60.0, 40.0, 0.002

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.norm(self.words(tokens)))


@pytest.mark.parametrize("correction", ["none", "hessian"])
def test_a_weight_that_is_looked_up_as_well_stays(correction: Correction) -> None:
    """The rows of a tied embedding must not be scaled: the program before quantization stays the same."""
    torch.manual_seed(0)
    tokens = torch.randint(0, 40, (32, 6))
    program = capture(Tied().eval(), {"tokens": tokens[:4]})
    split = ArraySplit({"tokens": tokens.numpy()})
    options = OPTIONS.model_copy(update={"correction": (correction,), "last_layer": "int8", "embeddings": "float"})
    made = quantize_program(program, options, split, "cpu")
    before, after = (dict(item.module.named_parameters())["head.weight"] for item in (program, made))
    assert torch.equal(before, after)
