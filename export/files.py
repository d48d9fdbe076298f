"""Reading and writing of ONNX files: graph, weights, signature, and inputs that are shapes."""

from __future__ import annotations

from pathlib import Path

import onnx

from ..core.backends.ort_signature import SIGNATURE_KEY
from ..core.errors import ArtifactError, StorageError
from ..core.formats.onnx_weights import require_weights
from ..core.signature import Signature
from ..core.tensors import BATCH, TensorSpec

EXTERNAL_ABOVE_BYTES = 2_000_000_000
"""Protobuf limits a message to 2 GiB; larger models store their weights in a separate file."""


def read_graph(path: Path) -> onnx.ModelProto:
    """Read the graph of an ONNX file, without external weights.

    Raises:
        ArtifactError: the file is not ONNX.
        MissingFileError: its file of weights is missing or incomplete.
    """
    model = _parse(path)
    if not model.graph.node or not model.graph.output:
        raise ArtifactError(f"{path} contains no network", "export the model again")
    return model


def load_graph(path: Path) -> onnx.ModelProto:
    """Read an ONNX file with all its weights.

    Raises:
        ArtifactError: the file is not ONNX.
        MissingFileError: its file of weights is missing or incomplete.
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
    except Exception as error:  # protobuf's DecodeError has no common base class with the others
        raise ArtifactError(
            f"{path} cannot be read as ONNX: {_first(error)}",
            "the file is truncated or is not an ONNX file; export the model again",
        ) from error
    require_weights(model, path)
    return model


def _first(error: Exception) -> str:
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__


def save_graph(model: onnx.ModelProto, path: Path) -> None:
    """Write a model; weights that are too large for protobuf go into a separate file.

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
    """The signature in an ONNX file, or one made from its inputs and outputs if it was not written by Retort."""
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
        raise ArtifactError(f"{path}: '{value.name}' is not a tensor", "TensorRT accepts only tensors")
    axes: list[int | str] = []
    for index, axis in enumerate(kind.shape.dim):
        fixed = axis.HasField("dim_value") and axis.dim_value > 0
        axes.append(axis.dim_value if fixed else BATCH if index == 0 else axis.dim_param or f"axis{index}")
    dtype = "float32" if kind.elem_type == 0 else str(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type))
    return TensorSpec(value.name, dtype, tuple(axes))
