"""Shapes of recurrent operators worked out without a loop over time, so that the time axis may be dynamic.

While PyTorch traces ``aten.lstm``, ``gru`` and the plain RNNs it computes the shapes of their outputs by running a
Python loop over the time steps, which turns the number of steps into a constant and makes tracing take longer with
every step. The shapes follow from the inputs' alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

Shapes = Callable[..., "tuple[Tensor, ...]"]
NAMES = ("lstm", "gru", "rnn_tanh", "rnn_relu")


@contextmanager
def free_time() -> Iterator[None]:
    """Trace recurrent operators without unrolling them."""
    import torch
    from torch._decomp import decomposition_table
    from torch._subclasses.fake_impls import op_implementations_dict

    learnt: tuple[dict[Any, Any], ...] = (decomposition_table, op_implementations_dict)
    operators = {getattr(torch.ops.aten, name).input: _lstm if name == "lstm" else _gru for name in NAMES}
    kernels = {operator: dict(operator.py_kernels) for operator in operators}
    # Exporting to ONNX leaves the kernels it finds in the second table.
    tables = [(table, {operator: table.get(operator) for operator in operators}) for table in learnt]
    try:
        for operator, shapes in operators.items():
            _set_kernels(operator, dict.fromkeys(kernels[operator], shapes))
            decomposition_table[operator] = shapes
        yield
    finally:
        for operator in operators:
            _set_kernels(operator, kernels[operator])
        for table, before in tables:
            _restore(table, before)


def _set_kernels(operator: Any, kernels: dict[Any, Shapes]) -> None:
    operator.py_kernels.update(kernels)
    operator._dispatch_cache.clear()


def _restore(table: dict[Any, Any], before: dict[Any, Any]) -> None:
    for operator, entry in before.items():
        if entry is None:
            table.pop(operator, None)
        else:
            table[operator] = entry


def _lstm(
    value: Tensor, states: Sequence[Tensor], weights: Any, biases: bool, layers: int, dropout: float,
    train: bool, bidirectional: bool, batch_first: bool,
) -> tuple[Tensor, ...]:  # fmt: skip
    hidden, cell = states
    return _steps(value, hidden, bidirectional), hidden.new_empty(hidden.shape), cell.new_empty(cell.shape)


def _gru(
    value: Tensor, hidden: Tensor, weights: Any, biases: bool, layers: int, dropout: float,
    train: bool, bidirectional: bool, batch_first: bool,
) -> tuple[Tensor, ...]:  # fmt: skip
    return _steps(value, hidden, bidirectional), hidden.new_empty(hidden.shape)


def _steps(value: Tensor, hidden: Tensor, bidirectional: bool) -> Tensor:
    """``[N, T, D·H]`` or ``[T, N, D·H]``: as the input is laid out."""
    return value.new_empty([value.size(0), value.size(1), hidden.size(2) * (2 if bidirectional else 1)])
