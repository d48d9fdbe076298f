"""Recurrent layers that the exporter does not support: ``nn.RNN`` as ONNX ``RNN``, and LSTMs with projections.

ONNX has no projection. With ``h = P m`` for the unprojected state ``m``, the gates compute ``W x + R P m``. This is an
LSTM with the recurrent matrix ``R P``, whose outputs are projected afterwards. The initial ``h`` becomes an additional
input of the first step. The function is the same, but its recurrent product is larger (Sak et al., 2014).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from onnxscript import opset18
from onnxscript.function_libs.torch_lib.ops import core

op: Any = opset18  # its annotations do not include Python numbers, which it accepts


def forms() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Translations for ``torch.onnx.export``'s ``custom_translation_table``."""
    import torch

    aten = torch.ops.aten
    return {aten.rnn_tanh.input: _tanh, aten.rnn_relu.input: _relu, aten.lstm.input: _lstm}


def _tanh(
    value: Any, hx: Any, params: Sequence[Any], has_biases: bool, num_layers: int, dropout: float, train: bool,
    bidirectional: bool, batch_first: bool,
) -> Any:  # fmt: skip
    return _stack("Tanh", value, hx, params, has_biases, num_layers, bidirectional, batch_first)


def _relu(
    value: Any, hx: Any, params: Sequence[Any], has_biases: bool, num_layers: int, dropout: float, train: bool,
    bidirectional: bool, batch_first: bool,
) -> Any:  # fmt: skip
    return _stack("Relu", value, hx, params, has_biases, num_layers, bidirectional, batch_first)


def _stack(
    kind: str, value: Any, hx: Any, params: Sequence[Any], biases: bool, layers: int, both: bool, batch_first: bool
) -> Any:  # fmt: skip
    """All layers: from ``[N, T, I]`` or ``[T, N, I]`` and ``[L·D, N, H]`` to all states and the last ones."""
    ways = 2 if both else 1
    each = len(params) // (layers * ways)
    if batch_first:
        value = op.Transpose(value, perm=[1, 0, 2])
    lasts = []
    for layer in range(layers):
        start = layer * ways
        weights = [params[(start + way) * each : (start + way + 1) * each] for way in range(ways)]
        state = op.Slice(hx, [start], [start + ways], [0])
        value, last = _layer(kind, value, state, weights, biases)
        lasts.append(last)
    return op.Transpose(value, perm=[1, 0, 2]) if batch_first else value, op.Concat(*lasts, axis=0)


def _layer(kind: str, value: Any, state: Any, weights: Sequence[Sequence[Any]], biases: bool) -> tuple[Any, Any]:
    inputs, recurrent = (op.Concat(*[op.Unsqueeze(way[k], [0]) for way in weights], axis=0) for k in (0, 1))
    bias = None
    if biases:
        bias = op.Concat(*[op.Unsqueeze(op.Concat(way[2], way[3], axis=0), [0]) for way in weights], axis=0)
    steps, last = op.RNN(
        value, inputs, recurrent, bias, None, state,
        activations=[kind] * len(weights), direction="bidirectional" if len(weights) == 2 else "forward",
        hidden_size=int(weights[0][1].shape[-1]),
    )  # fmt: skip
    # [T, D, N, H] -> [T, N, D·H]
    return op.Reshape(op.Transpose(steps, perm=[0, 2, 1, 3]), [0, 0, -1]), last


def _lstm(
    value: Any, hx: Sequence[Any], params: Sequence[Any], has_biases: bool, num_layers: int, dropout: float,
    train: bool, bidirectional: bool, batch_first: bool,
) -> Any:  # fmt: skip
    ways = 2 if bidirectional else 1
    each = len(params) // (num_layers * ways)
    if each == (4 if has_biases else 2):
        return core.aten_lstm(
            value, hx, params, has_biases, num_layers, dropout, train, bidirectional, batch_first
        )  # fmt: skip
    if batch_first:
        value = op.Transpose(value, perm=[1, 0, 2])
    lasts = []
    for layer in range(num_layers):
        start = layer * ways
        weights = [params[(start + way) * each : (start + way + 1) * each] for way in range(ways)]
        states = [op.Slice(state, [start], [start + ways], [0]) for state in hx]
        first = (
            [None] * ways if _zero(hx[0]) else [op.Slice(hx[0], [start + k], [start + k + 1], [0]) for k in range(ways)]
        )
        value, *last = _projected(value, first, states[1], weights)
        lasts.append(last)
    hidden, cell = (op.Concat(*[last[k] for last in lasts], axis=0) for k in (0, 1))
    return op.Transpose(value, perm=[1, 0, 2]) if batch_first else value, hidden, cell


def _projected(value: Any, first: Sequence[Any], cell: Any, weights: Sequence[Sequence[Any]]) -> tuple[Any, Any, Any]:
    """One layer: from ``[T, N, I]`` to ``[T, N, D·P]`` and the last states; ``first`` is the initial ``h[1, N, P]``."""
    matrices = []
    for number, way in enumerate(weights):
        columns = [way[0]]
        for other, state in enumerate(first):
            if state is not None:
                columns.append(way[1] if other == number else op.Mul(way[1], 0.0))
        matrices.append(_gates(op.Concat(*columns, axis=1)))
    starts = [
        _at_first_step(value, state, last=bool(number)) for number, state in enumerate(first) if state is not None
    ]
    shrink = op.Concat(*[op.Unsqueeze(op.Transpose(way[-1], perm=[1, 0]), [0]) for way in weights], axis=0)
    bias = None
    if len(weights[0]) > 3:
        bias = op.Concat(*[op.Concat(_gates(way[2]), _gates(way[3]), axis=1) for way in weights], axis=0)
    steps, last, cells = op.LSTM(
        op.Concat(value, *starts, axis=2) if starts else value,
        op.Concat(*matrices, axis=0),
        op.Concat(*[_gates(op.MatMul(way[1], way[-1])) for way in weights], axis=0),
        bias, None, None, cell,
        direction="bidirectional" if len(weights) == 2 else "forward",
        hidden_size=int(weights[0][-1].shape[-1]),
    )  # fmt: skip
    small = op.Transpose(op.MatMul(steps, shrink), perm=[0, 2, 1, 3])
    return op.Reshape(small, [0, 0, -1]), op.MatMul(last, shrink), cells


def _gates(weight: Any) -> Any:
    """Rows in PyTorch's order (in, forget, cell, out) as ``[1, …]`` in ONNX's order (in, out, forget, cell)."""
    parts = op.Split(weight, num_outputs=4, axis=0)
    return op.Unsqueeze(op.Concat(parts[0], parts[3], parts[1], parts[2], axis=0), [0])


def _at_first_step(value: Any, state: Any, last: bool) -> Any:
    """``[T, N, P]``: the state at the first step (at the last one for the reverse direction), zeros elsewhere."""
    steps = op.Squeeze(op.Shape(value, start=0, end=1), [0])
    place = op.Sub(steps, 1) if last else op.Mul(steps, 0)
    mask = op.CastLike(op.Equal(op.Range(0, steps, 1), place), state)
    return op.Mul(op.Unsqueeze(mask, [1, 2]), state)


def _zero(value: Any) -> bool:
    """Whether the node that computes a state shows that it is all zeros."""
    node = value.producer()
    while node is not None and node.op_type in ("Expand", "Cast", "CastLike", "Identity"):
        value = node.inputs[0]
        node = value.producer()
    known = value.const_value if node is None else getattr(node.attributes.get("value"), "value", None)
    return known is not None and not known.numpy().any()
