"""Kernels that compute the scales of their activations at run time: their names, and when they are faster.

ONNX Runtime 1.31 has ``DynamicQuantizeLSTM`` and nothing for the other recurrent kinds. A GRU in integers is a ``Scan``
around ``DynamicQuantizeMatMul``; each of its time steps has about 25 µs of call overhead.
"""

from __future__ import annotations

from typing import Literal

RecurrentForm = Literal["auto", "integer", "weights"]
"""``integer``: integer kernels; ``weights``: INT8 in the file, unpacked once at load time, then FP32 kernels."""

OPERATORS = frozenset(["DynamicQuantizeLinear", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM"])
"""Nodes whose scale comes from the whole batch: the result of a row depends on the other rows (serve.md H17)."""

DEPENDENT_ROWS = "rows influence each other: INT8 scales are computed from the whole batch at run time"

LEAST_HIDDEN = {"lstm": 96, "gru": 384}
"""Smallest hidden sizes at which integer kernels are not slower at batch 1 (measured on x86)."""


def form_on(target: str, form: RecurrentForm = "auto") -> RecurrentForm:
    """The form that ``auto`` means on a target: where integer kernels pay was measured on x86 only."""
    return "weights" if target == "arm" and form == "auto" else form


def runs_in_integers(kind: str, hidden: int, form: RecurrentForm = "auto") -> bool:
    """Whether a recurrent layer with INT8 weights uses integer kernels.

    Args:
        kind: ``lstm``, ``gru``, ``rnn_tanh`` or ``rnn_relu``.
        hidden: size of its hidden state.
        form: the requested form.
    """
    if kind not in LEAST_HIDDEN or form == "weights":
        return False
    return form == "integer" or hidden >= LEAST_HIDDEN[kind]
