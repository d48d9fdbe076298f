"""Corrections: each one reduces an error that was planted for it, and is dropped if it does not help."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from known import known
from numpy.typing import NDArray
from torch import Tensor, nn

from retort.compress.capture.capture_program import capture
from retort.compress.graph.module_edit import fetch
from retort.compress.program import Program, clone, predict
from retort.compress.quantization import fold_batch_norms, quantize_program
from retort.compress.quantization.correction.equalization import equalise
from retort.compress.quantization.correction.gram import Gram
from retort.compress.quantization.correction.layer_matrices import quantized_layers, rows_of, to_matrix
from retort.compress.quantization.correction.learned_scales import learnable, scales_in
from retort.compress.quantization.correction.rounding import hessian_rounding, learned_rounding, nearest
from retort.core.data.splits import ArraySplit
from retort.core.errors import DataError
from retort.core.metrics.task_metrics import sqnr_db
from retort.core.options.stage_options import Correction, QuantizeOptions


class Net(nn.Module):
    """Convolutions of every kind that the corrections handle, with ReLU and ReLU6 between them."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 16, 3, 2, 1), nn.Conv2d(16, 16, 3, 1, 1, groups=16)
        self.c, self.d = nn.Conv2d(16, 32, 1), nn.Conv2d(32, 32, 3, padding="same", dilation=2)
        self.e, self.f = nn.Linear(32, 24), nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.a(x))
        x = nn.functional.relu6(self.b(x))
        x = torch.relu(self.d(torch.relu(self.c(x)))).mean((2, 3))
        return self.f(torch.relu(self.e(x)))


def images(count: int, seed: int) -> NDArray[np.float32]:
    """Smooth random images, correlated as photographs are, of different colour and contrast."""
    random = np.random.default_rng(seed)
    noise = torch.from_numpy(random.normal(size=(count, 3, 8, 8)).astype(np.float32))
    smooth = nn.functional.interpolate(noise, scale_factor=2, mode="bilinear").numpy()
    return (smooth * random.uniform(0.3, 2, (count, 1, 1, 1)) + random.normal(size=(count, 3, 1, 1))).astype(np.float32)


DATA = ArraySplit({"x": images(96, 0)})
TEST = ArraySplit({"x": images(64, 1)})


@pytest.fixture(scope="module")
def program() -> Program:
    """The captured network."""
    torch.manual_seed(0)
    net = Net().eval()
    with torch.no_grad():
        for name, value in net.named_parameters():
            value.mul_(0.1 if name.endswith("bias") else 1.5)
    return capture(net, {"x": DATA.inputs["x"][:2]})


def quantized(program: Program, *rungs: Correction, **options: Any) -> Program:
    chosen = QuantizeOptions(correction=rungs, method="minmax", samples=96, **options)
    return quantize_program(program, chosen, DATA, "cpu")


def noise_db(program: Program, other: Program) -> float:
    return sqnr_db(predict(program, TEST)["output"], predict(other, TEST)["output"])


def with_outlier(program: Program) -> Program:
    """The same function with a channel that is a hundred times larger between two layers, at two places."""
    result = clone(program)
    for first, second, factor in (("a", "b", 100.0), ("c", "d", 60.0)):
        fetch(result.module, f"{first}.weight").data[3] *= factor
        fetch(result.module, f"{first}.bias").data[3] *= factor
        weight = fetch(result.module, f"{second}.weight").data
        weight[(3,) if weight.shape[1] == 1 else (slice(None), 3)] /= factor
    assert noise_db(program, result) > 75
    return result


def test_equalisation_corrects_outlier_channels(program: Program) -> None:
    """A planted outlier channel costs INT8 more than 10 dB; cross-layer equalisation recovers them."""
    broken = with_outlier(program)
    healthy, bad, mended = (
        noise_db(program, quantized(*case)) for case in ((program, "none"), (broken, "none"), (broken, "equalise"))
    )
    assert bad < healthy - 10
    assert mended > healthy - 1.5


def test_equalisation_changes_no_output(program: Program) -> None:
    """Except for rounding, the FP32 outputs do not change; a ReLU6 that no sample reaches becomes a ReLU."""
    form = fold_batch_norms(with_outlier(program))
    pairs, clamps = equalise(form, DATA, 96)
    assert (pairs, clamps) == (5, 1)
    assert noise_db(program, form) > 75


def test_layers_around_an_active_clamp_are_not_equalised(program: Program) -> None:
    """ReLU6 is not homogeneous: if samples reach its limit, the layers around it are not equalised."""
    form = fold_batch_norms(program)
    fetch(form.module, "b.bias").data += 6.0
    before = clone(form)
    pairs, clamps = equalise(form, DATA, 96)
    assert (pairs, clamps) == (4, 0)
    assert noise_db(before, form) > 75


@pytest.mark.parametrize("method", ["hessian", "adaround"])
def test_rounding_by_activations_improves_four_bit_weights(program: Program, method: Correction) -> None:
    """With 4-bit weights, each learned rounding gains at least 4 dB over rounding to nearest on new samples."""
    plain, rounded = (noise_db(program, quantized(program, rung, weight_bits=4)) for rung in ("none", method))
    assert rounded > plain + 4


def test_bias_correction_removes_a_systematic_error(program: Program) -> None:
    """Coarse weights shift the mean of the outputs; corrected biases leave a much smaller shift."""
    wanted = predict(program, TEST)["output"].mean(0)
    shifts = [
        np.abs(predict(quantized(program, rung, weight_bits=3), TEST)["output"].mean(0) - wanted).mean()
        for rung in ("none", "bias")
    ]
    assert shifts[1] < shifts[0] / 3


def test_range_learning_clips_rare_outliers(program: Program) -> None:
    """If a few samples made ranges too wide, learning narrows them, and the outputs of other samples gain decibels."""
    wild = DATA.inputs["x"].copy()
    wild[0] *= 30
    split = ArraySplit({"x": wild})
    found = [
        noise_db(program, quantize_program(program, QuantizeOptions(correction=(rung,), method="minmax"), split, "cpu"))
        for rung in ("none", "ranges")
    ]
    assert found[1] > found[0] + 1


def test_a_correction_that_does_not_help_is_dropped(program: Program) -> None:
    """A correction is kept only if it raised the held-out SQNR, and the record has the result of each one."""
    result = quantized(program, "full")
    record = result.meta["quantization"]["correction"]
    assert [rung["rung"] for rung in record] == ["equalise", "ranges", "hessian", "adaround", "bias"]
    level = record[0]["before_db"]
    for rung in record:
        assert rung["before_db"] == level
        assert rung["kept"] == (rung["after_db"] > level + 0.04)
        level = rung["after_db"] if rung["kept"] else level
    assert noise_db(program, result) > noise_db(program, quantized(program, "none"))


def test_corrections_are_deterministic(program: Program) -> None:
    """The same corrections applied twice give the same weights, scales and record, bit for bit."""
    one, two = (quantized(program, "auto", weight_bits=4) for _ in range(2))
    first, second = one.module.state_dict(), two.module.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert one.meta == two.meta


def test_corrected_weights_lie_on_the_grid(program: Program) -> None:
    """After learned rounding, a weight is exactly a code times its scale, so the export stores what was measured."""
    result = quantized(program, "hessian", weight_bits=4)
    for layer in quantized_layers(result.module):
        codes = fetch(result.module, layer.weight) / fetch(result.module, layer.scale).reshape(
            [-1 if axis == layer.axis else 1 for axis in range(fetch(result.module, layer.weight).dim())]
        )
        assert layer.limit == 7
        assert float(codes.detach().abs().max()) < 7.001


def test_too_few_samples_are_rejected_or_corrections_skipped(program: Program) -> None:
    """Eight samples are too few to hold some out: corrections named by the user are rejected, `auto` skips them."""
    few = ArraySplit({"x": DATA.inputs["x"][:8]})
    with pytest.raises(DataError, match="8 calibration samples are too few for hessian"):
        quantize_program(program, QuantizeOptions(correction=("hessian",)), few, "cpu")
    assert "correction" not in quantize_program(program, QuantizeOptions(), few, "cpu").meta["quantization"]


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(6, 8, 3, 2, 1, groups=2),
        nn.Conv2d(6, 6, (3, 2), (1, 2), (2, 0), (1, 2), groups=6),
        nn.Conv2d(6, 4, 4, padding="same"),
        nn.Conv1d(6, 4, 5, 2, 3),
        nn.Conv3d(6, 4, 2, 1, 1),
        nn.Linear(6, 5),
    ],
    ids=str,
)
def test_rows_times_the_weight_matrix_are_the_layers_output(
    layer: nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear,
) -> None:
    """For every stride, padding, dilation and group count, the gathered rows give the layer's output."""
    torch.manual_seed(0)
    rank = layer.weight.dim() - 2
    x = torch.randn(20, 6, *[9] * rank) if rank > 0 else torch.randn(20, 7, 6)
    program = capture(layer.eval(), {"x": x})
    options = QuantizeOptions(correction=("none",), first_layer="int8")
    split = ArraySplit({"x": x.numpy()})
    made = (quantize_program(program, options, split, target) for target in ("cpu", "tensorrt"))
    found = next(
        filter(None, (quantized_layers(result.module) for result in made))
    )  # each target leaves out some layers
    bias = known(layer.bias).detach()
    wanted = program.module(x)[0].detach() - (bias.reshape(-1, *[1] * rank) if rank else bias)
    kernel = layer.weight.shape[2:]
    rows, outputs = rows_of(found[0], x, wanted.detach(), kernel, 100, torch.Generator().manual_seed(1))
    product = rows @ to_matrix(found[0], layer.weight.detach()).transpose(1, 2)
    assert product.shape[1] == 100
    assert torch.allclose(product, outputs, atol=1e-5)


def test_hessian_and_learned_rounding_beat_nearest_on_correlated_inputs() -> None:
    """For strongly correlated inputs, both leave at most 70 % of the error of rounding to nearest."""
    torch.manual_seed(0)
    mixing = torch.randn(12, 12) @ torch.diag(torch.linspace(0.05, 2, 12))
    x = torch.randn(500, 12) @ mixing
    weight, scale = torch.randn(1, 6, 12), torch.full((1, 6), 0.25)
    gram = Gram((x.T @ x / 500).unsqueeze(0), (weight[0] @ (x.T @ x / 500)).unsqueeze(0))

    def left(rounded: Tensor) -> float:
        return float(((x @ (rounded - weight)[0].T) ** 2).mean())

    base = left(nearest(weight, scale[:, :, None], 127))
    for method in (hessian_rounding, learned_rounding):
        rounded = method(weight, scale, 127, gram)
        assert torch.allclose((rounded / scale[:, :, None]).round() * scale[:, :, None], rounded, atol=1e-5)
        assert left(rounded) < 0.7 * base


def test_scales_are_parameters_for_a_while_and_buffers_again(program: Program) -> None:
    """While training, scales are relative parameters; afterwards they are buffers with the learned values."""
    result = quantized(program, "none")
    code, chosen = result.module.code, [scale.path for scale in scales_in(result)]
    before = predict(result, TEST)["output"]
    with learnable(result, weights=True) as parameters:
        assert len(parameters) == len(chosen)
        assert sqnr_db(before, predict(result, TEST)["output"]) > 40
        parameters[0].data += float(np.log(1.5))
    assert result.module.code == code
    assert not any(name.endswith("logarithm") for name, _ in result.module.named_parameters())
    assert not np.allclose(predict(result, TEST)["output"], before, atol=1e-5)
