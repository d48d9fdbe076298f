"""What each of two processes does that the tests of distributed training start with torchrun."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from training_kit import blobs, run, splits, weights

from retort.compress.capture.capture_program import capture
from retort.compress.program import Program
from retort.compress.training import loop

CASES: dict[str, dict[str, Any]] = {
    "plain": {"optimizer": "sgd", "momentum": 0.9},
    "weighted": {"optimizer": "sgd", "class_weights": (1.0, 4.0, 0.5), "label_smoothing": 0.1, "clip_norm": 1.0},
    "accumulated": {"optimizer": "sgd", "accumulate": 3, "ema": 0.9, "l2": 0.01, "batch_size": 8},
    "tiny": {"optimizer": "sgd", "batch_size": 16},
}
ROWS = {"tiny": 17}
"""65 samples by default, so that the last batch has 17; here one batch of 17 and, with 2 processes, unequal shares."""


def plain_net() -> Program:
    """A net with BatchNorm and a parameter that the loss does not reach, and without dropout."""
    torch.manual_seed(7)
    layers = [torch.nn.Linear(6, 16), torch.nn.BatchNorm1d(16), torch.nn.ReLU(), torch.nn.Linear(16, 3)]
    return capture(torch.nn.Sequential(*layers), {"x": torch.randn(2, 6)})


def trained(case: str, scratch: Path | None = None) -> tuple[dict[str, torch.Tensor], list[list[float | None]]]:
    """Weights and history of a training."""
    program, options = plain_net(), {"epochs": 3, **CASES[case]}
    result = run(program, splits(ROWS.get(case, 65)), scratch, **options)
    return weights(program), [[epoch.loss, epoch.metric] for epoch in result.history]


def all_cases(folder: Path) -> None:
    """Train every case, and write the results."""
    found = {case: trained(case) for case in CASES}
    torch.save({case: state for case, (state, _) in found.items()}, folder / "weights.pt")
    (folder / "history.json").write_text(json.dumps({case: history for case, (_, history) in found.items()}))


def with_dropout(folder: Path) -> None:
    """Train a net with dropout, with checkpoints inside epochs, and write its weights."""
    from training_kit import net

    program = net()
    run(program, scratch=folder, epochs=4, ema=0.9, checkpoint_steps=3)
    torch.save(weights(program), folder / "weights.pt")


def bad_rows(folder: Path) -> None:
    """Train on samples of which one is not finite: only one of the processes reads it."""
    split = blobs(65, 1)
    split.inputs["x"][17, 2] = np.nan
    run(plain_net(), splits(train=split))


def dying(step: int, number: int) -> None:
    """Kill the process of a rank at a step."""
    original = loop.Loop._step

    def _step(self: loop.Loop, step_sum: float) -> None:
        original(self, step_sum)
        if self.at.step == step and int(os.environ.get("RANK", "0")) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    loop.Loop._step = _step  # type: ignore[method-assign]


WORK: dict[str, Callable[[Path], None]] = {
    "all_cases": all_cases, "with_dropout": with_dropout, "bad_rows": bad_rows
}  # fmt: skip


if __name__ == "__main__":
    from retort import __main__ as command

    torch.set_num_threads(1)
    work, place, *death = sys.argv[1:]
    if death:
        dying(*map(int, death))

    def _command(given: list[str]) -> int:
        WORK[work](Path(place))
        return 0

    command._command = _command
    command.main([work, place])
