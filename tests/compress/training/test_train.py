"""The training loop learns, keeps the best weights, and stops with clear messages."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import torch
from known import in_memory, known
from torch import nn
from training_kit import Killed, Unplugged, blobs, net, run, same, splits, weights

from retort.compress.capture.capture_program import capture
from retort.compress.program import clone, load_program, predict, store
from retort.compress.training import feeding, loop
from retort.compress.training.losses import CrossEntropy
from retort.compress.training.optimizers import rate_factor
from retort.compress.training.task_losses import balanced_weights
from retort.compress.training.train import fit, train
from retort.core.artifact import load_artifact
from retort.core.context import Context, Place
from retort.core.data.splits import ArraySplit, Splits
from retort.core.errors import DataError, MachineError, UserError
from retort.core.options.stage_options import TrainOptions

torch.set_num_threads(1)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "rmsprop"])
def test_every_optimizer_learns(optimizer: str) -> None:
    """With each optimizer the loss falls and the test set is mostly right."""
    program, data = net(), splits(200)
    result = run(program, data, optimizer=optimizer, epochs=8, learning_rate=0.1 if optimizer == "sgd" else 0.01)
    assert result.history[-1].loss < 0.5 * result.history[0].loss
    scores = predict(program, data.test)["output"]
    assert (scores.argmax(1) == known(in_memory(data.test).targets)).mean() > 0.85
    assert not program.module.training


def test_best_weights_are_kept_and_patience_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights of the best epoch are kept, the later of equal ones, and patience counts epochs without a gain."""
    metrics = iter([0.5, 0.7, 0.7, 0.6, 0.6, 0.6, 0.9])
    seen: list[dict[str, torch.Tensor]] = []
    original = loop.Loop.validate

    def validate(self: loop.Loop) -> Any:
        score = original(self)
        seen.append(weights(self.program))
        score._total, score._count = next(metrics), 1
        return score

    monkeypatch.setattr(loop.Loop, "validate", validate)
    program = net()
    result = run(program, epochs=7, patience=4)
    assert (result.epochs, result.best_epoch, result.best_metric) == (6, 3, 0.7)
    assert same(weights(program), seen[2])


def test_accumulated_batches_equal_one_large_batch() -> None:
    """Gradients over 4 batches of 8, a short last group included, are those of batches of 32."""
    torch.manual_seed(0)
    start = capture(nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)), {"x": torch.randn(2, 6)})
    one, four = clone(start), clone(start)
    data = splits(76)
    run(one, data, batch_size=32, optimizer="sgd", epochs=2)
    run(four, data, batch_size=8, accumulate=4, optimizer="sgd", epochs=2)
    for name, value in weights(one).items():
        torch.testing.assert_close(value, weights(four)[name], rtol=1e-4, atol=1e-6)


def test_last_batch_of_one_joins_the_one_before() -> None:
    """No batch of a single sample reaches BatchNorm, and every sample is used once."""
    assert feeding.plan(65, 16) == [(0, 16), (16, 32), (32, 48), (48, 65)]
    assert feeding.plan(64, 16)[-1] == (48, 64)
    assert (feeding.plan(1, 16), feeding.plan(3, 1)) == ([(0, 1)], [(0, 1), (1, 2), (2, 3)])
    program = net()
    run(program, splits(33), batch_size=32, epochs=1)
    assert all(torch.isfinite(value).all() for value in weights(program).values())


def test_clipping_bounds_the_step() -> None:
    """With plain SGD and a clipped norm, no step moves the weights further than rate times norm."""
    program = net()
    before = weights(program)
    run(
        program,
        epochs=1,
        batch_size=65,
        optimizer="sgd",
        momentum=0,
        schedule="constant",
        learning_rate=1.0,
        weight_decay=0,
        clip_norm=0.01,
    )
    names = [name for name, _ in program.module.named_parameters()]
    moved = torch.cat([(weights(program)[name] - before[name]).flatten() for name in names]).norm()
    assert float(moved) == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize(("l1", "l2"), [(0.1, 0.0), (0.0, 0.2), (0.1, 0.2)])
def test_penalties_change_the_step_by_their_gradients(l1: float, l2: float) -> None:
    """With plain SGD, ``l1`` moves matrices by the sign of their values and ``l2`` by the values, and biases stay."""
    plain, penalised = net(), net()
    options: dict[str, Any] = {
        "optimizer": "sgd",
        "momentum": 0,
        "schedule": "constant",
        "weight_decay": 0,
        "learning_rate": 0.5,
    }
    run(plain, epochs=1, batch_size=65, **options)
    run(penalised, epochs=1, batch_size=65, l1=l1, l2=l2, **options)
    start, one, other = weights(net()), weights(plain), weights(penalised)
    for name, value in start.items():
        moved = 0.5 * (l1 * value.sign() + l2 * value) if name.endswith("weight") and value.dim() == 2 else 0 * value
        torch.testing.assert_close(other[name], one[name] - moved)


def test_average_of_weights_is_what_is_kept() -> None:
    """With an exponential moving average, the kept weights are the averages."""
    plain, averaged = net(), net()
    run(plain, epochs=1, batch_size=65, optimizer="sgd", schedule="constant", learning_rate=0.5, momentum=0)
    run(averaged, epochs=1, batch_size=65, optimizer="sgd", schedule="constant", learning_rate=0.5, momentum=0, ema=0.9)
    start, end, kept = weights(net())["0.weight"], weights(plain)["0.weight"], weights(averaged)["0.weight"]
    decay = (1 + 1) / (10 + 1)
    torch.testing.assert_close(kept, decay * start + (1 - decay) * end)


def test_schedules_have_their_shapes() -> None:
    """Warm-up increases, cosine and linear end near zero, steps divide by ten, constant does not change."""

    def curve(**options: Any) -> list[float]:
        chosen = TrainOptions(epochs=10, **options)
        return [rate_factor(chosen, step, 10) for step in range(100)]

    assert curve(schedule="constant") == [1.0] * 100
    cosine, linear = curve(schedule="cosine"), curve(schedule="linear", warmup_epochs=1)
    assert [cosine[0], cosine[50]] == pytest.approx([1, 0.5])
    assert cosine[-1] < 0.001
    assert linear[:10] == pytest.approx([step / 11 for step in range(1, 11)])
    assert [linear[10], linear[-1]] == pytest.approx([1, 1 / 90])
    assert curve(schedule="exponential")[-1] == pytest.approx(0.01, rel=0.05)
    assert [curve(schedule="step")[at] for at in (0, 49, 50, 75)] == pytest.approx([1, 1, 0.1, 0.01])


def test_balanced_weights_and_smoothing_follow_their_formulas() -> None:
    """Class weights are n / (k·n_c), an absent class has none, and the loss is PyTorch's cross entropy."""
    targets = np.array([0, 0, 0, 1])
    split = ArraySplit({"x": np.zeros((4, 6), np.float32)}, targets)
    assert balanced_weights(split, 3).tolist() == pytest.approx([4 / 9, 4 / 3, 0])
    scores, classes = torch.randn(4, 3), torch.from_numpy(targets)
    weight = torch.tensor([1.0, 2.0, 3.0])
    wanted = nn.functional.cross_entropy(scores, classes, weight=weight, label_smoothing=0.1)
    assert torch.equal(CrossEntropy(weight, 0.1)({"output": scores}, {}, classes), wanted)
    with pytest.raises(UserError, match="2 values, but the model has 3 classes"):
        run(net(), class_weights=(1.0, 2.0))


def test_tokens_are_classified_along_the_last_axis() -> None:
    """Scores ``[N, tokens, classes]`` learn from targets ``[N, tokens]``."""
    torch.manual_seed(0)
    program = capture(nn.Linear(6, 4), {"x": torch.randn(2, 5, 6)})
    x = np.random.default_rng(0).standard_normal((40, 5, 6)).astype(np.float32)
    split = ArraySplit({"x": x}, x[..., :4].argmax(-1))
    result = run(program, Splits(split, split, split, split), epochs=10, learning_rate=0.1)
    assert result.best_metric > 0.9


@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
def test_regression_minimises_the_squared_error(shape: tuple[int, ...]) -> None:
    """Targets ``[N]`` and ``[N, 1]`` both fit an output ``[N, 1]``, without pairing every two samples."""
    torch.manual_seed(0)
    program = capture(nn.Linear(6, 1), {"x": torch.randn(2, 6)})
    x = np.random.default_rng(0).standard_normal((64, 6)).astype(np.float32)
    split = ArraySplit({"x": x}, (x @ np.arange(6)).astype(np.float32).reshape(shape))
    data = Splits(split, split, split, split)
    result = fit(
        program, TrainOptions(epochs=60, learning_rate=0.3, batch_size=16), Context(data, task="regression", seed=0)
    )
    assert result.metric_name == "mse"
    assert result.best_metric is not None
    assert result.best_metric < 1e-3


def _poisoned() -> ArraySplit:
    split = blobs(65, 1)
    split.inputs["x"][17, 2] = np.nan
    return split


@pytest.mark.parametrize(
    ("data", "kind", "words"),
    [
        (lambda: splits(train=_poisoned()), DataError, "input 'x' has NaN or infinite values in sample 17"),
        (lambda: splits(train=blobs(65, 1, classes=5)), DataError, r"target class [34] is out of range.*3 classes"),
        (lambda: splits(train=ArraySplit(blobs(9, 1).inputs)), DataError, "needs targets"),
        (lambda: splits(train=ArraySplit(blobs(9, 1).inputs, np.ones(9))), DataError, "float64, not class indices"),
        (lambda: splits(train=blobs(0, 1)), DataError, "training split is empty"),
        (lambda: splits(validation=blobs(30, 1, classes=5)), DataError, "the validation split.*out of range"),
    ],
)
def test_bad_data_is_named(data: Any, kind: type[Exception], words: str) -> None:
    """Values that are not finite, classes out of range and missing targets are reported with their place."""
    with pytest.raises(kind, match=words):
        run(net(), data())


def test_divergence_is_an_error_with_a_remedy() -> None:
    """A training whose loss is not finite stops at once, and the message suggests the learning rate."""
    with pytest.raises(UserError, match=r"diverged.*\n.*lower learning_rate \(now 1e\+30\)"):
        run(net(), learning_rate=1e30, optimizer="sgd")
    with pytest.raises(MachineError, match="fp16"):
        run(net(), precision="fp16", device="cpu")


def test_frozen_parameters_stay_and_bfloat16_trains() -> None:
    """Parameters frozen before the capture do not change, also in mixed precision, which learns too."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))
    model[0].requires_grad_(False)
    program = capture(model, {"x": torch.randn(2, 6)})
    result = run(program, splits(200), precision="bf16", epochs=6, learning_rate=0.03)
    assert torch.equal(program.module.state_dict()["0.weight"], model.get_parameter("0.weight"))
    assert program.module.state_dict()["2.weight"].dtype == torch.float32
    assert result.best_metric > 0.7


def test_train_stage_writes_an_artifact_and_clears_its_scratch(tmp_path: Path) -> None:
    """The stage gives a program with its facts; timing apart, running it again gives the same files and facts."""
    start, data = store(net(), Place(tmp_path / "00-capture"), "capture"), splits()
    options = TrainOptions(epochs=3, batch_size=16)
    made = []
    for name in ("one", "two"):
        artifact = train(
            options,
            load_artifact(start.path),
            Place(tmp_path / name, "k", ("p",)),
            Context(data=data, task="classification", seed=5, scratch=tmp_path / f"scratch-{name}"),
        )
        assert list((tmp_path / f"scratch-{name}").iterdir()) == []
        made.append(artifact)
    one, two = ({key: value for key, value in each.facts.items() if key != "timing"} for each in made)
    assert one == two
    assert made[0].manifest.files == made[1].manifest.files
    assert (made[0].kind, made[0].manifest.stage, made[0].key, made[0].manifest.parents) == (
        "program",
        "train",
        "k",
        ("p",),
    )
    assert [entry["epoch"] for entry in one["history"]] == [1, 2, 3]
    assert (one["parameters"], one["macs"]) == (6 * 16 + 16 + 32 + 16 * 3 + 3, 6 * 16 + 16 * 3)
    assert one["size_bytes"] == made[0].main.stat().st_size
    scores = predict(load_program(made[0].main), data.validation)["output"]
    assert one["best_metric"] == (scores.argmax(1) == known(in_memory(data.validation).targets)).mean()


@pytest.mark.parametrize(
    ("rows", "remedy"), [(9, r"set batch_size \(now 1\) to 2 or more"), (1, "more training samples")]
)
def test_batchnorm_with_batches_of_one_names_their_size(rows: int, remedy: str) -> None:
    """The variance of one sample is not defined: the first step says so, and does not blame the learning rate."""
    program = capture(nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)), {"x": torch.randn(2, 6)})
    with pytest.raises(UserError, match=rf"BatchNorm needs at least 2 samples in each batch.*\n.*{remedy}"):
        run(program, splits(train=blobs(rows, 1)), batch_size=1, epochs=1)


def test_events_are_what_tensorboard_reads(tmp_path: Path) -> None:
    """Loss, rate, metric and histograms of weights have one point per epoch, also after a training was interrupted."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    scratch, original = tmp_path / "run" / ".retort-scratch" / "01-train", blobs(65, 1)
    data = splits(train=Unplugged(original.inputs, original.targets))
    Unplugged.reads, Unplugged.limit = 0, 10  # it stops in the third epoch
    with pytest.raises(Killed):
        run(net(), data, scratch, tensorboard=True)
    Unplugged.limit = 10**9
    result = run(net(), data, scratch, tensorboard=True)
    folder = tmp_path / "run" / "tensorboard" / "01-train" / "train"
    found = accumulator.EventAccumulator(str(folder), {"histograms": 0, "scalars": 0})
    found.Reload()
    assert [point.step for point in found.Scalars("loss/train")] == [1, 2, 3, 4]
    losses, metrics = ([point.value for point in found.Scalars(name)] for name in ("loss/train", "validation/accuracy"))
    assert losses == pytest.approx([epoch.loss for epoch in result.history])
    assert metrics == pytest.approx([epoch.metric for epoch in result.history])
    rates = [point.value for point in found.Scalars("learning_rate")]
    assert rates == sorted(rates, reverse=True)
    assert [point.step for point in found.Histograms("weights/0.weight")] == [1, 2, 3, 4]
    assert found.Histograms("weights/0.weight")[-1].histogram_value.num == 6 * 16


def test_events_without_tensorboard_name_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the package, or without a folder, one message says what is missing, and nothing was trained."""
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(MachineError, match=r"need the package tensorboard"):
        run(net(), scratch=tmp_path / "a" / "b", tensorboard=True)
    with pytest.raises(UserError, match=r"`tensorboard` needs a folder"):
        run(net(), tensorboard=True)
