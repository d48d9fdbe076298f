"""Which layers of a student and a teacher are compared."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from retort.compress.capture.capture_program import capture
from retort.compress.distillation.layers.attention_inputs import attention_layers
from retort.compress.distillation.layers.mapping import automatic_pairs, pairs_of
from retort.compress.distillation.layers.padding import kept_tokens
from retort.compress.program import Program
from retort.core.errors import ModelError

torch.set_num_threads(1)


class Block(nn.Module):
    """A residual block."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, 1 if inputs == width else 2, 1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.short = nn.Identity() if inputs == width else nn.Conv2d(inputs, width, 1, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.conv2(torch.relu(self.conv1(x))) + self.short(x))


class Residual(nn.Module):
    """Two stages of residual blocks."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, padding=1)
        self.layer1 = nn.Sequential(*(Block(width, width) for _ in range(depth)))
        self.layer2 = nn.Sequential(Block(width, 2 * width), *(Block(2 * width, 2 * width) for _ in range(depth - 1)))
        self.fc = nn.Linear(2 * width, 3)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.fc(
            nn.functional.dropout(self.layer2(self.layer1(self.stem(image))).mean((2, 3)), 0.1, self.training)
        )


class Recurrent(nn.Module):
    """A GRU or an LSTM and a classifier of the last step."""

    def __init__(self, kind: type[nn.GRU] | type[nn.LSTM], width: int) -> None:
        super().__init__()
        self.rnn = kind(6, width, batch_first=True)
        self.head = nn.Linear(width, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.rnn(x)[0][:, -1])


class Encoder(nn.Module):
    """A Transformer with a padding mask; ``fused`` computes attention in one operator."""

    def __init__(self, width: int, heads: int, depth: int, fused: bool = True) -> None:
        super().__init__()
        self.embed, self.heads, self.fused = nn.Embedding(20, width), heads, fused
        self.layers = nn.ModuleList(nn.ModuleDict(self._layer(width)) for _ in range(depth))
        self.head = nn.Linear(width, 3)

    @staticmethod
    def _layer(width: int) -> dict[str, nn.Module]:
        named = {name: nn.Linear(width, width) for name in ("q", "k", "v", "out")}
        return {**named, "one": nn.LayerNorm(width), "mlp": nn.Linear(width, width), "two": nn.LayerNorm(width)}

    def forward(self, ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        x = self.embed(ids)
        allowed = attention_mask[:, None, None].bool()
        for layer in self.layers:
            assert isinstance(layer, nn.ModuleDict)
            q, k, v = (layer[name](x).unflatten(2, (self.heads, -1)).transpose(1, 2) for name in "qkv")
            x = layer["one"](x + layer["out"](self._attend(q, k, v, allowed).transpose(1, 2).flatten(2)))
            x = layer["two"](x + torch.relu(layer["mlp"](x)))
        return self.head(x[:, 0])

    def _attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, allowed: torch.Tensor) -> torch.Tensor:
        if self.fused:
            return nn.functional.scaled_dot_product_attention(q, k, v, allowed)
        scores = (q @ k.transpose(2, 3) / q.shape[-1] ** 0.5).masked_fill(~allowed, -1e4)
        return scores.softmax(-1) @ v


def images(width: int, depth: int) -> Program:
    """A captured residual net."""
    return capture(Residual(width, depth), {"image": torch.randn(2, 1, 8, 8)})


def encoder(width: int, heads: int, depth: int, fused: bool = True) -> Program:
    """A captured Transformer."""
    example = {"ids": torch.randint(0, 20, (2, 5)), "attention_mask": torch.ones(2, 5, dtype=torch.int64)}
    return capture(Encoder(width, heads, depth, fused), example)


def test_residual_nets_pair_the_ends_of_their_stages() -> None:
    """Stages of other depth and width are paired by resolution, and the vectors before the classifier."""
    pairs = automatic_pairs(images(4, 1), images(8, 3))
    assert [(ours.path or ours.name, theirs.path or theirs.name) for ours, theirs in pairs] == [
        ("layer1.0", "layer1.2"),
        ("layer2.0", "layer2.2"),
        ("mean", "mean"),
    ]
    assert [(ours.width, theirs.width) for ours, theirs in pairs] == [(4, 8), (8, 16), (8, 16)]
    assert [ours.kind for ours, _ in pairs] == ["map", "map", "vector"]


@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM])
def test_recurrent_nets_pair_their_sequences(kind: type[nn.GRU] | type[nn.LSTM]) -> None:
    """The sequence of states and the state that is classified are paired, with the channels on the last axis."""
    student, teacher = (capture(Recurrent(kind, width), {"x": torch.randn(2, 7, 6)}) for width in (4, 8))
    pairs = automatic_pairs(student, teacher)
    assert [(ours.kind, ours.width, theirs.width) for ours, theirs in pairs] == [("tokens", 4, 8), ("vector", 4, 8)]


def test_encoders_pair_layers_at_the_same_relative_depth() -> None:
    """Two layers learn from the third and the sixth of six; the mask does not hide the ends of the layers."""
    pairs = automatic_pairs(encoder(8, 2, 2), encoder(16, 4, 6))
    tokens = [(ours.path, theirs.path) for ours, theirs in pairs if ours.kind == "tokens"]
    assert tokens == [("layers.0.two", "layers.2.two"), ("layers.1.two", "layers.5.two")]


def test_nothing_in_common_and_unknown_layers_are_refused() -> None:
    """A net of vectors has nothing to pair with feature maps alone; a wrong layer is told with the nearest."""
    linear = capture(nn.Linear(6, 3), {"x": torch.randn(2, 6)})
    with pytest.raises(ModelError, match="can be paired automatically"):
        automatic_pairs(linear, images(4, 1))
    with pytest.raises(ModelError, match=r"the teacher has no layer 'layer9'; nearest: layer"):
        pairs_of(images(4, 1), images(8, 1), [("layer1", "layer9")])


@pytest.mark.parametrize("fused", [True, False])
def test_attention_is_found_fused_and_as_products(fused: bool) -> None:
    """Queries, keys and values of every layer are found in both forms, with their widths over all heads."""
    layers = attention_layers(encoder(8, 2, 3, fused), "the teacher")
    assert [layer.widths for layer in layers] == [(8, 8, 8)] * 3
    assert [layer.turned for layer in layers] == [not fused] * 3
    with pytest.raises(ModelError, match="the student has no attention layer"):
        attention_layers(images(4, 1), "the student")


def test_padding_is_read_from_the_mask_of_the_inputs() -> None:
    """Masks of both conventions are understood; one of another length is not that of these tokens."""
    kept = torch.tensor([[True, True, False]])
    assert kept_tokens({"attention_mask": kept.long()}, (1, 3)) is not None
    torch.testing.assert_close(kept_tokens({"attention_mask": kept.long()}, (1, 3)), kept)
    torch.testing.assert_close(kept_tokens({"src_key_padding_mask": ~kept}, (1, 3)), kept)
    assert kept_tokens({"attention_mask": kept.long()}, (1, 4)) is None
    assert kept_tokens({"image": kept}, (1, 3)) is None
