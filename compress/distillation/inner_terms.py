"""Losses on values inside teacher and student, applied to a batch: features, relations of samples, attention."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from ...core.counts import counted
from ...core.errors import ModelError
from ...core.options.distill_losses import (
    AttentionOptions,
    FeatureOptions,
    MinilmOptions,
    PairedOptions,
    RkdOptions,
    SimilarityOptions,
)
from ..program import Program
from .compared import Compared, Term
from .layers.attention_inputs import Attention, attention_layers, merged_heads
from .layers.mapping import Pair, pairs_of
from .layers.projection import comparable, pooled, projection
from .losses.attention_relations import relation_heads_of, relation_loss
from .losses.feature_losses import attention_map, attention_transfer, hint
from .losses.relation_losses import angle_relations, distance_relations, similarity_preserving

_MOST_LAYERS_OF_BASE = 12


class PairedTerm(Term):
    """A loss on pairs of layers, the mean over the pairs."""

    def __init__(self, options: PairedOptions, pairs: list[Pair]) -> None:
        super().__init__(options)
        self.pairs = pairs
        self.student_nodes = tuple(dict.fromkeys(ours.name for ours, _ in pairs))
        self.teacher_nodes = tuple(dict.fromkeys(theirs.name for _, theirs in pairs))
        self.chosen = tuple(f"{ours.describe()} learns from {theirs.describe()}" for ours, theirs in pairs)

    def __call__(self, batch: Compared) -> torch.Tensor:
        found = [self.of_pair(batch, number, *values) for number, values in enumerate(self._values(batch))]
        return torch.stack(found).mean()

    def of_pair(self, batch: Compared, number: int, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        """The loss of one pair of values ``[N, ..., C]`` with equal resolutions."""
        raise NotImplementedError

    def _values(self, batch: Compared) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for ours, theirs in self.pairs:
            yield comparable((ours, theirs), batch.node(ours.name), batch.teacher_node(theirs.name))


class Features(PairedTerm):
    """Hints, through a learned projection where widths differ."""

    def __init__(self, options: FeatureOptions, pairs: list[Pair]) -> None:
        super().__init__(options, pairs)
        self.normalize = options.normalize
        self.module = nn.ModuleList(projection(ours.width, theirs.width) for ours, theirs in pairs)

    def of_pair(self, batch: Compared, number: int, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        """The squared error of the projected values."""
        assert isinstance(self.module, nn.ModuleList)
        kept = batch.kept(tuple(student.shape[:-1]))
        return hint(self.module[number](student), teacher, self.normalize, kept)


class AttentionMaps(PairedTerm):
    """Attention transfer; vectors have no positions and are left out."""

    def __init__(self, options: AttentionOptions, pairs: list[Pair]) -> None:
        spatial = [pair for pair in pairs if all(layer.kind != "vector" for layer in pair)]
        if not spatial:
            raise ModelError(
                "the loss `attention` compares positions of feature maps or sequences, and only vectors can be paired",
                "use features or similarity",
            )
        super().__init__(options, spatial)

    def of_pair(self, batch: Compared, number: int, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        """The distance of the two attention maps."""
        kept = batch.kept(tuple(student.shape[:-1]))
        return attention_transfer(attention_map(student, kept), attention_map(teacher, kept))


class Similarities(PairedTerm):
    """Which samples are alike in the values of a pair; padding is set to zero."""

    def __init__(self, options: SimilarityOptions, pairs: list[Pair]) -> None:
        super().__init__(options, pairs)

    def of_pair(self, batch: Compared, number: int, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        """The distance of the two similarity matrices."""
        kept = batch.kept(tuple(student.shape[:-1]))
        if kept is not None:
            student, teacher = student * kept[..., None], teacher * kept[..., None]
        return similarity_preserving(student, teacher)


class Relations(PairedTerm):
    """Distances and angles of samples; automatically in the last pair, averaged over positions."""

    def __init__(self, options: RkdOptions, pairs: list[Pair]) -> None:
        super().__init__(options, pairs[-1:] if options.pairs == "auto" else pairs)
        self.weights = options.distance, options.angle

    def of_pair(self, batch: Compared, number: int, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        """Huber losses of distances and angles."""
        kept = batch.kept(tuple(student.shape[:-1]))
        ours, theirs = pooled(student, kept), pooled(teacher, kept)
        distance, angle = self.weights
        return distance * distance_relations(ours, theirs) + angle * angle_relations(ours, theirs)


class AttentionRelations(Term):
    """Relations of queries, keys and values of one attention layer, the mean over the three.

    Raises:
        ModelError: a model has no attention or not that many layers, or the relation heads do not divide a width.
    """

    def __init__(self, options: MinilmOptions, student: Program, teacher: Program) -> None:
        super().__init__(options)
        self._ours = _layer(attention_layers(student, "the student"), options.student_layer, "the student")
        layers = attention_layers(teacher, "the teacher")
        asked = options.teacher_layer
        if asked is None and len(layers) > _MOST_LAYERS_OF_BASE:
            asked = round(len(layers) * 7 / 8)
        self._theirs = _layer(layers, asked, "the teacher")
        self._heads = [_heads(options, one, other) for one, other in zip(self._ours.widths, self._theirs.widths)]
        self.student_nodes, self.teacher_nodes = self._ours.inputs, self._theirs.inputs
        self.chosen = (
            f"attention {self._ours.path or self._ours.inputs[0]} learns from "
            f"{self._theirs.path or self._theirs.inputs[0]} through {counted(self._heads[0], 'relation head')}",
        )

    def __call__(self, batch: Compared) -> torch.Tensor:
        found = []
        for number, (ours, theirs) in enumerate(zip(self._ours.inputs, self._theirs.inputs)):
            student = merged_heads(batch.node(ours), self._ours.turned and number == 1)
            teacher = merged_heads(batch.teacher_node(theirs), self._theirs.turned and number == 1)
            kept = batch.kept(tuple(student.shape[:2]))
            found.append(relation_loss(student, teacher, self._heads[number], kept))
        return torch.stack(found).mean()


def _layer(layers: list[Attention], number: int | None, whose: str) -> Attention:
    if number is not None and number > len(layers):
        raise ModelError(
            f"{whose} has no attention layer {number}; it has {len(layers)}", "choose a layer from 1 to the last"
        )
    return layers[(number or len(layers)) - 1]


def _heads(options: MinilmOptions, ours: int, theirs: int) -> int:
    heads = options.relation_heads or relation_heads_of(ours, theirs)
    if ours % heads or theirs % heads:
        raise ModelError(
            f"{heads} relation heads do not divide the widths {ours} (student) and {theirs} (teacher) of the attention",
            "give `relation_heads` a number that divides both",
        )
    return heads


def paired_term(options: PairedOptions, student: Program, teacher: Program) -> PairedTerm:
    """The loss on pairs of layers that options describe.

    Raises:
        ModelError: a layer does not exist, or no layers can be paired.
    """
    pairs = pairs_of(student, teacher, options.pairs)
    if isinstance(options, FeatureOptions):
        return Features(options, pairs)
    if isinstance(options, AttentionOptions):
        return AttentionMaps(options, pairs)
    if isinstance(options, SimilarityOptions):
        return Similarities(options, pairs)
    assert isinstance(options, RkdOptions)
    return Relations(options, pairs)
