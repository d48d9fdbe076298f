"""A model that does not run on its example: the remedy names the data argument, or the size of the embedding."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import retort
from retort.core.errors import ModelError


class Classifier(nn.Module):
    """An embedding of 64 entries behind a layer that shifts the ids."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(64, 4)

    def forward(self, input_ids: Tensor) -> Tensor:
        """The mean of the words that follow."""
        found: Tensor = self.words(input_ids + 1).mean(1)
        return found


class Sequences(nn.Module):
    """A model of texts that needs their lengths."""

    def forward(self, input_ids: Tensor, lengths: Tensor) -> Tensor:
        """Values divided by lengths."""
        return input_ids.float() / lengths[:, None]


def remedy(net: nn.Module, example: object) -> str:
    """What the error of a capture says to do."""
    with pytest.raises(ModelError) as caught:
        retort.capture(net, example)
    return caught.value.remedy


def test_a_small_embedding_says_how_many_entries_it_needs() -> None:
    """The remedy has the name and the size of the table, and the size that its ids need."""
    told = remedy(Classifier(), {"input_ids": torch.full((4, 5), 96)})
    assert "the embedding 'words' has 64 entries" in told
    assert "need at least 98, from 0 to 97" in told


def test_other_channels_name_the_mode_of_images() -> None:
    """A model of grey images that gets colours names `mode: L`, and the reverse; other counts have no mode."""
    assert "--data-arg mode=L" in remedy(nn.Conv2d(1, 4, 3), torch.randn(4, 3, 8, 8))
    assert "--data-arg mode=RGB" in remedy(nn.Conv2d(3, 4, 3), torch.randn(4, 1, 8, 8))
    assert "images of 5 channels" in remedy(nn.Conv2d(5, 4, 3), torch.randn(4, 1, 8, 8))


def test_another_size_names_the_size_of_images() -> None:
    """A linear layer behind images of another size names `size`; samples that are no images do not."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    assert "instead of 1×9×9" in remedy(net, torch.randn(4, 1, 9, 9))
    assert "--data-arg size=" in remedy(net, torch.randn(4, 1, 9, 9))
    assert remedy(net, torch.randn(4, 65)) == "give example inputs that fit its forward"


def test_a_model_with_lengths_names_the_argument() -> None:
    """Texts without lengths, for a forward that takes one more input, name `lengths: true`."""
    assert "lengths=true" in remedy(Sequences(), {"input_ids": torch.ones(4, 5, dtype=torch.int64)})
    assert "lengths=true" not in remedy(Sequences(), {"pixels": torch.ones(4, 5, dtype=torch.int64)})
