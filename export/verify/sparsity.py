"""Zeros in an ONNX file: their number per weight, and whether the weights have the N:M pattern."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from ...core.errors import VerificationError
from ...core.facts.export_facts import FileSparsity, SparseWeight

WEIGHTS = {
    **dict.fromkeys(("Conv", "FusedConv", "ConvInteger", "Gemm", "MatMul", "FusedMatMul", "MatMulInteger"), 1),
    **dict.fromkeys(("QLinearConv", "QLinearMatMul"), 3),
    **dict.fromkeys(("DynamicQuantizeMatMul", "DynamicQuantizeLSTM", "LSTM", "GRU", "RNN"), 1),
}
"""The index of the input that is an operator's weight."""
_THROUGH = ("DequantizeLinear", "Transpose", "Identity", "Cast")
_SECOND = ("LSTM", "GRU", "RNN", "DynamicQuantizeLSTM")
_GROUP = (2, 4)


def read_sparsity(model: onnx.ModelProto, group: tuple[int, int] = _GROUP) -> list[SparseWeight]:
    """The zeros of every weight of a convolution, product or recurrent layer, each once.

    Args:
        model: with its weights inside.
        group: N and M; 2:4 by default.
    """
    held = {item.name: item for item in model.graph.initializer}
    producers = {name: node for node in model.graph.node for name in node.output}
    found: dict[str, SparseWeight] = {}
    for node in model.graph.node:
        for name, axis in _weights(node):
            known = _initializer(name, axis, held, producers)
            if known is not None and known[0] not in found:
                found[known[0]] = _measured(*known, group)
    return list(found.values())


def _weights(node: onnx.NodeProto) -> Iterable[tuple[str, int]]:
    """Names of the weights of a node, each with the axis of its input channels."""
    place = WEIGHTS.get(node.op_type)
    if place is None or place >= len(node.input):
        return
    turned = any(item.name == "transB" and item.i for item in node.attribute)
    axis = 1 if "Conv" in node.op_type or turned else -2
    axis = 2 if node.op_type in _SECOND else axis
    yield node.input[place], axis
    if node.op_type in _SECOND and len(node.input) > place + 1:
        yield node.input[place + 1], axis


def _initializer(
    name: str, axis: int, held: Mapping[str, onnx.TensorProto], producers: Mapping[str, onnx.NodeProto]
) -> tuple[str, NDArray[Any], int] | None:
    """Which values of the named weight are not zero, and its input axis; None if the weight is computed."""
    zero: Any = 0
    while name not in held:
        node = producers.get(name)
        if node is None or node.op_type not in _THROUGH:
            return None
        if node.op_type == "DequantizeLinear" and len(node.input) > 2 and node.input[2] in held:
            zero = numpy_helper.to_array(held[node.input[2]])
        if node.op_type == "Transpose":
            order = next((list(item.ints) for item in node.attribute if item.name == "perm"), [1, 0])
            axis = order[axis]
        name = node.input[0]
    values = numpy_helper.to_array(held[name])
    if values.ndim < 2:
        return None
    return name, values != (zero if np.ndim(zero) == 0 or np.size(zero) == 1 else np.asarray(zero).flat[0]), axis


def _measured(name: str, full: NDArray[Any], axis: int, group: tuple[int, int]) -> SparseWeight:
    kept, size = group
    moved = np.moveaxis(full, axis, -1)
    valid = moved.shape[-1] % size == 0 and bool((moved.reshape(-1, size).sum(1) <= kept).all())
    return SparseWeight(name=name, values=full.size, zeros=int(full.size - np.count_nonzero(full)), valid=valid)


def verify_sparsity(model: onnx.ModelProto, meta: Mapping[str, Any]) -> FileSparsity | None:
    """Whether a file still has the zeros of the program that it was made from.

    The export merges, renames and transposes weights, so the zeros of all weights are compared together.

    Args:
        meta: the program's ``meta``; its ``sparsity`` holds the pattern, and per parameter its values and zeros.

    Returns:
        Pattern, share of zeros and every sparse weight; None for a dense program.

    Raises:
        VerificationError: zeros were lost, or too few weights hold the pattern.
    """
    if "sparsity" not in meta:
        return None
    pattern, layers = str(meta["sparsity"]["pattern"]), meta["sparsity"]["layers"].values()
    kept, _, size = pattern.partition(":")
    found = read_sparsity(model, (int(kept), int(size)) if size else _GROUP)
    sparse = [item for item in found if item.zeros and (item.valid or not size)]
    program_zeros, program_values = (sum(int(item[key]) for item in layers) for key in ("zeros", "values"))
    zeros, values = sum(item.zeros for item in sparse), sum(item.values for item in sparse)
    if zeros < program_zeros or (size and values < program_values):
        lost = ", ".join(item.name for item in found if item not in sparse) or "none"
        raise VerificationError(
            f"the file has {zeros} zeros in weights with the pattern {pattern}, but the program has {program_zeros}; "
            f"these are dense: {lost}",
            "make `sparsify` the last stage before `quantize` that changes weights",
            weights=[item.to_json() for item in found],
        )
    share = zeros / max(values, 1)
    return FileSparsity(pattern=pattern, zeros=share, weights=tuple(sparse))
