"""Reading of an ONNX file into plain nodes and constants, with an error if something is not supported."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from ...core.backends.ort_signature import SIGNATURE_KEY
from ...core.errors import ArtifactError, MissingFileError, ModelError
from ...core.formats.onnx_graphs import all_nodes
from ...core.formats.onnx_weights import require_weights
from ...core.signature import Signature
from ...core.tensors import Array, TensorSpec
from .constant_folding import STANDARD
from .normal_form import fixed_values, normalize

_COMPUTED = (
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "bfloat16", "float32", "float64"),
)
_NO_NAMES = ("none", "unk", "unknown", "dynamic", "-1")
_NOT_NUMBERS = (onnx.TensorProto.UNDEFINED, onnx.TensorProto.STRING)
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

    def bodies(self) -> dict[str, Body]:
        """The branches of an ``If``, or the body of a loop, by attribute."""
        return {name: value for name, value in self.attributes.items() if isinstance(value, Body)}

    def describe(self) -> str:
        """``Resize 'up_1'``."""
        return f"{self.operator.removeprefix('Recurrent.')} '{self.name}'"


@dataclass(frozen=True)
class Body:
    """The graph inside a node; its constants are among those of the whole model, and no other value has its names."""

    nodes: tuple[Node, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Graph:
    """A whole model.

    Attributes:
        constants: every initializer and constant by name; half precision is widened to float32.
        inputs: with the sizes of the file; an axis that has no name there has one that no other axis has.
        outputs: names with dtypes.
        opset: version of the standard operators.
        fixed: the values of inputs that were made constants.
        written: the signature of the file, if Retort wrote it.
    """

    nodes: tuple[Node, ...]
    constants: dict[str, NDArray[Any]]
    inputs: tuple[TensorSpec, ...]
    outputs: dict[str, str]
    opset: int
    fixed: dict[str, NDArray[Any]] = field(default_factory=dict)
    written: Signature | None = None


def read_graph(
    path: Path, known: Collection[str] | None = None, values: Mapping[str, Any] = MappingProxyType({})
) -> Graph:
    """Read a file.

    Args:
        known: names of operators that have a form here; others are replaced by their definition in ONNX, if they have
            one.
        values: inputs that become constants, with their values.

    Raises:
        MissingFileError: the file or its file of weights does not exist.
        ArtifactError: the file is truncated, or is not an ONNX model.
        ModelError: the model is quantized, has operators of other domains, or has an input that is not a tensor.
        UserError: ``values`` does not fit the inputs.
    """
    model = _load(path)
    _require_floating(model, path)
    fixed = fixed_values(model.graph, values)
    stored = next((item.value for item in model.metadata_props if item.key == SIGNATURE_KEY), "")
    written = Signature.from_json(stored) if stored else None
    model = normalize(model, known, values)
    graph = model.graph
    _require_standard(graph)
    constants = {item.name: _widened(numpy_helper.to_array(item)) for item in graph.initializer}
    inputs = tuple(_spec(item) for item in graph.input if item.name not in constants)
    if not inputs:
        raise ModelError(f"{path} has no input", "give a model with inputs")
    opset = max((item.version for item in model.opset_import if item.domain in STANDARD), default=1)
    outputs = {item.name: _dtype(item) for item in graph.output}
    return Graph(_nodes(graph), constants, inputs, outputs, opset, fixed, written)


def require_floating(path: Path) -> None:
    """Reject a quantized file without opening it in a runtime, which may be unable to run it.

    Raises:
        ArtifactError: the file is truncated, or is not an ONNX model.
        ModelError: the model is quantized.
    """
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:
        raise _unreadable(path, error) from error
    _require_floating(model, path)


def _nodes(graph: onnx.GraphProto) -> tuple[Node, ...]:
    return tuple(_node(proto, index) for index, proto in enumerate(graph.node))


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
        raise _unreadable(path, error) from error
    if not model.graph.node and not model.graph.output:
        raise ArtifactError(f"{path} contains no graph", "export or copy it again")
    return model


def _unreadable(path: Path, error: Exception) -> ArtifactError:
    first = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
    return ArtifactError(f"{path} cannot be read as ONNX: {first}", "export or copy it again")


def _require_floating(model: onnx.ModelProto, path: Path) -> None:
    nodes = [node for part in (model.graph, *model.functions) for node in all_nodes(part)]
    coded = next((node for node in nodes if _QUANTIZED.search(node.op_type)), None)
    if coded is not None:
        raise ModelError(
            f"{path} is already quantized: {coded.op_type} '{coded.name or coded.output[0]}'",
            "give the floating-point model from which it was made: `retort quantize FP32.onnx --data … --target …`",
        )


def _require_standard(graph: onnx.GraphProto) -> None:
    for node in all_nodes(graph):
        if node.domain not in STANDARD:
            raise ModelError(
                f"operator {node.domain}.{node.op_type} '{node.name or node.output[0]}' is not a standard ONNX "
                "operator",
                _FOREIGN.get(node.domain, "give the exported model, before a runtime fused its operators"),
            )


_FOREIGN = {
    "ai.onnx.ml": "it belongs to classical machine learning; give the part of the model that is a neural network",
    "ai.onnx.preview.training": "it is a step of training; give the model that is made for inference",
}


def _node(proto: onnx.NodeProto, index: int) -> Node:
    attributes = {item.name: _value(item) for item in proto.attribute}
    return Node(
        proto.op_type, proto.name or f"{proto.op_type}_{index}", tuple(proto.input), tuple(proto.output), attributes
    )


def _value(item: onnx.AttributeProto) -> Any:
    value = onnx.helper.get_attribute_value(item)
    if isinstance(value, onnx.GraphProto):
        names = [tuple(port.name for port in ports) for ports in (value.input, value.output)]
        return Body(_nodes(value), names[0], names[1])
    if isinstance(value, onnx.TensorProto):
        return _widened(numpy_helper.to_array(value))
    if isinstance(value, bytes):
        return value.decode()
    return [part.decode() if isinstance(part, bytes) else part for part in value] if item.type > 5 else value


def _widened(array: Array) -> NDArray[Any]:
    return array.astype(np.float32) if array.dtype == np.float16 or array.dtype.name == "bfloat16" else np.array(array)


def _spec(item: onnx.ValueInfoProto) -> TensorSpec:
    kind = item.type.tensor_type
    if not item.type.HasField("tensor_type") or kind.elem_type in _NOT_NUMBERS:
        raise ModelError(
            f"input '{item.name}' is not a tensor of numbers",
            "give the part of the model that takes tensors, and do the rest before it",
        )
    if not kind.HasField("shape"):
        raise ModelError(f"input '{item.name}' has no shape", "export the model with shapes")
    sizes = [_axis(size, f"{item.name}_{axis}") for axis, size in enumerate(kind.shape.dim)]
    return TensorSpec(item.name, _dtype(item), tuple(sizes))


def _dtype(item: onnx.ValueInfoProto) -> str:
    """The name of the dtype; half precision is computed in float32."""
    kind = item.type.tensor_type.elem_type
    if not item.type.HasField("tensor_type") or kind == onnx.TensorProto.STRING:
        raise ModelError(
            f"'{item.name}' is an output of the model and is not a tensor of numbers",
            "give the part of the model that computes tensors, and do the rest after it",
        )
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind)) if kind else None
    if dtype is not None and dtype.name not in _COMPUTED:
        raise ModelError(
            f"'{item.name}' has the type {dtype.name}, which PyTorch and ONNX Runtime do not compute with on a CPU",
            "give the model in float32",
        )
    name = dtype.name if dtype is not None else ""
    return "float32" if name in {"float16", "bfloat16"} else name


def _axis(size: onnx.TensorShapeProto.Dimension, own: str) -> int | str:
    """A size, or an axis name that is an identifier; ``?``, -1 and 0 are no names."""
    if size.dim_value > 0:
        return size.dim_value
    named = any(letter.isalnum() for letter in size.dim_param) and size.dim_param.lower() not in _NO_NAMES
    label = size.dim_param if named else own
    name = "".join(letter if letter.isalnum() else "_" for letter in label)
    return name if name.isidentifier() else f"axis_{name}"
