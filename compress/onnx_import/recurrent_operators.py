"""LSTM, GRU and RNN nodes: their weights in PyTorch's order of gates, and the layer that uses them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...core.errors import ModelError
from .operator_call import Call, Operator
from .reader import Node

GATES = {"LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2), "RNN": (0,)}
"""PyTorch's gates by their place in ONNX: i f g o of i o f c; r z n of z r h."""
_USUAL = {"LSTM": ("sigmoid", "tanh", "tanh"), "GRU": ("sigmoid", "tanh")}
_REMEDY = "capture the PyTorch model instead"


def weights_of(node: Node, constants: dict[str, NDArray[Any]]) -> list[NDArray[np.float32]]:
    """Weights of all directions in PyTorch's order: input, recurrent, and two biases each.

    Raises:
        ModelError: the layer has peepholes, clipping, lengths or other activations, which PyTorch does not have.
    """
    _require_plain(node)
    given = [constants.get(name) if name else None for name in (*node.inputs, "", "", "")[1:4]]
    inputs, recurrent, bias = given
    if inputs is None or recurrent is None or (bias is None and len(node.inputs) > 3 and node.inputs[3]):
        raise ModelError(f"{node.describe()} has computed weights", _REMEDY)
    order, found = GATES[node.operator], []
    for way in range(len(inputs)):
        parts = [inputs[way], recurrent[way]]
        parts += [] if bias is None else np.split(bias[way], 2)
        found += [_reordered(part, order) for part in parts]
    return found


def _reordered(array: NDArray[Any], order: tuple[int, ...]) -> NDArray[np.float32]:
    gates = np.split(array, len(order))
    return np.ascontiguousarray(np.concatenate([gates[index] for index in order]), dtype=np.float32)


def _require_plain(node: Node) -> None:
    attributes, kind = node.attributes, node.operator
    ways = 2 if attributes.get("direction", "forward") == "bidirectional" else 1
    activations = tuple(name.lower() for name in attributes.get("activations", ()))
    usual = (_USUAL[kind] * ways,) if kind in _USUAL else (("tanh",) * ways, ("relu",) * ways)
    faults = {
        "a length per sample": len(node.inputs) > 4 and bool(node.inputs[4]),
        "peepholes": kind == "LSTM" and len(node.inputs) > 7 and bool(node.inputs[7]),
        "clipping": "clip" in attributes,
        "coupled gates": bool(attributes.get("input_forget", 0)),
        "the batch first": bool(attributes.get("layout", 0)),
        "the direction 'reverse'": attributes.get("direction", "forward") == "reverse",
        "the reset gate before the product": kind == "GRU" and not attributes.get("linear_before_reset", 0),
        "other activations": bool(activations) and activations not in usual,
    }
    for what, found in faults.items():
        if found:
            raise ModelError(f"{node.describe()} has {what}, which PyTorch's layer does not support", _REMEDY)


def _run(call: Call) -> tuple[torch.Tensor, ...]:
    """Run the layer; the values are the sequence ``[T, N, I]``, the initial states or None, and the weights."""
    series, kind = call.tensor(0), call.node.operator
    states, weights = list(call.values[1:3]), list(call.values[3:])
    both = call.get("direction", "forward") == "bidirectional"
    ways, hidden = (2 if both else 1), weights[1].shape[1]
    zeros = torch.zeros(ways, series.shape[1], hidden, dtype=series.dtype, device=series.device)
    first, cell = (zeros if state is None else _state(call, state, zeros) for state in states)
    biases = len(weights) > 2 * ways
    rest = (weights, biases, 1, 0.0, call.training, both, False)
    if kind == "Recurrent.LSTM":
        steps, last, carried = torch.lstm(series, (first, cell), *rest)
        outputs: tuple[torch.Tensor, ...] = (last, carried)
    else:
        relu = "relu" in [name.lower() for name in call.get("activations", ())]
        function: Any = torch.gru if kind == "Recurrent.GRU" else torch.rnn_relu if relu else torch.rnn_tanh
        steps, last = function(series, first, *rest)
        outputs = (last,)
    length, rows = steps.shape[0], steps.shape[1]
    return steps.reshape(length, rows, ways, hidden).permute(0, 2, 1, 3), *outputs


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
            return state
    raise call.refuse(f"its initial state has the shape {list(state.shape)} instead of {[ways, rows, hidden]}")


OPERATORS: dict[str, Operator] = {f"Recurrent.{kind}": _run for kind in GATES}
