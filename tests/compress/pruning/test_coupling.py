"""Coupled channels: groups, locks with their reasons, exclusions, and the table of ``--explain``."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from retort.compress.capture.capture_program import capture
from retort.compress.program import Program
from retort.compress.pruning.coupling.broadcasting import consume, keep_whole, meet
from retort.compress.pruning.coupling.explain import explain
from retort.compress.pruning.coupling.groups import Grouping, exclude, find_groups
from retort.compress.pruning.coupling.labels import Unions, Value, along, compact, core, varying
from retort.compress.pruning.coupling.propagate import couple
from retort.compress.pruning.step import prune_program
from retort.core.errors import UserError
from retort.core.options.stage_options import PruneOptions

IMAGE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@torch.library.custom_op("retort_tests::rotate", mutates_args=())
def rotate(x: torch.Tensor) -> torch.Tensor:
    return x.roll(1, 1)


@rotate.register_fake
def _(x: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x)


class Net(nn.Module):
    """A residual network whose middle is computed by ``middle``."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.inner = nn.Conv2d(3, 12, 3, 1, 1), nn.Conv2d(12, 20, 3, 1, 1)
        self.back, self.out = nn.Conv2d(20, 12, 1), nn.Linear(12, 5)

    def middle(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return self.out((x + self.back(self.middle(self.inner(x)))).mean((2, 3)))


def program_of(model: nn.Module) -> Program:
    torch.manual_seed(0)
    return capture(model, {"image": IMAGE})


def groups_of(model: nn.Module) -> Grouping:
    return find_groups(couple(program_of(model)))


def test_a_residual_couples_what_it_adds_and_the_output_is_locked() -> None:
    """The stem and the branch's last layer are one group, its inner layer another; the classifier is locked."""
    rows = explain(program_of(Net()))
    assert [(row.layers, row.channels, row.units) for row in rows] == [
        (("stem", "back"), 12, 12),
        (("inner",), 20, 20),
        (("out",), 5, 0),
    ]
    assert rows[-1].reason == "is the output 'output'"


def test_an_unknown_operator_locks_what_it_touches_and_is_named() -> None:
    """An operator without a rule locks its channels with node, module and source line; the others are cut."""

    class Unknown(Net):
        def middle(self, x: torch.Tensor) -> torch.Tensor:
            return rotate(x)

    grouping = groups_of(Unknown())
    assert [group.name for group in grouping.free] == ["stem"]
    locked = next(group for group in grouping.locked if group.name == "inner")
    assert "retort_tests::rotate 'rotate'" in locked.reason
    assert "test_coupling.py" in locked.reason
    pruned = prune_program(program_of(Unknown()), PruneOptions(macs=0.7, recover=None))
    assert pruned.program.module.get_parameter("inner.weight").shape[0] == 20
    assert pruned.program.module.get_parameter("stem.weight").shape[0] < 12


def test_a_fourier_transform_keeps_the_dimensions_it_mixes() -> None:
    """Transformed dimensions are not cut; other channels are, with the proof."""

    class Spectral(Net):
        def middle(self, x: torch.Tensor) -> torch.Tensor:
            return torch.fft.irfft2(torch.fft.rfft2(x), s=x.shape[-2:])

    class Mixed(Net):
        def middle(self, x: torch.Tensor) -> torch.Tensor:
            return torch.fft.fftn(x, dim=(1, 2)).real

    free = prune_program(program_of(Spectral()), PruneOptions(macs=0.5, min_channels=2, recover=None))
    assert {"stem", "inner"} <= {name for group in free.grouping.free for name in group.layers}
    locked = groups_of(Mixed())
    assert not locked.coupling.unknown
    assert [group.name for group in locked.locked] == ["inner", "out"]


def test_spectral_norm_goes_with_its_channels() -> None:
    """The largest singular value is computed from the kept channels: layers with spectral norm are cut and proven."""
    model = Net()
    model.inner = nn.utils.parametrizations.spectral_norm(model.inner)  # type: ignore[assignment]
    program = program_of(model)
    assert not couple(program).unknown
    pruned = prune_program(program, PruneOptions(macs=0.5, min_channels=2))
    assert pruned.program.module.get_parameter("inner.parametrizations.weight.original").shape[0] < 20


class Unpooled(Net):
    def middle(self, x: torch.Tensor) -> torch.Tensor:
        values, places = F.max_pool2d(x, 2, return_indices=True)
        return F.max_unpool2d(values, places, [2, 2])


class Turned(Net):
    def middle(self, x: torch.Tensor) -> torch.Tensor:
        pairs = torch.view_as_complex(x.unflatten(3, (4, 2)))
        return torch.view_as_real(pairs * pairs.conj() + pairs).flatten(3)


class Paired(Net):
    def __init__(self) -> None:
        super().__init__()
        self.both = nn.Bilinear(12, 20, 20)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        one, two = x.mean((2, 3)), self.inner(x).mean((2, 3))
        return self.back(self.both(one, two)[:, :, None, None])


class Compared(Net):
    def forward(self, x: torch.Tensor) -> Any:
        one, two = self.inner(self.stem(x)).mean((2, 3)), self.inner(self.stem(x.flip(3))).mean((2, 3))
        return F.cosine_similarity(one, two, 1), F.pairwise_distance(one, two, keepdim=True)


class Scattered(Net):
    def middle(self, x: torch.Tensor) -> torch.Tensor:
        places = torch.tensor([0, 2, 2, 5, 0, 1, 7, 7]).expand(*x.shape[:3], 8)
        return torch.zeros_like(x).scatter_add(3, places, x.gather(3, places))


class Deformed(Net):
    """Five heads in the batch, each with its own sampling positions (deformable attention)."""

    def __init__(self) -> None:
        super().__init__()
        self.places = nn.Conv2d(12, 10, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        grid = self.places(x).unflatten(1, (5, 2)).permute(0, 1, 3, 4, 2).flatten(0, 1).tanh()
        values = self.inner(x).reshape(len(x) * 5, 4, *x.shape[2:])
        return self.back(F.grid_sample(values, grid, align_corners=False).view(len(x), 20, *x.shape[2:])).mean((2, 3))


@pytest.mark.parametrize("model", [Unpooled, Turned, Paired, Compared, Scattered, Deformed])
def test_channels_of_rarer_operators_are_cut(model: type[nn.Module]) -> None:
    """Unpooling, complex numbers, bilinear layers, similarities and indexed sums are cut, and the cut is proven."""
    program = program_of(model())
    assert not couple(program).unknown
    pruned = prune_program(program, PruneOptions(macs=0.5, min_channels=2))
    assert pruned.program.module.get_parameter("inner.weight").shape[0] < 20


def test_a_form_that_a_rule_does_not_cover_locks_too() -> None:
    """A mask as an index has a shape that depends on data: its operand is locked, and nothing fails."""

    class Scatter(Net):
        def middle(self, x: torch.Tensor) -> torch.Tensor:
            index = torch.zeros(x.shape[0], 1, 8, 8, dtype=torch.int64)
            return x.scatter_add(1, index, x[:, :1])

    grouping = groups_of(Scatter())
    assert "inner" in [group.name for group in grouping.locked]


def test_a_softmax_over_channels_locks_them() -> None:
    """Channels that are normalised together are locked, with the softmax as the reason."""

    class Softmax(Net):
        def middle(self, x: torch.Tensor) -> torch.Tensor:
            return x.softmax(1)

    locked = {group.name: group.reason for group in groups_of(Softmax()).locked}
    assert "softmax" in locked["inner"]


def test_channels_that_meet_a_computed_range_stay() -> None:
    """A value per channel that is not a parameter cannot be sliced, so its channels are locked."""

    class Ramp(Net):
        def middle(self, x: torch.Tensor) -> torch.Tensor:
            return x * torch.arange(20).view(1, -1, 1, 1)

    locked = {group.name: group.reason for group in groups_of(Ramp()).locked}
    assert "arange" in locked["inner"]


def test_a_single_channel_stays() -> None:
    """A part of a split with only one channel keeps it."""

    class Gate(Net):
        def middle(self, x: torch.Tensor) -> torch.Tensor:
            gate, rest = x.split([1, 19], 1)
            return F.pad(rest * gate.sigmoid(), (0, 0, 0, 0, 1, 0))

    group = next(group for group in groups_of(Gate()).free if group.name == "inner")
    assert len(group.units) == 19


def test_excluded_parameters_keep_their_channels() -> None:
    """A pattern locks the outputs of the matching parameters, and the reason is the pattern."""
    program = program_of(Net())
    coupling = couple(program)
    exclude(program, coupling, ["inn*.weight"])
    locked = {group.name: group.reason for group in find_groups(coupling).locked}
    assert locked["inner"] == "excluded by 'inn*.weight'"


def test_a_pattern_that_matches_nothing_gives_the_nearest_names() -> None:
    """A misspelt exclusion is rejected with similar names."""
    with pytest.raises(UserError, match=r"no layer or parameter matches .iner.wieght.") as caught:
        prune_program(program_of(Net()), PruneOptions(macs=0.5, exclude=("iner.wieght",), recover=None))
    assert "inner.weight" in caught.value.remedy


def test_unions_keep_the_first_reason_and_the_smallest_root() -> None:
    """Classes merge to their smallest label; a lock applies to labels that are added to the class later."""
    unions = Unions()
    ids = unions.fresh(6)
    unions.lock(ids[4:5], "because")
    unions.unite(ids[:2], ids[4:6])
    unions.unite(ids[1:3], ids[2:4])
    roots = unions.find(ids.numpy())
    assert roots.tolist() == [1, 2, 2, 2, 1, 2]
    assert unions.locked(ids.numpy()).tolist() == [True, False, False, False, True, False]
    assert unions.why(ids.numpy()) == "because"


def test_arrays_are_stored_along_the_dimensions_they_vary_in() -> None:
    """An array that varies only along the channels of a large value stores one number per channel."""
    array = along(torch.arange(5), (2, 5, 100, 100), 1)
    moved = compact(array.permute(0, 2, 3, 1).reshape(2, 10000, 5))
    assert varying(moved) == {2}
    assert core(moved).numel() == 5


def test_labels_that_meet_something_fixed_are_locked() -> None:
    """On a common dimension, an operand without labels locks the other one; a broadcast operand does not."""
    unions = Unions()
    labels = Value((2, 4), [along(unions.fresh(4), (2, 4), 1)])
    assert len(meet(unions, [labels, Value((2, 1))], "here").arrays) == 1
    assert meet(unions, [labels, Value((1, 4), [], "an input")], "here").arrays == []
    assert unions.why(labels.arrays[0].numpy()) == "an input"


@pytest.mark.parametrize(("whole", "left"), [(True, 3), (False, 0)])
def test_a_sum_over_a_part_of_joint_labels_follows_the_policy(whole: bool, left: int) -> None:
    """For heads times head dimension, a sum keeps whole heads or reduces the head dimension."""
    unions = Unions()
    joint = Value((3, 8), [unions.fresh(24).reshape(3, 8)])
    result = consume(unions, joint, [1], whole)
    assert result.shape == (3, 1)
    assert len(np.unique([core(array).numpy() for array in result.arrays])) == left


def test_a_dimension_kept_whole_unites_along_it() -> None:
    """Joint labels lose the forbidden dimension and keep the other."""
    unions = Unions()
    value = keep_whole(unions, Value((3, 8), [unions.fresh(24).reshape(3, 8)]), [1], "whole")
    assert [varying(array) for array in value.arrays] == [{0}]


def test_explaining_leaves_the_program_alone() -> None:
    """The table is computed without changing the program."""
    program = program_of(Net())
    code, weight = program.module.code, program.module.get_parameter("stem.weight").clone()
    explain(program)
    assert program.module.code == code
    assert torch.equal(program.module.get_parameter("stem.weight"), weight)
