"""Connectionist temporal classification (Graves et al., 2006): the loss of sequences that have no times."""

from __future__ import annotations

import torch
from torch.nn import functional

from ...core.errors import DataError
from ...core.metrics.tasks.judged_outputs import is_lengths
from ...core.metrics.tasks.sequences import BLANK
from .losses import Tensors, first, present


def ctc_loss(outputs: Tensors, inputs: Tensors, targets: torch.Tensor | None) -> torch.Tensor:
    """The mean over the samples of the loss divided by the number of symbols, in float32.

    The prediction is ``[N, T, C]`` with the blank as class 0; an integer output ``[N]`` whose name has the word length
    gives the number of frames of each sample.

    Raises:
        DataError: a sample has too few frames for its symbols.
    """
    scores, wanted = first(outputs).float(), present(targets)
    frames = frames_of(outputs, scores)
    lengths = (wanted >= 0).sum(dim=1)
    symbols = torch.where(wanted >= 0, wanted, torch.zeros_like(wanted))
    order = torch.argsort((wanted < 0).to(torch.int8), dim=1, stable=True)
    symbols = symbols.gather(1, order)  # what fills up stands at the end
    _require_frames(symbols, lengths, frames)
    logarithms = functional.log_softmax(scores, dim=2).transpose(0, 1)
    return functional.ctc_loss(logarithms, symbols, frames, lengths, blank=BLANK, reduction="mean")


def frames_of(outputs: Tensors, scores: torch.Tensor) -> torch.Tensor:
    """The number of frames of each sample, ``int64[N]``."""
    given = next((value for name, value in outputs.items() if is_lengths(name, tuple(value.shape), value)), None)
    if given is None:
        return torch.full((len(scores),), scores.shape[1], dtype=torch.int64, device=scores.device)
    return given.to(torch.int64).clamp(max=scores.shape[1])


def _require_frames(symbols: torch.Tensor, lengths: torch.Tensor, frames: torch.Tensor) -> None:
    """Each symbol needs a frame, and two equal ones in a row a blank between them."""
    places = torch.arange(1, symbols.shape[1], device=symbols.device)
    repeated = ((symbols[:, 1:] == symbols[:, :-1]) & (places[None, :] < lengths[:, None])).sum(dim=1)
    short = (lengths + repeated) > frames
    if bool(short.any()):
        row = int(short.to(torch.int8).argmax())
        raise DataError(
            f"a target of {int(lengths[row])} symbols needs at least {int(lengths[row] + repeated[row])} frames, and "
            f"the model gives {int(frames[row])}",
            "give the model more frames, or leave out such samples",
        )
