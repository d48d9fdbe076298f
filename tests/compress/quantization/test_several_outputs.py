"""Models with several outputs, and with undefined values: every output counts, whatever its place."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from retort.compress.capture.capture_program import capture
from retort.compress.program import Program, save_program
from retort.compress.quantization.fidelity import HeldOut
from retort.compress.quantization.int8_program import quantize_with
from retort.compress.quantization.mixed_precision.sensitivity import sensitivity
from retort.core.context import Context
from retort.core.data.splits import ArraySplit, Splits
from retort.core.facts.quantize_facts import Fidelity
from retort.core.metrics.quality_floor import QualityFloor
from retort.core.options.stage_options import QuantizeOptions
from retort.core.session import open_session
from retort.export.translate import to_onnx

X = np.random.default_rng(0).standard_normal((96, 3, 12, 12)).astype(np.float32)
SPLIT = ArraySplit({"x": X})
CONTEXT = Context(Splits(SPLIT, SPLIT, SPLIT, SPLIT))


class Detector(nn.Module):
    """Boxes in pixels and scores of classes, in either order."""

    def __init__(self, swapped: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 16, 3, 2, 1), nn.ReLU())
        self.boxes, self.scores = nn.Linear(144, 8), nn.Linear(144, 5)
        self.swapped = swapped

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        inner = self.body(x).flatten(1)
        boxes, scores = 640 * self.boxes(inner), self.scores(inner)
        return (scores, boxes) if self.swapped else (boxes, scores)


class Masked(nn.Module):
    """Logits of which one class is never allowed."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(576, 6))
        self.register_buffer("mask", torch.tensor([0, 0, -torch.inf, 0, 0, 0]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x) + self.mask


def quantized(net: nn.Module) -> tuple[Program, Program, Program, Fidelity, list[str]]:
    """FP32, its exact form, INT8, their difference, and the corrections that were kept."""
    program = capture(net, {"x": torch.from_numpy(X[:4])})
    made = quantize_with(program, QuantizeOptions(), CONTEXT)
    kept = [correction.name for correction in made.corrections if correction.kept]
    return program, made.exact, made.program, HeldOut(program, SPLIT).compare(made.program, QualityFloor()).facts, kept


def test_the_order_of_outputs_changes_nothing() -> None:
    """A detector and the same with swapped outputs get the same corrections, ratios and most sensitive layer."""
    found = [quantized(Detector(swapped)) for swapped in (False, True)]
    (_, exact, int8, one, kept), (_, other_exact, other_int8, two, other_kept) = found
    assert kept == other_kept
    assert one.sqnr_centred_db == pytest.approx(two.sqnr_centred_db, abs=0.05)
    assert one.agreement == two.agreement
    assert one.per_output_db is not None
    assert two.per_output_db is not None
    assert list(one.per_output_db.values()) == pytest.approx(list(two.per_output_db.values())[::-1], abs=0.05)
    lines = [sensitivity(int8, exact, SPLIT), sensitivity(other_int8, other_exact, SPLIT)]
    assert [line.layer for line in lines[0]] == [line.layer for line in lines[1]]


def test_an_output_with_a_mask_is_quantized(tmp_path: Path) -> None:
    """Minus infinity in the logits stays where it is; the other logits are compared, and the file agrees."""
    program, _, int8, fidelity, _ = quantized(Masked())
    assert fidelity.sqnr_centred_db is not None
    assert fidelity.sqnr_centred_db > 20
    assert fidelity.agreement is not None
    assert fidelity.agreement > 0.9
    save_program(int8, tmp_path / "model.pt2")
    session = open_session(to_onnx(tmp_path / "model.pt2").SerializeToString())
    answer = next(iter(session.run({"x": X[:8]}).values()))
    assert np.isneginf(answer[:, 2]).all()
    expected = program.module(torch.from_numpy(X[:8]))[0].detach().numpy()
    assert (answer.argmax(1) == expected.argmax(1)).mean() > 0.8
