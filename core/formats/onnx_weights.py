"""The external files in which an ONNX file stores its weights: their names, and whether they are complete."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import MissingFileError
from .onnx_graphs import nested

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, TensorProto


def require_weights(model: ModelProto, path: Path) -> None:
    """Check that every external file of the model exists and is long enough, before anything reads it.

    Args:
        model: the model, without its external data.
        path: the path of its file.

    Raises:
        MissingFileError: a file is missing, or is too short.
    """
    for tensor in _external(model):
        entries = {item.key: item.value for item in tensor.external_data}
        name, end = entries.get("location", ""), int(entries.get("offset", 0)) + int(entries.get("length", 0))
        file = path.parent / name
        remedy = f"copy the complete file {name} into the folder of {path.name}, or export the model again"
        if not file.is_file():
            raise MissingFileError(f"{path} stores its weights in {name}, which is not in the same folder", remedy)
        if file.stat().st_size < end:
            size = file.stat().st_size
            raise MissingFileError(
                f"{file} is truncated: '{tensor.name}' of {path.name} ends at byte {end}, but the file has {size} "
                "bytes",
                remedy,
            )


def external_files(model: ModelProto) -> set[str]:
    """The names of the files in which the weights are stored, relative to the folder of the model."""
    return {item.value for tensor in _external(model) for item in tensor.external_data if item.key == "location"}


def rename_external(model: ModelProto, names: Mapping[str, str]) -> None:
    """Change the names of the files in which the weights are stored; ``names`` maps old names to new ones."""
    for tensor in _external(model):
        for item in tensor.external_data:
            if item.key == "location":
                item.value = names[item.value]


def _external(model: ModelProto) -> Iterator[TensorProto]:
    return (tensor for tensor in _tensors(model.graph) if tensor.data_location == tensor.EXTERNAL)


def _tensors(graph: GraphProto) -> Iterator[TensorProto]:
    for part in nested(graph):
        yield from part.initializer
        yield from (item.t for node in part.node for item in node.attribute if item.HasField("t"))
