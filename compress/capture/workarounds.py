"""The patch of PyTorch's packed sequences that capture needs; see :mod:`retort.core.workarounds` for the rule."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, FunctionType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensor
from torch.nn.utils import rnn

__all__ = ["PackingFunctions", "lengths_as_tensors", "packing_by", "truth_by"]


_retort: Any
"""The active packing, in ``torch.nn.utils.rnn``, where :func:`_pack` and :func:`_pad` run."""


class PackingFunctions(NamedTuple):
    """PyTorch's own ``pack_padded_sequence`` and ``pad_packed_sequence``."""

    pack: Callable[..., Any]
    pad: Callable[..., Any]


@contextmanager
def packing_by(packing: Any) -> Iterator[PackingFunctions]:
    """Compute packed sequences, and recurrent layers on them, by other functions.

    Patched: the code of ``pack_padded_sequence`` and ``pad_packed_sequence`` in ``torch.nn.utils.rnn``, because models
    may have taken them under any name; ``forward`` of ``nn.LSTM``, ``nn.GRU`` and ``nn.RNN``. Seen in torch 2.13.

    Upstream: no upstream issue found for packed sequences in ``torch.export``.

    Without it: the packed data have a size that depends on the lengths, and ``torch.export`` cannot trace them
    (``zeros(): argument 'size' failed to unpack``).

    Args:
        packing: has ``pack``, ``pad``, and ``recurrent(layer, input, states)``, which returns None for what the layer
            must compute itself.

    Yields:
        PyTorch's own functions.
    """
    functions: list[Any] = [rnn.pack_padded_sequence, rnn.pad_packed_sequence]
    own = [FunctionType(function.__code__, vars(rnn), "", function.__defaults__) for function in functions]
    changes: list[tuple[Any, str, Any]] = [
        (function, "__code__", form.__code__) for function, form in zip(functions, (_pack, _pad))
    ]
    changes += [(layer, "forward", _forward_by(packing, layer.forward)) for layer in (nn.LSTM, nn.GRU, nn.RNN)]
    before = [getattr(place, name) for place, name, _ in changes]
    outer = vars(rnn).get("_retort")
    vars(rnn)["_retort"] = packing
    try:
        for place, name, value in changes:
            setattr(place, name, value)
        yield PackingFunctions(*own)
    finally:
        vars(rnn)["_retort"] = outer
        for (place, name, _), value in zip(changes, before):
            setattr(place, name, value)


def _forward_by(packing: Any, plain: Callable[..., Any]) -> Callable[..., Any]:
    def _forward(layer: nn.RNNBase, input: Any, hx: Any = None) -> Any:
        found = packing.recurrent(layer, input, hx)
        return plain(layer, input, hx) if found is None else found

    return _forward


def _pack(input: Any, lengths: Any, batch_first: bool = False, enforce_sorted: bool = True) -> Any:
    return _retort.pack(input, lengths, batch_first, enforce_sorted)  # noqa: F821


def _pad(sequence: Any, batch_first: bool = False, padding_value: float = 0.0, total_length: int | None = None) -> Any:
    return _retort.pad(sequence, batch_first, padding_value, total_length)  # noqa: F821


@contextmanager
def lengths_as_tensors() -> Iterator[None]:
    """Leave one integer per sample a tensor where a model converts them to a list or an array, as it does for lengths.

    Patched: ``tolist`` and ``numpy`` of ``torch._subclasses.FakeTensor``, for vectors of integers whose size is
    symbolic. Seen in torch 2.13.

    Upstream: no upstream issue found; a list of unknown length cannot be traced.

    Without it: ``pack_padded_sequence(x, lengths.tolist())`` is refused as a branch on data.
    """
    own = {name: vars(FakeTensor).get(name) for name in ("tolist", "numpy")}
    for name in own:
        setattr(FakeTensor, name, _kept(getattr(FakeTensor, name)))
    try:
        yield
    finally:
        for name, function in own.items():
            if function is None:
                delattr(FakeTensor, name)  # it is inherited
            else:
                setattr(FakeTensor, name, function)


def _kept(plain: Callable[..., Any]) -> Callable[..., Any]:
    def _convert(value: Tensor, *args: Any, **kwargs: Any) -> Any:
        vector = value.dim() == 1 and isinstance(value.shape[0], torch.SymInt)
        return value if vector and not value.is_floating_point() else plain(value, *args, **kwargs)

    return _convert


@contextmanager
def truth_by(answer: Callable[[Tensor, Callable[[Tensor], bool], FrameType], bool]) -> Iterator[None]:
    """Answer conditions on tensors (``if mask.any():``) by a function, in runs and traces alike.

    Patched: ``torch.Tensor.__bool__``. A ``TorchFunctionMode`` would switch off PyTorch's fast path for attention, and
    so change the outputs of the model that is observed. Seen in torch 2.13.

    Upstream: no upstream issue found; ``torch.export`` refuses every branch on data by design.

    Without it: a branch that only skips work is refused as a branch on data.

    Args:
        answer: takes the tensor, PyTorch's own function, and the frame of the condition.
    """
    plain: Any = Tensor.__bool__
    setattr(Tensor, "__bool__", lambda value: answer(value, plain, sys._getframe(1)))  # noqa: B010
    try:
        yield
    finally:
        del Tensor.__bool__  # it is inherited
