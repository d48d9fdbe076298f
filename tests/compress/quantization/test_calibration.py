"""Grids and observers: the grid of a range, and the range of observed values."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from retort.compress.quantization.calibration.clipping import Entropy, SquaredError
from retort.compress.quantization.calibration.observers import MOST, PLENTY, MinMax, MovingAverage, Observer, Percentile
from retort.compress.quantization.scheme import SCHEMES, Range, Scheme, activation_grid, gate_grid, weight_scales
from retort.core.errors import ModelError
from retort.core.options.stage_options import Target

VALUES = st.floats(-1e6, 1e6)


@settings(deadline=None, max_examples=200)
@given(VALUES, VALUES, st.sampled_from(["cpu", "arm", "tensorrt"]))
def test_every_grid_holds_zero_and_covers_its_range(one: float, other: float, target: Target) -> None:
    """Zero is a code, the scale is positive and finite, and no value of the range is more than half a step off."""
    span = Range(min(one, other), max(one, other))
    scheme = SCHEMES[target]
    grid = activation_grid(span, scheme)
    assert math.isfinite(grid.scale)
    assert grid.scale > 0
    assert grid.qmin <= grid.zero_point <= grid.qmax
    lowest, highest = ((code - grid.zero_point) * grid.scale for code in (grid.qmin, grid.qmax))
    slack = 0.5001 * grid.scale
    assert lowest - slack <= min(span.low, 0)
    assert max(span.high, 0) <= highest + slack


def test_the_two_targets_have_the_forms_their_kernels_want() -> None:
    """`cpu` has UINT8 with a free zero point; `tensorrt` has symmetric INT8 with scale max|x| / 127."""
    span = Range(-1.0, 3.0)
    cpu, gpu = (activation_grid(span, SCHEMES[target]) for target in ("cpu", "tensorrt"))
    assert (cpu.qmin, cpu.qmax, cpu.zero_point) == (0, 255, 64)
    assert cpu.scale == pytest.approx(4 / 255)
    assert (gpu.qmin, gpu.qmax, gpu.zero_point) == (-128, 127, 0)
    assert gpu.scale == pytest.approx(3 / 127)


def test_values_of_one_sign_use_all_codes_on_cpu() -> None:
    """After a ReLU, the zero point is the lowest code, so that the runtime can remove the ReLU."""
    grid = activation_grid(Range(0.2, 5.0), SCHEMES["cpu"])
    assert grid.zero_point == 0
    assert grid.scale * 255 == pytest.approx(5.0)
    assert activation_grid(Range(-5.0, -0.2), SCHEMES["cpu"]).zero_point == 255


@settings(deadline=None, max_examples=200)
@given(st.floats(-6, 0), st.floats(0.01, 6), st.sampled_from([(0.0, 6.0), (-1.0, 1.0), (-3.0, 6.0), (0.0, math.inf)]))
def test_a_grid_never_reaches_beyond_the_clamp_before_it(low: float, high: float, bounds: tuple[float, float]) -> None:
    """In float32, as the runtime checks it, the outermost codes lie within the clamp's limits."""
    span = Range(max(low, bounds[0]), min(high, bounds[1]))
    grid = activation_grid(span, SCHEMES["cpu"], bounds)
    scale = np.float32(grid.scale)
    assert np.float32(0 - grid.zero_point) * scale >= np.float32(bounds[0])
    assert np.float32(255 - grid.zero_point) * scale <= np.float32(bounds[1])


@pytest.mark.parametrize("target", ["cpu", "tensorrt"])
@pytest.mark.parametrize("span", [Range(0.0, 0.0), Range(0.0, 1e-20), Range(-1e-30, 0.0)])
def test_a_dead_activation_gets_an_ordinary_scale(target: Target, span: Range) -> None:
    """A tensor that is always zero does not get a zero, tiny or infinite scale."""
    grid = activation_grid(span, SCHEMES[target])
    assert 1e-3 < grid.scale < 1e-1
    clamped = activation_grid(span, SCHEMES["cpu"], (0.0, 0.5))
    assert np.float32(clamped.scale) * np.float32(255) <= np.float32(0.5)


def test_a_constant_activation_keeps_its_value() -> None:
    """A tensor that is always 2.5 is represented with an error of at most half a step."""
    grid = activation_grid(Range(2.5, 2.5), SCHEMES["cpu"])
    assert abs(round(2.5 / grid.scale) * grid.scale - 2.5) <= grid.scale / 2


def test_hard_sigmoid_on_the_gates_grid_is_a_shift_of_codes() -> None:
    """On steps of 1/256, hard-sigmoid(x) and x requantized to 6/256 with zero point 128 have the same codes."""
    grid = gate_grid(SCHEMES["cpu"])
    x = torch.linspace(-5, 5, 4001)
    gate = (torch.nn.functional.hardsigmoid(x) / grid.scale).round().clamp(0, 255)
    moved = (x / (6 / 256)).round().add(128).clamp(0, 255)
    assert float((gate - moved).abs().max()) <= 1
    assert float((gate != moved).float().mean()) < 0.01


def test_weight_scales_follow_the_channel_axis() -> None:
    """Each output channel has max|w| / 127, along axis 0 of a convolution and 1 of a transposed one."""
    weight = torch.randn(4, 6, 3, 3)
    for axis, rest in ((0, (1, 2, 3)), (1, (0, 2, 3))):
        found = weight_scales(weight, axis, None, 1.0, "w")
        assert torch.allclose(found, weight.abs().amax(rest) / 127)


def test_a_dead_channel_keeps_its_bias() -> None:
    """With tiny or zero weights the INT32 bias on the grid input_scale * weight_scale still fits."""
    weight = torch.randn(3, 5)
    weight[1], weight[2] = 0.0, 1e-12
    bias, input_scale = torch.tensor([0.1, -3.0, 2.0]), 0.02
    scales = weight_scales(weight, 0, bias, input_scale, "w")
    assert bool((scales > 0).all())
    assert bool((bias.abs() / (input_scale * scales) < 2**31).all())
    assert float(scales[0]) == pytest.approx(float(weight[0].abs().max() / 127))


def test_a_weight_that_is_not_finite_is_named() -> None:
    """A weight with NaN is rejected with the parameter's name."""
    weight = torch.ones(2, 2)
    weight[0, 0] = math.nan
    with pytest.raises(ModelError, match=r"layer1\.weight"):
        weight_scales(weight, 0, None, 1.0, "layer1.weight")


BATCHES = {
    "normal": [np.random.default_rng(0).normal(0, 1, 4000) for _ in range(5)],
    "growing": [np.random.default_rng(i).normal(0, 10.0 ** (i - 3), 4000) for i in range(6)],
    "shrinking": [np.random.default_rng(i + 9).normal(1, 10.0**-i, 3000) for i in range(5)],
    "one-sided": [np.maximum(np.random.default_rng(i + 20).normal(0, 2, 5000), 0) for i in range(4)],
    "zeros first": [np.zeros(4000), np.random.default_rng(3).normal(0, 1e-4, 4000)],
    "heavy tail": [np.random.default_rng(i).standard_cauchy(4000) for i in range(3)],
    "huge": [np.random.default_rng(i).normal(0, 1e37, 4000) for i in range(3)],
    "tiny": [np.random.default_rng(i).normal(0, 1e-36, 4000) for i in range(3)],
    "negative": [-np.abs(np.random.default_rng(i).normal(5, 1, 4000)) for i in range(3)],
}


@pytest.mark.parametrize("percent", [99.0, 99.9, 99.99])
@pytest.mark.parametrize("name", sorted(BATCHES))
def test_a_streamed_percentile_is_exact_within_a_bin(name: str, percent: float) -> None:
    """For any order and growth of the batches, the range equals numpy's percentile to within one bin."""
    observer = Percentile(percent)
    batches = [batch.astype(np.float32) for batch in BATCHES[name]]
    assert all(observer.update(torch.from_numpy(batch)) for batch in batches)
    everything = np.concatenate(batches)
    tail = (100 - percent) / 2
    found = observer.range()
    for value, share in ((found.low, tail), (found.high, 100 - tail)):
        below, above = (np.percentile(everything, share, method=method) for method in ("lower", "higher"))
        assert below - observer.bin_width <= value <= above + observer.bin_width
    assert everything.min() <= found.low <= found.high <= everything.max()


def test_the_histogram_does_not_depend_on_how_values_are_batched() -> None:
    """All values in one batch, many small batches, and another order give the same range to within one bin."""
    values = torch.randn(6000) * torch.logspace(-2, 1, 6000)
    ways = [[values], list(values.split(7)), list(values.flip(0).split(100))]
    found = []
    for way in ways:
        observer = Percentile(99.5)
        for batch in way:
            observer.update(batch)
        found.append((observer.range().low, observer.range().high, observer.bin_width))
    for low, high, width in found[1:]:
        assert abs(low - found[0][0]) <= width
        assert abs(high - found[0][1]) <= width


def test_an_observers_memory_does_not_grow_with_the_samples() -> None:
    """After a thousand batches an observer holds as many numbers as after one."""
    observer = Percentile(99.9)

    def held() -> int:
        return sum(item.numel() if isinstance(item, torch.Tensor) else 1 for item in vars(observer).values())

    observer.update(torch.randn(64))
    before = held()
    for step in range(1000):
        observer.update(torch.randn(64) * (1 + step))
    assert held() == before


def test_every_value_is_counted() -> None:
    """Counts are exact above 16 million, the limit of a float32 counter; huge batches are subsampled."""
    observer = Percentile(99.9)
    observer.update(torch.zeros(20_000_000))
    observer.update(torch.full((1,), 3.0))
    observer.update(torch.zeros(1000))
    assert int(observer.counts.sum()) == 20_001_001
    observer.update(torch.ones(10 * MOST + 5))
    assert abs(int(observer.counts.sum()) - 20_001_001 - 10 * MOST - 5) <= 11 * 16


def test_after_plenty_of_values_fewer_stand_for_all() -> None:
    """Later batches of a long calibration are represented by a quarter of their values with four times the weight."""
    observer = Percentile(99.9)
    values = torch.randn(2 * MOST)
    for _ in range(2 * PLENTY // MOST):
        observer.update(values)
    assert PLENTY <= observer.counted < 1.5 * PLENTY
    assert abs(int(observer.counts.sum()) / (4 * PLENTY) - 1) < 0.01
    exact = Percentile(99.9)
    for part in values.split(MOST):
        exact.update(part)
    assert abs(observer.range().high - exact.range().high) < 0.05 * exact.range().high


OBSERVERS: dict[str, Callable[[], Observer]] = {
    "minmax": MinMax,
    "moving": MovingAverage,
    "percentile": lambda: Percentile(99.9),
    "mse": lambda: SquaredError(SCHEMES["cpu"]),
    "symmetric mse": lambda: SquaredError(SCHEMES["tensorrt"]),
    "entropy": Entropy,
}


def squared_error(values: torch.Tensor, span: Range, scheme: Scheme) -> float:
    """The squared error of quantizing the values on the grid of a range."""
    grid = activation_grid(span, scheme)
    codes = (values / grid.scale).round().add(grid.zero_point).clamp(grid.qmin, grid.qmax)
    return float(((codes - grid.zero_point) * grid.scale - values).square().sum())


@pytest.mark.parametrize("target", ["cpu", "tensorrt"])
@pytest.mark.parametrize("name", ["growing", "one-sided", "negative"])
def test_the_least_squared_error_is_about_the_least_there_is(name: str, target: Target) -> None:
    """No range from extremes or percentiles, nor from a grid of smaller ranges, has an error less than 90 % of it."""
    values = torch.cat([torch.from_numpy(batch.astype(np.float32)) for batch in BATCHES[name]]).clamp(-1e4, 1e4)
    observer, scheme = SquaredError(SCHEMES[target]), SCHEMES[target]
    assert all(observer.update(part) for part in values.split(1000))
    low, high = min(float(values.min()), 0), max(float(values.max()), 0)
    others = [Range(a * low, b * high) for a in np.linspace(0.2, 1, 17) for b in np.linspace(0.2, 1, 17)]
    best = min(squared_error(values, other, scheme) for other in others)
    assert squared_error(values, observer.range(), scheme) <= 1.1 * best


def test_entropy_clips_a_lone_outlier_and_keeps_even_values() -> None:
    """A single outlier at a hundred times the spread is clipped; a uniform distribution keeps its whole range."""
    lone, even = Entropy(), Entropy()
    lone.update(torch.cat([torch.randn(100_000), torch.tensor([100.0, -100.0])]))
    even.update(torch.linspace(-2, 2, 100_000))
    assert lone.range().high < 50
    assert even.range().high > 1.9


def test_a_moving_average_forgets_an_early_outlier() -> None:
    """The weight of the first batch's extreme decreases with every batch that follows."""
    observer = MovingAverage()
    observer.update(torch.tensor([-50.0, 50.0]))
    for _ in range(40):
        observer.update(torch.tensor([-1.0, 1.0]))
    assert 1 <= observer.range().high < 2


@pytest.mark.parametrize("name", sorted(OBSERVERS))
def test_every_method_stays_within_what_it_saw(name: str) -> None:
    """No method gives a range wider than the extremes, and values that are all zero give a range of zero."""
    observer, zeros = OBSERVERS[name](), OBSERVERS[name]()
    values = torch.randn(5000) * 3 + 1
    assert all(observer.update(part) for part in values.split(500))
    assert zeros.update(torch.zeros(100))
    found = observer.range()
    assert float(values.min()) <= found.low < 0 < found.high <= float(values.max())
    assert zeros.range() == Range(0.0, 0.0)


@pytest.mark.parametrize("make", OBSERVERS.values())
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_are_reported(make: Callable[[], Observer], bad: float) -> None:
    """An observer reports them and keeps its range."""
    observer = make()
    assert observer.update(torch.tensor([1.0, 2.0]))
    before = observer.range()
    assert not observer.update(torch.tensor([1.0, bad]))
    assert observer.range() == before


def test_min_max_is_the_smallest_and_largest_value_seen() -> None:
    """Over all batches, with empty ones ignored."""
    observer = MinMax()
    for batch in (torch.tensor([1.0, -2.0]), torch.empty(0), torch.tensor([[5.0], [0.5]])):
        assert observer.update(batch)
    assert observer.range() == Range(-2.0, 5.0)


@pytest.mark.parametrize("shape", [(32, 197, 384), (4, 197, 768), (8, 64, 56, 56), (32, 196, 192)])
def test_no_channel_is_left_out_of_a_histogram(shape: tuple[int, ...]) -> None:
    """If a sample of values is counted, it contains every channel of the last axis for any width."""
    values = torch.zeros(shape)
    for channel in range(0, shape[-1], 16):
        values.zero_()[..., channel] = 1.0
        observer = Percentile(99.9)
        observer.update(values)
        assert int(observer.counts[-1]) > 0, channel
