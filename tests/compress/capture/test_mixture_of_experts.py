"""Mixtures of experts become products of fixed shape: equal outputs, and a file for every runtime."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from retort.compress.capture.capture_program import capture
from retort.compress.capture.mixture_of_experts import dense_experts
from retort.compress.program import save_program
from retort.compress.pruning.coupling.groups import find_groups
from retort.compress.pruning.coupling.propagate import couple
from retort.export.translate import to_onnx

pytest.importorskip("transformers")

from transformers import GptOssConfig, MixtralConfig
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssExperts
from transformers.models.mixtral.modeling_mixtral import MixtralExperts

KINDS: dict[str, tuple[Any, Any]] = {
    "gated": (MixtralExperts, MixtralConfig),
    "transposed, with biases, interleaved": (GptOssExperts, GptOssConfig),
}


class _Routed(torch.nn.Module):
    """Two experts of four per token, chosen by a router."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        make, config = KINDS[kind]
        shape: dict[str, Any] = {"num_local_experts": 4, "num_experts_per_tok": 2}
        given = config(hidden_size=8, intermediate_size=12, experts_implementation="batched_mm", **shape)
        self.router, self.experts, self.out = torch.nn.Linear(8, 4), make(given), torch.nn.Linear(8, 3)
        for value in self.experts.parameters():
            torch.nn.init.normal_(value)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """A class per token."""
        flat = x.flatten(0, 1)
        weights, chosen = self.router(flat).softmax(-1).topk(2)
        result: torch.Tensor = self.out(self.experts(flat, chosen, weights).view(x.shape))
        return result


@pytest.mark.parametrize(
    "kind", ["gated", pytest.param("transposed, with biases, interleaved", marks=pytest.mark.slow)]
)
def test_experts_are_captured_as_they_compute(kind: str, tmp_path: Path) -> None:
    """Program and file compute the same as the library's form, at other shapes too; experts can be pruned."""
    torch.manual_seed(0)
    model = _Routed(kind).eval()
    program = capture(model, {"x": torch.randn(4, 5, 8)}, dynamic={"x": {1: "sequence"}})
    coupling = couple(program)
    assert not coupling.unknown
    assert any("experts" in layer for group in find_groups(coupling).free for layer in group.layers)
    save_program(program, tmp_path / "model.pt2")
    file = to_onnx(tmp_path / "model.pt2", target="tensorrt").SerializeToString()
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    for rows, steps in ((1, 3), (3, 7)):
        x = torch.randn(rows, steps, 8)
        wanted = model(x).detach()
        torch.testing.assert_close(program.module(x)[0].detach(), wanted, atol=1e-5, rtol=1e-5)
        np.testing.assert_allclose(session.run(None, {"x": x.numpy()})[0], wanted.numpy(), atol=1e-4)


def test_the_library_keeps_its_own_form() -> None:
    """Outside a capture, experts compute as their configuration says, also after a failed capture."""
    own = ALL_EXPERTS_FUNCTIONS["batched_mm"]
    with pytest.raises(ZeroDivisionError), dense_experts():
        assert ALL_EXPERTS_FUNCTIONS.get_interface("batched_mm", None) is not own  # type: ignore[arg-type]
        _ = 1 / 0
    assert ALL_EXPERTS_FUNCTIONS.get_interface("batched_mm", None) is own  # type: ignore[arg-type]
