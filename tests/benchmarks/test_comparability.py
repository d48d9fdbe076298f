"""What can be compared: outputs of other shapes are refused, and other differences are told."""

from __future__ import annotations

import numpy as np
import pytest
from known import known

from retort.benchmarks.comparability import Compared, at_fixed_batch, differences
from retort.benchmarks.report.compare import unpaired_speed
from retort.benchmarks.result import LatencyEntry, Spread
from retort.core.errors import UserError
from retort.core.options.stage_options import BenchOptions
from retort.core.signature import Signature
from retort.core.tensors import TensorSpec

ORT, TORCH = "ONNX Runtime on the CPU", "PyTorch on the CPU"


def model(
    *shape: int,
    inputs: tuple[int | str, ...] = ("batch", 8),
    dtype: str = "float32",
    runtime: str = ORT,
    outputs: int = 1,
) -> Compared:
    """A model with these outputs for five samples."""
    arrays = {f"out{index}": np.zeros((5, *shape), np.float32) for index in range(outputs)}
    specs = tuple(TensorSpec(name, "float32", ("batch", *shape)) for name in arrays)
    return Compared(Signature((TensorSpec("x", dtype, inputs),), specs), arrays, runtime)


def test_equal_models_have_no_notes() -> None:
    """Nothing is said about models that differ in their values only."""
    assert differences({"a": model(10), "b": model(10)}) == []


@pytest.mark.parametrize(("other", "told"), [(model(1000), "gives 1000 values"), (model(), "gives one value")])
def test_outputs_of_other_shapes_are_refused(other: Compared, told: str) -> None:
    """Ten classes and a thousand are no comparison; the message has both counts and the names."""
    with pytest.raises(UserError, match=f"'a' and 'b' cannot be compared: .* gives 10 values, and 'b' {told}"):
        differences({"a": model(10), "b": other})


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (model(10, runtime=TORCH), "the ratio of their times includes the change of the runtime"),
        (model(10, outputs=2), "'a' has 1 output and 'b' has 2 outputs; only 'out0' and 'out0' are compared"),
        (model(10, dtype="uint8"), "'a' reads x as float32, and 'b' reads it as uint8"),
        (model(10, inputs=(1, 8)), "axis 0 of x is free in 'a', but 'b' was made for a size of 1"),
    ],
)
def test_other_differences_are_told(other: Compared, told: str) -> None:
    """Another runtime, other outputs, types and fixed axes each have their own sentence."""
    (note,) = differences({"a": model(10), "b": other})
    assert told in note


def test_fixed_batches_are_timed_at_their_size() -> None:
    """Models are timed only at the batch size that one of them was made for; without one, at all sizes."""
    free, one, four = (model(10, inputs=(size, 8)).signature for size in ("batch", 1, 4))
    options = BenchOptions(batch_sizes=(1, 32))
    assert at_fixed_batch({"a": free, "b": free}, options) == (options, [])
    timed, notes = at_fixed_batch({"a": free, "b": four}, options)
    assert timed.batch_sizes == (4,)
    assert notes == ["latency was measured only at batch size 4, for which 'b' was made"]
    assert at_fixed_batch({"a": one, "b": free}, BenchOptions(batch_sizes=(1,)))[1] == []
    with pytest.raises(UserError, match="'a' was made for a batch size of 1 and 'b' for 4"):
        at_fixed_batch({"a": one, "b": four}, options)


def runs_of(rounds: int, random_numbers: np.random.Generator) -> LatencyEntry:
    """A timing of one model whose blocks vary by 10 %."""
    times = tuple(random_numbers.lognormal(0, 0.1, rounds))
    spread = Spread(value=1, low=1, high=1, confidence=0.95)
    return LatencyEntry(
        median_ms=spread, percentiles=(), mean_ms=1, rows_per_second=1, ratio=None, verdict="reference",
        calls_per_sample=1, samples_per_block=1, blocks_ms=times,
    )  # fmt: skip


def test_runs_of_different_length_are_compared_at_the_same_quantile() -> None:
    """The same model in a run of 200 rounds and in one of 8 is equally fast, and the intervals say so."""
    random_numbers = np.random.default_rng(0)
    found = [
        unpaired_speed(runs_of(8, random_numbers), runs_of(200, random_numbers), 0.95, seed) for seed in range(100)
    ]
    held = [known(ratio.low) <= 1 <= known(ratio.high) for ratio in found]
    assert np.mean([ratio.value for ratio in found]) == pytest.approx(1, abs=0.02)
    assert np.mean(held) >= 0.9
