"""The losses of distillation against numbers worked out by hand, and their gradients."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from retort.compress.distillation.losses.attention_relations import relation_heads_of, relation_loss
from retort.compress.distillation.losses.embedding_losses import contrastive, cosine_distance
from retort.compress.distillation.losses.feature_losses import attention_map, attention_transfer, hint
from retort.compress.distillation.losses.logit_losses import (
    correlations,
    decoupled,
    soft_binary_targets,
    soft_targets,
    squared_error,
    standardized,
)
from retort.compress.distillation.losses.relation_losses import (
    angle_relations,
    distance_relations,
    similarity_preserving,
)

torch.set_num_threads(1)


def logits(*rows: tuple[float, ...]) -> torch.Tensor:
    """Logits of the given probabilities."""
    return torch.tensor(rows, dtype=torch.float64).log()


def value(loss: torch.Tensor) -> object:
    """A loss that is compared with six digits."""
    return pytest.approx(float(loss), abs=2e-6)


def test_soft_targets_of_two_classes() -> None:
    """Teacher (3/4, 1/4) against a student of (1/2, 1/2): 3/4 ln 3/2 + 1/4 ln 1/2; T = 2 multiplies it by 4."""
    wanted = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    student, teacher = logits((0.5, 0.5)), logits((0.75, 0.25))
    assert wanted == value(soft_targets(student, teacher, 1.0))
    assert 4 * wanted == value(soft_targets(2 * student, 2 * teacher, 2.0))


def test_soft_targets_count_pixels_and_no_padding() -> None:
    """Dense outputs have one distribution per pixel or token, and a token that is masked counts for nothing."""
    student, teacher = logits((0.5, 0.5), (0.5, 0.5)), logits((0.75, 0.25), (0.5, 0.5))
    whole = float(soft_targets(student[:1], teacher[:1], 1.0))
    pixels = [item.T.reshape(1, 2, 1, 2) for item in (student, teacher)]
    assert whole / 2 == value(soft_targets(pixels[0], pixels[1], 1.0))
    tokens = [item.reshape(1, 2, 2) for item in (student, teacher)]
    kept = torch.tensor([[True, False]])
    assert whole == value(soft_targets(tokens[0], tokens[1], 1.0, 2, kept))
    tokens[1][0, 1] = torch.tensor([9.0, -9.0])
    assert whole == value(soft_targets(tokens[0], tokens[1], 1.0, 2, kept))


def test_soft_targets_of_labels_that_do_not_exclude_each_other() -> None:
    """Every label is a distribution over yes and no: 3/4 against 1/2 as above."""
    wanted = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    student, teacher = torch.zeros(1, 1), torch.tensor([[math.log(3)]])
    assert wanted == value(soft_binary_targets(student, teacher, 1.0))
    assert 4 * wanted == value(soft_binary_targets(student, 2 * teacher, 2.0))


def test_standardized_logits() -> None:
    """1, 2, 3 have the mean 2 and the deviation 1; a multiple of them and a shift change nothing."""
    wanted = torch.tensor([[-1.0, 0.0, 1.0]])
    torch.testing.assert_close(standardized(torch.tensor([[1.0, 2.0, 3.0]])), wanted)
    torch.testing.assert_close(standardized(torch.tensor([[5.0, 25.0, 45.0]])), wanted)


def test_decoupled_parts() -> None:
    """Target 1/2 against 1/4, and the others (3/5, 2/5) against (1/3, 2/3); the two parts make up the KL divergence."""
    student, teacher = logits((0.25, 0.25, 0.5)), logits((0.5, 0.3, 0.2))
    target = torch.tensor([0])
    about_target = 0.5 * math.log(2) + 0.5 * math.log(2 / 3)
    about_others = 0.6 * math.log(1.8) + 0.4 * math.log(0.6)
    assert about_target + 8 * about_others == value(decoupled(student, teacher, target, 1.0, (1.0, 8.0)))
    assert about_target + 0.5 * about_others == value(soft_targets(student, teacher, 1.0))


def test_correlations_of_two_samples() -> None:
    """Row correlations 11/14 and -13/14; of the columns of two samples, two are opposite and one is equal."""
    teacher, student = logits((0.2, 0.3, 0.5), (0.5, 0.2, 0.3)), logits((0.3, 0.2, 0.5), (0.2, 0.5, 0.3))
    rows = (3 / 14 + 27 / 14) / 2
    assert rows == value(correlations(student, teacher, 1.0, (1.0, 0.0)))
    assert rows + 3 * 4 / 3 == value(correlations(student, teacher, 1.0, (1.0, 3.0)))


def test_squared_error_of_kept_values() -> None:
    """The mean of 1 and 4, or 1 alone."""
    student, teacher = torch.tensor([[1.0, 2.0]]), torch.tensor([[2.0, 4.0]])
    assert value(squared_error(student, teacher)) == 2.5
    assert value(squared_error(student, teacher, torch.tensor([[True, False]]))) == 1.0


def test_hint_is_relative_to_the_teacher() -> None:
    """The mean square of the differences 1 and 2, and its share of the teacher's mean square 10; without padding 1."""
    student, teacher = torch.tensor([[[1.0, 2.0], [7.0, 7.0]]]), torch.tensor([[[2.0, 4.0], [0.0, 0.0]]])
    kept = torch.tensor([[True, False]])
    assert value(hint(student, teacher, False, kept)) == 2.5
    assert value(hint(student, teacher, True, kept)) == 0.25
    assert value(hint(student, teacher, True)) == (5 + 98) / 20


def test_attention_maps_of_two_positions() -> None:
    """Energies 1 and 2 against 2 and 1, both of length √5: the squared distance is 2/5."""
    one = attention_map(torch.tensor([[[1.0, 1.0], [2.0, 0.0]]]))
    torch.testing.assert_close(one, torch.tensor([[1.0, 2.0]]) / math.sqrt(5))
    assert value(attention_transfer(one, one.flip(1))) == 0.4
    padded = attention_map(torch.tensor([[[1.0], [9.0]]]), torch.tensor([[True, False]]))
    torch.testing.assert_close(padded, torch.tensor([[1.0, 0.0]]))


def test_similarities_of_two_samples() -> None:
    """Samples at right angles against equal ones: each row of the identity against (1, 1) / √2."""
    student, teacher = torch.eye(2), torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    assert (1 - math.sqrt(0.5)) ** 2 + 0.5 == value(similarity_preserving(student, teacher))


def test_relations_of_a_right_triangle_to_an_equilateral_one() -> None:
    """Distances 3, 4, 5 divided by 4 against 1; cosines 0, 0.6, 0.8 against 1/2."""
    student = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]])
    teacher = torch.tensor([[0.0, 0.0], [2.0, 0.0], [1.0, math.sqrt(3)]])
    assert value(distance_relations(student, teacher)) == 2 * 2 * 0.5 * 0.25**2 / 9
    assert value(angle_relations(student, teacher)) == 2 * 0.5 * (0.5**2 + 0.1**2 + 0.3**2) / 27


def test_attention_relations_of_two_tokens() -> None:
    """A teacher that attends (3/4, 1/4) in one of two rows; without the second token nothing is left to learn."""
    student, teacher = torch.zeros(1, 2, 1), torch.tensor([[[math.sqrt(math.log(3))], [0.0]]])
    wanted = (0.75 * math.log(1.5) + 0.25 * math.log(0.5)) / 2
    assert wanted == value(relation_loss(student, teacher, 1))
    assert value(relation_loss(student, teacher, 1, torch.tensor([[True, False]]))) == 0


def test_relation_heads_divide_both_widths() -> None:
    """MiniLM's widths 768 and 384 have 48 relation heads; narrow models have fewer, and odd ones a single one."""
    assert relation_heads_of(384, 768) == 48
    assert relation_heads_of(16, 32) == 2
    assert relation_heads_of(7, 13) == 1
    student, teacher = torch.randn(2, 5, 24), torch.randn(2, 5, 36)
    assert float(relation_loss(student, teacher, 12)) > 0


def test_embeddings() -> None:
    """45 degrees are 1 - √½; two samples at right angles are told apart with the loss ln(1 + 1/e)."""
    assert 1 - math.sqrt(0.5) == value(cosine_distance(torch.tensor([[2.0, 0.0]]), torch.tensor([[1.0, 1.0]])))
    assert math.log(1 + math.exp(-1)) == value(contrastive(3 * torch.eye(2), torch.eye(2), 1.0))


TARGETS = torch.tensor([0, 2, 1, 3])
Function = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
LOSSES: dict[str, Function] = {
    "soft_targets": lambda one, other: soft_targets(one, other, 4.0),
    "soft_binary_targets": lambda one, other: soft_binary_targets(one, other, 2.0),
    "standardized": lambda one, other: soft_targets(standardized(one), standardized(other), 2.0),
    "decoupled": lambda one, other: decoupled(one, other, TARGETS, 4.0, (1.0, 8.0)),
    "correlations": lambda one, other: correlations(one, other, 2.0, (1.0, 1.0)),
    "squared_error": squared_error,
    "hint": lambda one, other: hint(one, other, True),
    "attention_transfer": lambda one, other: attention_transfer(*(attention_map(x[..., None]) for x in (one, other))),
    "similarity_preserving": similarity_preserving,
    "distance_relations": distance_relations,
    "angle_relations": angle_relations,
    "relation_loss": lambda one, other: relation_loss(one[:, :, None], other[:, :, None], 1),
    "cosine_distance": cosine_distance,
}
"""Losses that are 0 for a student that equals its teacher."""


@pytest.mark.parametrize("name", [*LOSSES, "contrastive"])
def test_gradients_are_finite_and_vanish_for_a_perfect_student(name: str) -> None:
    """Gradients equal finite differences and are not 0; a student that equals its teacher has nothing to learn."""
    torch.manual_seed(0)
    loss: Function = LOSSES.get(name, lambda one, other: contrastive(one, other, 0.5))
    teacher = torch.randn(4, 5, dtype=torch.float64)
    student = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda one: loss(one, teacher), student)
    found = loss(student, teacher)
    (gradient,) = torch.autograd.grad(found, student)
    assert float(gradient.abs().max()) > 1e-6
    if name in LOSSES:
        perfect = teacher.clone().requires_grad_()
        found = loss(perfect, teacher)
        (gradient,) = torch.autograd.grad(found, perfect)
        assert abs(float(found.detach())) < 1e-12
        assert float(gradient.abs().max()) < 1e-7


@pytest.mark.parametrize("name", LOSSES)
def test_equal_samples_have_finite_gradients(name: str) -> None:
    """Constant outputs and a batch of equal samples, where distances and deviations are 0, give no NaN."""
    student = torch.ones(4, 5, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(LOSSES[name](student, torch.randn(4, 5, dtype=torch.float64)), student)
    assert bool(torch.isfinite(gradient).all())
