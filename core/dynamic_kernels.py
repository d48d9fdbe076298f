"""Kernels that take the scale of their activations while they run: which they are, and when they pay.

ONNX Runtime 1.31 has ``DynamicQuantizeLSTM`` and nothing for the other recurrent kinds. A GRU in integers is a ``Scan``
around ``DynamicQuantizeMatMul``, whose every step costs some 25 µs of calls.
"""

from __future__ import annotations

from typing import Literal

RecurrentForm = Literal["auto", "integer", "weights"]
"""``integer``: products in integers; ``weights``: INT8 in the file, unpacked once when it is loaded, FP32 kernels."""

OPERATORS = frozenset(["DynamicQuantizeLinear", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM"])
"""Nodes whose scale comes from the whole batch: a row's result depends on the rows beside it (serve.md H17)."""

NEIGHBOURS = "rows influence each other: INT8 scales are taken from the whole batch while it runs"

LEAST_HIDDEN = {"lstm": 96, "gru": 384}
"""Hidden sizes from which integers are not slower at batch 1 (measured; the README has the table)."""


def runs_in_integers(kind: str, hidden: int, form: RecurrentForm = "auto") -> bool:
    """Whether a recurrent layer whose weights are INT8 computes in integers.

    Args:
        kind: ``lstm``, ``gru``, ``rnn_tanh`` or ``rnn_relu``.
        hidden: size of its state.
        form: what was asked for.
    """
    if kind not in LEAST_HIDDEN or form == "weights":
        return False
    return form == "integer" or hidden >= LEAST_HIDDEN[kind]
