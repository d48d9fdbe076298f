"""Check of half precision in ONNX Runtime: FP16 directly, BF16 as FP32 that is rounded after every node."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ...core.errors import VerificationError
from ...core.metrics.relative_error import error_by_largest, share_that_differs
from ...core.session import Session, SessionOptions, open_session
from ...core.tensors import Array, Feeds
from ..lint.graph_view import QUANTIZE, View

if TYPE_CHECKING:
    from torch.export import ExportedProgram

ACCEPTED = {"fp16": 1e-2, "bf16": 8e-2}
"""Largest error, relative to the largest value of the output."""
CODED_ACCEPTED = 0.15
"""The same with INT8, where a different rounding changes a value by a whole step."""
_LOW = {"torch.float16": "fp16", "torch.bfloat16": "bf16"}
_HALF, _FULL = TensorProto.BFLOAT16, TensorProto.FLOAT


def computed_in(program: ExportedProgram, asked: str) -> str:
    """The lowest precision of a file: the one that is asked for, or that of layers that are in half precision."""
    kinds = {str(getattr(node.meta.get("val"), "dtype", "")) for node in program.graph.nodes}
    found = {_LOW[kind] for kind in kinds & set(_LOW)}
    return asked if asked != "fp32" or not found else "bf16" if "bf16" in found else "fp16"


class Widened:
    """Wraps a session with FP16 inputs and outputs as one with FP32; see :class:`retort.core.session.Session`."""

    def __init__(self, inner: Session) -> None:
        self.inner, self.signature = inner, inner.signature
        self.backend, self.providers = inner.backend, inner.providers

    def run(self, feeds: Feeds) -> dict[str, Array]:
        """Run one batch; FP16 outputs are converted to FP32."""
        found = self.inner.run(feeds)
        return {name: value.astype(np.float32) if value.dtype == np.float16 else value for name, value in found.items()}

    def close(self) -> None:
        """Free what the runtime holds."""
        self.inner.close()


def runnable(model: onnx.ModelProto) -> onnx.ModelProto:
    """A model that ONNX Runtime's CPU kernels support and that computes the same.

    BF16 becomes FP32 that is rounded after every node, which is what a GPU computes that multiplies in BF16 and adds in
    FP32. FP16 scales of Q/DQ become FP32 with casts around them: ONNX Runtime 1.31 fuses the former into operators
    that it then refuses.
    """
    view = View(model)
    paired = {id(node) for node in view.pairs() if view.stored_type(node, 1) == TensorProto.FLOAT16}
    if _HALF not in view.types.values() and not paired:
        return model
    made = onnx.ModelProto()
    made.CopyFrom(model)
    graph, nodes = made.graph, list[onnx.NodeProto]()
    stored = [_widened(tensor) for tensor in graph.initializer]
    for original, node in zip(model.graph.node, graph.node, strict=True):
        if id(original) in paired:
            nodes += _full_pair(view, node, stored)
        else:
            nodes += _rounded(view, node)
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:], graph.initializer[:], graph.value_info[:]
    graph.node.extend(copies)
    graph.initializer.extend(stored)
    return made


def _rounded(view: View, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """A node that computes in FP32, with its BF16 outputs rounded."""
    names = [name for name in node.output if view.types.get(name) == _HALF]
    for item in node.attribute:
        if node.op_type == "Cast" and item.name == "to" and item.i == _HALF:
            item.i = _FULL
        if item.HasField("t") and item.t.data_type == _HALF:
            item.t.CopyFrom(_widened(item.t))
    for index, name in enumerate(node.output):
        if name in names:
            node.output[index] = f"{name}_exact"
    made = [node]
    for name in names:
        made.append(helper.make_node("Cast", [f"{name}_exact"], [f"{name}_bits"], to=_HALF))
        made.append(helper.make_node("Cast", [f"{name}_bits"], [name], to=_FULL))
    return made


def _full_pair(view: View, node: onnx.NodeProto, stored: list[onnx.TensorProto]) -> list[onnx.NodeProto]:
    """A Q or DQ node with an FP32 scale, and the cast that its neighbours need."""
    output, scale = node.output[0], view.constant(node.input[1])
    assert scale is not None
    stored.append(numpy_helper.from_array(scale.astype(np.float32), f"{output}_scale"))
    node.input[1] = f"{output}_scale"
    if node.op_type == QUANTIZE:
        cast = helper.make_node("Cast", [node.input[0]], [f"{output}_full"], to=_FULL)
        node.input[0] = f"{output}_full"
        return [cast, node]
    node.output[0] = f"{output}_full"
    return [node, helper.make_node("Cast", [f"{output}_full"], [output], to=TensorProto.FLOAT16)]


def half_errors(before: onnx.ModelProto, after: onnx.ModelProto, feeds: Feeds) -> dict[str, float]:
    """Largest error of each output, relative to its largest value."""
    outputs = []
    for model in (before, runnable(after)):
        session = open_session(model.SerializeToString(), SessionOptions(threads=0))
        outputs.append(session.run(feeds))
        session.close()
    return {name: _error(value, outputs[1][name]) for name, value in outputs[0].items()}


def require_close(errors: dict[str, float], precision: str, tolerance: float | None = None) -> None:
    """Reject a conversion that changed the outputs too much.

    Raises:
        VerificationError: an output changed too much; the message names it.
    """
    accepted = ACCEPTED[precision] if tolerance is None else tolerance
    for name, error in errors.items():
        if not error <= accepted:
            raise VerificationError(
                f"in {precision} the error of output '{name}' is {error:.1e} of its scale ({accepted:.0e} is accepted)",
                "keep sensitive nodes in FP32 with --half-exclude, or use bf16 for large values",
                errors=errors,
            )


def _widened(tensor: onnx.TensorProto) -> onnx.TensorProto:
    if tensor.data_type != _HALF:
        return tensor
    return numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name)


def _error(one: Array, two: Array) -> float:
    return error_by_largest(one, two) if one.dtype.kind == "f" else share_that_differs(one, two)
