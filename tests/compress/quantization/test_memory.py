"""Memory of quantization: wide layers get no matrix of all their inputs, and every step keeps to the budget."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from retort.benchmarks.footprint import forget_peak, peak_bytes, resident_bytes
from retort.compress.capture.capture_program import capture
from retort.compress.program import Program, predict
from retort.compress.quantization import quantize_program
from retort.compress.quantization.copy_on_write import fork, replace
from retort.compress.quantization.correction import layer_corrections
from retort.compress.quantization.correction.gram import DENSE_INPUTS, Gram, Rows, statistics_of
from retort.compress.quantization.correction.layer_matrices import quantized_layers
from retort.compress.quantization.correction.rounding import nearest
from retort.compress.quantization.correction.wide_rounding import DAMPING, round_wide
from retort.compress.quantization.memory_budget import budget_of, judged_within, rows_within
from retort.core.console import Console
from retort.core.data.splits import ArraySplit
from retort.core.errors import MachineError, UserError
from retort.core.metrics.all_outputs import agreement_of_all, sqnr_of_all_db
from retort.core.metrics.streamed_outputs import Noise, Signal
from retort.core.options.stage_options import QuantizeOptions
from retort.core.system.memory import give_back, ran_out

CHANNELS, LENGTH, KERNEL = 160, 80, 64
TORCH_ERROR = "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to"


class Wide(nn.Module):
    """A convolution with 10,240 inputs per output, as in the second layer of a pitch tracker."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(1, CHANNELS, 9, padding=4)
        self.wide = nn.Conv1d(CHANNELS, 8, KERNEL)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(torch.relu(self.wide(torch.relu(self.first(x)))).mean(2))
        return logits


@functools.cache
def samples(count: int = 16) -> ArraySplit:
    """Smooth random series."""
    noise = np.random.default_rng(0).normal(size=(count, 1, LENGTH)).cumsum(2)
    return ArraySplit({"x": (noise / noise.std(2, keepdims=True)).astype(np.float32)})


@pytest.fixture(scope="module")
def wide() -> Program:
    """The captured network."""
    torch.manual_seed(0)
    return capture(Wide().eval(), {"x": samples().inputs["x"][:2]})


def test_wide_rounding_is_gptq_on_the_same_rows() -> None:
    """The codes are those of rounding column by column with the inverse of the whole damped Hessian."""
    torch.manual_seed(0)
    x = torch.randn(20, 300) @ torch.randn(300, 300)
    weight, scale = torch.randn(1, 6, 300), torch.full((1, 6), 0.25)
    found = round_wide(weight, scale, 127, Rows(x[None], (x @ weight[0].T)[None]))
    energy = x.double().square().sum(0)
    order = energy.argsort(descending=True)
    hessian = (x.double().T @ x.double())[order][:, order] + DAMPING * float(energy.mean()) * torch.eye(300)
    inverse = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(hessian)), upper=True)
    left, wanted = weight[0].double()[:, order], torch.empty(6, 300)
    for column in range(300):
        wanted[:, order[column]] = nearest(left[:, column], torch.tensor(0.25), 127).float()
        error = (left[:, column] - wanted[:, order[column]]) / inverse[column, column]
        left[:, column:] -= error[:, None] * inverse[None, column, column:]
    assert float((found[0] == wanted).float().mean()) > 0.99


def test_wide_rounding_lowers_the_error_on_other_rows() -> None:
    """With correlated inputs, at most half of the error of rounding to nearest is left on rows it has not seen."""
    torch.manual_seed(0)
    inputs = torch.randn(400, 40) @ torch.randn(40, 4000) / 6 + 0.1 * torch.randn(400, 4000)
    weight, scale = torch.randn(1, 8, 4000), torch.full((1, 8), 0.25)
    rows = Rows(inputs[None, :200], (inputs[:200] @ weight[0].T)[None])

    def left(rounded: Tensor) -> float:
        return float((inputs[200:] @ (rounded - weight)[0].T).square().mean())

    found = round_wide(weight, scale, 127, rows)
    assert torch.equal(nearest(found, scale[:, :, None], 127), found)
    assert left(found) < 0.5 * left(nearest(weight, scale[:, :, None], 127))


def test_a_layer_with_very_many_inputs_gets_rows_and_no_matrix(wide: Program) -> None:
    """Of 10,240 inputs a few rows are kept; of 256 channels a matrix is made; without room, there is a reason."""
    program = quantize_program(wide, QuantizeOptions(correction=("none",), last_layer="int8"), samples(), "cpu")
    layer = next(item for item in quantized_layers(program.module) if item.weight.startswith("wide"))
    data, wanted = torch.randn(2, CHANNELS, LENGTH), torch.randn(2, 8, LENGTH - KERNEL + 1)
    found = statistics_of(layer, program.module, [data], [wanted], 1 << 30)
    assert isinstance(found, Rows)
    assert found.inputs.shape == (1, 2 * wanted.shape[2], CHANNELS * KERNEL)
    assert CHANNELS * KERNEL > DENSE_INPUTS
    reason = statistics_of(layer, program.module, [data], [wanted], 1 << 20)
    assert reason == "its 10,240 inputs per output do not fit into the memory"
    head = quantized_layers(program.module)[-1]
    assert isinstance(statistics_of(head, program.module, [torch.randn(4, 8)], [torch.randn(4, 5)], 1 << 24), Gram)


def test_quantization_of_a_wide_layer_keeps_to_the_budget(wide: Program) -> None:
    """With corrections, the peak stays within `memory`; a matrix of all inputs would take 419 MB."""
    options = QuantizeOptions.model_validate({"memory": "192MiB", "smooth": False, "method": "minmax"})
    quantize_program(wide, options.model_copy(update={"correction": ("none",)}), samples(), "cpu")  # loads libraries
    give_back()
    before = resident_bytes()
    forget_peak()
    made = quantize_program(wide, options, samples(), "cpu")
    assert peak_bytes() - before <= 192 << 20
    rungs = {item["rung"]: item for item in made.meta["quantization"]["correction"]}
    assert "left out" not in rungs["hessian"]["detail"]


def test_too_small_a_budget_is_refused_with_the_least_that_works(wide: Program) -> None:
    """The message has the size of the model and the smallest value of the option."""
    with pytest.raises(UserError, match="`memory` is 1 MB, but quantizing this model of 0 MB takes at least") as caught:
        budget_of(wide, QuantizeOptions.model_validate({"memory": "1MB"}))
    least = caught.value.remedy.split("memory: ")[1].split("`")[0]
    assert budget_of(wide, QuantizeOptions.model_validate({"memory": least})).room_bytes > 0


def test_the_default_budget_is_three_times_the_model_and_a_gigabyte(wide: Program) -> None:
    """Three copies of the weights and the largest weight are not part of the room in which a step works."""
    budget = budget_of(wide, QuantizeOptions())
    assert budget.total_bytes == 3 * budget.model_bytes + 1_000_000_000
    assert budget.room_bytes == 1_000_000_000 - budget.largest_bytes
    assert budget.allows_trials


def test_batches_and_judged_samples_shrink_with_the_room(wide: Program) -> None:
    """The activations of a batch fit into the room; at least one sample is run and at least four are judged."""
    assert rows_within(wide, 1) == 1
    assert rows_within(wide, 1 << 30) > rows_within(wide, 1 << 22)
    assert len(judged_within(wide, samples(), 1)) == 4
    assert len(judged_within(wide, samples(), 1 << 30)) == 16


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError(TORCH_ERROR)])
def test_a_correction_that_runs_out_of_memory_is_left_out(
    wide: Program, error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The other corrections go on; a warning and the facts name the layer."""

    def fails(*_: Any) -> float:
        raise error

    monkeypatch.setattr(layer_corrections, "improve", fails)
    made = quantize_program(wide, QuantizeOptions(smooth=False, method="minmax"), samples(), "cpu", Console())
    rungs = {item["rung"]: item for item in made.meta["quantization"]["correction"]}
    assert "without wide: the memory ran out" in rungs["hessian"]["detail"]
    assert "hessian leaves out wide: the memory ran out" in capsys.readouterr().err.replace("\n", " ")


def test_calibration_that_runs_out_of_memory_is_one_sentence(wide: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be left out is an error for users with a remedy, and other errors stay what they are."""

    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError(TORCH_ERROR)

    monkeypatch.setattr("retort.compress.quantization.post_training.calibrate", fails)
    with pytest.raises(MachineError, match="there is not enough memory to calibrate this model"):
        quantize_program(wide, QuantizeOptions(smooth=False, method="minmax"), samples(), "cpu")
    assert not ran_out(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


def test_a_fork_shares_weights_until_one_is_replaced(wide: Program) -> None:
    """A fork costs no copy of the weights, and a new weight in it does not change the original."""
    copy = fork(wide)
    assert all(one is two for one, two in zip(copy.module.parameters(), wide.module.parameters()))
    before = predict(wide, samples())["output"]
    replace(copy.module, "head.weight", torch.zeros(5, 8))
    assert np.array_equal(predict(wide, samples())["output"], before)
    assert not np.array_equal(predict(copy, samples())["output"], before)


def test_streamed_measures_equal_those_of_whole_outputs() -> None:
    """SQNR and agreement summed over batches are those of all samples at once, masks and constants included."""
    random = np.random.default_rng(0)
    wanted = [random.normal(size=(12, 5)), random.normal(size=(12, 3, 4)), np.ones((12, 2, 2))]
    found = [value + 0.3 * random.normal(size=value.shape) for value in wanted]
    wanted[1][3, 1, 1] = found[1][3, 1, 1] = -np.inf
    signal, noise = Signal(), Noise()
    for start in range(0, 12, 5):
        parts = [[value[start : start + 5] for value in values] for values in (wanted, found)]
        signal.add(parts[0])
        noise.add(parts[0], parts[1])
    assert noise.sqnr_db(signal) == pytest.approx(sqnr_of_all_db(wanted, found))
    assert noise.agreement(signal) == agreement_of_all(wanted, found)
