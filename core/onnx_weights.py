"""Weights that an ONNX file keeps in files beside itself: whether they are all there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import MissingFileError

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, TensorProto


def require_weights(model: ModelProto, path: Path) -> None:
    """Check that every file that the model names is beside it and long enough, before anything reads it.

    Args:
        model: the model, its external data not loaded.
        path: where it lies.

    Raises:
        MissingFileError: a file is not there, or ends too early.
    """
    for tensor in _tensors(model.graph):
        if tensor.data_location != tensor.EXTERNAL:
            continue
        said = {item.key: item.value for item in tensor.external_data}
        name, end = said.get("location", ""), int(said.get("offset", 0)) + int(said.get("length", 0))
        file = path.parent / name
        remedy = f"copy {name} whole into the folder of {path.name}, or export the model again"
        if not file.is_file():
            raise MissingFileError(f"{path} keeps its weights in {name}, which is not beside it", remedy)
        if file.stat().st_size < end:
            size = file.stat().st_size
            raise MissingFileError(
                f"{file} is truncated: '{tensor.name}' of {path.name} ends at byte {end}, the file has {size}", remedy
            )


def nested(graph: GraphProto) -> Iterator[GraphProto]:
    """A graph and the graphs inside its nodes."""
    yield graph
    for node in graph.node:
        for item in node.attribute:
            for inner in ([item.g] if item.HasField("g") else []) + list(item.graphs):
                yield from nested(inner)


def _tensors(graph: GraphProto) -> Iterator[TensorProto]:
    for part in nested(graph):
        yield from part.initializer
        yield from (item.t for node in part.node for item in node.attribute if item.HasField("t"))
