"""The distance of a program's outputs from those of another program on the same batch."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional

from ...core.options.stage_options import Task
from .losses import classes_second, has_classes


def output_distance(found: Sequence[Tensor], wanted: Sequence[Tensor], task: Task) -> tuple[float, int]:
    """The distance of one batch, and its number of rows.

    Classification: Kullback-Leibler divergence of the predicted classes, of the first floating-point output.
    Otherwise: the squared error divided by the variance, averaged over the floating-point outputs.

    Args:
        found: outputs of the candidate.
        wanted: outputs of the reference, in the same order and of the same shapes.
    """
    ours, theirs = ([value.float() for value in side if value.is_floating_point()] for side in (found, wanted))
    rows = len(theirs[0]) if theirs else 0
    if task == "classification" and theirs and has_classes(theirs[0]):
        one, two = (_chances(item) for item in (ours[0], theirs[0]))
        return float(functional.kl_div(one, two, reduction="batchmean", log_target=True)), rows
    shares = [float((a - b).square().mean() / b.var(correction=0).clamp(min=1e-12)) for a, b in zip(ours, theirs)]
    return sum(shares) / max(len(shares), 1), rows


def _chances(scores: Tensor) -> Tensor:
    """Log-probabilities of the classes, ``[predictions, classes]``."""
    logarithms = classes_second(scores).movedim(1, -1).log_softmax(-1)
    return logarithms.reshape(-1, logarithms.shape[-1])
