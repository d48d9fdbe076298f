"""Comparison of a quantized program with its file: few samples are confirmed on more before a file is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

import retort
from retort.core.errors import VerificationError
from retort.core.session import Session
from retort.core.signature import Signature
from retort.core.tensors import BATCH, Feeds, TensorSpec
from retort.export.verify.parity import CONFIRMED_ROWS, check

SIGNATURE = Signature((TensorSpec("x", "float32", (BATCH, 1)),), (TensorSpec("output", "float32", (BATCH, 4)),))


class Classifier:
    """A classifier with certain outputs, which gives another class for every ``period``-th sample."""

    signature = SIGNATURE

    def __init__(self, period: int, first: int) -> None:
        self.period, self.first = period, first

    def run(self, feeds: Feeds) -> dict[str, NDArray[Any]]:
        """``[N, 4]`` from the number of each sample."""
        numbers = np.asarray(feeds["x"])[:, 0].astype(int)
        classes = np.where(numbers % self.period == self.first, 1, 0)
        noise = np.sin(numbers[:, None] * np.arange(1, 5) * self.period) * 1e-3
        return {"output": (np.eye(4)[classes] + noise).astype(np.float32)}


def numbers(count: int) -> dict[str, NDArray[Any]]:
    """Samples that are their own numbers."""
    return {"x": np.arange(count, dtype=np.float32)[:, None]}


def compare(file: Classifier, confirm: bool = True) -> int:
    """Compare a file with an INT8 program, whose noise changes the class of each 20th sample, but not of the first."""
    program, floating = Classifier(10**6, 10**6 - 1), Classifier(20, 19)
    sessions: list[Session] = [cast(Session, item) for item in (program, file, floating)]
    more = numbers if confirm else None
    # inputs that are no samples have no number, and are left out
    found = check(sessions[0], sessions[1], numbers(16), (1, 8), 1e-3, sessions[2], "dynamic", more)
    return len(found.differences)


def test_a_rare_change_of_class_is_no_fault_of_the_file() -> None:
    """It is refused on 16 samples, of which none shows how large the noise is, and accepted on 128."""
    with pytest.raises(VerificationError, match="does not compute the same"):
        compare(Classifier(20, 7), confirm=False)
    assert CONFIRMED_ROWS == 128
    assert compare(Classifier(20, 7)) == 2


def test_a_file_with_more_changes_than_the_noise_is_refused() -> None:
    """Every third sample has another class."""
    with pytest.raises(VerificationError, match="root mean square"):
        compare(Classifier(3, 0))


@pytest.mark.parametrize(
    "function", [lambda x: torch.sign(torch.log(x)), lambda x: functional.max_pool1d(torch.log(x), 2)]
)
def test_undefined_values_are_told_in_words(function: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Where the program has NaN and the file has numbers, the message has no figure that is none, and says why."""

    class _Undefined(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return function(x)

    x = torch.randn(8, 16, generator=torch.Generator().manual_seed(0))
    with pytest.raises(VerificationError, match=r"output 'output' is undefined \(NaN or infinite\)") as caught:
        retort.export(retort.capture(_Undefined(), x))
    assert "dB" not in str(caught.value)
    assert "if the model computes NaN on these samples" in caught.value.remedy
