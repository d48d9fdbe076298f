"""Writes half precision into a graph: converts constants, and inserts casts between FP32 and half precision."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ...core.formats.onnx_graphs import captured
from ..lint.graph_view import View

_RECURRENT = ("GRU", "LSTM", "RNN")


class Rewriter:
    """Converts constants and inserts casts between FP32 and half precision."""

    def __init__(self, view: View, kind: int, floats: set[str], chosen: set[int], keep_io: bool) -> None:
        self.view, self.kind, self.floats, self.chosen = view, kind, floats, chosen
        self.keep_io = keep_io
        self.added = 0
        self.dtype = helper.tensor_dtype_to_np_dtype(kind)
        self.inner = {name for node in view.graph.node for name in captured(node)}
        self.half: set[str] = set()
        self.casts: dict[tuple[str, bool], str] = {}
        self.nodes: list[onnx.NodeProto] = []
        self.fresh: list[onnx.TensorProto] = []

    def rewrite(self) -> int:
        """Rewrite the graph; returns the number of added casts."""
        graph = self.view.graph
        if not self.keep_io:
            self._retype_inputs()
        for node in self.view.order:
            self._place(node)
        self._outputs()
        nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in self.nodes]
        del graph.node[:], graph.value_info[:]
        graph.node.extend(nodes)
        graph.initializer.extend(self.fresh)
        read = {name for node in nodes for name in node.input} | {value.name for value in graph.output}
        kept = [tensor for tensor in graph.initializer if tensor.name in read or tensor.name in self.inner]
        copies = [onnx.TensorProto.FromString(tensor.SerializeToString()) for tensor in kept]
        del graph.initializer[:]
        graph.initializer.extend(copies)
        return self.added

    def _retype_inputs(self) -> None:
        for value in self.view.graph.input:
            if value.name in self.floats and value.name not in self.view.stored and value.name not in self.inner:
                value.type.tensor_type.elem_type = self.kind
                self.half.add(value.name)

    def _place(self, node: onnx.NodeProto) -> None:
        low = id(node) in self.chosen
        for index, name in enumerate(node.input):
            if name in self.floats:
                node.input[index] = self._as(name, low)
        if node.op_type in _RECURRENT and node.input[0] in self.casts.values():
            node.input[0] = self._summed(node.input[0])
        if low:
            self._retype(node)
            self.half |= {name for name in node.output if name in self.floats}
        self.nodes.append(node)

    def _as(self, name: str, low: bool) -> str:
        """The value ``name`` in the wanted type: itself, a converted copy of a constant, or the output of a cast.

        All readers of a value share one cast.
        """
        if (name in self.half) == low:
            return name
        if (name, low) not in self.casts:
            fresh = f"{name}_{'half' if low else 'fp32'}"
            self.casts[name, low] = fresh
            if name in self.view.stored:
                array = self.view.constant(name)
                assert array is not None, name
                self.fresh.append(numpy_helper.from_array(array.astype(self.dtype), fresh))
            else:
                to = self.kind if low else TensorProto.FLOAT
                self.nodes.append(helper.make_node("Cast", [name], [fresh], name=f"cast_{fresh}", to=to))
                self.added += 1
        return self.casts[name, low]

    def _summed(self, cast: str) -> str:
        """A cast value plus zero, for the input of a recurrent layer.

        TensorRT-RTX 1.7.1 cannot build a recurrent layer with one direction directly after a cast. Its compiler moves
        the cast into the loop over time and then slices the steps from a value of another shape ("Mismatched number of
        elements in reshape op"). The addition between them prevents this.
        """
        zero = numpy_helper.from_array(np.zeros((), np.float32), f"{cast}_nothing")
        self.fresh.append(zero)
        self.nodes.append(helper.make_node("Add", [cast, zero.name], [f"{cast}_apart"], name=f"apart_{cast}"))
        return f"{cast}_apart"

    def _retype(self, node: onnx.NodeProto) -> None:
        """Change the attributes of a node that hold an element type or a number of that type."""
        for item in node.attribute:
            if node.op_type == "Cast" and item.name == "to" and item.i == TensorProto.FLOAT:
                item.i = self.kind
            if node.op_type == "ConstantOfShape" and item.name == "value" and item.t.data_type == TensorProto.FLOAT:
                item.t.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(item.t).astype(self.dtype)))
        if node.op_type == "ConstantOfShape" and not node.attribute:
            zero = numpy_helper.from_array(np.zeros(1, self.dtype))
            node.attribute.append(helper.make_attribute("value", zero))

    def _outputs(self) -> None:
        for value in self.view.graph.output:
            if value.name not in self.half:
                continue
            if not self.keep_io:
                value.type.tensor_type.elem_type = self.kind
                continue
            inner = f"{value.name}_in_half"
            for node in self.nodes:
                for names in (node.input, node.output):
                    for index, name in enumerate(names):
                        if name == value.name:
                            names[index] = inner
            self.nodes.append(
                helper.make_node("Cast", [inner], [value.name], name=f"cast_{value.name}", to=TensorProto.FLOAT)
            )
            self.added += 1
