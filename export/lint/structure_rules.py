"""Rules about the graph itself: operators, order and names, shapes, and axes that were fixed by accident."""

from __future__ import annotations

import re
from collections.abc import Iterator
from math import prod

import onnx

from ...core.counts import with_article
from ...core.formats.onnx_graphs import captured
from .graph_view import WEIGHT_AXIS, Finding, View, attribute, finding, integers, label
from .operators import FOREIGN, INTEGER_OPS, UNSUPPORTED
from .qdq_rules import Rule

_NAME = re.compile(r"node name: ([^)]+)\)")
_OP = re.compile(r"op_type:(\w+)")
LARGEST_WINDOW = 100_000


def q12_operators(view: View) -> Iterator[Finding]:
    """Q12 and Q21: the parser supports all operators; quantization uses Q/DQ, not integer operators; no plugins."""
    for node in view.graph.node:
        own = node.domain in ("", "ai.onnx")
        if node.op_type in INTEGER_OPS:
            yield finding("Q12", node, f"is {with_article(node.op_type)}, which the parser rejects", "write it as Q/DQ")
        elif own and node.op_type in UNSUPPORTED:
            message = f"is {with_article(node.op_type)}, which the parser does not support"
            yield finding("Q21", node, message, "write it with other operators")
        elif (not own and node.op_type not in FOREIGN) or (own and not _is_known(node)):
            if any(node.domain == item.domain and node.op_type == item.name for item in view.model.functions):
                continue
            message = (
                f"is an operator of {node.domain or 'an unknown domain'}, {node.op_type}: the parser looks for a plugin"
            )
            yield finding("Q21", node, message, "write it with standard ONNX operators")


def q22_unique_and_sorted(view: View) -> Iterator[Finding]:
    """Q22: every value is computed once, before it is read; names of constants are unique; outputs exist."""
    given = {value.name for value in view.graph.input}
    known = {"", *view.stored, *given}
    made = {name for node in view.graph.node for name in node.output}
    for node in view.graph.node:
        for name in (*node.input, *captured(node)):
            if name not in known:
                yield _unmade(view, node, name, made)
        for name in node.output:
            if name in known and name and not (node.op_type == "Constant" and name not in given):
                yield finding("Q22", node, f"computes '{name}', which already exists", "give it another name")
            known.add(name)
    yield from _loose_ends(view, known)


def _unmade(view: View, node: onnx.NodeProto, name: str, made: set[str]) -> Finding:
    if name not in made:
        return finding("Q22", node, f"reads '{name}', which no node computes", "export the model again")
    if _is_cyclic(view, node, name):
        return finding("Q22", node, f"reads '{name}', which depends on its own output", "export the model again")
    return finding("Q22", node, f"reads '{name}' before it is computed", "sort the graph", "silent")


def _is_cyclic(view: View, node: onnx.NodeProto, name: str) -> bool:
    own, seen, stack = set(node.output), set(), [name]
    while stack:
        producer = view.producer.get(stack.pop())
        if producer is None or id(producer) in seen:
            continue
        seen.add(id(producer))
        if own & set(producer.output):
            return True
        stack += producer.input
    return False


def _loose_ends(view: View, known: set[str]) -> Iterator[Finding]:
    seen: set[str] = set()
    for tensor in view.graph.initializer:
        if tensor.name in seen:
            yield Finding("Q22", tensor.name, "is stored twice", "keep one of the constants")
        seen.add(tensor.name)
    for value in view.graph.output:
        if value.name not in known:
            yield Finding("Q22", value.name, "is an output that no node computes", "export the model again")
    if not view.graph.output or not view.graph.node:
        yield Finding("Q22", view.graph.name or "graph", "contains no network", "export the model again")


def s01_shapes(view: View) -> Iterator[Finding]:
    """S01: shapes are consistent according to ONNX's shape inference."""
    by_name = {label(node): node for node in view.graph.node}
    for text in view.inferred[1]:
        found, op = _NAME.search(text), _OP.search(text)
        name = found.group(1) if found and found.group(1) in by_name else op.group(1) if op else "graph"
        reason = text.rpartition("] ")[2] or text
        yield Finding("S01", name, f"does not fit: {reason[:160]}", "export the model again")


def s02_reshapes(view: View) -> Iterator[Finding]:
    """S02: a Reshape keeps the number of elements, and does not fix a dynamic batch size."""
    for node in view.graph.node:
        if node.op_type != "Reshape" or len(node.input) < 2:
            continue
        shape, wanted = view.shape_of(node.input[0]), view.array(node, 1)
        if shape is None or wanted is None:
            continue
        sizes = [int(size) for size in wanted]
        if not attribute(node, "allowzero", 0):
            sizes = [_copied(size, shape, axis) for axis, size in enumerate(sizes)]
        if None not in shape and not _fits([int(size or 0) for size in shape], sizes):
            yield finding(
                "S02", node, f"reshapes {list(shape)} to {[int(s) for s in wanted]}", "export the model again"
            )
        elif shape and shape[0] is None and sizes and sizes[0] > 0 and -1 not in sizes:
            message = f"fixes the shape {sizes} although the first axis of its input is dynamic"
            yield finding(
                "S02", node, message, "capture the model with more than one sample, and export again", "silent"
            )


def s03_channels(view: View) -> Iterator[Finding]:
    """S03: a convolution's weight has the channels of its input."""
    for node in view.graph.node:
        if node.op_type not in WEIGHT_AXIS or len(node.input) < 2:
            continue
        data, weight = view.shape_of(node.input[0]), view.shape_of(node.input[1])
        if data is None or weight is None or len(data) < 3 or len(weight) < 3 or data[1] is None:
            continue
        inside = weight[0] if node.op_type == "ConvTranspose" else weight[1]
        wanted = None if inside is None else inside * (attribute(node, "group", 1) if node.op_type == "Conv" else 1)
        if wanted is not None and wanted != data[1]:
            message = f"has a weight for {wanted} channels and an input of {data[1]}"
            yield finding("S03", node, message, "export the model again")


def s04_windows(view: View) -> Iterator[Finding]:
    """S04: pooling is supported by TensorRT: not dilated, with windows below 100,000 elements and inside the data."""
    for node in view.graph.node:
        if node.op_type not in ("MaxPool", "AveragePool", "LpPool"):
            continue
        window, dilations = integers(node, "kernel_shape"), integers(node, "dilations")
        if any(step != 1 for step in dilations):
            yield finding(
                "S04", node, "is a dilated pooling, which TensorRT does not support", "write it as a convolution"
            )
        elif len(window) == 2 and prod(window) >= LARGEST_WINDOW:
            message = f"has a window of {window[0]} x {window[1]}, which is too large for TensorRT"
            yield finding("S04", node, message, "use GlobalAveragePool, or pool in two steps")
        else:
            yield from _outside(view, node, window)


def _outside(view: View, node: onnx.NodeProto, window: tuple[int, ...]) -> Iterator[Finding]:
    shape, pads = view.shape_of(node.input[0]), integers(node, "pads") or (0,) * (2 * len(window))
    if shape is None or len(shape) != len(window) + 2 or any(item.name == "auto_pad" for item in node.attribute):
        return
    for axis, (size, kernel) in enumerate(zip(shape[2:], window, strict=True)):
        if size is not None and size + pads[axis] + pads[axis + len(window)] < kernel:
            message = f"has a window of {kernel} on an axis of {size}"
            yield finding("S04", node, message, "use GlobalAveragePool, or a smaller window")
            return


def _copied(size: int, shape: tuple[int | None, ...], axis: int) -> int:
    if size != 0:
        return size
    copied = shape[axis] if axis < len(shape) else None
    return -1 if copied is None else copied


def _fits(shape: list[int], wanted: list[int]) -> bool:
    if wanted.count(-1) > 1:
        return True  # a copied size that is unknown
    rest = prod(size for size in wanted if size != -1)
    total = prod(shape)
    return total == rest if -1 not in wanted else rest != 0 and total % rest == 0


def r01_axes(view: View) -> Iterator[Finding]:
    """R01: dynamic axes have names, so that a profile can set their range."""
    stored = {tensor.name for tensor in view.graph.initializer}
    for value in view.graph.input:
        if value.name in stored:
            continue
        for index, axis in enumerate(value.type.tensor_type.shape.dim):
            if not axis.HasField("dim_value") and not axis.dim_param:
                message = f"has a dynamic axis {index} without a name"
                yield Finding("R01", value.name, message, "export the model with a name for this axis", "advice")


def _is_known(node: onnx.NodeProto) -> bool:
    return bool(onnx.defs.has(node.op_type))


RULES: tuple[Rule, ...] = (
    q12_operators,
    q22_unique_and_sorted,
    s01_shapes,
    s02_reshapes,
    s03_channels,
    s04_windows,
    r01_axes,
)
GENERAL: tuple[Rule, ...] = (q22_unique_and_sorted, s01_shapes, s02_reshapes, s03_channels)
"""Rules that hold for every target."""
