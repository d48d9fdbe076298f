"""Training on changed, weighted and mixed samples: the same bits for any number of workers, also after a break."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from training_kit import Killed, Unplugged, blobs, net, run, same, splits, weights
from worker_data import Ramps

from retort.compress.capture.capture_program import capture
from retort.compress.training.losses import CrossEntropy
from retort.compress.training.mixed_targets import mixed_targets
from retort.compress.training.train import fit
from retort.core.context import Context
from retort.core.data.built_in import built_in
from retort.core.data.held_out import complete
from retort.core.data.splits import SequenceSplit, Splits, as_arrays
from retort.core.errors import DataError, UserError
from retort.core.options.stage_options import DataSpec, TrainOptions

AUGMENT: list[Any] = [{"noise": 0.05}, {"mixup": 0.4}]


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shape", [(5, 4), (5, 4, 3, 3)])
def test_certain_probabilities_have_the_loss_of_their_classes(
    smoothing: float, weighted: bool, shape: tuple[int, ...]
) -> None:
    """Cross entropy of probabilities 0 and 1 equals that of indices, with weights and smoothing; -100 is left out."""
    torch.manual_seed(0)
    scores = torch.randn(shape)
    classes = torch.randint(0, 4, (shape[0], *shape[2:]))
    if classes.dim() > 1:
        classes[0, 0, 0] = -100
    loss = CrossEntropy(torch.tensor([1.0, 2.0, 0.5, 3.0]) if weighted else None, smoothing)
    wanted = loss({"y": scores}, {}, classes)
    known = (classes >= 0).unsqueeze(1)
    certain = functional.one_hot(classes.clamp(min=0), 4).movedim(-1, 1) * known.float()
    torch.testing.assert_close(loss({"y": scores}, {}, certain), wanted)


def test_mixed_targets_are_probabilities_or_values_between() -> None:
    """Worked out by hand: 0.75 of class 2 and 0.25 of class 0; values move by the same share."""
    program = net()
    classes = mixed_targets(torch.tensor([2, 1]), torch.tensor([0, 1]), torch.tensor([0.75, 0.5]), program)
    assert classes.tolist() == [[0.25, 0, 0.75], [0, 1, 0]]
    values = mixed_targets(torch.tensor([[2.0]]), torch.tensor([[4.0]]), torch.tensor([0.25]), program)
    assert values.tolist() == [[3.5]]
    scores = torch.tensor([[0.0, 1.0, 2.0], [1.0, 0.0, 0.0]])
    log = functional.log_softmax(scores, 1)
    by_hand = -(0.25 * log[0, 0] + 0.75 * log[0, 2] + log[1, 1]) / 2
    torch.testing.assert_close(CrossEntropy()({"y": scores}, {}, classes), by_hand)


def test_training_gives_the_same_bits_for_any_number_of_workers() -> None:
    """None, one and two workers, with views, mixing and weighted sampling; another augmentation gives others."""
    results = []
    for workers in (0, 1, 2):
        program = net()
        got = run(program, workers=workers, augment=AUGMENT, sampling="balanced", epochs=2)
        assert got.workers == workers
        assert got.augmentation[0].startswith("noise: 'x' (a recording or a row of numbers, values ")
        results.append(weights(program))
    assert same(results[0], results[1])
    assert same(results[0], results[2])
    plain = net()
    run(plain, sampling="balanced", epochs=2)
    assert not same(results[0], weights(plain))


@pytest.mark.parametrize("limit", [9, *(pytest.param(limit, marks=pytest.mark.slow) for limit in (3, 16))])
def test_an_interrupted_training_on_views_resumes_bit_for_bit(limit: int, tmp_path: Path) -> None:
    """Stopped while samples are read and run again, in this process or with workers: the weights of the whole run."""
    whole, broken, resumed = net(), net(), net()
    wanted = run(whole, augment=AUGMENT, sampling=[1, 2, 1])
    original = blobs(65, 1)
    data = splits(train=Unplugged(original.inputs, original.targets))
    Unplugged.reads, Unplugged.limit = 0, limit
    with pytest.raises(Killed):
        run(broken, data, tmp_path, augment=AUGMENT, sampling=[1, 2, 1])
    Unplugged.limit = 10**9
    got = run(resumed, data, tmp_path, augment=AUGMENT, sampling=[1, 2, 1], workers=1)
    assert same(weights(whole), weights(resumed))
    assert got.history == wanted.history


def test_validation_samples_are_not_changed() -> None:
    """With noise that hides everything, the validation metric is still that of the samples as they are."""
    data = splits()
    plain, noisy = net(), net()
    tiny: dict[str, Any] = {"learning_rate": 1e-12, "epochs": 1, "weight_decay": 0, "optimizer": "sgd"}
    for module in (plain.module, noisy.module):
        for name, buffer in module.named_buffers():
            if "running" in name:
                assert buffer.numel() > 1
    wanted = run(plain, data, **tiny, augment=[{"noise": {"std": 0.5, "probability": 0}}])
    loop_state = weights(plain)
    noisy.module.load_state_dict(loop_state)
    seen: list[Any] = []
    validation = data.validation

    class Watched:
        """The validation split, which notes what is read."""

        inputs, targets = validation.inputs, validation.targets  # type: ignore[attr-defined]

        def __len__(self) -> int:
            return len(validation)

        def read(self, indices: Any) -> Any:
            got = validation.read(indices)
            seen.append(got[0]["x"])
            return got

        def fingerprint(self) -> str:
            return validation.fingerprint()

    got = run(noisy, replace(data, validation=Watched()), **tiny, augment=[{"noise": 0.9}, "mixup"])
    assert got.metric_name == wanted.metric_name == "accuracy"
    np.testing.assert_array_equal(np.concatenate(seen), as_arrays(validation).inputs["x"])


def test_an_unreadable_sample_ends_the_training_with_its_number() -> None:
    """In the middle of an epoch, with workers and without, and no process is left."""
    samples = Ramps(48, bad=20)
    others = as_arrays(SequenceSplit(Ramps(8), "x", "here"))
    data = Splits(SequenceSplit(samples, "x", "here"), others, others, others)
    torch.manual_seed(0)
    flat = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    program = capture(flat, {"x": torch.randn(2, 1, 6, 6)})
    fingerprint = SequenceSplit.fingerprint
    try:
        SequenceSplit.fingerprint = lambda self: "known"  # type: ignore[method-assign]
        for workers in (0, 1):
            with pytest.raises(
                DataError, match="sample 20 of the dataset cannot be read: ValueError: the file is torn"
            ):
                run(program, data, workers=workers)
    finally:
        SequenceSplit.fingerprint = fingerprint  # type: ignore[method-assign]


def test_a_transform_for_another_input_stops_before_the_first_epoch() -> None:
    """One message that names the transform and the input."""
    with pytest.raises(UserError, match="`augment`: `flip` changes images, and the data have input 'x'"):
        run(net(), augment=["flip"])


@pytest.mark.slow
def test_digits_that_are_moved_teach_more_than_the_digits_alone() -> None:
    """On few digits, a net that also saw them shifted and turned knows more of digits that it never saw."""
    named, classes = built_in("digits")[:2]
    data = complete(named, classes, DataSpec(source="digits"), 0)
    few = replace(data, train=as_arrays(data.train, range(0, len(data.train), 6)))
    (name,) = few.train.read([0])[0]
    scores = []
    changes: list[tuple[Any, ...]] = [(), ({"shift": 0.07}, {"rotate": 10}, {"scale": 0.1})]
    for augment in changes:
        torch.manual_seed(1)
        layers = [nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2), nn.ReLU(), nn.Flatten()]
        program = capture(nn.Sequential(*layers, nn.Linear(288, 10)), {name: torch.randn(2, 1, 8, 8)})
        options = TrainOptions(epochs=200, batch_size=32, augment=augment)
        fit(program, options, Context(few, task="classification", seed=1))
        with torch.no_grad():
            inputs, targets = data.test.read(range(len(data.test)))
            right = program.module(torch.from_numpy(inputs[name]))[0].argmax(1).numpy() == targets
        scores.append(right.mean())
    assert scores[1] > scores[0] + 0.01
