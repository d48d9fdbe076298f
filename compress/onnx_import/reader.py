"""Reading of an ONNX file into plain nodes and constants, with an error if something is not supported."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from ...core.errors import ArtifactError, MissingFileError, ModelError
from ...core.formats.onnx_graphs import all_nodes
from ...core.formats.onnx_weights import require_weights
from ...core.tensors import BATCH, Array, TensorSpec

STANDARD = ("", "ai.onnx")
_QUANTIZED = re.compile(r"[Qq]uant|Integer|Bits$|Bnb4$|^Q(Linear|Gemm|Attention|EmbedLayer|OrderedM)")
"""Operators of integers, in ONNX and in ONNX Runtime's own domain: static, dynamic, fused, in a loop's body."""


@dataclass(frozen=True)
class Node:
    """One operator: the names of what it reads and writes, and its attributes as Python values."""

    operator: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any] = field(default_factory=dict)

    def describe(self) -> str:
        """``Resize 'up_1'``."""
        return f"{self.operator} '{self.name}'"


@dataclass(frozen=True)
class Graph:
    """A whole model.

    Attributes:
        constants: every initializer and constant by name; half precision is widened to float32.
        opset: version of the standard operators.
    """

    nodes: tuple[Node, ...]
    constants: dict[str, NDArray[Any]]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[str, ...]
    opset: int


def read_graph(path: Path) -> Graph:
    """Read a file.

    Raises:
        MissingFileError: the file or its file of weights does not exist.
        ArtifactError: the file is truncated, or is not an ONNX model.
        ModelError: the model is quantized, has operators of other domains, or has an input without a shape.
    """
    model = _load(path)
    graph = model.graph
    _require_plain(graph, path)
    constants = {item.name: _widened(numpy_helper.to_array(item)) for item in graph.initializer}
    nodes = []
    for index, proto in enumerate(graph.node):
        if proto.op_type == "Constant":
            constants[proto.output[0]] = _constant(proto)
        else:
            nodes.append(_node(proto, index))
    inputs = tuple(_spec(item) for item in graph.input if item.name not in constants)
    if not inputs:
        raise ModelError(f"{path} has no input", "give a model with inputs")
    opset = max((item.version for item in model.opset_import if item.domain in STANDARD), default=1)
    return Graph(tuple(nodes), constants, inputs, tuple(item.name for item in graph.output), opset)


def _load(path: Path) -> onnx.ModelProto:
    if not path.is_file():
        raise MissingFileError(f"no such model: {path}", "check the path")
    try:
        model = onnx.load(path, load_external_data=False)
        require_weights(model, path)
        onnx.external_data_helper.load_external_data_for_model(model, str(path.parent))
    except MissingFileError:
        raise
    except Exception as error:  # protobuf's and the checker's errors share no class
        first = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise ArtifactError(f"{path} cannot be read as ONNX: {first}", "export or copy it again") from error
    if not model.graph.node:
        raise ArtifactError(f"{path} contains no graph", "export or copy it again")
    return model


def _require_plain(graph: onnx.GraphProto, path: Path) -> None:
    coded = next((node for node in all_nodes(graph) if _QUANTIZED.search(node.op_type)), None)
    if coded is not None:
        raise ModelError(
            f"{path} is already quantized: {coded.op_type} '{coded.name or coded.output[0]}'",
            "give the floating-point model from which it was made: `retort quantize FP32.onnx --data … --target …`",
        )
    for node in graph.node:
        if node.domain not in STANDARD:
            raise ModelError(
                f"operator {node.domain}.{node.op_type} '{node.name or node.output[0]}' is not a standard ONNX "
                "operator",
                "give the exported model, before a runtime fused its operators",
            )


def _node(proto: onnx.NodeProto, index: int) -> Node:
    attributes = {item.name: _value(item) for item in proto.attribute}
    return Node(
        proto.op_type, proto.name or f"{proto.op_type}_{index}", tuple(proto.input), tuple(proto.output), attributes
    )


def _value(item: onnx.AttributeProto) -> Any:
    value = onnx.helper.get_attribute_value(item)
    if isinstance(value, onnx.TensorProto):
        return _widened(numpy_helper.to_array(value))
    if isinstance(value, bytes):
        return value.decode()
    return [part.decode() if isinstance(part, bytes) else part for part in value] if item.type > 5 else value


def _constant(proto: onnx.NodeProto) -> NDArray[Any]:
    (attribute,) = proto.attribute
    return _widened(np.asarray(_value(attribute)))


def _widened(array: Array) -> NDArray[Any]:
    return array.astype(np.float32) if array.dtype == np.float16 or array.dtype.name == "bfloat16" else np.array(array)


def _spec(item: onnx.ValueInfoProto) -> TensorSpec:
    kind = item.type.tensor_type
    if not kind.HasField("shape") or not len(kind.shape.dim):
        raise ModelError(f"input '{item.name}' has no shape with a batch axis", "export the model with shapes")
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type))
    sizes = [size.dim_value or size.dim_param or f"{item.name}_{axis}" for axis, size in enumerate(kind.shape.dim)]
    name = "float32" if dtype.name in {"float16", "bfloat16"} else dtype.name
    return TensorSpec(item.name, name, (BATCH, *(_axis(size) for size in sizes[1:])))


def _axis(size: int | str) -> int | str:
    """A size, or an axis name that is an identifier."""
    if isinstance(size, int):
        return size
    name = "".join(letter if letter.isalnum() else "_" for letter in size)
    return name if name.isidentifier() and name != BATCH else f"axis_{name}"
