"""Encoders with padding: programs compute what the model gives in evaluation, PyTorch's fast path included."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from torch import nn

from retort.compress.capture.capture_program import capture
from retort.compress.program import NOTES, load_program, save_program, set_training
from retort.export.translate import to_onnx

IDS = torch.tensor([[3, 5, 2, 7, 1, 4], [2, 2, 9, 0, 0, 0], [8, 0, 0, 0, 0, 0], [1, 2, 3, 4, 5, 0]])
"""Words; 0 is padding, which is at the end of every row, and no row is full of it."""
UNALIGNED = torch.tensor([[3, 0, 2, 7, 1, 4], [2, 2, 9, 0, 0, 0], [8, 0, 0, 0, 0, 0], [1, 2, 3, 4, 5, 0]])


class Pooled(nn.Module):
    """Words, an encoder that ignores padding, and a mean over all positions, the padded ones included."""

    def __init__(self, norm: bool = False, **options: Any) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 8)
        layer = nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1, nn.LayerNorm(8) if norm else None, **options)
        self.head = nn.Linear(8, 3)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Scores."""
        hidden = self.encoder(self.embed(ids), src_key_padding_mask=ids.eq(0))
        scores: torch.Tensor = self.head(hidden.mean(1))
        return scores


def evaluated(model: nn.Module, *inputs: torch.Tensor) -> torch.Tensor:
    """``model.eval()(x)`` without gradients, as anyone runs a model."""
    with torch.no_grad():
        result: torch.Tensor = model.eval()(*inputs)
    return result


@pytest.mark.parametrize("options", [{}, {"norm": True}, {"enable_nested_tensor": False}])
def test_padding_is_what_the_model_gives_in_evaluation(options: dict[str, Any]) -> None:
    """The program equals the evaluated model, with padding at the end and elsewhere."""
    torch.manual_seed(0)
    model = Pooled(**options)
    program = capture(model, {"ids": IDS})
    for ids in (IDS, UNALIGNED, IDS[1:2]):
        torch.testing.assert_close(program.module(ids)[0], evaluated(model, ids), atol=1e-5, rtol=1e-5)
    assert NOTES not in program.meta


@pytest.mark.slow
def test_files_have_the_padding_of_the_evaluated_model_at_any_length(tmp_path: Path) -> None:
    """The stored program and the ONNX file equal the evaluated model, at other lengths too."""
    torch.manual_seed(0)
    model = Pooled(norm=True)
    save_program(capture(model, {"ids": IDS}, dynamic={"ids": {1: "words"}}), tmp_path / "model.pt2")
    loaded = load_program(tmp_path / "model.pt2")
    file = onnxruntime.InferenceSession(to_onnx(tmp_path / "model.pt2").SerializeToString())
    for ids in (IDS, UNALIGNED, IDS[1:2], IDS[:3, :5]):
        wanted = evaluated(model, ids)
        for found in (loaded.module(ids)[0], file.run(None, {"ids": ids.numpy()})[0]):
            torch.testing.assert_close(torch.as_tensor(found), wanted, atol=1e-5, rtol=1e-5)


def test_a_program_trains_on_the_values_that_its_model_trains_on() -> None:
    """In training the padded positions are not zero, in the model and in its program; in evaluation they are again."""
    torch.manual_seed(0)
    model = Pooled().train()
    program = capture(model, {"ids": IDS})
    set_training(program, True)
    torch.testing.assert_close(program.module(IDS)[0], model(IDS))
    set_training(program, False)
    assert not torch.allclose(evaluated(model, IDS), model.train()(IDS), atol=1e-3)
    torch.testing.assert_close(program.module(IDS)[0], evaluated(model, IDS), atol=1e-5, rtol=1e-5)


class Biased(nn.Module):
    """An encoder layer with an additive mask, of which the fast path makes NaN."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True)
        self.register_buffer("distances", -(torch.arange(5.0)[:, None] - torch.arange(5.0)).abs() - 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Attention that decreases with the distance."""
        result: torch.Tensor = self.layer(x, src_mask=self.distances)
        return result


def test_where_the_fast_path_is_wrong_the_difference_is_named() -> None:
    """The program computes what the layer defines, and a note says that evaluation without gradients does not."""
    torch.manual_seed(0)
    model, x = Biased(), torch.randn(3, 5, 8)
    program = capture(model, {"x": x})
    assert evaluated(model, x).isnan().any()
    torch.testing.assert_close(program.module(x)[0], model.eval()(x))
    assert "set_fastpath_enabled(False)" in program.meta[NOTES][0]
