"""Trained kinds of models, as `retort quantize` and `export` write them, served by OpenVINO."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from openvino_here import require_openvino
from torch import nn

import retort
from retort.core.artifact import load_artifact
from retort.core.context import Context, Place
from retort.core.formats.onnx_graphs import all_nodes
from retort.core.options.serving_options import PackOptions
from retort.core.session import PROVIDERS, SessionOptions, open_session
from retort.examples import pruning_nets
from retort.examples.digits import ResidualNet
from retort.pipeline.stages import pack
from retort.serve.engine import Engine

pytestmark = pytest.mark.slow
Feeds = dict[str, np.ndarray[Any, Any]]


class Series(nn.Module):
    """An LSTM whose integer kernel is used, and a GRU with a loop of integer products, over ``[N, 12, 16]``."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.gru = nn.LSTM(16, 96, batch_first=True), nn.GRU(96, 384, batch_first=True)
        self.head = nn.Linear(384, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits per class."""
        logits: torch.Tensor = self.head(self.gru(self.lstm(x)[0])[0][:, -1])
        return logits


def _random(*shape: int) -> Feeds:
    return {"x": np.random.default_rng(0).normal(size=shape).astype(np.float32)}


def _words() -> Feeds:
    return {name: array[:16] for name, array in pruning_nets.sentences()[0].items()}


FAMILIES: dict[str, tuple[Callable[[], nn.Module], Callable[[], Feeds], set[str]]] = {
    "cnn": (lambda: ResidualNet(16, 1), lambda: _random(32, 1, 8, 8), {"QuantizeLinear", "DequantizeLinear"}),
    "recurrent": (Series, lambda: _random(32, 12, 16), {"DynamicQuantizeLSTM", "Scan"}),
    "transformer": (pruning_nets.bert, _words, {"MatMulIntegerToFloat"}),
}
"""A net of each family, its samples, and the operators of INT8 in its file."""


@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_is_served_in_fp32_and_int8(family: str, tmp_path: Path) -> None:
    """FP32 agrees with ONNX Runtime to rounding; INT8 is as near to FP32 as ONNX Runtime's, and batches are exact."""
    require_openvino()
    make, samples, operators = FAMILIES[family]
    torch.manual_seed(0)
    feeds = samples()
    program = retort.capture(make().eval(), feeds if len(feeds) > 1 else feeds["x"], folder=tmp_path)
    given = feeds if len(feeds) > 1 else feeds["x"]
    int8 = retort.quantize(program, data=given, timed=False, accept=True, method="minmax", correction=("none",))
    graphs = [retort.export(one) for one in (program, int8)]
    names = {node.op_type for node in all_nodes(onnx.load(graphs[1].path).graph)}
    assert operators <= names
    sessions = [
        [open_session(graph.path, SessionOptions(providers=PROVIDERS[provider])) for provider in ("cpu", "openvino")]
        for graph in graphs
    ]
    given = dict(zip([spec.name for spec in sessions[0][0].signature.inputs], feeds.values(), strict=True))
    (exact, plain), (ort, openvino) = (
        [next(iter(session.run(given).values())) for session in pair] for pair in sessions
    )
    largest = float(np.abs(exact).max())
    assert np.abs(plain - exact).max() < 1e-5 * largest
    assert np.abs(openvino - exact).max() < max(2 * np.abs(ort - exact).max(), 1e-3 * largest)
    for graph in graphs:
        made = pack(
            PackOptions(provider="openvino", batch_size=4), load_artifact(Path(graph.path).parent),
            Place(tmp_path / f"made-{graph.path.parent.name}"), Context(None),  # type: ignore[arg-type]
        )  # fmt: skip
        engine = Engine.load(made.path / "bundle")
        sizes, session = engine.executor.plan.sizes, engine.session
        assert session.backend == "openvino"
        inputs = engine.golden[0]
        for size in sizes:
            together = session.run({name: np.concatenate([array] * 4)[:size] for name, array in inputs.items()})
            alone = session.run({name: array[:1] for name, array in inputs.items()})
            assert all(np.array_equal(together[name][:1], alone[name]) for name in together)
        engine.close()
