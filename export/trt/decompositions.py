"""Operators that TensorRT's parser does not support (DFT, Col2Im), written with operators that it supports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ..graph_edit import Numbers, add_constant, attribute, constant, dims, every_node, insert_before, is_op, substitute

LARGEST = 4096
"""Longest axis whose transform is written as a product: its matrix then has 64 million numbers."""


class _Writer:
    """Inserts nodes before a place in the graph; sizes that the graph does not state are computed at run time."""

    def __init__(self, model: ir.Model, place: ir.Node) -> None:
        self.model, self.place, self.stem = model, place, place.outputs[0].name or "dft"
        self.count = 0

    def node(self, op: str, *inputs: ir.Value | None, **attributes: int | float | Sequence[int]) -> ir.Value:
        """A new node; returns its output, which is floating-point."""
        self.count += 1
        return insert_before(self.place, op, inputs, attributes, f"{self.stem}_{op}_{self.count}", None, None)

    def numbers(self, array: Numbers) -> ir.Value:
        """A new constant."""
        return add_constant(self.model, f"{self.stem}_numbers", array)


def without_unsupported(model: ir.Model) -> tuple[ir.Model, bool]:
    """Write ``DFT`` as a product with a matrix of cosines and sines, and ``Col2Im`` as a transposed convolution."""
    changed = False
    for node in every_node(model):
        if not is_op(node, "DFT", "Col2Im"):
            continue
        made = _dft(model, node) if node.op_type == "DFT" else _fold(model, node)
        if made is not None:
            made.shape, made.type = node.outputs[0].shape, node.outputs[0].type
            substitute(node.outputs[0], made)
            changed = True
    return model, changed


@dataclass(frozen=True)
class _Transform:
    """The parameters of a ``DFT``.

    Attributes:
        axis: the transformed axis, counted from the front.
        size: size of that axis, if it is known.
        length: length of the transform; None if it is the size of the axis, or computed.
        of_pairs: whether the input has an imaginary part.
    """

    axis: int
    size: int | None
    length: int | None
    of_pairs: bool
    inverse: bool
    onesided: bool

    @property
    def to_real(self) -> bool:
        """Whether it computes real values from a one-sided spectrum."""
        return self.inverse and self.onesided


def _transform(node: ir.Node) -> _Transform | None:
    shape, axis = dims(node.inputs[0]), _axis(node)
    given = node.inputs[1] if len(node.inputs) > 1 else None
    length = constant(given)
    if shape is None or axis is None or shape[-1] not in (1, 2):
        return None
    if given is not None and length is None and not _is_size(given, node.inputs[0], axis % len(shape)):
        return None
    inverse, onesided = bool(attribute(node, "inverse", 0)), bool(attribute(node, "onesided", 0))
    size = shape[axis % len(shape)]
    wanted = None if length is None else int(length.reshape(-1)[0])
    size = size if isinstance(size, int) else None
    if wanted is None and not (inverse and onesided):
        wanted = size
    return _Transform(axis % len(shape), size, wanted, shape[-1] == 2, inverse, onesided)


def _is_size(value: ir.Value, source: ir.Value | None, axis: int) -> bool:
    """Whether a number is the size of that axis of ``source``, as the exporter computes it."""
    producer = value.producer()
    while is_op(producer, "Squeeze", "Reshape") and producer is not None and producer.inputs[0] is not None:
        producer = producer.inputs[0].producer()
    return (
        producer is not None
        and is_op(producer, "Shape")
        and producer.inputs[0] is source
        and attribute(producer, "start", 0) == axis
    )


def _dft(model: ir.Model, node: ir.Node) -> ir.Value | None:
    """Write a DFT of ``[..., N, ..., c]``, complex parts last, as ``[..., c * N]`` times ``[c * N, d * M]``."""
    source, shape, transform = node.inputs[0], dims(node.inputs[0]), _transform(node)
    if source is None or shape is None or transform is None:
        return None
    write = _Writer(model, node)
    if transform.size is not None and transform.length is not None:
        if max(transform.size, transform.length) > LARGEST:
            return None
        matrix = _matrix(transform, transform.size, transform.length)
        weight = write.numbers(matrix.astype(source.dtype.numpy() if source.dtype is not None else np.float32))
    elif transform.size is None and transform.length is None and not transform.to_real:
        weight = _computed_matrix(write, source, transform)
    else:
        return None
    axis, rank = transform.axis, len(shape)
    others = [item for item in range(rank - 1) if item != axis]
    flat = write.node("Transpose", source, perm=[*others, rank - 1, axis])
    flat = write.node("Reshape", flat, write.numbers(np.array([0] * len(others) + [-1])))
    parts = write.node("MatMul", flat, weight)
    parts = write.node("Reshape", parts, write.numbers(np.array([0] * len(others) + [2 - transform.to_real, -1])))
    order = [*others, rank - 1, axis]
    return write.node("Transpose", parts, perm=[order.index(item) for item in range(rank)])


def _axis(node: ir.Node) -> int | None:
    """The transformed axis: an attribute up to opset 19, an input from 20 on."""
    if "axis" in node.attributes:
        return attribute(node, "axis", 1)
    if len(node.inputs) < 3 or node.inputs[2] is None:
        return -2 if node.version is None or node.version >= 20 else 1
    found = constant(node.inputs[2])
    return None if found is None else int(found.reshape(-1)[0])


def _matrix(transform: _Transform, size: int, length: int) -> Numbers:
    """The matrix of a DFT: rows for the real, then the imaginary parts of ``size`` inputs; columns for the outputs."""
    count = length // 2 + 1 if transform.onesided and not transform.inverse else length
    kept = min(size, length // 2 + 1 if transform.to_real else length)
    rows = np.arange(kept)[:, None]
    angle = 2 * np.pi / length * (rows * np.arange(count)[None] % length)
    cosine, sine = (np.zeros((size, count)) for _ in range(2))
    share: Numbers = np.asarray(1 / length if transform.inverse else 1.0)
    if transform.to_real:  # each coefficient also represents its complex conjugate, except the first and the middle one
        share = share * np.where((rows == 0) | (2 * rows == length), 1.0, 2.0)
    cosine[:kept], sine[:kept] = np.cos(angle) * share, np.sin(angle) * (share if transform.inverse else -share)
    if transform.to_real:
        return np.concatenate([cosine, -sine]) if transform.of_pairs else cosine
    real = np.concatenate([cosine, sine], 1)
    return np.concatenate([real, np.concatenate([-sine, cosine], 1)]) if transform.of_pairs else real


def _computed_matrix(write: _Writer, source: ir.Value, transform: _Transform) -> ir.Value:
    """Nodes that compute the matrix for a size known only at run time; integers up to 2**24 are exact in FP32."""
    zero, one = write.numbers(np.asarray(0)), write.numbers(np.asarray(1))
    whole = write.node("Gather", write.node("Shape", source), write.numbers(np.asarray(transform.axis)), axis=0)
    size = write.node("Cast", whole, to=int(ir.DataType.FLOAT))
    count = whole
    if transform.onesided:
        count = write.node("Add", write.node("Div", whole, write.numbers(np.asarray(2))), one)
    rows, columns = (
        write.node("Cast", write.node("Range", zero, stop, one), to=int(ir.DataType.FLOAT)) for stop in (whole, count)
    )
    rows = write.node("Unsqueeze", rows, write.numbers(np.array([1])))
    columns = write.node("Unsqueeze", columns, write.numbers(np.array([0])))
    product = write.node("Mul", rows, columns)
    turns = write.node("Mul", write.node("Floor", write.node("Div", product, size)), size)
    step = write.node("Div", write.numbers(np.asarray(2 * np.pi, np.float32)), size)
    angle = write.node("Mul", write.node("Sub", product, turns), step)
    cosine, sine = write.node("Cos", angle), write.node("Sin", angle)
    if transform.inverse:
        cosine, sine = write.node("Div", cosine, size), write.node("Div", sine, size)
    less = write.node("Neg", sine)
    sine, less = (sine, less) if transform.inverse else (less, sine)
    both = write.node("Concat", cosine, sine, axis=1)
    if transform.of_pairs:
        both = write.node("Concat", both, write.node("Concat", less, cosine, axis=1), axis=0)
    kind = source.dtype
    return both if kind in (None, ir.DataType.FLOAT) else write.node("Cast", both, to=int(kind or 1))


def _fold(model: ir.Model, node: ir.Node) -> ir.Value | None:
    """Sum patches ``[N, C * k, L]`` at their positions, with a transposed convolution whose kernels have a single 1."""
    shape, image, block = dims(node.inputs[0]), constant(node.inputs[1]), constant(node.inputs[2])
    dtype = node.inputs[0].dtype if node.inputs[0] is not None else None
    if shape is None or not isinstance(shape[1], int) or image is None or block is None or dtype is None:
        return None
    rank, places = len(block), int(np.prod(block))
    stride, dilation = (_listed(node, name, [1] * rank) for name in ("strides", "dilations"))
    pads = _listed(node, "pads", [0] * 2 * rank)
    reach = np.asarray(dilation) * (block - 1) + 1
    room = image + np.asarray(pads[:rank]) + np.asarray(pads[rank:]) - reach
    counts, rest = room // np.asarray(stride) + 1, room % np.asarray(stride)
    if rank > 2:
        return None
    write, channels = _Writer(model, node), shape[1] // places
    kernel = np.eye(places).reshape(1, places, 1, *block).repeat(channels, 0).reshape(-1, 1, *block)
    value = write.node("Reshape", node.inputs[0], write.numbers(np.array([0, shape[1], *counts])))
    return write.node(
        "ConvTranspose",
        value,
        write.numbers(kernel.astype(dtype.numpy())),
        strides=stride,
        dilations=dilation,
        pads=pads,
        output_padding=[int(item) for item in rest],
        group=channels,
    )


def _listed(node: ir.Node, name: str, default: list[int]) -> list[int]:
    found = node.attributes.get(name)
    return default if found is None else list(found.as_ints())
