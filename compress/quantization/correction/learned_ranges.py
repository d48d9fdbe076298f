"""Range learning: trains the activation scales to reduce the error of the outputs against the FP32 program."""

from __future__ import annotations

import torch

from ....core.console import SILENT, Console
from ....core.data.splits import Split
from ...program import Program, evaluating
from .layerwise import MEMORY_BYTES, small_feeds
from .learned_scales import learnable, refresh_ranges

_RATE = 1e-2


def learn_ranges(
    quantized: Program,
    reference: Program,
    split: Split,
    samples: int,
    steps: int,
    console: Console = SILENT,
    room_bytes: int = MEMORY_BYTES,
) -> None:
    """Learn the scales of all activations together, in place (LSQ's gradient: Esser et al., 2020, eq. 3).

    The loss is the squared error of every floating-point output, divided by the variance of that output, on
    calibration samples in a fixed order; no labels are needed. The learning rate decreases linearly to zero, and the
    last scales are kept.

    Args:
        quantized: the program whose scales are learned; its weights do not change.
        reference: the FP32 program.
        samples: largest number of samples of the split to use.
        steps: number of optimizer steps, of 8 samples each, or fewer if memory requires it.
        room_bytes: memory for the activations of one step, with those kept for the gradient.
    """
    feeds = small_feeds(reference, split, samples, room_bytes // 2)
    frozen = [parameter for parameter in quantized.module.parameters() if parameter.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(False)
    try:
        with evaluating(quantized), evaluating(reference), learnable(quantized, weights=False) as scales:
            if scales:
                _learn(quantized, _answers(reference, feeds), feeds, scales, steps, console)
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)
    refresh_ranges(quantized)


def _answers(reference: Program, feeds: list[list[torch.Tensor]]) -> list[list[torch.Tensor]]:
    with torch.no_grad():
        return [[value for value in reference.module(*feed) if value.is_floating_point()] for feed in feeds]


def _learn(
    quantized: Program,
    wanted: list[list[torch.Tensor]],
    feeds: list[list[torch.Tensor]],
    scales: list[torch.nn.Parameter],
    steps: int,
    console: Console,
) -> None:
    variances = [
        torch.cat([values[index].reshape(-1) for values in wanted]).var().clamp_min(1e-12)
        for index in range(len(wanted[0]))
    ]
    optimizer = torch.optim.Adam(scales, lr=_RATE)
    with torch.enable_grad(), console.progress("ranges", steps) as bar:
        for step in range(steps):
            optimizer.param_groups[0]["lr"] = _RATE * (1 - step / steps)
            optimizer.zero_grad(set_to_none=True)
            outputs = [value for value in quantized.module(*feeds[step % len(feeds)]) if value.is_floating_point()]
            pairs = zip(outputs, wanted[step % len(feeds)], variances)
            loss = sum((((found - right) ** 2).mean() / spread for found, right, spread in pairs), torch.zeros(()))
            loss.backward()
            optimizer.step()
            bar.advance(note=f"error {float(loss.detach()):.2e}")
