"""Plain recurrent layers (``nn.RNN``) as ONNX ``RNN`` nodes; the exporter has forms of LSTM and GRU only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from onnxscript import opset18

op: Any = opset18  # its annotations know no Python numbers, which it takes


def forms() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Translations for ``torch.onnx.export``'s ``custom_translation_table``."""
    import torch

    return {torch.ops.aten.rnn_tanh.input: _tanh, torch.ops.aten.rnn_relu.input: _relu}


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
    """All layers: ``[N, T, I]`` or ``[T, N, I]`` and ``[L·D, N, H]`` to the steps' and the last states."""
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
