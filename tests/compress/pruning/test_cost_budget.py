"""Budgets: they are met from below, limits are respected, and unreachable budgets are rejected."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from retort.compress.capture.capture_program import capture
from retort.compress.program import Program, cost
from retort.compress.pruning.coupling.groups import find_groups
from retort.compress.pruning.coupling.propagate import couple
from retort.compress.pruning.selection.cost_model import CostModel
from retort.compress.pruning.selection.importance import score
from retort.compress.pruning.step import prune_program
from retort.compress.pruning.surgery.slice_parameters import cut
from retort.core.errors import UserError
from retort.core.options.stage_options import PruneOptions

IMAGE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        self.deep = nn.Conv2d(width, width, 3, 1, 1, groups=width)
        self.wide, self.narrow = nn.Conv2d(width, 2 * width, 1), nn.Conv2d(2 * width, width, 3, 1, 1, groups=2)
        self.hidden, self.out = nn.Linear(width * 16, 32), nn.Linear(32, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.deep(F.relu(self.norm(self.stem(x))))
        x = F.max_pool2d(x + self.narrow(F.gelu(self.wide(x))), 2)
        return self.out(F.relu(self.hidden(x.flatten(1))))


def program_of(model: nn.Module | None = None) -> Program:
    torch.manual_seed(0)
    return capture(model or Net(), {"image": IMAGE})


def options(**given: object) -> PruneOptions:
    return PruneOptions.model_validate({"recover": None, "min_channels": 2, **given})


@pytest.mark.parametrize("measure", ["macs", "parameters"])
def test_the_cost_model_is_exact(measure: str) -> None:
    """The predicted cost of a random cut equals the cost of the pruned program."""
    program = program_of()
    coupling = couple(program)
    grouping = find_groups(coupling)
    model = CostModel(program, grouping, measure)  # type: ignore[arg-type]
    draw = np.random.default_rng(0)
    removed = np.zeros(len(coupling.unions), bool)
    assert model(removed) == pytest.approx(getattr(cost(program), measure))
    for group in grouping.free:
        removed[draw.choice(group.units, len(group.units) // 2, replace=False)] = True
    assert model(removed) == pytest.approx(getattr(cost(cut(program, coupling, removed)), measure))


@pytest.mark.parametrize("measure", ["macs", "parameters"])
@pytest.mark.parametrize("scope", ["global", "layer"])
@pytest.mark.parametrize("share", [0.3, 0.7])
def test_budgets_are_met_from_below(measure: str, scope: str, share: float) -> None:
    """The remaining share is at most the requested one and within three points of it, with coarse units."""
    program = program_of()
    pruned = prune_program(program, options(**{measure: share, "scope": scope}))
    left = getattr(pruned.cost, measure) / getattr(cost(program), measure)
    assert share - 0.03 <= left <= share


def test_a_share_of_one_cuts_nothing() -> None:
    """A share of 1 removes no channels."""
    program = program_of()
    assert prune_program(program, options(macs=1.0)).cost == cost(program)


@pytest.mark.parametrize("align", [4, 8])
def test_kept_channels_are_multiples_of_the_alignment(align: int) -> None:
    """Every layer that was cut keeps a multiple of the requested step."""
    program = program_of()
    pruned = prune_program(program, options(macs=0.5, align=align)).program
    before, after = program.module.state_dict(), pruned.module.state_dict()
    widths = {name: (before[name].shape[0], value.shape[0]) for name, value in after.items() if value.dim() > 1}
    assert any(old != new for old, new in widths.values())
    assert all(old == new or new % align == 0 for old, new in widths.values())


def test_every_layer_keeps_its_minimum() -> None:
    """However low the budget, no layer falls below the minimum width."""
    program = program_of()
    pruned = prune_program(program, options(macs=0.15, min_channels=6)).program
    widths = [value.shape[0] for name, value in pruned.module.state_dict().items() if value.dim() > 1]
    assert min(width for width in widths if width != 5) >= 6


def test_parts_of_a_split_keep_their_minimum_too() -> None:
    """If all unimportant channels are in one half of a split, that half keeps its minimum."""

    class Halves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.left, self.out = nn.Conv2d(3, 16, 1), nn.Conv2d(8, 8, 1), nn.Linear(16, 5)
            with torch.no_grad():
                self.first.weight[:8] *= 1e-3

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            left, right = self.first(x).chunk(2, 1)
            return self.out(torch.cat([self.left(left), right], 1).mean((2, 3)))

    pruned = prune_program(program_of(Halves()), options(macs=0.6, min_channels=3)).program
    assert pruned.module.get_parameter("left.weight").shape[1] >= 3


def test_a_budget_out_of_reach_is_refused_with_the_least_possible() -> None:
    """If locked channels prevent the budget, the message has the smallest share, and that share can be reached."""
    program = program_of()
    with pytest.raises(UserError, match=r"1.0% of the multiply-accumulates cannot be reached") as caught:
        prune_program(program, options(macs=0.01, min_channels=8))
    least = float(str(caught.value.facts["least"]))
    pruned = prune_program(program, options(macs=least + 1e-6, min_channels=8))
    assert pruned.cost.macs / cost(program).macs == pytest.approx(least, abs=1e-4)


def test_an_excluded_layer_keeps_its_width() -> None:
    """An excluded layer keeps all channels, and other layers lose more."""
    program = program_of()
    pruned = prune_program(program, options(macs=0.6, exclude=("wide.*",))).program
    assert pruned.module.get_parameter("wide.weight").shape[0] == 48
    assert pruned.module.get_parameter("hidden.weight").shape[1] < 24 * 16


@pytest.mark.parametrize("criterion", ["l1", "l2"])
def test_norms_keep_the_strong_channels(criterion: str) -> None:
    """Channels with small values in all coupled parameters are removed."""
    torch.manual_seed(0)
    first, last = nn.Linear(192, 32), nn.Linear(32, 5)
    model = nn.Sequential(nn.Flatten(), first, nn.ReLU(), last)
    weak = torch.arange(32) % 2 == 0
    with torch.no_grad():
        first.weight[weak] *= 1e-3
        first.bias[weak] *= 1e-3
        last.weight[:, weak] *= 1e-3
        strong = first.bias[~weak].clone()
    pruned = prune_program(program_of(model), options(macs=0.5, importance=criterion)).program
    assert torch.equal(dict(pruned.module.named_parameters())["1.bias"], strong)


def test_scores_are_comparable_across_groups_and_seeded() -> None:
    """The mean score of every group is 1 for any scale; random scores depend on the seed."""
    model = Net()
    with torch.no_grad():
        model.wide.weight *= 100
    program = program_of(model)
    grouping = find_groups(couple(program))
    scores = score(program, grouping, "l2", 0)
    assert all(scores[group.units].mean() == pytest.approx(1.0) for group in grouping.free)
    first, again, other = (score(program, grouping, "random", seed) for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_the_same_options_cut_the_same_channels() -> None:
    """A cut is deterministic."""
    one, two = (prune_program(program_of(), options(macs=0.5)).program.module.state_dict() for _ in range(2))
    assert all(torch.equal(value, two[name]) for name, value in one.items())


def test_a_model_without_removable_channels_is_refused_with_the_reasons() -> None:
    """If nothing can be removed, the message names the layers and why, and does not ask for a budget of 100 %."""
    program = capture(nn.Sequential(nn.Linear(6, 4)), {"input": torch.randn(4, 6)})
    with pytest.raises(UserError, match=r"no channel .* can be removed from this model \(0: is the output") as caught:
        prune_program(program, options(macs=0.7))
    assert caught.value.facts["least"] == 1.0
    assert "quantize" in caught.value.remedy
    narrow = capture(nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3)), {"input": torch.randn(4, 6)})
    with pytest.raises(UserError, match="0: has no more channels than min_channels and align allow; 2: is the output"):
        prune_program(narrow, options(macs=0.7, min_channels=8))
