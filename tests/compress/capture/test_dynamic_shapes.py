"""The sizes of an axis that a captured program accepts, and the errors for the others."""

import pytest
import torch
from torch import nn

from retort.compress.capture.capture_program import capture
from retort.core.errors import CaptureError


class Neighbours(nn.Module):
    """Each step is concatenated with the next one; a single step is doubled."""

    def __init__(self, word: str = "") -> None:
        super().__init__()
        self.out, self.word = nn.Linear(8, 3), word
        self.places = nn.Parameter(torch.randn(40, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits."""
        joined = torch.cat([x[:, 1:], x[:, :-1]], 2)
        if joined.shape[1] == 1:
            joined = joined * 2
        if self.word == "long":
            joined = joined + self.places[: joined.shape[1]]
            if joined.shape[1] < 39:
                joined = joined * 2
        if self.word == "last":
            joined = joined + self.places[-joined.shape[1] :]
        if self.word == "odd" and (joined.shape[1] - 1) % 3 == 1:
            joined = joined * 3
        result: torch.Tensor = self.out(joined).sum(1)
        return result


def test_an_axis_that_is_special_at_small_sizes_alone_is_free() -> None:
    """A branch for a single step raises the smallest size of the axis; other sizes are correct."""
    model = Neighbours().eval()
    program = capture(model, {"x": torch.randn(4, 6, 4)}, dynamic={"x": {1: "sequence"}})
    assert program.signature.inputs[0].shape == ("batch", "sequence", 4)
    for steps in (3, 9):
        x = torch.randn(2, steps, 4)
        torch.testing.assert_close(program.module(x)[0], model(x))


def test_a_condition_on_an_axis_is_quoted() -> None:
    """An axis with several special sizes is rejected with the condition, written with the name of the axis."""
    with pytest.raises(CaptureError, match=r"axis 'sequence', only if .*sequence"):
        capture(Neighbours("odd").eval(), {"x": torch.randn(4, 7, 4)}, dynamic={"x": {1: "sequence"}})


@pytest.mark.parametrize("word", ["long", "last"])
def test_an_axis_that_is_special_at_the_end_of_a_table_is_free(word: str) -> None:
    """A condition that fails only at the largest sizes lowers the largest size; the axis stays dynamic."""
    model = Neighbours(word).eval()
    program = capture(model, {"x": torch.randn(4, 7, 4)}, dynamic={"x": {1: "sequence"}})
    x = torch.randn(2, 30, 4)
    torch.testing.assert_close(program.module(x)[0], model(x))
