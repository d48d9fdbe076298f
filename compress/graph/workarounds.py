"""Patches of private parts of PyTorch, transformers and accelerate that compression needs, each with its reason.

See :mod:`retort.core.workarounds` for the rule. `FakeTensorMode`, `DataDependentOutputException` and `pytree` are not
patched: PyTorch documents them, but they have no public name yet (torch 2.13).
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.nn.modules import transformer
from torch.utils import _pytree as pytree

__all__ = [
    "DataDependentOutputException",
    "FakeTensorMode",
    "experts_computed_by",
    "fixed_sizes",
    "forget_accelerator",
    "free_lengths",
    "masks_unseen",
    "padding_as_in_evaluation",
    "pytree",
    "unchecked_distributions",
]  # fmt: skip

_FEW = 25  # up to this number of rows, PyTorch itself computes differences
_BATCHED = 3  # axes of a batch of sequences
_EXPERTS = "transformers.integrations.moe"


@contextmanager
def free_lengths(model: nn.Module) -> Iterator[None]:
    """Keep sizes symbolic if the code of a model or of PyTorch would convert them to numbers.

    Patched: ``len`` in the modules that define the model, which returns ``x.size(0)``; ``torch.cdist``, which is
    computed by its definition, or by a product if the second argument has many rows. Seen in torch 2.13.

    Upstream: https://github.com/pytorch/pytorch/pull/185804 for ``len`` (closed); no upstream issue found for ``cdist``
    in ``torch.export``.

    Without it: Python converts ``len(x)`` to a number, which fixes the batch size; ``torch.cdist`` chooses another
    kernel above 25 rows, which bounds the batch size.
    """
    names = {type(child).__module__ for child in model.modules()}
    spaces = [vars(sys.modules[name]) for name in names if name in sys.modules and name.partition(".")[0] != "torch"]
    spaces = [space for space in spaces if "len" not in space]
    distance = torch.cdist
    for space in spaces:
        space["len"] = _len
    torch.cdist = torch.functional.cdist = _cdist
    try:
        yield
    finally:
        for space in spaces:
            del space["len"]
        torch.cdist = torch.functional.cdist = distance


def _len(value: Any, /) -> Any:
    return value.shape[0] if isinstance(value, torch.Tensor) and value.dim() else len(value)


def _cdist(x1: torch.Tensor, x2: torch.Tensor, p: float = 2.0, compute_mode: str = "") -> torch.Tensor:
    rows = x2.shape[-2]
    if p == 2 and "donot" not in compute_mode and not (isinstance(rows, int) and rows <= _FEW):
        squares = x1.square().sum(-1, keepdim=True) + x2.square().sum(-1).unsqueeze(-2)
        found: torch.Tensor = (squares - 2 * x1 @ x2.transpose(-2, -1)).clamp(min=0).sqrt()
        return found
    result: torch.Tensor = torch.linalg.vector_norm(x1.unsqueeze(-2) - x2.unsqueeze(-3), p, -1)
    return result


@contextmanager
def fixed_sizes(place: Callable[[traceback.StackSummary], str]) -> Iterator[dict[int, str]]:
    """Record the line of code at which a symbolic size became a number.

    Patched: ``ShapeEnv._set_replacement`` of ``torch.fx.experimental.symbolic_shapes``, which records its caller.
    Seen in torch 2.13.

    Upstream: no upstream issue found.

    Without it: ``torch.export`` reports that an axis became a constant, but not the responsible line of the model.

    Args:
        place: describes the model's own line in a stack.

    Yields:
        The description for each number.
    """
    found: dict[int, str] = {}
    plain = getattr(ShapeEnv, "_set_replacement", None)
    if plain is None:  # only the line is missing in the message
        yield found
        return

    def _replace(env: Any, symbol: Any, value: Any, *rest: Any) -> Any:
        if getattr(value, "is_Integer", False) and int(value) not in found:
            found[int(value)] = place(traceback.extract_stack())
        return plain(env, symbol, value, *rest)

    ShapeEnv._set_replacement = _replace  # type: ignore[method-assign, assignment]
    try:
        yield found
    finally:
        ShapeEnv._set_replacement = plain  # type: ignore[method-assign]


@contextmanager
def masks_unseen() -> Iterator[None]:
    """Do not compare masks of ``nn.Transformer`` with a causal mask.

    Patched: ``torch.nn.modules.transformer._detect_is_causal_mask``. Seen in torch 2.13.

    Upstream: https://github.com/pytorch/pytorch/pull/91171 added it, and states that it cannot be traced; no issue.

    Without it: an encoder compares the values of a mask with a causal mask, which a trace cannot evaluate
    (``GuardOnDataDependentSymNode``) and which does not change any output.
    """
    detect = transformer._detect_is_causal_mask
    transformer._detect_is_causal_mask = lambda mask, is_causal=None, size=None: bool(is_causal)
    try:
        yield
    finally:
        transformer._detect_is_causal_mask = detect


@contextmanager
def padding_as_in_evaluation() -> Iterator[None]:
    """Make ``nn.TransformerEncoder`` zero its padded positions where PyTorch's fast path of evaluation does.

    Patched: ``torch.nn.TransformerEncoder.forward``, which then zeros them between the last layer and the final norm.
    Seen in torch 2.13.

    Upstream: https://github.com/pytorch/pytorch/issues/86120 (open).

    Without it: in evaluation, PyTorch packs the unpadded positions of each row and fills the others with zeros
    afterwards, if the padding of every row is at its end. Training, and a traced program, compute values there, so
    that everything that is pooled over positions differs from the model in evaluation.
    """
    plain = nn.TransformerEncoder.forward

    def _forward(
        encoder: nn.TransformerEncoder,
        src: torch.Tensor,
        mask: torch.Tensor | None = None,
        src_key_padding_mask: torch.Tensor | None = None,
        is_causal: bool | None = None,
    ) -> torch.Tensor:
        packs = mask is None and getattr(encoder, "use_nested_tensor", False) and not torch.is_autocast_enabled()
        if src_key_padding_mask is None or src.dim() != _BATCHED or not packs:
            return plain(encoder, src, mask, src_key_padding_mask, is_causal)
        norm, encoder.norm = encoder.norm, None
        try:
            output = plain(encoder, src, mask, src_key_padding_mask, is_causal)
        finally:
            encoder.norm = norm
        padding = src_key_padding_mask if src_key_padding_mask.dtype == torch.bool else src_key_padding_mask.ne(0)
        zeroed = padding & _evaluates(encoder, src)
        if getattr(encoder, "mask_check", True):
            zeroed = zeroed & (padding[:, 1:] | ~padding[:, :-1]).all()
        output = output.masked_fill(zeroed.unsqueeze(-1), 0.0)
        return output if norm is None else norm(output)

    nn.TransformerEncoder.forward = _forward  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        nn.TransformerEncoder.forward = plain  # type: ignore[method-assign]


def _evaluates(encoder: nn.TransformerEncoder, src: torch.Tensor) -> torch.Tensor:
    """Whether the first layer evaluates, which a program can switch: a dropout of everything leaves 1 then."""
    one = torch.ones((), device=src.device)
    return nn.functional.dropout(one, 1.0, encoder.layers[0].training) > 0


@contextmanager
def experts_computed_by(function: Callable[..., torch.Tensor]) -> Iterator[None]:
    """Make mixtures of experts of transformers compute with ``function``; no effect if transformers is not in use.

    Patched: ``transformers.integrations.moe.ExpertsInterface.get_interface``. Seen in transformers 5.

    Upstream: https://github.com/huggingface/transformers/pull/42697 added the interface. A function can be registered,
    but a model uses it only if its configuration names it, and Retort must not change the user's configuration.

    Without it: tokens are sorted by expert with an operator that no other runtime has, or each token gathers a copy of
    its experts' matrices.
    """
    interface = getattr(sys.modules.get(_EXPERTS), "ExpertsInterface", None)
    if interface is None:
        yield
        return
    choose = interface.get_interface
    interface.get_interface = lambda self, name, default: function
    try:
        yield
    finally:
        interface.get_interface = choose


def forget_accelerator() -> None:
    """Allow the next ``Accelerator`` to choose another device and precision.

    Used: ``accelerate.state.AcceleratorState._reset_state``. Seen in accelerate 1.

    Upstream: https://github.com/huggingface/accelerate/issues/2463 (closed without a public function).

    Without it: a process keeps its first device and precision, and another one raises ``ValueError``.
    """
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)


@contextmanager
def unchecked_distributions() -> Iterator[None]:
    """Trace ``torch.distributions`` without the checks of parameters and samples, which branch on values.

    Patched: the default of ``Distribution.set_default_validate_args``, which has a setter, but nothing that returns it
    (``Distribution._validate_args``). Seen in torch 2.13.

    Upstream: https://github.com/pytorch/pytorch/issues/135061 (closed, but 2.13 still fails).

    Without it: every ``log_prob`` and every distribution that ``forward`` creates is refused as a branch on data.
    """
    distribution = torch.distributions.Distribution
    before = distribution._validate_args
    distribution.set_default_validate_args(False)
    try:
        yield
    finally:
        distribution.set_default_validate_args(before)
