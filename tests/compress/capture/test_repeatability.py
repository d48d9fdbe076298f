"""Models that give other outputs the next time: what differs is named at capture, and no file hides it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from retort.compress.capture.capture_program import capture
from retort.compress.program import NOTES, reexport
from retort.core.errors import CaptureError
from retort.export.translate import to_onnx

X = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))


class Stateful(nn.Module):
    """A layer, a state and a count; ``kind`` is what a run does with them."""

    state: torch.Tensor
    count: torch.Tensor

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.layer, self.kind, self.runs = nn.Linear(3, 3), kind, 0
        self.register_buffer("state", torch.zeros(3))
        self.register_buffer("count", torch.zeros((), dtype=torch.long))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The layer, with what the kind does."""
        y: torch.Tensor = self.layer(x)
        result: torch.Tensor = getattr(self, f"_{self.kind}")(y)
        return result

    def _carries(self, y: torch.Tensor) -> torch.Tensor:
        y = y + self.state
        self.state.copy_(y.detach().mean(0))
        return y

    def _assigns(self, y: torch.Tensor) -> torch.Tensor:
        y = y + self.state
        self.state = y.detach().mean(0)
        return y

    def _wakes(self, y: torch.Tensor) -> torch.Tensor:
        self.count += 1
        return y * (self.count > 2)

    def _starts(self, y: torch.Tensor) -> torch.Tensor:
        self.state.copy_(torch.where(self.count > 0, self.state, y.detach().mean(0)))
        self.count.fill_(1)
        return y - self.state

    def _counts(self, y: torch.Tensor) -> torch.Tensor:
        self.count += 1
        return y

    def _fills(self, y: torch.Tensor) -> torch.Tensor:
        self.state.copy_(y.detach().mean(0))
        return y - self.state

    def _remembers(self, y: torch.Tensor) -> torch.Tensor:
        self.runs += 1
        return y * self.runs

    def _draws(self, y: torch.Tensor) -> torch.Tensor:
        return torch.cat([y + torch.randn_like(y), torch.full_like(y, torch.nan)], 1)

    def _draws_elsewhere(self, y: torch.Tensor) -> torch.Tensor:
        return y + float(np.random.default_rng().random())


@pytest.mark.parametrize(("kind", "names"), [("carries", ["state"]), ("wakes", ["count"]), ("starts", ["state"])])
def test_a_state_is_named_and_no_file_drops_it(kind: str, names: list[str]) -> None:
    """A buffer that a run changes and that outputs depend on is in a note; the export refuses with the remedy."""
    program = capture(Stateful(kind), {"x": X})
    (note,) = program.meta[NOTES]
    assert all(f"'{name}'" in note for name in names)
    assert "as an input and return its new value" in note
    with pytest.raises(CaptureError, match="an ONNX file keeps nothing between runs"):
        to_onnx(reexport(program), program.signature)


@pytest.mark.parametrize("kind", ["counts", "fills"])
def test_a_change_that_no_output_depends_on_is_not_mentioned(kind: str) -> None:
    """A counter, and a buffer that each run fills before it reads it, are no state."""
    program = capture(Stateful(kind), {"x": X})
    coupled = ["the outputs of a sample depend on the other samples of the batch"] if kind == "fills" else []
    assert program.meta.get(NOTES, []) == coupled
    assert to_onnx(reexport(program), program.signature).graph.node


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("assigns", "'state'.* cannot repeat the change\n.*state.copy_"),
        ("remembers", "something that a run changes, such as an attribute"),
        ("draws", "random in evaluation"),
        ("draws_elsewhere", "random numbers of Python or numpy"),
    ],
)
def test_what_a_program_cannot_repeat_is_refused_by_its_cause(kind: str, words: str) -> None:
    """Assigned buffers, attributes, and random numbers are told apart, beside NaN too."""
    model: Any = Stateful(kind)
    with pytest.raises(CaptureError, match=words):
        capture(model, {"x": X})
