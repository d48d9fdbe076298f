"""Every output is judged: classes and masks by what decides them, columns at their own scale, all beside a bound."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from retort.compress.capture.capture_program import capture
from retort.compress.graph.decisions import with_scores
from retort.compress.program import Program, predict
from retort.compress.pruning.output_change import OutputChange, is_ruined
from retort.compress.pruning.step import prune_program
from retort.compress.quantization import quantize_program
from retort.compress.quantization.fidelity import HeldOut
from retort.compress.quantization.int8_program import quantize_with
from retort.compress.quantization.rescue import FLOOR, above_floor
from retort.core.console import Console
from retort.core.context import Context
from retort.core.data.splits import ArraySplit, Splits
from retort.core.errors import VerificationError
from retort.core.metrics.all_outputs import worst_column
from retort.core.options.stage_options import PruneOptions, QuantizeOptions

PLAIN = QuantizeOptions(correction=("none",), method="minmax", smooth=False)


class Decision(nn.Module):
    """Classes, a mask, or places of scores; with a front end of logarithms, INT8 ruins the scores."""

    def __init__(self, kind: str, ruined: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(32, 64), nn.Linear(64, 10)
        self.kind, self.ruined = kind, ruined

    def forward(self, x: Tensor) -> Tensor:
        value = self.first(x)
        scores = self.last(torch.log(value**2 + 1e-12) if self.ruined else torch.relu(value))
        if self.kind == "classes":
            return scores.argmax(1)
        return scores > 0 if self.kind == "mask" else scores.topk(3).indices


def rows(count: int, spread: float = 0.0, seed: int = 0) -> ArraySplit:
    draw = np.random.default_rng(seed)
    sizes = np.exp(spread * draw.normal(size=(count, 1)))
    return ArraySplit({"x": (draw.normal(size=(count, 32)) * sizes).astype(np.float32)})


def captured(net: nn.Module) -> Program:
    return capture(net.eval(), {"x": torch.randn(4, 32)})


@pytest.mark.parametrize("kind", ["classes", "mask", "places"])
def test_classes_masks_and_places_are_judged_by_their_scores(kind: str) -> None:
    """A ruined model is below the floor, with all remedies and corrections tried; a sound one is above it."""
    sound, ruined = (captured(Decision(kind, ruined)) for ruined in (False, True))
    data = rows(128)
    against = HeldOut(sound, data).compare(quantize_program(sound, PLAIN, data, "cpu"), FLOOR)
    assert not against.shortfall
    assert against.facts.agreement is not None
    assert against.facts.agreement > 0.9
    assert against.facts.sqnr_centred_db is not None
    assert against.facts.sqnr_centred_db > 25
    train, validation, calibration, test = (rows(96, 4.0, seed) for seed in range(4))
    options, context = QuantizeOptions(), Context(Splits(train, validation, calibration, test), task="classification")
    with pytest.raises(VerificationError, match="INT8 ruins this model: the centred SQNR"):
        above_floor(ruined, quantize_with(ruined, options, context), options, context)


def test_scores_are_named_and_equal_what_decides() -> None:
    """The scores are the last floating-point numbers; a program of floating-point outputs stays as it is."""
    net = Decision("classes", False)
    found = predict(with_scores(captured(net)), rows(8))
    assert list(found) == ["output", "what decides output"]
    assert (found["what decides output"].argmax(1) == found["output"]).all()
    plain = captured(nn.Sequential(nn.Linear(32, 4)))
    assert with_scores(plain) is plain


class Boxes(nn.Module):
    """Four columns in the thousands, and one of scores from features a thousand times smaller than theirs."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(32, 64), nn.Linear(64, 5)
        with torch.no_grad():
            self.first.weight[32:] *= 1e-3
            self.first.bias[32:] *= 1e-3
            self.last.weight[:4, 32:] = 0
            self.last.weight[:4] *= 1000
            self.last.weight[4, :32] = 0
            self.last.weight[4] *= 1000
            self.last.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.last(torch.relu(self.first(x)))
        return result


def test_a_ruined_column_does_not_hide_in_an_output() -> None:
    """Scores that are all zero are found beside boxes with 35 dB, and named by their index."""
    program, data = captured(Boxes()), rows(96)
    against = HeldOut(program, data).compare(quantize_program(program, PLAIN, data, "cpu"), FLOOR)
    assert against.facts.sqnr_centred_db is not None
    assert against.facts.sqnr_centred_db > 25
    assert "index 4 on axis 1 of the output" in against.shortfall


def test_columns_of_both_layouts_and_what_is_none() -> None:
    """Columns on axis 1 or on the last axis; probabilities of one sample have one scale."""
    draw = np.random.default_rng(0)
    values: NDArray[Any] = draw.normal(size=(16, 6, 9)) * np.asarray([100.0, 100, 100, 100, 1, 1])[:, None]
    spoilt = values.copy()
    spoilt[:, 5] = 0
    for given, found, axis in ((values, spoilt, 1), (values.swapaxes(1, 2), spoilt.swapaxes(1, 2), 2)):
        column = worst_column(given, found)
        assert column is not None
        assert (column.axis, column.index) == (axis, 5)
        assert abs(column.db) < 1
    scores = draw.uniform(size=(64, 5)) * np.asarray([1, 1, 1, 1, 0.01])
    nothing, lost = scores.copy(), scores.copy()
    nothing[:, 4], lost[:, 3] = 0, 0
    silent, found_lost = worst_column(scores, nothing), worst_column(scores, lost)
    assert silent is not None
    assert silent.db == np.inf
    assert found_lost is not None
    assert found_lost.index == 3
    rare = np.exp(draw.normal(size=(64, 5)) - np.asarray([0, 0, 0, 0, 12.0]))
    rare /= rare.sum(1, keepdims=True)
    assert worst_column(rare, np.where(rare < 1e-3, 0.0, rare)) is None


class Two(nn.Module):
    """Classes, and an embedding behind logarithms, which INT8 ruins."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.classes = nn.Linear(32, 64), nn.Linear(64, 4)
        self.other, self.embedding = nn.Linear(32, 64), nn.Linear(64, 8)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        unit = nn.functional.normalize(x, dim=1)
        hidden = torch.log(self.other(x) ** 2 * 1e-9 + 1e-20)
        return self.classes(torch.relu(self.first(unit))), self.embedding(hidden)


def judged(**options: Any) -> tuple[str, str]:
    """The shortfall of a quantization with labels for the first output, before and after remedies."""
    net = Two().eval()
    program = captured(net)
    train, validation, calibration, test = (labelled(net, seed) for seed in range(4))
    context = Context(Splits(train, validation, calibration, test), task="classification")
    chosen = QuantizeOptions(**options)
    found = above_floor(program, quantize_with(program, chosen, context), chosen, context)
    return found.shortfall, HeldOut(program, test).compare(found.found.program, FLOOR).shortfall


def labelled(net: nn.Module, seed: int) -> ArraySplit:
    data = rows(96, 3.0, seed)
    with torch.no_grad():
        classes = net(torch.from_numpy(data.inputs["x"]))[0].argmax(1).numpy()
    return ArraySplit(data.inputs, classes)


def test_a_bound_on_accuracy_does_not_excuse_other_outputs() -> None:
    """The first output is judged by its labels, and layers stay in FP32 until the second one is sound, too."""
    assert judged(mixed="auto", max_drop=0.02) == ("", "")


def test_a_training_does_not_excuse_other_outputs() -> None:
    """A training is kept, and what it ruins is told."""
    told, after = judged(qat={"epochs": 1})
    assert "of output 'output_1'" in told
    assert after


class Tied(nn.Module):
    """Scores of classes that are nearly the same."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(32, 64), nn.Linear(64, 10)
        with torch.no_grad():
            self.last.weight[:] = self.last.weight[:1] + 0.01 * self.last.weight
            self.last.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.last(torch.relu(self.first(x)))
        return result


class Listening(Console):
    """A console that stores warnings."""

    def __init__(self) -> None:
        super().__init__("silent")
        self.told: list[str] = []

    def warn(self, text: str) -> None:
        """Store a warning."""
        self.told.append(text)


def test_samples_that_prove_little_are_told() -> None:
    """Classes that change without a label, and samples that are all equal."""
    options = QuantizeOptions(weight_bits=4, correction=("none",))
    console, equal = Listening(), ArraySplit({"x": np.ones((64, 32), np.float32)})
    for net, data in ((Tied(), rows(128)), (Decision("mask", False), equal)):
        program = captured(net)
        context = Context(Splits(data, data, data, data), task="classification", console=console)
        above_floor(program, quantize_with(program, options, context), options, context)
    assert any("keep their largest output at the same place" in text for text in console.told)
    assert any("all 64 samples are equal" in text for text in console.told)


def test_huge_activations_leave_out_a_correction() -> None:
    """Sums of squares that are no numbers are a reason, and no error."""
    torch.manual_seed(0)
    program = captured(nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 8)))
    huge = ArraySplit({"x": rows(64).inputs["x"] * np.float32(1e25)})
    made = quantize_program(program, QuantizeOptions(), huge, "cpu")
    reasons = {item["rung"]: item["detail"] for item in made.meta["quantization"]["correction"]}
    assert "without 0: its activations are too large or too different in size" in reasons["hessian"]


def change_of(net: nn.Module, task: Any = "classification", macs: float = 0.12) -> bool:
    program = captured(net)
    options = PruneOptions(macs=macs, min_channels=1, importance="random", align=1, recover=None)
    cut = prune_program(program, options).program
    return is_ruined(OutputChange(program, rows(200), task).of(cut))


class Constant(nn.Module):
    """A class that is always the same, and a regression."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(32, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU())
        self.classes, self.number = nn.Linear(128, 3), nn.Linear(128, 1)
        with torch.no_grad():
            self.classes.bias[:] = torch.tensor([5.0, 0, 0])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.body(x)
        return self.classes(hidden), self.number(hidden)


def test_a_cut_is_ruined_by_any_output() -> None:
    """A constant class agrees with itself, which proves nothing; a mild cut is not ruined."""
    assert change_of(Constant())
    assert change_of(Decision("mask", False), macs=0.2)
    assert not change_of(Constant(), macs=0.999)
