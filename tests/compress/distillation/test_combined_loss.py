"""Several losses of distillation together: weights, labels, padding, precision, checkpoints and bad input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from training_kit import Killed, Unplugged, blobs, net, same, splits, weights

from retort.compress.capture.capture_program import capture
from retort.compress.distillation.combined_loss import CombinedLoss, distillation_loss
from retort.compress.distillation.distill import distill, learned_from, recover
from retort.compress.distillation.losses.feature_losses import hint
from retort.compress.distillation.losses.logit_losses import soft_targets, standardized
from retort.compress.graph.node_values import named_values, observing
from retort.compress.program import Program, clone, store
from retort.compress.training.distributed.transport import Packer, Unpacker
from retort.compress.training.train import fit
from retort.core.console import Console
from retort.core.context import Context, Place
from retort.core.data.splits import ArraySplit, Splits
from retort.core.errors import DataError, ModelError, UserError
from retort.core.options.distill_losses import FeatureOptions
from retort.core.options.metric_names import Task
from retort.core.options.stage_options import DistillOptions, ModelSpec, RecoverOptions

torch.set_num_threads(1)


def options(*losses: Any, **others: Any) -> DistillOptions:
    """Options with these losses."""
    return DistillOptions(
        **{"student": ModelSpec(source="a:b"), "epochs": 4, "batch_size": 16, "learning_rate": 0.01, **others},
        losses=losses,
    )


@pytest.fixture(scope="module")
def teacher() -> Program:
    """A wider net of the same form as the student."""
    torch.manual_seed(1)
    layers = [nn.Linear(6, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Dropout(0.2), nn.Linear(24, 3)]
    return capture(nn.Sequential(*layers), {"x": torch.randn(2, 6)})


def values(student: Program, loss: CombinedLoss, *inputs: torch.Tensor) -> dict[str, torch.Tensor]:
    """The student's outputs and what the loss observes."""
    with observing(student, loss.observes):
        return named_values(student, loss.observes, student.module(*inputs))


def test_losses_add_up_by_weight(teacher: Program) -> None:
    """Soft targets with 0.5 leave 0.5 to the targets; a hint with 3 comes on top, through its projection."""
    student, x, targets = net(), torch.randn(5, 6), torch.tensor([0, 1, 2, 1, 0])
    chosen = options({"kd": {"weight": 0.5, "temperature": 2, "standardize": True}}, {"features": 3})
    loss = distillation_loss(chosen, student, clone(teacher), "classification", seed=4)
    outputs = values(student, loss, x)
    found = loss(outputs, {"x": x}, targets)
    taught = loss._teacher.outputs({"x": x})
    soft = soft_targets(standardized(outputs["output"]), standardized(taught["output"]), 2.0)
    projection = loss.module[1][0]  # type: ignore[index]
    assert (projection.in_features, projection.out_features) == (16, 24)
    inner = hint(projection(outputs["node:relu"]), taught["node:relu"], True)
    hard = nn.functional.cross_entropy(outputs["output"], targets)
    torch.testing.assert_close(found, 0.5 * soft + 3 * inner + 0.5 * hard)
    again = distillation_loss(chosen, student, clone(teacher), "classification", seed=4)
    assert torch.equal(projection.weight, again.module[1][0].weight)  # type: ignore[index]


def test_the_rest_of_the_weight_goes_to_the_targets() -> None:
    """What kd, mse and the like leave of 1; losses on inner values and dkd take nothing; `hard_weight` decides."""
    assert options({"kd": 0.75}).target_weight == pytest.approx(0.25)
    assert options("dkd", "features").target_weight == 1
    assert options({"kd": 0.8}, {"mse": 0.8}).target_weight == 0
    assert options({"kd": 0.75}, hard_weight=2).target_weight == 2
    assert DistillOptions(student=ModelSpec(source="a:b"), alpha=0.4).target_weight == pytest.approx(0.6)


@pytest.mark.parametrize("losses", [("features", {"kd": 0.5}), ("self", "rkd"), ("dist", "similarity")])
def test_distillation_resumes_bit_for_bit(teacher: Program, losses: tuple[Any, ...], tmp_path: Path) -> None:
    """Projections and the student's own average are in the checkpoints: an interrupted student ends with the same."""

    def run(student: Program, data: Splits, scratch: Path | None) -> CombinedLoss:
        chosen = options(*losses)
        loss = distillation_loss(chosen, student, clone(teacher), "classification", seed=3)
        fit(student, chosen, Context(data, task="classification", seed=3, scratch=scratch), loss)
        return loss

    whole, original = net(), blobs(65, 1)
    wanted = run(whole, splits(), None)
    data = splits(train=Unplugged(original.inputs, original.targets))
    Unplugged.reads, Unplugged.limit = 0, 11
    with pytest.raises(Killed):
        run(net(), data, tmp_path)
    Unplugged.limit = 10**9
    resumed = net()
    got = run(resumed, data, tmp_path)
    assert same(weights(whole), weights(resumed))
    assert same(wanted.module.state_dict(), got.module.state_dict())
    assert len(resumed.module(torch.randn(2, 6))) == 1


def test_the_own_average_follows_the_student(teacher: Program) -> None:
    """The first update moves the average by 0.9 towards the student's weights; validation does not move it."""
    student, x = net(), torch.randn(5, 6)
    loss = distillation_loss(options({"self": 1.0}), student, clone(teacher), "classification")
    before = {name: value.clone() for name, value in loss.module.state_dict().items() if name.endswith("4.weight")}
    with torch.no_grad():
        for weight in student.module.parameters():
            weight.add_(1)
        loss(values(student, loss, x), {"x": x}, None)
    after = loss.module.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    loss(values(student, loss, x), {"x": x}, None).backward()
    ((name, start),) = before.items()
    torch.testing.assert_close(loss.module.state_dict()[name], start + 0.9)
    assert all(weight.grad is None for weight in loss.module.parameters())


def test_a_loss_arrives_whole_in_other_processes(teacher: Program) -> None:
    """Teacher, projections and the own average are sent with the student, and belong to the student that arrives."""
    student, x, targets = net(), torch.randn(5, 6), torch.tensor([0, 1, 2, 1, 0])
    chosen = options("features", "self", "rkd", {"kd": 0.5})
    loss = distillation_loss(chosen, student, clone(teacher), "classification")
    other, sent = Unpacker().unpack(*Packer().pack((student, loss)))
    found = [one(values(each, one, x), {"x": x}, targets) for each, one in ((student, loss), (other, sent))]
    assert torch.equal(*found)
    with torch.no_grad():
        for weight in other.module.parameters():
            weight.add_(1)
    sent(values(other, sent, x), {"x": x}, targets)
    before, after = loss.module.state_dict(), sent.module.state_dict()
    assert not torch.equal(before["1.average.4.weight"], after["1.average.4.weight"])


def unlabelled() -> Splits:
    """Samples without labels."""
    train, other = (ArraySplit(blobs(40, seed).inputs) for seed in (1, 2))
    return Splits(train, other, other, other)


def test_labels_are_needed_only_where_a_loss_reads_them(teacher: Program, capsys: pytest.CaptureFixture[str]) -> None:
    """Without labels the targets are left out and it is said; dkd and an explicit weight of the targets are refused."""
    context = Context(unlabelled(), task="classification", console=Console("text"))
    student = net()
    loss = learned_from(options("features"), student, clone(teacher), context, None)
    fit(student, options("features"), context, loss)
    assert "no labels: the student learns from the teacher alone" in capsys.readouterr().err
    with pytest.raises(DataError, match="`dkd` needs labels"):
        learned_from(options("dkd"), net(), clone(teacher), context, None)
    with pytest.raises(DataError, match="needs targets"):
        chosen = options("features", hard_weight=0.5)
        fit(net(), chosen, context, learned_from(chosen, net(), clone(teacher), context, None))


def test_a_loss_that_compares_samples_needs_two(teacher: Program) -> None:
    """Contrastive and relational losses refuse batches of one sample."""
    for name in ("contrastive", "rkd", "similarity", "dist"):
        with pytest.raises(UserError, match=f"`{name}` compares the samples of a batch, and batch_size is 1"):
            distillation_loss(options(name, batch_size=1), net(), teacher, "classification")


@pytest.mark.parametrize(
    ("task", "loss"),
    [("embedding", "dkd"), ("sequence", "dkd"), ("multilabel", "dkd"), ("multilabel", "dist"), ("regression", "dist")],
)
def test_losses_between_classes_are_refused_for_other_tasks(teacher: Program, task: Task, loss: str) -> None:
    """A softmax over labels, values or embeddings means nothing, and symbols have no frame of their own."""
    with pytest.raises(UserError, match=f"the loss `{loss}` compares classes .* the task is {task}"):
        distillation_loss(options(loss), net(), teacher, task)


def test_embeddings_have_no_places_of_an_image() -> None:
    """The losses of embeddings refuse feature maps, whose last axis is a width in pixels."""
    maps = capture(nn.Conv2d(1, 3, 3), {"x": torch.randn(2, 1, 6, 6)})
    for name in ("cosine", "contrastive"):
        with pytest.raises(UserError, match=f"the loss `{name}` compares embeddings"):
            distillation_loss(options(name), maps, clone(maps), "classification")


def test_decoupled_targets_without_any_known_label_are_zero() -> None:
    """A batch whose labels are all ignored has the loss 0 and a gradient of zeros, and is no divergence."""
    torch.manual_seed(0)
    maps = capture(nn.Conv2d(1, 3, 3, padding=1), {"x": torch.randn(2, 1, 4, 4)})
    loss = distillation_loss(options("dkd", hard_weight=0), maps, clone(maps), "classification")
    x = torch.randn(2, 1, 4, 4)
    student = torch.randn(2, 3, 4, 4, requires_grad=True)
    found = loss({"output": student}, {"x": x}, torch.full((2, 4, 4), -100))
    found.backward()
    assert float(found.detach()) == 0
    assert student.grad is not None
    assert not bool(student.grad.any())


def test_decoupled_targets_refuse_mixed_samples(teacher: Program) -> None:
    """dkd needs the one class of a sample, which a mixed sample does not have; dist takes mixed samples."""
    with pytest.raises(UserError, match="`dkd` needs one class per sample, and `mixup` mixes two"):
        distillation_loss(options("dkd", augment=["mixup"]), net(), teacher, "classification")
    distillation_loss(options("dist", augment=["mixup"]), net(), teacher, "classification")


def test_attention_is_needed_for_minilm(teacher: Program) -> None:
    """A model without attention is refused by name, and features of a net of vectors have no positions to attend."""
    with pytest.raises(ModelError, match="the student has no attention layer"):
        distillation_loss(options("minilm"), net(), teacher, "classification")
    with pytest.raises(ModelError, match="only vectors can be paired"):
        distillation_loss(options("attention"), net(), teacher, "classification")


def test_only_losses_on_outputs_need_equal_outputs(teacher: Program, tmp_path: Path) -> None:
    """A student with other classes learns features, and is refused for soft targets."""
    torch.manual_seed(0)
    student = capture(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)), {"x": torch.randn(2, 6)})
    parent = store(clone(teacher), Place(tmp_path / "teacher"), "train")
    context = Context(splits(), task="classification", scratch=tmp_path)
    with pytest.raises(ModelError, match="give the student as many classes"):
        distill(options("features", "kd"), parent, Place(tmp_path / "no"), context, clone(student))
    made = distill(options("features", epochs=1), parent, Place(tmp_path / "yes"), context, student)
    assert made.facts["epochs"] == 1


MODULE = """
import torch
def good(student, teacher, inputs, targets):
    assert student["output"].dtype == teacher["output"].dtype == student["2"].dtype == torch.float32
    return (student["2"].mean() - teacher["2"].mean()).square() + 0 * inputs["x"].sum() + 0 * targets.sum()
def three(student, teacher, inputs): ...
def rows(student, teacher, inputs, targets): return student["output"].mean(1)
def number(student, teacher, inputs, targets): return 1.0
def nan(student, teacher, inputs, targets): return student["output"].sum() * float("nan")
def broken(student, teacher, inputs, targets): return student["logits"]
"""


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A folder with the user's losses."""
    (tmp_path / "own_losses.py").write_text(MODULE)
    return tmp_path


def test_a_function_of_the_user_is_a_loss(teacher: Program, base: Path) -> None:
    """It gets outputs and inner values in float32 under autocast too, and its code is part of the loss's identity."""
    student, x = net(), torch.randn(5, 6)
    chosen = options({"own_losses:good": {"weight": 2, "pairs": [["2", "2"]]}}, hard_weight=0)
    loss = distillation_loss(chosen, student, clone(teacher), "classification", base=base)
    with torch.autocast("cpu", torch.bfloat16):
        found = loss(values(student, loss, x), {"x": x}, torch.zeros(5, dtype=torch.int64))
    assert found.dtype == torch.float32
    assert float(found.detach()) > 0
    (base / "own_losses.py").write_text(MODULE + "\n")
    again = distillation_loss(chosen, student, clone(teacher), "classification", base=base)
    assert again.identity != loss.identity


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("god", "no callable 'god'; did you mean 'good'"),
        ("three", "does not take four arguments"),
        ("rows", r"returned a tensor of the shape \[5\]"),
        ("number", "returned 1.0"),
        ("nan", "returned nan"),
        ("broken", "raised KeyError: 'logits'"),
    ],
)
def test_faults_of_a_function_of_the_user(teacher: Program, base: Path, name: str, told: str) -> None:
    """A function that is missing, takes other arguments, fails, or returns no finite number is told by its name."""
    student, x = net(), torch.randn(5, 6)
    with pytest.raises(UserError, match=told) as caught:
        loss = distillation_loss(options(f"own_losses:{name}"), student, teacher, "classification", base=base)
        loss({"output": student.module(x)[0]}, {"x": x}, torch.zeros(5, dtype=torch.int64))
    assert "own_losses" in str(caught.value)


def test_recovery_learns_from_inner_values() -> None:
    """After a cut, hints from the program before bring the hidden layer nearer to it, without labels."""
    torch.manual_seed(0)
    x = torch.randn(64, 6)
    teacher = capture(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)), {"x": x[:4]})
    student = clone(teacher)
    with torch.no_grad():
        next(student.module.parameters()).mul_(0.5)
    before = hidden(student, x) - hidden(teacher, x)
    split = ArraySplit({"x": x.numpy().astype(np.float32)})
    chosen = RecoverOptions(epochs=5, batch_size=16, learning_rate=0.05, losses=(FeatureOptions(),))
    recover(student, teacher, chosen, Context(Splits(split, split, split, split), task="regression"), "recover")
    after = hidden(student, x) - hidden(teacher, x)
    assert float(after.square().mean()) < 0.5 * float(before.square().mean())


def hidden(program: Program, x: torch.Tensor) -> torch.Tensor:
    """Values after the first layer."""
    weight, bias = list(program.module.parameters())[:2]
    return nn.functional.linear(x, weight, bias).relu().detach()


class Tokens(nn.Module):
    """One layer of self-attention that scores the classes of every token."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.embed, self.heads = nn.Embedding(20, width), heads
        self.qkv, self.head = nn.Linear(width, 3 * width), nn.Linear(width, 4)

    def forward(self, ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        parts = self.qkv(self.embed(ids)).chunk(3, -1)
        q, k, v = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in parts)
        mask = attention_mask[:, None, None].bool()
        return self.head(nn.functional.scaled_dot_product_attention(q, k, v, mask).transpose(1, 2).flatten(2))


def test_tokens_learn_without_their_padding() -> None:
    """Every loss on tokens, and the relations of attention across other heads and widths, ignore padded tokens."""
    torch.manual_seed(0)
    ids, mask = torch.randint(0, 20, (3, 6)), torch.ones(3, 6, dtype=torch.int64)
    mask[:, 4:] = 0
    student, teacher = (capture(Tokens(*size), {"ids": ids, "attention_mask": mask}) for size in ((16, 2), (24, 3)))
    names = (
        "kd",
        "dkd",
        "dist",
        "mse",
        "cosine",
        "contrastive",
        "minilm",
        "features",
        "attention",
        "similarity",
        "rkd",
    )
    other = ids.clone()
    other[:, 4:] = 19 - other[:, 4:]
    targets = torch.randint(0, 4, (3, 6))
    for name in names:
        chosen = options({name: {"pairs": [["qkv", "qkv"]]}} if name in names[7:] else name, hard_weight=0)
        loss = distillation_loss(chosen, student, clone(teacher), "classification")
        found = []
        for given in (ids, other):
            inputs = {"ids": given, "attention_mask": mask}
            found.append(loss(values(student, loss, given, mask), inputs, targets))
        torch.testing.assert_close(found[0], found[1], msg=name)
        (gradient,) = torch.autograd.grad(found[0], student.module.get_parameter("embed.weight"))
        assert bool(torch.isfinite(gradient).all())
        assert float(gradient.abs().max()) > 0, name
