"""The importance `reconstruction`: what is lost for good, after the readers of a channel have been fitted again."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from retort.compress.capture.capture_program import capture
from retort.compress.program import Program
from retort.compress.pruning.coupling.groups import find_groups
from retort.compress.pruning.coupling.propagate import couple
from retort.compress.pruning.selection.gradients import Samples
from retort.compress.pruning.selection.importance import Scores, score
from retort.core.data.splits import ArraySplit
from retort.core.options.stage_options import Task


def split(rows: int = 128) -> ArraySplit:
    draw = np.random.default_rng(0)
    return ArraySplit({"x": draw.normal(size=(rows, 8)).astype("float32")})


def scores_of(program: Program, task: Task = "regression") -> tuple[list[str], list[Scores]]:
    """The names of the groups, and the scores of their units."""
    grouping = find_groups(couple(program))
    found = score(program, grouping, "reconstruction", 0, normalize="none", evidence=Samples(split(), task))
    return [group.name for group in grouping.free], [found[group.units] for group in grouping.free]


def test_a_copy_of_another_channel_costs_nothing_but_the_last_one_does() -> None:
    """Of two equal channels one can be removed without loss, although both have large weights; not the other one."""
    torch.manual_seed(0)
    first, last = nn.Linear(8, 12), nn.Linear(12, 3)
    with torch.no_grad():
        first.weight[6:9], first.bias[6:9] = 5 * first.weight[:3], 5 * first.bias[:3]
    _, (scores,) = scores_of(capture(nn.Sequential(first, nn.ReLU(), last), {"x": torch.randn(4, 8)}))
    pairs = [(0, 6), (1, 7), (2, 8)]
    single = [place for place in range(12) if place not in {place for pair in pairs for place in pair}]
    assert all(min(scores[list(pair)]) < 0.05 * np.median(scores[single]) for pair in pairs)
    assert all(max(scores[list(pair)]) > 20 * min(scores[list(pair)]) for pair in pairs)


def test_layers_are_comparable_by_their_effect_on_the_outputs() -> None:
    """A branch whose outputs are scaled down by a thousand loses a million times less."""

    class Uneven(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.strong = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
            self.weak = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = self.strong(x) + 1e-3 * self.weak(x)
            return result

    torch.manual_seed(0)
    program = capture(Uneven(), {"x": torch.randn(4, 8)})
    for task in ("regression", "classification"):
        names, (strong, weak) = scores_of(program, task)
        assert names == ["strong.0", "weak.0"]
        assert strong.mean() > 1e4 * weak.mean()
        assert all(item.requires_grad for item in program.module.parameters())


def test_convolutions_normalisations_and_attention_get_scores() -> None:
    """Every group of a CNN with a depthwise layer and of an attention layer has positive, finite scores."""

    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.norm, self.deep = (
                nn.Conv1d(1, 16, 3, 1, 1),
                nn.BatchNorm1d(16),
                nn.Conv1d(16, 16, 3, 1, 1, groups=16),
            )
            self.two, self.attend, self.head = (
                nn.Conv1d(16, 16, 1),
                nn.MultiheadAttention(16, 4, batch_first=True),
                nn.Linear(16, 3),
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.two(torch.relu(self.deep(torch.relu(self.norm(self.one(x[:, None]))))))
            y = y.transpose(1, 2)
            result: torch.Tensor = self.head((y + self.attend(y, y, y, need_weights=False)[0]).mean(1))
            return result

    torch.manual_seed(0)
    names, found = scores_of(capture(Mixed().eval(), {"x": torch.randn(4, 8)}))
    assert len(names) >= 2
    assert all(np.isfinite(scores).all() and (scores >= 0).all() and scores.max() > 0 for scores in found)
