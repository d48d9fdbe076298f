"""Networks of every kind from capture to a file for `arm` that computes what the program computes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from retort.compress.capture.capture_program import capture
from retort.compress.program import save_program
from retort.compress.quantization.stage import quantize
from retort.core.artifact import load_artifact, new_artifact
from retort.core.context import Context, Place
from retort.core.data.splits import ArraySplit, Splits
from retort.core.facts.export_facts import ExportFacts
from retort.core.options.stage_options import ExportOptions, QuantizeOptions, Target
from retort.core.session import open_session
from retort.core.tensors import Array
from retort.export.lint import lint
from retort.export.stage import export

RANDOM = np.random.default_rng(0)
OPTIONS: dict[str, Any] = {"method": "minmax", "correction": ("none",), "accept": True, "timed": False}
Made = Callable[[str, Target, dict[str, Any], dict[str, Any]], tuple[Path, ExportFacts, Array]]


class Residual(nn.Module):
    """Convolutions, a depthwise one, a shortcut and a pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.deep = nn.Conv2d(3, 32, 3, 2, 1), nn.Conv2d(32, 32, 3, 1, 1, groups=32)
        self.point, self.head = nn.Conv2d(32, 32, 1), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        return self.head(torch.relu(self.point(torch.relu(self.deep(x))) + x).mean((2, 3)))


class Recurrent(nn.Module):
    """A recurrent layer in both directions and a head."""

    def __init__(self, kind: type[nn.LSTM] | type[nn.GRU]) -> None:
        super().__init__()
        self.layer, self.head = kind(16, 96, batch_first=True, bidirectional=True), nn.Linear(192, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x)[0][:, -1])


class Bert(nn.Module):
    """A BERT of two layers that classifies."""

    def __init__(self) -> None:
        super().__init__()
        transformers = pytest.importorskip("transformers", reason="transformers is not installed")
        sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
        config = transformers.BertConfig(vocab_size=100, max_position_embeddings=32, num_labels=4, **sizes)
        self.net = transformers.BertForSequenceClassification(config)

    def forward(self, ids: Tensor) -> Tensor:
        logits: Tensor = self.net(ids).logits
        return logits


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Array]] = {
    "residual": (Residual, RANDOM.normal(size=(32, 3, 24, 24)).astype(np.float32)),
    "lstm": (lambda: Recurrent(nn.LSTM), RANDOM.normal(size=(32, 9, 16)).astype(np.float32)),
    "gru": (lambda: Recurrent(nn.GRU), RANDOM.normal(size=(32, 9, 16)).astype(np.float32)),
    "bert": (Bert, RANDOM.integers(0, 100, (32, 12))),
}


@pytest.fixture
def made(tmp_path: Path) -> Made:
    """The file of a network for a target, the facts of its export, and its outputs in ONNX Runtime."""

    def make(
        name: str, target: Target, given: dict[str, Any], written: dict[str, Any]
    ) -> tuple[Path, ExportFacts, Array]:
        build, samples = NETWORKS[name]
        torch.manual_seed(0)
        program = capture(build().eval(), {"x": samples[:4]})
        split = ArraySplit({program.signature.inputs[0].name: samples})
        context = Context(Splits(split, split, split, split), target=target)
        folder = tmp_path / f"{name}-{target}-{len(list(tmp_path.iterdir()))}"
        with new_artifact(Place(folder / "net", "k"), "program", "capture") as draft:
            save_program(program, draft.folder / "model.pt2")
        options = QuantizeOptions(**{**OPTIONS, **given})
        int8 = quantize(options, load_artifact(folder / "net"), Place(folder / "int8"), context)
        graph = export(ExportOptions(**written), int8, Place(folder / "file"), context)
        session = open_session(graph.main)
        found = session.run({session.signature.inputs[0].name: samples})
        session.close()
        return graph.main, graph.facts_as(ExportFacts), next(iter(found.values()))

    return make


@pytest.mark.slow
@pytest.mark.parametrize("name", ["residual", "bert"])
def test_static_files_for_arm_have_the_outputs_of_cpu(made: Made, name: str) -> None:
    """The export has proved the file within the bounds of `cpu`; its outputs are those of the file for `cpu`."""
    path, facts, found = made(name, "arm", {}, {})
    other, wanted_facts, wanted = made(name, "cpu", {}, {})
    assert np.array_equal(found, wanted)
    assert facts.kernels == wanted_facts.kernels
    assert facts.kernels is not None
    assert facts.kernels.integer_heavy > 0
    assert facts.kernels.unfused_names == ()
    assert lint(onnx.load(path), "arm") == []
    assert {item.rule for item in lint(onnx.load(other), "arm")} == {"A01"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_recurrent_files_for_arm_keep_rows_independent(made: Made, name: str) -> None:
    """Weights are INT8 and kernels FP32; `recurrent: integer` takes the kernels of `cpu`, with dependent rows."""
    path, facts, found = made(name, "arm", {}, {})
    _, other, rounded = made(name, "arm", {}, {"recurrent": "integer"})
    assert (facts.batch_invariant, other.batch_invariant) == (True, False)
    assert facts.kernels is not None
    assert other.kernels is not None
    assert facts.kernels.integer_heavy == 0 < other.kernels.integer_heavy
    assert lint(onnx.load(path), "arm") == []
    assert np.abs(found - rounded).max() < 0.05 * np.ptp(found)


@pytest.mark.slow
def test_products_with_scales_at_run_time_are_written_for_arm(made: Made) -> None:
    """The dynamic form of a Transformer is there for `arm`, within the same bounds."""
    _, facts, _ = made("bert", "arm", {"form": "dynamic"}, {})
    assert facts.kernels is not None
    assert facts.kernels.integer_heavy > 0
    assert not facts.batch_invariant
