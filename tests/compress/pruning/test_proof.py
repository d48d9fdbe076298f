"""The proof of a cut: wrong rules, wrong surgery and wrong masks are refused and the operator is named."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from retort.compress.capture.capture_program import capture
from retort.compress.program import Program
from retort.compress.pruning.coupling import rules
from retort.compress.pruning.coupling.groups import find_groups
from retort.compress.pruning.coupling.propagate import Coupling, couple
from retort.compress.pruning.proof import perturbation
from retort.compress.pruning.proof.prove import prove
from retort.compress.pruning.step import prune_program
from retort.compress.pruning.surgery import rewrite_constants, slice_parameters
from retort.compress.pruning.surgery.slice_parameters import cut
from retort.core.errors import UserError, VerificationError
from retort.core.options.stage_options import PruneOptions

IMAGE = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
OPTIONS = PruneOptions(macs=0.5, min_channels=2, recover=None)


class Net(nn.Module):
    """Residual, grouped convolution, layer norm over channels, hard-coded sizes, activations with f(0) != 0."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.left, self.right = nn.Conv2d(3, 16, 3, 1, 1), nn.Conv2d(16, 16, 1), nn.Conv2d(16, 16, 1)
        self.grouped, self.norm = nn.Conv2d(16, 32, 1, groups=4), nn.LayerNorm(32)
        self.out = nn.Linear(32 * 16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.sigmoid(self.stem(x))
        x = F.hardswish(self.left(x) + 1) + torch.cos(self.right(x))
        x = F.avg_pool2d(F.softplus(self.grouped(x)), 2)
        x = self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self.out(x.reshape(-1, 32 * 16))


def program_of(model: nn.Module | None = None) -> Program:
    torch.manual_seed(0)
    return capture(model or Net(), {"image": IMAGE})


def half_removed(program: Program, coupling: Coupling, seed: int = 0) -> Any:
    draw = np.random.default_rng(seed)
    removed = np.zeros(len(coupling.unions), bool)
    for group in find_groups(coupling).free:
        removed[draw.choice(group.units, len(group.units) // 2, replace=False)] = True
    return removed


def test_a_right_cut_is_proven_at_two_batch_sizes() -> None:
    """The pruned and the masked program differ only by rounding."""
    pruned = prune_program(program_of(), OPTIONS)
    assert pruned.proof.error < 1e-12
    assert pruned.proof.dtype == "float64"
    assert pruned.proof.batches == (4, 3)


def test_a_rule_that_forgets_to_unite_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """With an elementwise rule that ignores its second operand, the cut is rejected and the sum is named."""
    right = rules.pointwise

    def wrong(c: Any, node: Any, a: Any) -> Any:
        return c.of(a["self"]) if "add.Tensor" in str(node.target) and "other" in a else right(c, node, a)

    monkeypatch.setattr(rules, "pointwise", wrong)
    program = program_of()
    state = copy.deepcopy(program.module.state_dict())
    coupling = couple(program)
    removed = half_removed(program, coupling)
    after = cut(program, coupling, removed)
    assert after.module.get_parameter("left.weight").shape == after.module.get_parameter("right.weight").shape
    with pytest.raises(VerificationError, match=r"the cut is rejected.*add") as caught:
        prove(program, after, coupling, removed, 1e-4)
    assert "add" in str(caught.value.facts["node"])
    assert all(torch.equal(value, state[name]) for name, value in program.module.state_dict().items())


def test_a_rule_that_loses_labels_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A normalisation that does not couple its parameters can no longer run, and is named."""
    monkeypatch.setitem(rules.RULES, "layer_norm", lambda c, node, a: c.of(a["input"]))
    with pytest.raises(VerificationError, match=r"layer_norm"):
        prune_program(program_of(), OPTIONS)


@pytest.mark.parametrize(("operator", "named"), [("reshape", "reshape"), ("conv2d", "conv2d")])
def test_a_constant_left_as_it_was_is_refused(monkeypatch: pytest.MonkeyPatch, operator: str, named: str) -> None:
    """A size or group count that surgery does not rewrite is found, at its node or at its reader."""
    monkeypatch.setitem(rewrite_constants.REWRITES, operator, lambda node, sizes: None)
    with pytest.raises(VerificationError, match=named):
        prune_program(program_of(), OPTIONS)


def test_slicing_other_channels_than_planned_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Surgery that keeps the right number of wrong channels is found at the first parameter that it slices."""
    right = slice_parameters.kept_of
    monkeypatch.setattr(
        slice_parameters,
        "kept_of",
        lambda *given: [None if kept is None else np.arange(len(kept)) for kept in right(*given)],
    )
    with pytest.raises(VerificationError, match="the cut is rejected"):
        prune_program(program_of(), OPTIONS)


def test_a_branch_hidden_by_a_zero_weight_is_proven_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong rule before a scale that is initialised with zero does not change any output, and is found anyway."""

    class Hidden(Net):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.zeros(1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.stem(x)
            return self.out(
                (x + self.scale * (self.left(x) - self.right(x))).repeat(1, 2, 1, 1)[..., ::2, ::2].flatten(1)
            )

    right = rules.pointwise

    def wrong(c: Any, node: Any, a: Any) -> Any:
        return c.of(a["self"]) if "sub.Tensor" in str(node.target) else right(c, node, a)

    monkeypatch.setattr(rules, "pointwise", wrong)
    program = program_of(Hidden())
    coupling = couple(program)
    removed = half_removed(program, coupling)
    with pytest.raises(VerificationError, match="sub"):
        prove(program, cut(program, coupling, removed), coupling, removed, 1e-4)


class Words(nn.Module):
    """A table whose rows are zero, on features that depend on the same channels."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.inner = nn.Embedding(600, 24), nn.Linear(24, 24)
        self.left, self.out = nn.Linear(5, 24), nn.Linear(24, 3)
        nn.init.zeros_(self.table.weight)

    def forward(self, ids: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return self.out(torch.tanh(self.inner(self.table(ids) + self.left(x))).mean(1))


def words() -> Program:
    torch.manual_seed(0)
    draw = torch.Generator().manual_seed(0)
    ids, x = torch.randint(0, 600, (4, 7), generator=draw), torch.randn(4, 7, 5, generator=draw)
    return capture(Words(), {"ids": ids, "x": x})


@pytest.mark.parametrize("cut_side", [False, True])
def test_looked_up_rows_move_like_their_table(cut_side: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise on rows is the noise of the whole table at these rows, for any slices."""
    monkeypatch.setattr(perturbation, "_SLICE", 24 * 50)
    program = words()
    coupling = couple(program)
    removed = half_removed(program, coupling)
    side = cut(program, coupling, removed) if cut_side else program
    table = dict(side.module.named_parameters())["table.weight"].detach()
    given, ids = perturbation.Noise(program, coupling, removed, cut_side), program.example["ids"]
    whole = given.perturbed("table.weight", table)
    assert table.shape[1] == (12 if cut_side else 24)
    assert float(whole.std()) > 0.05
    torch.testing.assert_close(given.looked_up("table.weight", ids, table[ids]), whole[ids], rtol=0, atol=0)


def test_a_table_of_zeros_hides_no_wrong_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wrong columns of a table of zeros do not change the outputs, and are found anyway."""
    assert prune_program(words(), OPTIONS).proof.error < 1e-12
    right = slice_parameters.kept_of

    def wrong(coupling: Coupling, name: str, removed: Any) -> Any:
        kept = right(coupling, name, removed)
        return [None if item is None else np.arange(len(item)) for item in kept] if name == "table.weight" else kept

    for module in (slice_parameters, perturbation):
        monkeypatch.setattr(module, "kept_of", wrong)
    with pytest.raises(VerificationError, match="embedding"):
        prune_program(words(), OPTIONS)


def test_statistics_over_channels_count_what_is_kept() -> None:
    """Means, deviations and maxima over channels use only the kept ones, and so does the proof."""

    class Statistics(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = torch.sigmoid(self.stem(x))
            y = (x - x.mean(1, keepdim=True)) / (x.std(1, keepdim=True) + 0.1)
            z = x.amax(1, keepdim=True) * F.rms_norm(x.movedim(1, -1), (16,)).movedim(-1, 1)
            w = F.group_norm(x, 4) + F.normalize(x, dim=1) + F.instance_norm(x)
            return self.out(F.avg_pool2d(torch.cat([y + z, w], 1), 2).flatten(1))

    pruned = prune_program(program_of(Statistics()), OPTIONS)
    assert pruned.proof.error < 1e-12
    assert pruned.program.module.get_parameter("stem.weight").shape[0] < 16


def test_a_graph_with_a_fixed_precision_is_proven_in_single(monkeypatch: pytest.MonkeyPatch) -> None:
    """If double precision is impossible, outputs are compared in single precision, and the report says so."""

    @torch.library.custom_op("retort_tests::single", mutates_args=())
    def single(x: torch.Tensor) -> torch.Tensor:
        if x.dtype != torch.float32:
            raise RuntimeError("float32 only")
        return x.clone()

    single.register_fake(torch.empty_like)

    class Fixed(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return single(super().forward(x))

    pruned = prune_program(program_of(Fixed()), OPTIONS)
    assert pruned.proof.dtype == "float32"
    assert pruned.proof.error < 1e-4


def test_a_tolerance_below_the_rounding_of_half_precision_is_refused() -> None:
    """If the graph runs only in bfloat16, a tolerance below its rounding is rejected with the smallest possible one."""

    @torch.library.custom_op("retort_tests::brain", mutates_args=())
    def brain(x: torch.Tensor) -> torch.Tensor:
        if x.dtype != torch.bfloat16:
            raise RuntimeError("bfloat16 only")
        return x.clone()

    brain.register_fake(torch.empty_like)

    class Brain(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return brain(super().forward(x.bfloat16())).float()

    program = program_of(Brain().bfloat16())
    with pytest.raises(UserError, match=r"tolerance 0.0001 cannot be met: .* only in bfloat16") as caught:
        prune_program(program, OPTIONS)
    least = float(str(caught.value.facts["least"]))
    pruned = prune_program(program, PruneOptions(macs=0.5, min_channels=2, recover=None, tolerance=least))
    assert pruned.proof.dtype == "bfloat16"
