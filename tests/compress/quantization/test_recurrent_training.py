"""Quantization-aware training of recurrent classifiers: the shared loop, and the integer form in the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from known import in_memory, known
from torch import nn

from retort.compress.capture.capture_program import capture
from retort.compress.program import load_program, save_program
from retort.core.artifact import load_artifact
from retort.core.context import Context, Place
from retort.core.data.splits import ArraySplit, Splits
from retort.core.metrics.task_metrics import evaluate
from retort.core.options.stage_options import ExportOptions, QatOptions, QuantizeOptions
from retort.core.session import open_session
from retort.export.ort.kernels import optimized
from retort.pipeline import dispatch

STEPS, WIDTH = 7, 6


class Series(nn.Module):
    """Classifies ``[N, T, 6]``."""

    def __init__(self, kind: type[nn.Module], hidden: int, both: bool) -> None:
        super().__init__()
        self.body = kind(WIDTH, hidden, batch_first=True, bidirectional=both)
        self.head = nn.Linear(hidden * (2 if both else 1), 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x)[0].mean(1))


def _splits() -> Splits:
    """Samples whose class is the channel with the largest amplitude."""
    random = np.random.default_rng(0)
    values = random.normal(size=(448, STEPS, WIDTH)).astype(np.float32)
    labels = np.arange(448) % 3
    values[np.arange(448), :, labels] *= 3
    parts = [slice(0, 256), slice(256, 352), slice(0, 64), slice(352, 448)]
    train, validation, calibration, test = (
        ArraySplit({"x": values[part]}, labels[part].astype(np.int64)) for part in parts
    )
    return Splits(train, validation, calibration, test)


@pytest.mark.parametrize(
    ("kind", "hidden", "both", "kernel"),
    [
        (nn.LSTM, 96, False, "DynamicQuantizeLSTM"),
        pytest.param(nn.GRU, 24, True, "GRU", marks=pytest.mark.slow),
        pytest.param(nn.LSTM, 96, True, "DynamicQuantizeLSTM", marks=pytest.mark.slow),
        pytest.param(nn.GRU, 384, False, "Scan", marks=pytest.mark.slow),
    ],
)
def test_a_recurrent_classifier_trains_in_int8(
    tmp_path: Path, kind: type[nn.Module], hidden: int, both: bool, kernel: str
) -> None:
    """An untrained network with 4-bit weights learns in the training loop, and its file has the kernel of its form."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    program = capture(Series(kind, hidden, both), {"x": torch.zeros(2, STEPS, WIDTH)})
    save_program(program, tmp_path / "net.pt2")
    qat = QatOptions(epochs=6, learning_rate=5e-3, distill=False, batch_size=32)
    options = QuantizeOptions(method="minmax", correction=("none",), weight_bits=4, qat=qat, timed=False)
    splits = _splits()
    context = Context(splits, scratch=tmp_path / "scratch")
    made = dispatch.run_stage(
        "quantize", options, load_artifact(tmp_path / "net.pt2"), Place(tmp_path / "int8"), context
    )
    facts = made.facts["qat"]
    assert facts["kept"]
    assert facts["after"] > facts["before"] + 0.1
    weights = {name: value for name, value in load_program(made.main).module.named_parameters() if "weight_hh" in name}
    started = dict(program.module.named_parameters())
    assert all(not torch.equal(value, started[name]) for name, value in weights.items())
    graph = dispatch.run_stage("export", ExportOptions(batch_sizes=(1, 3)), made, Place(tmp_path / "file"), context)
    assert kernel in {node.op_type for node in optimized(graph.main).graph.node}
    found = open_session(graph.main).run({"x": in_memory(splits.validation).inputs["x"]})
    accuracy = evaluate("accuracy", next(iter(found.values())), known(in_memory(splits.validation).targets))
    assert accuracy == pytest.approx(facts["after"], abs=0.03)
