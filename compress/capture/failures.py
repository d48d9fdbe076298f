"""Error messages that explain why a model cannot be captured and what its author can change."""

from __future__ import annotations

import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from ...core.counts import counted
from ...core.errors import CaptureError
from ...core.faults import raise_if_defect
from ..graph.rows import row_count
from .preserve_state import same_buffers

RELATIVE_TOLERANCE = 1e-4
_UNTRACEABLE = {
    "fake tensor in the exported program constant's list": "computes gradients (torch.autograd.grad) or makes a tensor "
    "from Python numbers that come from data",
    "escaped from inside a function being vmapped": "uses torch.vmap or another transform of torch.func",
}
"""Signs in messages of PyTorch, or functions that were called, and what the model does."""
_HERE = Path(__file__).resolve().parents[2]
_TORCH = Path(torch.__file__).resolve().parent


def explain(error: BaseException) -> CaptureError:
    """A readable CaptureError for an exception of ``torch.export``."""
    text, kind, place = str(error), type(error).__name__, model_place(traceback.extract_tb(error.__traceback__))
    called = {frame.name for frame in traceback.extract_tb(error.__traceback__)}
    untraceable = next((words for sign, words in _UNTRACEABLE.items() if sign in text or sign in called), "")
    if untraceable:
        return CaptureError(
            f"torch.export cannot capture the model{place}, because its forward {untraceable}",
            "write that part of `forward` with tensor operations only",
            cause=_brief(text),
        )
    if "data-dependent" in text.lower() or "DataDependent" in kind or "dynamic control flow" in text.lower():
        return CaptureError(
            f"the model branches on the values of its data{place}, which a captured graph cannot do",
            "replace the `if`, `while` or `.item()` there by torch.where, masking or torch.cond, and take sizes from "
            "tensors (`x.size(1)`) instead of `lengths.max()`",
            cause=_brief(text),
        )
    return CaptureError(
        f"torch.export cannot capture the model{place}: {kind}: {_brief(text)}",
        "write that part of `forward` with tensor operations only",
        cause=_brief(text),
    )


def mismatch(
    module: torch.nn.Module, checks: Sequence[tuple[Mapping[str, torch.Tensor], Sequence[torch.Tensor]]]
) -> str | None:
    """The first difference between the outputs of a graph and the expected outputs, in words; None if they agree."""
    for feeds, wanted in checks:
        size = row_count(feeds)
        try:
            with torch.no_grad(), same_buffers(module):
                got = module(*(tensor.clone() for tensor in feeds.values()))
        except Exception as error:  # a specialised shape can cause any kind of error
            raise_if_defect(error)
            known = next((words for sign, words in _UNTRACEABLE.items() if sign in str(error)), "")
            cause = f"because the forward {known}" if known else f"{type(error).__name__}: {_brief(str(error))}"
            return f"with a batch of {size} it fails: {cause}"
        if len(got) != len(wanted):
            return f"it has {counted(got, 'output')}, the model has {len(wanted)}"
        for index, (left, right) in enumerate(zip(got, wanted, strict=True)):
            fault = difference(left, right)
            if fault:
                return f"output {index} at a batch of {size} {fault}"
    return None


def difference(got: torch.Tensor, wanted: torch.Tensor) -> str | None:
    """How a tensor differs from the expected one, in words; None if it does not."""
    if got.shape != wanted.shape:
        return f"has shape {list(got.shape)}, but the model's has {list(wanted.shape)}"
    if got.dtype != wanted.dtype:
        return f"is {got.dtype}, but the model's is {wanted.dtype}"
    if not wanted.is_floating_point():
        return None if torch.equal(got, wanted) else "differs from the model's"
    finite = torch.isfinite(wanted)
    if not torch.equal(finite, torch.isfinite(got)):
        return "has infinite or undefined values in other places than the model's"
    if not finite.any():
        return None
    error = float((got - wanted)[finite].abs().max())
    scale = float(wanted[finite].abs().max())
    return None if error <= RELATIVE_TOLERANCE * scale + 1e-6 else f"is off by {error:.3g} (values up to {scale:.3g})"


def model_place(frames: traceback.StackSummary) -> str:
    """`` at model.py line 12 (`if x.sum() > 0:`)``: the innermost frame of the model's own code; empty if none is.

    Frames around the capture are those of the caller.
    """
    inside = [Path(frame.filename).resolve().is_relative_to(_HERE / "compress") for frame in frames]
    first = inside.index(True) if True in inside else 0
    for frame in reversed(frames[first:]):
        path = Path(frame.filename).resolve()
        outside = not path.is_relative_to(_TORCH) and not (path.is_relative_to(_HERE / "compress"))
        if outside and path.is_file() and "contextlib" not in path.name:
            line = f" (`{frame.line}`)" if frame.line else ""
            return f" at {frame.filename} line {frame.lineno}{line}"
    return ""


def _brief(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[0][:300] if lines else "no details"
