"""Code under no_grad and autocast, and values that a model caches: how a capture handles them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from retort.compress.capture.capture_program import capture
from retort.compress.program import Program, cost, set_training
from retort.compress.pruning.step import prune_program
from retort.core.errors import CaptureError
from retort.core.options.stage_options import PruneOptions

IMAGE = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Frozen(nn.Module):
    """A backbone under no_grad, in which one layer has gradients enabled again if ``nested``."""

    def __init__(self, nested: bool = False) -> None:
        super().__init__()
        self.nested = nested
        self.stem, self.norm, self.body = nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.Conv2d(16, 24, 3)
        self.out = nn.Linear(24, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            x = torch.relu(self.norm(self.stem(x)))
            if self.nested:
                with torch.enable_grad():
                    x = self.body(x)
            else:
                x = self.body(x)
            y = x.amax((2, 3))
        return self.out(x.mean((2, 3)) + y)


def program_of(model: nn.Module) -> Program:
    torch.manual_seed(0)
    return capture(model, {"image": IMAGE})


def test_a_backbone_under_no_grad_is_in_the_graph_and_gets_no_gradient() -> None:
    """Its convolutions are counted and pruned like any others, and training does not change them."""
    program = program_of(Frozen())
    pruned = prune_program(program, PruneOptions(macs=0.5, min_channels=2, recover=None))
    assert pruned.cost.macs <= 0.5 * cost(program).macs
    assert not pruned.grouping.coupling.unknown
    set_training(pruned.program, True)
    pruned.program.module(IMAGE)[0].square().mean().backward()
    trained = {name for name, weight in pruned.program.module.named_parameters() if weight.grad is not None}
    assert trained == {"out.weight", "out.bias"}


def test_gradients_switched_on_again_stay_on() -> None:
    """A body that enables gradients inside no_grad is not inlined."""
    program = program_of(Frozen(nested=True))
    set_training(program, True)
    program.module(IMAGE)[0].square().mean().backward()
    trained = {name.split(".")[0] for name, weight in program.module.named_parameters() if weight.grad is not None}
    assert trained == {"out", "body"}


def test_cached_values_of_parameters_are_discarded() -> None:
    """A bias that evaluation caches until the next training is still a parameter of the program."""

    class Keeping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.out = nn.Parameter(torch.randn(7)), nn.Linear(192, 3)
            self.kept: torch.Tensor | None = None

        def train(self, mode: bool = True) -> Keeping:
            super().train(mode)
            self.kept = None if mode else self.kept
            return self

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            bias = self.table[torch.tensor([0, 2, 4])]
            if not self.training:
                self.kept = bias.detach() if self.kept is None else self.kept
                bias = self.kept
            return self.out(x.flatten(1)) + bias

    model = Keeping().eval()
    model(IMAGE)
    program = program_of(model)
    assert "table" in dict(program.module.named_parameters())
    with torch.no_grad():
        assert torch.allclose(program.module(IMAGE)[0], model(IMAGE))


class Mixed(nn.Module):
    """A layer under autocast."""

    def __init__(self, device: str, enabled: bool) -> None:
        super().__init__()
        self.device, self.enabled = device, enabled
        self.hidden, self.out = nn.Linear(8, 24), nn.Linear(24, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast(self.device, dtype=torch.bfloat16, enabled=self.enabled):
            x = torch.relu(self.hidden(x))
        result: torch.Tensor = self.out(x.float())
        return result


@pytest.mark.parametrize(("device", "enabled"), [("cuda", True), ("cpu", False)])
def test_layers_under_autocast_without_effect_are_in_the_graph(device: str, enabled: bool) -> None:
    """They are counted and pruned like any others."""
    program = capture(Mixed(device, enabled), {"x": torch.randn(4, 8)})
    assert cost(program).macs == 8 * 24 + 24 * 3
    assert prune_program(program, PruneOptions(macs=0.7, recover=None)).cost.macs <= 0.7 * cost(program).macs


def test_autocast_that_changes_the_precision_is_refused() -> None:
    """A model that computes in BF16 on the CPU is named with the remedy."""
    with pytest.raises(CaptureError, match=r"computes in bfloat16 under torch\.autocast"):
        capture(Mixed("cpu", True), {"x": torch.randn(4, 8)})
