"""LSTM, GRU and RNN nodes: their weights in PyTorch's order of gates, and the layer that uses them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...core.errors import ModelError
from ..capture.packed_sequences import Recurrence, masked_recurrent
from .operator_call import Call, Operator
from .reader import Node
from .recurrent_shapes import require_features, weights_fault

GATES = {"LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2), "RNN": (0,)}
"""PyTorch's gates by their place in ONNX: i f g o of i o f c; r z n of z r h."""
_USUAL = {"LSTM": ("sigmoid", "tanh", "tanh"), "GRU": ("sigmoid", "tanh")}


def as_layer(node: Node, constants: Mapping[str, NDArray[Any]]) -> Node | None:
    """The node as a layer of PyTorch, without its weights; None if PyTorch has no such layer.

    Its inputs are the sequence and the initial states. Lengths that are all equal to that of the sequence cannot be
    told here, so a node with lengths is computed step by step.

    Raises:
        ModelError: its weights do not fit each other or its hidden size.
    """
    if any(name and name not in constants for name in node.inputs[1:4]):
        return None
    shapes = [constants[name].shape if name else None for name in (*node.inputs[1:4], "", "")[:3]]
    weights, recurrent = (shape or () for shape in shapes[:2])
    if (fault := weights_fault(node, weights, recurrent, shapes[2])) is not None:
        raise ModelError(
            f"{node.describe()} cannot be imported: {fault}",
            "export the model again: ONNX Runtime does not run such a file either",
            operator=node.operator,
        )
    if not _is_plain(node):
        return None
    lengths, *states = (*node.inputs, "", "", "", "", "", "")[4:7]
    return replace(node, operator=f"Recurrent.{node.operator}", inputs=(node.inputs[0], *states, lengths))


def weights_of(node: Node, constants: Mapping[str, NDArray[Any]]) -> list[NDArray[np.float32]]:
    """Weights of all directions in PyTorch's order: input, recurrent, and two biases each."""
    inputs, recurrent = constants[node.inputs[1]], constants[node.inputs[2]]
    bias = constants[node.inputs[3]] if len(node.inputs) > 3 and node.inputs[3] else None
    order, found = GATES[node.operator], []
    for way in range(len(inputs)):
        parts = [inputs[way], recurrent[way]]
        parts += [] if bias is None else np.split(bias[way], 2)
        found += [_reordered(part, order) for part in parts]
    return found


def _reordered(array: NDArray[Any], order: tuple[int, ...]) -> NDArray[np.float32]:
    gates = np.split(array, len(order))
    return np.ascontiguousarray(np.concatenate([gates[index] for index in order]), dtype=np.float32)


def _is_plain(node: Node) -> bool:
    """Whether the node computes what PyTorch's layer does."""
    attributes, kind = node.attributes, node.operator
    ways = 2 if attributes.get("direction", "forward") == "bidirectional" else 1
    activations = tuple(name.lower() for name in attributes.get("activations", ()))
    usual = (_USUAL[kind] * ways,) if kind in _USUAL else (("tanh",) * ways, ("relu",) * ways)
    return not (
        (kind == "LSTM" and node.inputs[7:8] not in ((), ("",)))
        or "clip" in attributes
        or attributes.get("input_forget", 0)
        or (kind == "GRU" and not attributes.get("linear_before_reset", 0))
        or (activations and activations not in usual)
    )


def _run(call: Call) -> tuple[torch.Tensor, ...]:
    """Run the layer; the values are the sequence ``[T, N, I]``, the initial states and lengths or None, and
    the weights.

    Raises:
        ModelError: the sequence or a state does not fit the weights.
    """
    first_axis, backward = bool(call.get("layout", 0)), call.get("direction", "forward") == "reverse"
    series, kind = call.tensor(0), call.node.operator
    require_features(call, series.shape, call.values[4].shape[1])
    series = series.transpose(0, 1) if first_axis else series
    states, lengths, weights = [call.optional(1), call.optional(2)], call.optional(3), list(call.values[4:])
    both = call.get("direction", "forward") == "bidirectional"
    ways, hidden = (2 if both else 1), weights[1].shape[1]
    zeros = torch.zeros(ways, series.shape[1], hidden, dtype=series.dtype, device=series.device)
    first, cell = (zeros if state is None else _state(call, state, zeros) for state in _tensors(states, first_axis))
    biases = len(weights) > 2 * ways
    if lengths is not None:
        started = [first, cell] if kind == "Recurrent.LSTM" else [first]
        steps, outputs = _of_lengths(call, series, lengths, started, weights)
        return laid_out(steps.reshape(*steps.shape[:2], ways, hidden).permute(0, 2, 1, 3), outputs, first_axis)
    series = series.flip(0) if backward else series
    rest = (weights, biases, 1, 0.0, call.training, both, False)
    if kind == "Recurrent.LSTM":
        steps, last, carried = torch.lstm(series, (first, cell), *rest)
        outputs = (last, carried)
    else:
        functions: dict[str, Any] = {"GRU": torch.gru, "RNN_RELU": torch.rnn_relu, "RNN_TANH": torch.rnn_tanh}
        function = functions[_kind(call)]
        steps, last = function(series, first, *rest)
        outputs = (last,)
    steps = steps.flip(0) if backward else steps
    length, rows = steps.shape[0], steps.shape[1]
    return laid_out(steps.reshape(length, rows, ways, hidden).permute(0, 2, 1, 3), outputs, first_axis)


def _kind(call: Call) -> str:
    """PyTorch's name of the layer."""
    relu = "relu" in [name.lower() for name in call.get("activations", ())]
    kind = call.node.operator.removeprefix("Recurrent.")
    return kind if kind != "RNN" else "RNN_RELU" if relu else "RNN_TANH"


def _of_lengths(
    call: Call, series: torch.Tensor, lengths: torch.Tensor, states: list[torch.Tensor], weights: list[torch.Tensor]
) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    """All steps ``[T, N, D·H]``, zeros after the end of a sequence, and the last states, zeros without any step."""
    backward = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}
    ways = backward[call.get("direction", "forward")]
    net = Recurrence(_kind(call), weights, len(weights) > 2 * len(ways), ways, training=call.training)
    rows = series.shape[1]
    if lengths.dim() != 1 or lengths.shape[0] not in (1, rows):
        raise call.refuse(f"its sequence_lens has the shape {list(lengths.shape)}, and it must be {[rows]}")
    lengths = lengths.to(torch.int64).expand(rows)
    steps, lasts = masked_recurrent(net, series.transpose(0, 1), lengths, states)
    outside = torch.arange(series.shape[0], device=series.device).unsqueeze(0) >= lengths.unsqueeze(1)
    steps = steps.masked_fill(outside.unsqueeze(-1), 0.0).transpose(0, 1)
    empty = (lengths < 1).reshape(1, -1, 1)
    return steps, tuple(last.masked_fill(empty, 0.0) for last in lasts)


def _tensors(states: list[torch.Tensor | None], first_axis: bool) -> list[torch.Tensor | None]:
    return [state.transpose(0, 1) if first_axis and state is not None else state for state in states]


def laid_out(steps: torch.Tensor, outputs: tuple[torch.Tensor, ...], first_axis: bool) -> tuple[torch.Tensor, ...]:
    """The outputs, with the batch on axis 0 if the layout of the node is 1."""
    if not first_axis:
        return steps, *outputs
    return steps.permute(2, 0, 1, 3), *(value.transpose(0, 1) for value in outputs)


def _state(call: Call, state: torch.Tensor, zeros: torch.Tensor) -> torch.Tensor:
    """An initial state for every row; files that were written for one row have one state.

    Raises:
        ModelError: it has another shape, at which PyTorch's kernels would read beyond its memory.
    """
    ways, rows, hidden = zeros.shape
    if state.dim() == 3 and state.shape[0] == ways and state.shape[2] == hidden:
        if state.shape[1] == 1:
            return state.to(zeros.dtype).expand(ways, rows, hidden).contiguous()
        if state.shape[1] == rows:
            return state.contiguous()
    raise call.refuse(f"its initial state has the shape {list(state.shape)} instead of {[ways, rows, hidden]}")


OPERATORS: dict[str, Operator] = {f"Recurrent.{kind}": _run for kind in GATES}
