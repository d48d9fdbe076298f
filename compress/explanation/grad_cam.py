"""Grad-CAM (Selvaraju et al. 2017): where the last convolution sees what speaks for the score."""

from __future__ import annotations

import torch
from torch.nn import functional

from ...core.aten_names import operator_name
from ...core.errors import InputError
from ...core.explanation.input_forms import Form
from ...core.tensors import Array
from .scored_module import ScoredModule, Steps

CONVOLUTIONS = ("conv1d", "conv2d", "convolution")


def grad_cam(scored: ScoredModule, form: Form) -> Array:
    """The map of the last convolution, enlarged to the size of the input; not negative, and relative.

    Raises:
        InputError: the program has no convolution over the axes of this input.
    """
    found = [node for node in scored.program.module.graph.nodes if operator_name(node) in CONVOLUTIONS]
    for node in reversed(found):
        steps = Steps(watched=(node,))
        score = scored.scores({}, steps)
        seen: torch.Tensor = steps.seen[node]
        if seen.dim() != len(form.axes) + 2 or max(seen.shape[2:]) < 2:
            continue
        (gradient,) = torch.autograd.grad(score.sum(), [seen], allow_unused=True)
        if gradient is not None:
            return _map(seen[:1].detach(), gradient[:1], form)
    message = f"the program has no convolution over the axes of '{form.name}' that the score depends on"
    raise InputError(message, "use the method integrated-gradients")


def _map(seen: torch.Tensor, gradient: torch.Tensor, form: Form) -> Array:
    places = tuple(range(2, seen.dim()))
    weights = gradient.mean(dim=places, keepdim=True)
    shown = (weights * seen).sum(dim=1, keepdim=True).relu()
    size = [form.sample.shape[axis] for axis in form.axes]
    mode = "linear" if len(size) == 1 else "bilinear"
    large = functional.interpolate(shown.double(), size=size, mode=mode, align_corners=False)
    values: Array = large[0, 0].cpu().numpy()
    return values
