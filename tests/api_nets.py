"""Small nets and data of several families for the tests of the public face."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset


class Cnn(nn.Module):
    """``[N, 1, 8, 8]`` images to three classes, with BatchNorm and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2))
        self.more = nn.Sequential(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Sequential(nn.Dropout(0.3), nn.Linear(32, 3))

    def forward(self, image: Tensor) -> Tensor:
        """Scores per class."""
        scores: Tensor = self.head(self.more(self.body(image)))
        return scores


class Gru(nn.Module):
    """``[N, 10, 6]`` series to three classes, with dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(6, 24, batch_first=True)
        self.drop = nn.Dropout(0.3)
        self.head = nn.Linear(24, 3)

    def forward(self, series: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Scores per class of the last step."""
        steps, _ = self.gru(series)
        scores: Tensor = self.head(self.drop(steps[:, -1]))
        return scores


class Texts(Dataset[dict[str, Tensor]]):
    """Token ids with a mask and labels, as tokenizers give them."""

    def __init__(self, count: int = 48) -> None:
        generator = torch.Generator().manual_seed(0)
        self.ids = torch.randint(5, 60, (count, 8), generator=generator)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One sample; `idx` is something that no model takes."""
        ids = self.ids[index]
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": int(ids[0] > 30), "idx": index}


def bert() -> nn.Module:
    """A BERT of one layer for two classes."""
    transformers: Any = __import__("transformers")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=60, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=48,
        max_position_embeddings=16, num_labels=2,
    )  # fmt: skip
    model: nn.Module = transformers.BertForSequenceClassification(config)
    return model


def images(count: int = 48) -> TensorDataset:
    """Images whose brightest third is their class."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 3, (count,), generator=generator)
    pictures = 0.3 * torch.randn(count, 1, 8, 8, generator=generator)
    for index, label in enumerate(labels.tolist()):
        pictures[index, :, 3 * label : 3 * label + 2] += 1
    return TensorDataset(pictures, labels)


def series(count: int = 48) -> TensorDataset:
    """Series whose loudest channel is their class."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 3, (count,), generator=generator)
    values = 0.3 * torch.randn(count, 10, 6, generator=generator)
    for index, label in enumerate(labels.tolist()):
        values[index, :, label] += 1
    return TensorDataset(values, labels)


def loader(data: Dataset[Any], size: int = 16, **more: Any) -> DataLoader[Any]:
    """A shuffling loader."""
    return DataLoader(data, batch_size=size, shuffle=True, **more)
