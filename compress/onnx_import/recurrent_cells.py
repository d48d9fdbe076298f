"""Recurrent nodes that no layer of PyTorch computes, step by step: lengths, peepholes, clipping, other activations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from ...core.errors import ModelError
from .operator_call import Call, Operator
from .recurrent_operators import laid_out
from .recurrent_shapes import require_fitting

Activation = Callable[[torch.Tensor], torch.Tensor]
MOST_STEPS = 512
_DEFAULTS = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"], "RNN": ["Tanh"]}
_ACTIVATIONS: dict[str, Callable[[torch.Tensor, float | None, float | None], torch.Tensor]] = {
    "sigmoid": lambda x, a, b: torch.sigmoid(x), "tanh": lambda x, a, b: torch.tanh(x),
    "relu": lambda x, a, b: torch.relu(x), "softsign": lambda x, a, b: functional.softsign(x),
    "softplus": lambda x, a, b: functional.softplus(x),
    "elu": lambda x, a, b: functional.elu(x, 1.0 if a is None else a),
    "leakyrelu": lambda x, a, b: functional.leaky_relu(x, 0.01 if a is None else a),
    "thresholdedrelu": lambda x, a, b: functional.threshold(x, 1.0 if a is None else a, 0.0),
    "hardsigmoid": lambda x, a, b: torch.clamp((0.2 if a is None else a) * x + (0.5 if b is None else b), 0, 1),
    "scaledtanh": lambda x, a, b: (1.0 if a is None else a) * torch.tanh((1.0 if b is None else b) * x),
    "affine": lambda x, a, b: (1.0 if a is None else a) * x + (0.0 if b is None else b),
}  # fmt: skip


@dataclass(frozen=True)
class _Way:
    """One direction: its weights as in the file, and what it applies to the gates."""

    inputs: torch.Tensor
    recurrent: torch.Tensor
    input_bias: torch.Tensor | None
    recurrent_bias: torch.Tensor | None
    peepholes: tuple[torch.Tensor, ...] | None
    activations: tuple[Activation, ...]


def _run(call: Call) -> tuple[torch.Tensor, ...]:
    """The whole node; the values are X, W, R, B, lengths, the initial states and, for an LSTM, peepholes."""
    require_fitting(call)
    first_axis, direction = bool(call.get("layout", 0)), call.get("direction", "forward")
    series = call.tensor(0).transpose(0, 1) if first_axis else call.tensor(0)
    steps = series.shape[0]
    if not isinstance(steps, int):
        raise ModelError(
            f"{call.node.describe()} is computed step by step, because {_reason(call)}",
            "export the model with a fixed length",
            steps=steps.node.hint,
        )
    if steps > MOST_STEPS:
        raise call.refuse(f"{_reason(call)}, and its sequence has more than {MOST_STEPS} steps")
    lengths = call.tensor(4) if call.has(4) else None
    results = []
    for way in range(2 if direction == "bidirectional" else 1):
        backward = direction == "reverse" or way == 1
        states = [_state(call, index, way, series, first_axis) for index in (5, 6)]
        results.append(_one_way(call, _way(call, way), series, lengths, states, backward))
    stacked = [torch.stack(parts, 1 if index == 0 else 0) for index, parts in enumerate(zip(*results, strict=True))]
    return laid_out(stacked[0], tuple(stacked[1:]), first_axis)


def _reason(call: Call) -> str:
    kind = call.node.operator
    if call.has(4):
        return "its sequences have lengths of their own"
    if kind == "GRU" and not call.get("linear_before_reset", 0):
        return "its reset gate comes before the product (linear_before_reset is 0)"
    return "it has peepholes, clipping, other activations or computed weights, which no layer of PyTorch has"


def _way(call: Call, way: int) -> _Way:
    names = call.get("activations") or _DEFAULTS[call.node.operator] * 2
    count = len(_DEFAULTS[call.node.operator])
    alphas, betas = (list(call.get(name) or []) for name in ("activation_alpha", "activation_beta"))
    chosen = []
    for place, name in enumerate(names[way * count : (way + 1) * count], way * count):
        if name.lower() not in _ACTIVATIONS:
            raise call.refuse(f"its activation '{name}' is not supported")
        function = _ACTIVATIONS[name.lower()]
        a, b = (values[place] if place < len(values) else None for values in (alphas, betas))
        chosen.append(lambda x, function=function, a=a, b=b: function(x, a, b))
    bias = call.tensor(3)[way].chunk(2) if call.has(3) else (None, None)
    peepholes = tuple(call.tensor(7)[way].chunk(3)) if call.has(7) else None
    return _Way(call.tensor(1)[way], call.tensor(2)[way], bias[0], bias[1], peepholes, tuple(chosen))


def _state(call: Call, index: int, way: int, series: torch.Tensor, first_axis: bool) -> torch.Tensor:
    hidden = call.tensor(2).shape[-1]
    if not call.has(index) or (index == 6 and call.node.operator != "LSTM"):
        return torch.zeros(series.shape[1], hidden, dtype=series.dtype, device=series.device)
    given = call.tensor(index)
    state = given[:, way] if first_axis else given[way]
    return state.expand(series.shape[1], hidden)


def _one_way(
    call: Call,
    way: _Way,
    series: torch.Tensor,
    lengths: torch.Tensor | None,
    states: list[torch.Tensor],
    backward: bool,
) -> list[torch.Tensor]:
    """The outputs of all steps, and the last states, of one direction."""
    kind, (hidden, cell), outputs = call.node.operator, states, []
    projected = functional.linear(series, way.inputs, way.input_bias)
    order = range(len(series))
    for step in reversed(order) if backward else order:
        if kind == "LSTM":
            new, carried = _lstm(call, way, projected[step], hidden, cell)
        elif kind == "GRU":
            new, carried = _gru(call, way, projected[step], hidden), cell
        else:
            gate = projected[step] + functional.linear(hidden, way.recurrent, way.recurrent_bias)
            new, carried = way.activations[0](_clipped(call, gate)), cell
        if lengths is None:
            hidden, cell = new, carried
            outputs.append(new)
            continue
        inside = (lengths > step).unsqueeze(-1)
        hidden, cell = torch.where(inside, new, hidden), torch.where(inside, carried, cell)
        outputs.append(torch.where(inside, new, 0.0))
    stacked = torch.stack(outputs[::-1] if backward else outputs)
    return [stacked, hidden, cell] if kind == "LSTM" else [stacked, hidden]


def _lstm(
    call: Call, way: _Way, projected: torch.Tensor, hidden: torch.Tensor, cell: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    f, g, h = way.activations
    gates = projected + functional.linear(hidden, way.recurrent, way.recurrent_bias)
    write, read, keep, new = gates.chunk(4, -1)
    if way.peepholes is not None:
        write, keep = write + way.peepholes[0] * cell, keep + way.peepholes[2] * cell
    write = f(_clipped(call, write))
    kept = 1 - write if call.get("input_forget", 0) else f(_clipped(call, keep))
    cell = kept * cell + write * g(_clipped(call, new))
    if way.peepholes is not None:
        read = read + way.peepholes[1] * cell
    return f(_clipped(call, read)) * h(cell), cell


def _gru(call: Call, way: _Way, projected: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
    f, g = way.activations
    weights = way.recurrent.chunk(3)
    biases = (None, None, None) if way.recurrent_bias is None else way.recurrent_bias.chunk(3)
    update, reset, new = projected.chunk(3, -1)
    update = f(_clipped(call, update + functional.linear(hidden, weights[0], biases[0])))
    reset = f(_clipped(call, reset + functional.linear(hidden, weights[1], biases[1])))
    if call.get("linear_before_reset", 0):
        new = new + reset * functional.linear(hidden, weights[2], biases[2])
    else:
        new = new + functional.linear(reset * hidden, weights[2], biases[2])
    return (1 - update) * g(_clipped(call, new)) + update * hidden


def _clipped(call: Call, gate: torch.Tensor) -> torch.Tensor:
    limit: Any = call.get("clip")
    return gate if limit is None else gate.clamp(-limit, limit)


OPERATORS: dict[str, Operator] = {"LSTM": _run, "GRU": _run, "RNN": _run}
