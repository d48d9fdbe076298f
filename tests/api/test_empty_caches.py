"""Caches that are empty before the first step: captured, exported, quantized, and right over the steps that follow."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn
from torch.nn import functional

import retort
from retort.core.errors import DataError

COUNT, WIDTH = 16, 32


class Attention(nn.Module):
    """One token ``[N, 1, 32]`` attends to a cache of keys and values ``[N, past, 32]`` and to itself."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.parts = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, x: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The token after attention, and the caches with it."""
        query, key, value = (part(x) for part in self.parts[:3])
        keys, values = torch.cat([keys, key], 1), torch.cat([values, value], 1)
        found = functional.scaled_dot_product_attention(query[:, None], keys[:, None], values[:, None])
        return self.parts[3](found[:, 0]), keys, values


def samples(past: int) -> dict[str, np.ndarray]:
    """Tokens with caches of a length."""
    draw = np.random.default_rng(0)
    sizes = {"x": (COUNT, 1, WIDTH), "keys": (COUNT, past, WIDTH), "values": (COUNT, past, WIDTH)}
    return {name: draw.standard_normal(shape).astype(np.float32) for name, shape in sizes.items()}


@pytest.mark.parametrize("past", [0, 5])
@pytest.mark.parametrize("named", [True, False], ids=["named", "found"])
def test_a_cache_grows_from_nothing(past: int, named: bool) -> None:
    """An axis on which the example is empty is free, by name or by itself; data may be as empty as the example."""
    model, data = Attention().eval(), samples(past)
    example = {name: torch.from_numpy(value[:4]) for name, value in samples(0).items()}
    options: dict[str, Any] = {"dynamic": {"keys": {1: "past"}, "values": {1: "past"}}} if named else {}
    program = retort.capture(model, example, **options)
    assert [spec.shape for spec in program.signature.inputs[1:]] == [("batch", "past", WIDTH)] * 2
    retort.export(retort.quantize(program, data=data, timed=False), data=data)
    graph = retort.export(program, data=data)
    session = onnxruntime.InferenceSession(str(graph.path), providers=["CPUExecutionProvider"])
    caches = [torch.zeros(2, 0, WIDTH)] * 2
    given = [cache.numpy() for cache in caches]
    for step in range(4):
        token = torch.from_numpy(data["x"][2 * step : 2 * step + 2])
        with torch.no_grad():
            score, *caches = model(token, *caches)
        found, *given = session.run(None, {"x": token.numpy(), "keys": given[0], "values": given[1]})
        for wanted, value in zip((score, *caches), (found, *given), strict=True):
            assert np.abs(wanted.numpy() - value).max() <= 1e-5


def test_no_rows_are_no_samples() -> None:
    """A batch of nothing is refused, and so is an input that is empty where it may not be."""
    program = retort.capture(Attention(), {name: torch.from_numpy(value[:4]) for name, value in samples(3).items()})
    with pytest.raises(DataError):
        retort.export(program, data={name: value[:0] for name, value in samples(3).items()})
