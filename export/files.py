"""An ONNX file as others wrote it: its graph, its signature, the inputs that are shapes."""

from __future__ import annotations

from pathlib import Path

import onnx

from ..core.backends.ort import SIGNATURE_KEY
from ..core.errors import ArtifactError, StorageError
from ..core.onnx_weights import require_weights
from ..core.tensors import BATCH, Signature, TensorSpec

EXTERNAL_ABOVE_BYTES = 2_000_000_000
"""Protobuf holds no message of 2 GiB; larger models keep their weights in a file beside the graph."""


def read_graph(path: Path) -> onnx.ModelProto:
    """The graph of an ONNX file, without weights that stand in a file beside it.

    Raises:
        ArtifactError: it is not ONNX.
        MissingFileError: the file with its weights is not beside it, or not whole.
    """
    model = _parse(path)
    if not model.graph.node or not model.graph.output:
        raise ArtifactError(f"{path} holds no network", "export the model again")
    return model


def load_graph(path: Path) -> onnx.ModelProto:
    """An ONNX file with all of its weights.

    Raises:
        ArtifactError: it is not ONNX.
        MissingFileError: the file with its weights is not beside it, or not whole.
    """
    model = _parse(path)
    try:
        onnx.external_data_helper.load_external_data_for_model(model, str(path.parent))
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        raise ArtifactError(
            f"{path} cannot be read with its weights: {_first(error)}", "export the model again"
        ) from error
    return model


def _parse(path: Path) -> onnx.ModelProto:
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # protobuf's DecodeError shares no base with the others
        raise ArtifactError(
            f"{path} cannot be read as ONNX: {_first(error)}", "it is truncated or no ONNX file: export the model again"
        ) from error
    require_weights(model, path)
    return model


def _first(error: Exception) -> str:
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__


def save_graph(model: onnx.ModelProto, path: Path) -> None:
    """Write a model, its weights beside it when protobuf cannot hold them.

    Raises:
        StorageError: the file cannot be written.
    """
    large = sum(len(tensor.raw_data) for tensor in model.graph.initializer) > EXTERNAL_ABOVE_BYTES
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        onnx.save(model, str(path), save_as_external_data=large, location=f"{path.name}.data")
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror}", "choose another file") from error


def graph_signature(model: onnx.ModelProto, path: Path) -> Signature:
    """The signature inside an ONNX file, or one made from its inputs and outputs when somebody else wrote it."""
    stored = next((item.value for item in model.metadata_props if item.key == SIGNATURE_KEY), None)
    if stored:
        return Signature.from_json(stored)
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = tuple(_spec(value, path) for value in model.graph.input if value.name not in weights)
    return Signature(inputs, tuple(_spec(value, path) for value in model.graph.output))


def shape_inputs(model: onnx.ModelProto) -> tuple[str, ...]:
    """Inputs that may be shape tensors: integers of rank 0 or 1. A profile gives their values."""
    integers = (onnx.TensorProto.INT32, onnx.TensorProto.INT64)
    tensors = ((value.name, value.type.tensor_type) for value in model.graph.input)
    return tuple(name for name, kind in tensors if kind.elem_type in integers and len(kind.shape.dim) <= 1)


def _spec(value: onnx.ValueInfoProto, path: Path) -> TensorSpec:
    kind = value.type.tensor_type
    if not value.type.HasField("tensor_type"):
        raise ArtifactError(f"{path}: '{value.name}' is no tensor", "TensorRT takes tensors alone")
    axes: list[int | str] = []
    for index, axis in enumerate(kind.shape.dim):
        fixed = axis.HasField("dim_value") and axis.dim_value > 0
        axes.append(axis.dim_value if fixed else BATCH if index == 0 else axis.dim_param or f"axis{index}")
    dtype = "float32" if kind.elem_type == 0 else str(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type))
    return TensorSpec(value.name, dtype, tuple(axes))
