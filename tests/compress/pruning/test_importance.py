"""Importance: every criterion on real data, evidence in one pass, normalisation, forced and excluded layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from known import known
from torch import nn
from torch.nn import functional as F

from retort.compress.capture.capture_program import capture
from retort.compress.distillation.combined_loss import soft_target_loss
from retort.compress.program import Program, clone, cost, evaluating, predict
from retort.compress.pruning.coupling.groups import Grouping
from retort.compress.pruning.resume import ramp, recovery_of
from retort.compress.pruning.selection.gradients import Samples
from retort.compress.pruning.selection.importance import NORMS, normalized, score
from retort.compress.pruning.step import groups_of, prune_program
from retort.compress.training.train import fit
from retort.core.console import Console
from retort.core.context import Context
from retort.core.data.data_sources import load_data
from retort.core.data.model_inputs import fit_to
from retort.core.data.splits import ArraySplit, Splits
from retort.core.errors import UserError
from retort.core.options.stage_options import DataSpec, PruneOptions, RecoverOptions, TrainOptions

CRITERIA = ("random", "l1", "l2", "group_norm", "bn_scale", "taylor", "obd", "activation")


class Digits(nn.Module):
    """A residual CNN with BatchNorm, small enough to train in a second or two."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        self.conv1, self.norm1 = nn.Conv2d(width, 2 * width, 3, 2, 1, bias=False), nn.BatchNorm2d(2 * width)
        self.conv2, self.norm2 = nn.Conv2d(2 * width, 2 * width, 3, 1, 1, bias=False), nn.BatchNorm2d(2 * width)
        self.hidden, self.head = nn.Linear(2 * width, 2 * width), nn.Linear(2 * width, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.norm1(self.conv1(F.relu(self.norm(self.stem(image))))))
        x = F.relu(self.norm2(self.conv2(x)) + x)
        return self.head(F.relu(self.hidden(x.mean((2, 3)))))


@pytest.fixture(scope="module")
def trained() -> tuple[Program, Splits]:
    """A net trained on handwritten digits, and the digits."""
    data = load_data(DataSpec(source="digits"), Path())
    torch.manual_seed(0)
    program = capture(Digits(), {"image": data.example(4)["image"]})
    data = fit_to(data, program.signature)
    fit(program, TrainOptions(epochs=6, batch_size=32), Context(data, task="classification", seed=0))
    return program, data


def accuracy(program: Program, data: Splits) -> float:
    outputs = predict(program, data.test)["output"]
    return float((outputs.argmax(1) == data.test.read(range(len(data.test)))[1]).mean())


def samples(data: Splits, **more: Any) -> Samples:
    return Samples(data.calibration, "classification", **more)


def options(**given: object) -> PruneOptions:
    return PruneOptions.model_validate({"recover": None, "macs": 0.6, **given})


def test_data_beats_chance_at_equal_cost(trained: tuple[Program, Splits]) -> None:
    """Without recovery, channels ranked by Taylor keep much more accuracy than random channels on average."""
    program, data = trained
    kept = {}
    for name, seeds in (("taylor", (0,)), ("random", (0, 1, 2))):
        cuts = [prune_program(program, options(importance=name, seed=s), evidence=samples(data)) for s in seeds]
        assert all(cut.cost.macs <= 0.6 * cost(program).macs for cut in cuts)
        kept[name] = float(np.mean([accuracy(cut.program, data) for cut in cuts]))
    assert accuracy(program, data) > 0.95
    assert kept["taylor"] > kept["random"] + 0.15


@pytest.mark.parametrize("criterion", CRITERIA)
def test_every_criterion_finds_channels_that_do_nothing(criterion: str) -> None:
    """Channels whose weights and scales are almost zero have low scores, except with random scores."""
    torch.manual_seed(0)
    net = Digits(8).eval()
    idle = torch.arange(16) % 2 == 0
    with torch.no_grad():
        for layer in (net.conv1, net.hidden):
            layer.weight[idle] *= 1e-4
        net.hidden.bias[idle] *= 1e-4
        net.norm1.weight[idle], net.norm1.bias[idle] = 1e-4, 0.0
        net.norm2.weight[idle], net.norm2.bias[idle] = 1e-4, 0.0
        net.head.weight[:, idle] *= 1e-4
        net.hidden.weight[:, idle] *= 1e-4
        net.conv2.weight[:, idle] *= 1e-4
        net.conv2.weight[idle] *= 1e-4
    draw = np.random.default_rng(0)
    split = ArraySplit({"image": draw.normal(size=(64, 1, 8, 8)).astype("float32")}, draw.integers(0, 10, 64))
    program = capture(net, {"image": split.inputs["image"][:4]})
    grouping = groups_of(program, options())
    evidence = Samples(split, "classification")
    scores = score(program, grouping, criterion, 0, evidence=evidence)  # type: ignore[arg-type]
    wide = [group for group in grouping.free if len(group.units) == 16]
    ratios = [scores[group.units][::2].mean() / scores[group.units][1::2].mean() for group in wide]
    assert len(wide) == 2
    assert all(ratio < 0.2 for ratio in ratios) is (criterion != "random")


class Counted(ArraySplit):
    """Counts how often each sample is read, and the most at a time."""

    reads = np.zeros(0, int)
    largest = 0

    def read(self, indices: Any) -> Any:
        Counted.reads[np.asarray(indices)] += 1
        Counted.largest = max(Counted.largest, len(indices))
        return super().read(indices)


@pytest.mark.parametrize("criterion", ["taylor", "obd", "activation"])
def test_evidence_takes_one_pass_in_small_batches(trained: tuple[Program, Splits], criterion: str) -> None:
    """Every sample up to the limit is read once, in batches of `score_batch`, and the program is not changed."""
    program, data = trained
    inputs, targets = data.calibration.read(range(100))
    split = Counted(inputs, targets)
    Counted.reads, Counted.largest = np.zeros(100, int), 0
    before = {name: value.clone() for name, value in program.module.state_dict().items()}
    evidence = Samples(split, "classification", batch=16, limit=70, console=Console("silent"))
    score(program, groups_of(program, options()), criterion, 0, evidence=evidence)  # type: ignore[arg-type]
    assert Counted.reads.tolist() == [1] * 70 + [0] * 30
    assert Counted.largest == 16
    assert all(torch.equal(value, before[name]) for name, value in program.module.state_dict().items())
    assert all(item.grad is None for item in program.module.parameters())


def test_taylor_is_what_a_gate_on_the_channel_would_feel() -> None:
    """For one batch, |Σ w·g| over a linear layer's row and bias is |d loss / d gate| of its hidden unit."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    x, y = torch.randn(16, 6), torch.randint(0, 3, (16,))
    program = capture(net, {"x": x[:4]})
    grouping = groups_of(program, options())
    evidence = Samples(ArraySplit({"x": x.numpy()}, y.numpy()), "classification", batch=16)
    parts = evidence(program, grouping, "taylor")
    gate = torch.ones(8, requires_grad=True)
    hidden = F.relu(F.linear(x, net.get_parameter("0.weight"), net.get_parameter("0.bias"))) * gate
    F.cross_entropy(F.linear(hidden, net.get_parameter("2.weight"), net.get_parameter("2.bias")), y).backward()
    felt = known(gate.grad).abs().numpy()
    incoming = next(part for part in parts if len(part.values) == 8 and np.allclose(part.values, felt, rtol=1e-4))
    assert set(incoming.roots.tolist()) == set(grouping.free[0].units.tolist())


def test_samples_without_targets_use_the_models_own_classes(trained: tuple[Program, Splits]) -> None:
    """Unlabelled data rank channels too: the same for the same seed, and similar to the ranking with labels."""
    program, data = trained
    bare = ArraySplit(data.calibration.read(range(128))[0])
    grouping = groups_of(program, options())
    own, again = (
        score(program, grouping, "taylor", 0, evidence=Samples(bare, "classification", seed=3)) for _ in range(2)
    )
    labelled = score(program, grouping, "taylor", 0, evidence=samples(data))
    units = np.concatenate([group.units for group in grouping.free])
    assert np.array_equal(own, again)
    assert np.corrcoef(own[units], labelled[units])[0, 1] > 0.3


@pytest.mark.parametrize(
    ("how", "expected"), [("mean", (1.0, 1.0)), ("max", (0.4, 0.5)), ("sum", (0.25, 0.25)), ("standard", (0.0, 0.0))]
)
def test_normalisation_makes_groups_comparable(how: Any, expected: tuple[float, float]) -> None:
    """Each way gives every group the mean that it stands for; without one, scores stay as they are."""
    from retort.compress.pruning.coupling.groups import Group

    groups = [Group([], np.arange(4), 4), Group([], np.arange(4, 8), 4)]
    scores = np.array([1.0, 2.0, 5.0, 0.0, 10.0, 30.0, 40.0, 0.0])
    found = normalized(scores, Grouping(None, groups), how)  # type: ignore[arg-type]
    assert [found[group.units].mean() for group in groups] == pytest.approx(list(expected))
    assert np.array_equal(normalized(scores, Grouping(None, groups), "none"), scores)  # type: ignore[arg-type]


def test_a_criterion_without_its_requirements_is_rejected() -> None:
    """Without data, or without normalisation layers, a criterion that needs them is rejected with alternatives."""
    torch.manual_seed(0)
    program = capture(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)), {"x": torch.randn(4, 6)})
    with pytest.raises(UserError, match="importance 'taylor' needs data, but no data are given"):
        prune_program(program, options(importance="taylor"))
    with pytest.raises(UserError, match="'bn_scale' needs normalisation layers"):
        prune_program(program, options(importance="bn_scale"))
    assert "batch_norm" in NORMS


def test_the_default_is_the_best_that_can_be_had(trained: tuple[Program, Splits]) -> None:
    """With data, channels are ranked by Taylor; without data, or if no loss fits the outputs, by group norm."""
    program, data = trained
    assert prune_program(program, options(), evidence=samples(data)).criterion == "taylor"
    assert prune_program(program, options()).criterion == "group_norm"
    inputs, _ = data.calibration.read(range(32))
    odd = Samples(ArraySplit(inputs, np.full(32, 99)), "classification")
    assert prune_program(program, options(), evidence=odd).criterion == "group_norm"


def test_layers_are_forced_by_pattern(trained: tuple[Program, Splits]) -> None:
    """Layers with a fixed share get it for any budget, and the others meet the budget; else only they are cut."""
    program, _ = trained
    alone = prune_program(program, PruneOptions(layers={"hid*": "25%"}, recover=None)).program.module  # type: ignore[dict-item]
    assert (alone.get_parameter("hidden.weight").shape[0], alone.get_parameter("conv1.weight").shape[0]) == (8, 32)
    both = prune_program(program, options(macs=0.5, layers={"hidden": 1.0})).program
    assert both.module.get_parameter("hidden.weight").shape[0] == 32
    assert cost(both).macs <= 0.5 * cost(program).macs


def test_layers_outside_a_pattern_stay(trained: tuple[Program, Splits]) -> None:
    """With `only`, no other layer is cut, and a group that contains another layer is not cut."""
    program, _ = trained
    cut = prune_program(program, options(macs=0.9, only=("stem",))).program.module
    assert cut.get_parameter("stem.weight").shape[0] < 16
    assert (cut.get_parameter("conv1.weight").shape[0], cut.get_parameter("hidden.weight").shape[0]) == (32, 32)
    with pytest.raises(UserError, match=r"no channel .* can be removed"):
        prune_program(program, options(macs=0.9, only=("conv2",)))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"layers": {"hiden": 0.5}}, r"prune\.layers: no layer or parameter matches 'hiden'"),
        ({"only": ("stemm*",)}, r"prune\.only: no layer or parameter matches"),
        ({"layers": {"hidden": 0.01}}, r"but at least 4 must be kept \(min_channels is 4\)"),
        ({"layers": {"head": 0.5}}, r"no layer that 'head' matches can be cut: head is the output"),
    ],
)
def test_bad_layers_are_one_message(trained: tuple[Program, Splits], given: dict[str, Any], message: str) -> None:
    """Patterns without a match, a share that would empty a layer, and a layer that cannot be cut."""
    with pytest.raises(UserError, match=message):
        prune_program(trained[0], options(**given))


@pytest.mark.parametrize("budget", [{"size": "0.5x"}, {"size_bytes": "15 kB"}])
def test_bytes_are_a_budget(trained: tuple[Program, Splits], budget: dict[str, Any]) -> None:
    """The bytes of the parameters are equal to the budget or slightly less, given as a share or as a number."""
    program, _ = trained
    wanted = 15_000 if "size_bytes" in budget else 0.5 * cost(program).parameter_bytes
    got = prune_program(program, PruneOptions(recover=None, **budget)).cost.parameter_bytes
    assert 0.93 * wanted <= got <= wanted


def test_auto_alignment_is_as_coarse_as_the_budget_allows(trained: tuple[Program, Splits]) -> None:
    """Widths are multiples of 8 if the budget can be met with them, else of a smaller step."""
    program, _ = trained
    whole = cost(program).macs
    for share in (0.7, 0.5, 0.3):
        made = prune_program(program, options(macs=share))
        widths = {value.shape[0] for name, value in made.program.module.state_dict().items() if value.dim() > 1}
        step = max(step for step in (8, 4, 2, 1) if all(width % step == 0 for width in widths - {10}))
        assert share - 0.02 <= made.cost.macs / whole <= share or step == 1


def test_schedules_fall_as_they_say() -> None:
    """Geometric, cubic and linear ramps end at the budget; gradual cuts share one recovery, iterative ones do not."""
    assert ramp(options(steps=2), 0.25) == [0.5, 0.25]
    assert ramp(options(steps=2, ramp="linear"), 0.5) == [0.75, 0.5]
    cubic = ramp(options(schedule="gradual", steps=4), 0.2)
    assert cubic == pytest.approx([0.2 + 0.8 * (1 - t / 4) ** 3 for t in (1, 2, 3, 4)])
    recover = RecoverOptions(epochs=12)
    gradual = options(schedule="gradual", steps=4, recover=recover)
    assert [recovery_of(gradual, step).epochs for step in range(4)] == [1, 1, 1, 9]  # type: ignore[union-attr]
    iterative = options(schedule="iterative", recover=recover)
    assert iterative.cuts == 3
    assert all(recovery_of(iterative, step) == recover for step in range(3))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"macs": 0.5, "latency": "0.5x"}, "exactly one of"),
        ({}, "exactly one of"),
        ({"macs": 0.5, "schedule": "one_shot", "steps": 3}, "makes one cut, not 3"),
        ({"macs": 0.5, "timer": "a:b"}, "`timer` is only used with a latency budget"),
        ({"latency": "fast"}, "does not have the form 0.5, 0.5x or 50%"),
        ({"size_bytes": "2 furlongs"}, "does not have the form 2000000, 2 MB"),
        ({"latency": "1.5x"}, "less than or equal to 1"),
        ({"macs": 0.5, "align": "some"}, "auto"),
    ],
)
def test_options_that_contradict_are_refused(given: dict[str, Any], message: str) -> None:
    """One sentence each for two budgets, no budget, an unknown schedule, and quantities that cannot be read."""
    with pytest.raises(ValueError, match=message):
        PruneOptions.model_validate(given)


@pytest.mark.parametrize("criterion", ["taylor", "activation", "group_norm"])
def test_recurrent_and_attention_channels_are_ranked_too(criterion: str) -> None:
    """Hidden units of an LSTM, whole heads and the hidden size of a Transformer get scores from data."""

    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.LSTM(6, 16, batch_first=True)
            self.block = nn.TransformerEncoderLayer(16, 4, 32, 0.0, batch_first=True)
            self.out = nn.Linear(16, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.out(self.block(self.rnn(x)[0]).mean(1))

    torch.manual_seed(0)
    draw = np.random.default_rng(0)
    split = ArraySplit({"x": draw.normal(size=(32, 5, 6)).astype("float32")}, draw.integers(0, 3, 32))
    program = capture(Mixed().eval(), {"x": split.inputs["x"][:4]})
    grouping = groups_of(program, options())
    scores = score(program, grouping, criterion, 0, evidence=Samples(split, "classification"))  # type: ignore[arg-type]
    assert len(grouping.free) >= 3
    assert all(len(np.unique(scores[group.units])) > 1 for group in grouping.free)
    made = prune_program(program, options(importance=criterion), evidence=Samples(split, "classification"))
    with evaluating(made.program):
        assert made.cost.macs <= 0.6 * cost(clone(program)).macs


class Returns(nn.Module):
    """A net that returns its result in one of the forms that users choose."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form, self.hidden, self.head = form, nn.Linear(6, 16), nn.Linear(16, 4 if form == "decision first" else 1)

    def forward(self, x: torch.Tensor) -> Any:
        y = self.head(F.relu(self.hidden(x)))
        if self.form == "decision first":
            return y.argmax(1), y
        return y.squeeze(-1) if self.form == "one value" else y


@pytest.mark.parametrize("form", ["one value", "one column", "decision first"])
def test_outputs_that_are_not_scores_of_classes_are_ranked_too(form: str) -> None:
    """One value per sample is no class, and indices are no prediction: unlabelled samples still give finite scores."""
    program = capture(Returns(form), {"x": torch.randn(4, 6)})
    split = ArraySplit({"x": np.random.default_rng(0).normal(size=(32, 6)).astype(np.float32)})
    grouping = groups_of(program, options())
    hidden = next(group for group in grouping.free if group.name == "hidden").units
    for criterion in ("taylor", "obd", "reconstruction"):
        scores = score(program, grouping, criterion, 0, evidence=Samples(split, "classification", seed=3))[hidden]
        assert np.isfinite(scores).all(), criterion
        assert len(np.unique(scores)) > 8, criterion


@pytest.mark.parametrize("form", ["one value", "one column", "decision first"])
def test_recovery_learns_from_the_outputs_of_every_form(form: str) -> None:
    """The loss on the outputs before the cut is zero for equal outputs and positive otherwise, whatever they are."""
    program = capture(Returns(form), {"x": torch.randn(4, 6)})
    loss = soft_target_loss(program, 2.0, 1.0, "classification")
    inputs = {"x": torch.randn(8, 6)}
    known_outputs = dict(zip((spec.name for spec in program.signature.outputs), program.module(inputs["x"])))
    moved = {
        name: value + torch.randn(value.shape) if value.is_floating_point() else value
        for name, value in known_outputs.items()
    }
    assert float(loss(known_outputs, inputs, None).detach()) == pytest.approx(0.0, abs=1e-6)
    assert float(loss(moved, inputs, None).detach()) > 1e-3
