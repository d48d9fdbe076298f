"""Reconstruction after a cut: the kept weights are fitted to calibration samples, and nothing gets worse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from retort.compress.capture.capture_program import capture
from retort.compress.program import Program, load_program, predict, store
from retort.compress.pruning.reconstruction.fitted_layers import fitted_layers
from retort.compress.pruning.reconstruction.normal_equations import Moments
from retort.compress.pruning.reconstruction.paired_runs import PairedRuns
from retort.compress.pruning.reconstruction.reconstruct import LARGEST, Cut, reconstruct, samples_of
from retort.compress.pruning.stage import prune
from retort.compress.pruning.step import prune_program
from retort.core.artifact import Artifact
from retort.core.console import Console
from retort.core.context import Context, Place
from retort.core.data.splits import ArraySplit, Splits
from retort.core.errors import DataError
from retort.core.facts.prune_facts import PruneFacts, Reconstruction
from retort.core.options.stage_options import PruneOptions, RecoverOptions


class Residual(nn.Module):
    """A stem, two residual blocks (one depthwise), pooling and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        self.one, self.norm1 = nn.Conv2d(16, 32, 3, 1, 1, bias=False), nn.BatchNorm2d(32)
        self.two, self.norm2 = nn.Conv2d(32, 16, 1, bias=False), nn.BatchNorm2d(16)
        self.widen, self.deep = nn.Conv2d(16, 32, 1), nn.Conv2d(32, 32, 3, 1, padding="same", groups=32)
        self.narrow, self.head = nn.Conv2d(32, 16, 1), nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = x + self.norm2(self.two(torch.relu(self.norm1(self.one(x)))))
        x = x + self.narrow(torch.relu(self.deep(torch.relu(self.widen(x)))))
        result: torch.Tensor = self.head(x.mean((2, 3)))
        return result


def images(rows: int, seed: int) -> ArraySplit:
    """Smooth images made of a few patterns, as photographs have them, so that channels depend on each other."""
    draw = np.random.default_rng(seed)
    patterns = np.random.default_rng(9).normal(size=(6, 3, 4, 4))
    coarse = np.einsum("np,pchw->nchw", draw.normal(size=(rows, 6)), patterns)
    return ArraySplit({"x": coarse.repeat(2, 2).repeat(2, 3).astype("float32")})


DATA = Splits(images(64, 0), images(64, 1), images(96, 2), images(64, 3))


@pytest.fixture(scope="module")
def program() -> Program:
    torch.manual_seed(0)
    model = Residual()
    with torch.no_grad():
        for _ in range(20):
            model(torch.from_numpy(images(32, 7).inputs["x"]))
    return capture(model.eval(), {"x": torch.randn(4, 3, 8, 8)})


def run(program: Program, folder: Path, console: Console | None = None, data: Splits = DATA, **more: Any) -> Artifact:
    ranked = {"importance": "group_norm", "normalize": "mean"}
    options = PruneOptions(**{"macs": 0.5, "min_channels": 2, "recover": None, **ranked, **more})
    context = Context(data, task="regression", console=console or Console("silent"))
    return prune(options, store(program, Place(folder / "model"), "train"), Place(folder / "pruned"), context)


def step_of(artifact: Artifact) -> Reconstruction:
    found = artifact.facts_as(PruneFacts).steps[0].reconstruction
    assert found is not None
    return found


def difference(program: Program, other: Program) -> float:
    """The squared difference of the outputs on test samples, as a share of their variance."""
    wanted, found = (next(iter(predict(item, DATA.test).values())) for item in (program, other))
    return float(np.square(found - wanted).sum() / np.square(wanted - wanted.mean(0)).sum())


def test_half_of_the_net_is_cut_without_training_and_its_outputs_stay(program: Program, tmp_path: Path) -> None:
    """Without labels or epochs, the outputs on unseen samples are over ten times nearer to those before the cut."""
    plain = load_program(run(program, tmp_path / "plain", reconstruct="off").main)
    fitted = run(program, tmp_path / "fitted")
    assert difference(program, plain) > 0.2
    assert difference(program, load_program(fitted.main)) < difference(program, plain) / 10
    found = step_of(fitted)
    assert found.kept
    assert found.samples == 96
    assert found.before is not None
    assert found.after is not None
    assert found.after.sqnr_centred_db > found.before.sqnr_centred_db + 10  # type: ignore[operator]
    assert fitted.facts_as(PruneFacts).steps[0].proof.relative_error < 1e-9


def test_no_layer_gets_worse_on_samples_that_were_not_used(program: Program, tmp_path: Path) -> None:
    """Each layer reports its error on held-out samples before and after, which never grows; all kinds are there."""
    layers = step_of(run(program, tmp_path)).layers
    names = [layer.name.removesuffix(".weight") for layer in layers]
    assert names == ["stem", "one", "two", "widen", "deep", "narrow", "head"]
    assert all(layer.error_after <= layer.error_before for layer in layers)
    assert layers[-1].error_after < layers[-1].error_before


def test_the_residual_stream_takes_what_an_earlier_layer_could_not_repair(program: Program) -> None:
    """The last layer of a branch is fitted to its own output and to what is missing in the value it is added to."""
    others = {layer.weight: layer.other for layer in fitted_layers(program.module)}
    assert others["two.weight"] is not None
    assert others["narrow.weight"] is not None
    assert others["stem.weight"] is None


def test_a_cut_that_nothing_depends_on_stays_exact(tmp_path: Path) -> None:
    """If the removed units are copies of others, the outputs afterwards equal those before the cut."""
    torch.manual_seed(1)
    first, last = nn.Linear(12, 32), nn.Linear(32, 4)
    with torch.no_grad():
        first.weight[16:], first.bias[16:] = first.weight[:16], first.bias[:16]
    program = capture(nn.Sequential(first, nn.GELU(), last), {"x": torch.randn(4, 12)})
    draw = np.random.default_rng(0)
    train, judged, calibration, test = (
        ArraySplit({"x": draw.normal(size=(rows, 12)).astype("float32")}) for rows in (8, 64, 256, 64)
    )
    options: dict[str, Any] = {"macs": None, "layers": {"0": 0.75}, "importance": "random"}
    made = run(program, tmp_path, data=Splits(train, judged, calibration, test), **options)
    wanted, found = (next(iter(predict(item, test).values())) for item in (program, load_program(made.main)))
    assert np.abs(found - wanted).max() < 0.05 * np.abs(wanted).max()


def test_moments_give_the_least_squares_solution() -> None:
    """Sums over rows, added in parts, give the same weights, intercept and error as the rows themselves."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(200, 1, 5, generator=draw) + 3
    y = x @ torch.randn(5, 2, generator=draw) + 7 + 0.1 * torch.randn(200, 1, 2, generator=draw)
    sums = Moments.about(x[:50], y[:50])
    for start in range(0, 200, 50):
        sums.add(x[start : start + 50], y[start : start + 50])
    weight, intercept = sums.solve(torch.zeros(1, 2, 5), 1e-9, intercept=True)
    rows = torch.cat([x[:, 0], torch.ones(200, 1)], 1).double()
    wanted = torch.linalg.lstsq(rows, y[:, 0].double()).solution
    assert torch.allclose(weight[0], wanted[:5].T, atol=1e-4)
    assert torch.allclose(intercept[0], wanted[5], atol=1e-3)
    errors = (rows @ wanted - y[:, 0]).square().mean(0)
    assert torch.allclose(sums.error(weight, intercept)[0], errors, rtol=1e-3)


def test_runs_side_by_side_give_the_same_values_with_any_memory(program: Program) -> None:
    """Values are kept between two layers as far as the memory allows; without room they are computed again."""
    cut = prune_program(program, PruneOptions(macs=0.6, min_channels=2, recover=None))
    chunks = samples_of(program, DATA.calibration, 32)
    seen = []
    for budget in (1 << 30, 0):
        runs = PairedRuns(program, cut.program, chunks, budget)
        values = [
            [pruned[layer.data] for _, pruned in runs.visit(layer.node.name)]
            for layer in fitted_layers(cut.program.module)
        ]
        seen.append(values)
    assert all(torch.equal(one, two) for first, second in zip(*seen) for one, two in zip(first, second))


def test_very_wide_layers_get_one_factor_per_output() -> None:
    """A layer with more inputs than a square matrix may have is corrected by a scale and a bias per output."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 2 * LARGEST + 2000), nn.ReLU(), nn.Linear(2 * LARGEST + 2000, 2))
    program = capture(net, {"x": torch.randn(4, 4)})
    pruned = prune_program(program, PruneOptions(layers={"0": 0.5}, align=1, recover=None))
    draw = np.random.default_rng(0)
    split = ArraySplit({"x": draw.normal(size=(64, 4)).astype("float32")})
    cut = Cut(program, pruned.program, pruned.grouping.coupling, pruned.removed)
    last = reconstruct(cut, samples_of(program, split, 64))[-1]
    assert last.inputs > LARGEST
    assert last.method == "scale"
    assert last.error_after < last.error_before


def test_training_after_the_cut_replaces_the_reconstruction(program: Program, tmp_path: Path) -> None:
    """`auto` leaves the weights as they are if training follows, and `on` reconstructs in that case too."""
    labels = np.zeros((64, 5), "float32")
    data = Splits(ArraySplit(DATA.train.read(range(64))[0], labels), DATA.validation, DATA.calibration, DATA.test)
    for asked, expected in (("auto", False), ("on", True)):
        more: dict[str, Any] = {"recover": {"epochs": 1, "alpha": 1.0}, "reconstruct": asked}
        made = run(program, tmp_path / asked, data=data, **more).facts_as(PruneFacts)
        assert (made.steps[0].reconstruction is not None) is expected


def test_data_without_labels_replace_the_default_training(program: Program, tmp_path: Path) -> None:
    """The default recovery needs labels; without them, the weights are reconstructed and nothing is trained."""
    options = PruneOptions(macs=0.5, min_channels=2, importance="l2", normalize="mean")
    parent = store(program, Place(tmp_path / "model"), "train")
    made = prune(options, parent, Place(tmp_path / "pruned"), Context(DATA, task="regression"))
    assert made.facts_as(PruneFacts).steps[0].recovery is None
    assert step_of(made).kept


@pytest.mark.parametrize("trained", [False, True])
def test_rankings_by_what_cannot_be_repaired_are_tried_without_training(
    program: Program, tmp_path: Path, trained: bool
) -> None:
    """`auto` tries them if the weights are reconstructed, and the trial cuts decide; a training needs none of it."""
    recover: dict[str, Any] = {"recover": RecoverOptions(epochs=1, alpha=1.0)} if trained else {}
    step = run(program, tmp_path, importance="auto", normalize="auto", **recover).facts_as(PruneFacts).steps[0]
    tried = {trial.importance for trial in step.trials}
    assert tried == ({"taylor", "group_norm"} if trained else {"taylor", "group_norm", "reconstruction"})
    best = min(step.trials, key=lambda trial: trial.loss)
    assert (step.importance, step.normalize) == (best.importance, best.normalize)


def test_too_few_samples_are_a_reason_or_an_error(program: Program, tmp_path: Path) -> None:
    """With fewer than eight samples `auto` says why nothing is reconstructed, and `on` refuses."""
    data = Splits(DATA.train, DATA.validation, images(4, 2), DATA.test)
    found = step_of(run(program, tmp_path / "auto", data=data))
    assert (found.kept, found.reason) == (False, "4 calibration samples are too few to reconstruct weights")
    with pytest.raises(DataError, match="too few"):
        run(program, tmp_path / "on", data=data, reconstruct="on")


def test_ruined_outputs_are_a_warning_with_the_figure_and_the_remedy(
    program: Program, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A cut whose outputs differ by more than they may is said loudly, and the facts have it."""
    made = run(program, tmp_path, Console("text"), macs=0.1, reconstruct="off").facts_as(PruneFacts)
    told = " ".join(capsys.readouterr().err.split())
    assert made.ruined
    assert "the outputs are ruined: centred SQNR" in told
    assert "recover.epochs=5" in told
    mild = run(program, tmp_path / "mild", macs=0.9).facts_as(PruneFacts)
    assert not mild.ruined


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("both", [False, True])
def test_gates_of_recurrent_layers_are_fitted(kind: type[nn.LSTM | nn.GRU | nn.RNN], both: bool) -> None:
    """Two stacked layers, in one or two directions: the states get nearer to those before the cut in every layer."""
    torch.manual_seed(0)
    net = Stacked(kind, both)
    program = capture(net.eval(), {"x": torch.randn(4, 9, 6)})
    options = PruneOptions(layers={"layer*": 0.6}, align=1, importance="random", recover=None)
    pruned = prune_program(program, options)
    draw = np.random.default_rng(0)
    path = np.cumsum(draw.normal(size=(96, 9, 6)), 1).astype("float32")
    cut = Cut(program, pruned.program, pruned.grouping.coupling, pruned.removed)
    wanted = next(iter(predict(program, ArraySplit({"x": path[64:]})).values()))
    plain = next(iter(predict(pruned.program, ArraySplit({"x": path[64:]})).values()))
    layers = reconstruct(cut, samples_of(program, ArraySplit({"x": path[:64]}), 64))
    found = next(iter(predict(pruned.program, ArraySplit({"x": path[64:]})).values()))
    assert [layer.name for layer in layers] == ["layer.weight_ih_l0", "layer.weight_ih_l1", "out.weight"]
    assert all(layer.error_after < layer.error_before for layer in layers)
    assert np.square(found - wanted).sum() < 0.5 * np.square(plain - wanted).sum()


class Enlarging(nn.Module):
    """An encoder, and a decoder of transposed convolutions of every form."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(3, 24, 3, 2, 1), nn.ReLU(), nn.Conv2d(24, 32, 3, 2, 1), nn.ReLU())
        self.up = nn.ConvTranspose2d(32, 24, 3, 2, 1, output_padding=1)
        self.deep = nn.ConvTranspose2d(24, 24, 4, 2, 1, groups=24)
        self.last = nn.ConvTranspose2d(24, 3, 3, 1, 2, dilation=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.last(torch.relu(self.deep(torch.relu(self.up(self.down(x))))))
        return result


def test_transposed_convolutions_are_fitted(tmp_path: Path) -> None:
    """With strides, groups and dilation they come nearer to their former output, and so does the image."""
    torch.manual_seed(0)
    program = capture(Enlarging().eval(), {"x": torch.randn(4, 3, 8, 8)})
    plain = load_program(run(program, tmp_path / "plain", reconstruct="off").main)
    fitted = run(program, tmp_path / "fitted")
    ranked = run(program, tmp_path / "ranked", importance="reconstruction", normalize="none")
    assert difference(program, load_program(ranked.main)) < difference(program, plain) / 3
    layers = {layer.name: layer for layer in step_of(fitted).layers}
    assert all(layers[f"{name}.weight"].method == "least squares" for name in ("up", "last"))
    assert all(layers[f"{name}.weight"].error_after < layers[f"{name}.weight"].error_before for name in ("up", "last"))
    assert layers["deep.weight"].error_after <= layers["deep.weight"].error_before
    assert difference(program, load_program(fitted.main)) < difference(program, plain) / 3


class Stacked(nn.Module):
    """Two recurrent layers and a linear layer on the mean state."""

    def __init__(self, kind: type[nn.LSTM | nn.GRU | nn.RNN], both: bool) -> None:
        super().__init__()
        self.layer = kind(6, 20, 2, batch_first=True, bidirectional=both)
        self.out = nn.Linear(40 if both else 20, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.out(self.layer(x)[0].mean(1))
        return result
