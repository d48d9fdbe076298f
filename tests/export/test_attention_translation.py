"""Attention in files: every rank and mask gives what PyTorch gives, zeros where a row attends to nothing included."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn
from torch.nn import functional

from retort.compress.capture.capture_program import capture
from retort.compress.program import reexport, save_program
from retort.compress.quantization import quantize_program
from retort.core.data.splits import ArraySplit
from retort.core.options.stage_options import QuantizeOptions
from retort.export.translate import to_onnx

MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [0, 0, 0, 0, 0], [0, 1, 1, 1, 0]])
"""Words; the third row has none."""


class Attention(nn.Module):
    """Self-attention of two heads, or of one with rank 3, with a mask of a kind."""

    def __init__(self, kind: str, rank: int = 4) -> None:
        super().__init__()
        self.layer, self.out, self.kind, self.rank = nn.Linear(8, 24), nn.Linear(8, 8), kind, rank

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """From ``[N, S, 8]`` to ``[N, S, 8]``."""
        query, key, value = self.layer(x).chunk(3, -1)
        if self.rank == 4:
            query, key, value = (part.unflatten(-1, (2, 4)).transpose(1, 2) for part in (query, key, value))
        options: dict[str, Any] = {"is_causal": True} if self.kind == "causal" else {"attn_mask": self._mask(mask)}
        if self.kind == "grouped":
            key, value, options["enable_gqa"] = key[:, :1], value[:, :1], True
        mixed = functional.scaled_dot_product_attention(query, key, value, **options)
        mixed = mixed.transpose(1, 2).flatten(2) if self.rank == 4 else mixed
        result: torch.Tensor = self.out(mixed)
        return result

    def _mask(self, mask: torch.Tensor) -> torch.Tensor:
        keys = mask.bool()[:, None, :] if self.rank == 3 else mask.bool()[:, None, None, :]
        if self.kind == "pairs":
            return keys & keys.transpose(-2, -1)
        if self.kind == "infinite":
            return torch.where(keys, 0.0, -torch.inf)
        if self.kind == "lowest":
            return torch.where(keys, 0.0, torch.finfo(torch.float32).min)
        return keys


def written(kind: str, rank: int = 4) -> tuple[Attention, onnx.ModelProto, torch.Tensor]:
    """A model, its file and an example."""
    torch.manual_seed(0)
    model, x = Attention(kind, rank).eval(), torch.randn(4, 5, 8)
    program = capture(model, {"x": x, "mask": MASK})
    return model, to_onnx(reexport(program), program.signature), x


KINDS = [("boolean", 4), ("boolean", 3), ("pairs", 4), ("infinite", 3), ("lowest", 4), ("grouped", 4), ("causal", 3)]


@pytest.mark.parametrize(("kind", "rank"), KINDS)
def test_masks_give_what_pytorch_gives(kind: str, rank: int) -> None:
    """Boolean and additive masks, of keys and of pairs, with rows that attend to nothing, in rank 3 and 4."""
    model, file, x = written(kind, rank)
    session = onnxruntime.InferenceSession(file.SerializeToString())
    for mask in (MASK, torch.zeros_like(MASK), torch.ones_like(MASK)):
        with torch.no_grad():
            wanted = model(x, mask).numpy()
        (found,) = session.run(None, {"x": x.numpy(), "mask": mask.numpy()})
        np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize("kind", ["causal", "lowest"])
def test_nothing_is_searched_where_every_row_attends_to_something(kind: str) -> None:
    """Causal masks, and choices between finite numbers, cost neither a search nor a product."""
    operators = Counter(node.op_type for node in written(kind)[1].graph.node)
    assert not {"ReduceMax", "IsNaN", "Equal", "Not"} & set(operators)
    assert operators["Mul"] == 1


@pytest.mark.slow
def test_int8_files_keep_zeros_where_a_row_attends_to_nothing(tmp_path: Path) -> None:
    """Quantization lowers masked scores by a moderate number, and rows without words stay zero before the output."""
    torch.manual_seed(0)
    model, x = Attention("boolean").eval(), torch.randn(64, 5, 8)
    masks = (torch.arange(5)[None] < torch.randint(2, 6, (64, 1))).long()
    program = capture(model, {"x": x[:4], "mask": masks[:4]})
    split = ArraySplit({"x": x.numpy(), "mask": masks.numpy()})
    options = QuantizeOptions(method="minmax", correction=("none",))
    save_program(quantize_program(program, options, split, "cpu"), tmp_path / "int8.pt2")
    session = onnxruntime.InferenceSession(to_onnx(tmp_path / "int8.pt2").SerializeToString())
    with torch.no_grad():
        wanted = model(x[:4], MASK).numpy()
    (found,) = session.run(None, {"x": x[:4].numpy(), "mask": MASK.numpy()})
    assert np.abs(found[2] - model.out.bias.detach().numpy()).max() < 0.02
    np.testing.assert_allclose(found, wanted, atol=0.2)
