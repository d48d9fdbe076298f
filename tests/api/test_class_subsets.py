"""Models compared on data with some of their classes."""

from __future__ import annotations

import numpy as np
import torch

import retort

EYE = np.eye(3, dtype=np.float32)


def exact() -> torch.nn.Module:
    """Scores that are the sample itself, which is one-hot of its class."""
    layer = torch.nn.Linear(3, 3, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.eye(3))
    return layer


def test_a_comparison_on_some_classes_is_by_name() -> None:
    """Labels and names of classes are the model's, also for a model without names beside one that has them."""
    every = {"train": (EYE[np.arange(30) % 3], np.arange(30) % 3), "classes": ["ant", "bee", "cat"]}
    named = retort.capture(exact(), data=every)
    bare = retort.capture(exact(), torch.zeros(2, 3))
    some = {"test": (EYE[1 + np.arange(30) % 2], np.arange(30) % 2), "classes": ["bee", "cat"]}
    result = retort.compare({"named": named, "bare": bare}, data=some, budget_s=0.1, blocks=4)
    for stage in result.stages:
        assert stage.metric is not None
        assert stage.metric.value == 1
        assert [entry.name for entry in stage.classes] == ["bee", "cat"]
