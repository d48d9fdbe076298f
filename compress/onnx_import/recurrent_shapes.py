"""The shapes that the inputs of a recurrent node must have: PyTorch's kernels read beyond weights that do not fit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ...core.errors import ModelError
from .operator_call import Call
from .reader import Node

_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
Shape = Sequence[Any]


def weights_fault(node: Node, weights: Shape, recurrent: Shape, bias: Shape | None) -> str | None:
    """Which of W, R and B does not fit the node, in words; None if all do.

    Args:
        node: an LSTM, a GRU or an RNN of an ONNX file.
        weights: shape of W, which must be ``[directions, gates * hidden, features]``.
        recurrent: shape of R, which must be ``[directions, gates * hidden, hidden]``.
        bias: shape of B, which must be ``[directions, 2 * gates * hidden]``, or None if the node has none.
    """
    ways = 2 if node.attributes.get("direction", "forward") == "bidirectional" else 1
    hidden = node.attributes.get("hidden_size") or (recurrent[2] if len(recurrent) == 3 else "hidden_size")
    rows = _GATES[node.operator] * hidden if isinstance(hidden, int) else f"{_GATES[node.operator]} * {hidden}"
    wanted: tuple[tuple[str, Shape | None, tuple[Any, ...]], ...] = (
        ("R", recurrent, (ways, rows, hidden)),
        ("W", weights, (ways, rows, weights[2] if len(weights) == 3 else "features")),
        ("B", bias, (ways, 2 * rows if isinstance(rows, int) else "2 * gates * hidden_size")),
    )
    for name, shape, fitting in wanted:
        if shape is not None and list(shape) != list(fitting):
            return f"its {name} has the shape {_text(shape)}, and with hidden_size {hidden} it must be {_text(fitting)}"
    return None


def require_features(call: Call, series: Shape, features: int) -> None:
    """The sequence has the rank, and as many features as W has columns.

    Raises:
        ModelError: it has another shape; the message says which.
    """
    if len(series) != 3:
        raise call.refuse(f"its sequence has the shape {_text(series)}, and it must have three axes")
    if series[2] != features:
        raise ModelError(
            f"{call.node.describe()} gets a sequence of {series[2]} features per step, and its W is for {features}",
            "give samples of the sizes for which the model was made",
        )


def require_fitting(call: Call) -> None:
    """All inputs of a node that is computed step by step: X, W, R, B, lengths, initial states and peepholes.

    Raises:
        ModelError: one of them has another shape; the message names it.
    """
    shapes = [call.tensor(index).shape if call.has(index) else None for index in range(8)]
    series, weights, recurrent, bias, lengths, *states, peepholes = shapes
    if series is None or weights is None or recurrent is None:
        raise call.refuse("it has no sequence, no W or no R")
    if (fault := weights_fault(call.node, weights, recurrent, bias)) is not None:
        raise call.refuse(fault)
    require_features(call, series, weights[2])
    ways, hidden = recurrent[0], recurrent[2]
    first_axis = bool(call.get("layout", 0))
    rows = series[0] if first_axis else series[1]
    per_state = (lambda size: (size, ways, hidden)) if first_axis else (lambda size: (ways, size, hidden))
    _require(call, "sequence_lens", lengths, lambda size: (size,), rows)
    for name, state in zip(("initial_h", "initial_c"), states, strict=True):
        _require(call, name, state, per_state, rows)
    _require(call, "P", peepholes, lambda _: (ways, 3 * hidden), rows)


def _require(call: Call, name: str, shape: Shape | None, wanted: Callable[[Any], tuple[Any, ...]], rows: Any) -> None:
    """The shape is the wanted one for all rows, or for one that all rows share."""
    if shape is None or list(shape) == list(wanted(1)) or list(shape) == list(wanted(rows)):
        return
    raise call.refuse(f"its {name} has the shape {_text(shape)}, and it must be {_text(wanted(rows))}")


def _text(shape: Shape) -> str:
    return f"[{', '.join(str(size) for size in shape)}]"
