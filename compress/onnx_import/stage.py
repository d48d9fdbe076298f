"""Import of an ONNX file as a program, which is compared with ONNX Runtime on the same samples."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from ...core.data.model_inputs import laid_out, matched
from ...core.data.sample_axis import rows_first
from ...core.errors import CaptureError, InputError, ModelError, RetortError
from ...core.preprocessing.fitting import completed
from ...core.tensors import Array
from ..capture.capture_program import capture
from ..program import NOTES, Program
from .agreement import require_agreement
from .batch_layout import Layout, fix_axis, layouts
from .module import KNOWN, Imported
from .reader import Graph, read_graph


def import_onnx(path: Path, samples: Mapping[str, Array], values: Mapping[str, Any] = MappingProxyType({})) -> Program:
    """The program of an ONNX file.

    A fixed batch size of the file becomes dynamic if its reshapes allow it. The batch axis of each input is found by
    names, by sizes and by trial; a file without one becomes a program with fixed sizes, and a note says so.

    Args:
        samples: one array per input of the file, rows first; a value that all samples share may have no rows.
        values: inputs that become constants, by name.

    Raises:
        MissingFileError: the file does not exist.
        ArtifactError: the file is not a complete ONNX model.
        ModelError: the model is quantized, or an operator cannot be imported; the message names it.
        CaptureError: the imported model does not agree with ONNX Runtime on the samples.
        InputError: the samples do not fit the inputs of the model.
        UserError: ``values`` does not fit the inputs.
    """
    graph = read_graph(path, KNOWN, values)
    given = _by_name(graph, samples)
    _require_rows_first(graph, given)
    first: Exception | None = None
    for layout in layouts(graph.inputs, given):
        try:
            return _captured(path, graph, layout, given, first)
        except (CaptureError, ModelError) as error:
            if _is_final(error):
                raise
            first = first or error
    if first is not None:
        raise first
    shown = ", ".join(f"{name}: {list(np.shape(value))}" for name, value in given.items())
    wanted = ", ".join(spec.describe() for spec in graph.inputs)
    raise InputError(f"the samples do not fit the model: they are {shown}, rows first", f"the model takes {wanted}")


def _require_rows_first(graph: Graph, given: Mapping[str, Array]) -> None:
    """Reject samples that fit in the layout of the file only.

    Raises:
        InputError: the samples are on the axis on which the file has the batch.
    """
    moved = next((n for n, value in rows_first(given, graph.inputs).items() if value.shape != given[n].shape), None)
    if moved is not None:
        spec = next(spec for spec in graph.inputs if spec.name == moved)
        raise InputError(
            f"the data of '{moved}' have the shape {list(given[moved].shape)}, with the samples where the file has its "
            f"batch: {spec.describe()}",
            "give arrays with the samples on axis 0 (numpy.moveaxis)",
        )


def _captured(
    path: Path,
    graph: Graph,
    layout: Layout,
    given: Mapping[str, Array],
    refused: Exception | None,
) -> Program:
    notes = []
    if refused is not None and not any(axis is not None for axis in layout.axes.values()):
        notes.append(f"the sizes of the inputs are fixed, because the file has no batch axis that works: {refused}")
    while True:
        feeds = {spec.name: spec.cast(laid_out(given[spec.name], spec)) for spec in layout.inputs}
        try:
            program = capture(
                Imported(graph, layout.fixed, layout.axes),
                feeds,
                dynamic=layout.dynamic,
                output_names=_output_names(graph),
                batch=layout.axes,
            )
            break
        except (CaptureError, ModelError) as error:
            axis = _to_fix(error, layout, feeds)
            if axis is None:
                raise
            notes.append(f"the axis '{axis}' is fixed to the size of the samples: {error.message}")
            layout = fix_axis(layout, axis, given)
    notes += require_agreement(path, graph, layout, program, feeds)
    if graph.written is not None:
        written = graph.written
        program.signature = completed(program.signature.naming(written.classes), written)
    if notes:
        program.meta.setdefault(NOTES, []).extend(notes)
    return program


def _to_fix(error: RetortError, layout: Layout, feeds: Mapping[str, Array]) -> str | None:
    """The dynamic axis on which a capture failed, by its name or by the number of steps; None if there is none."""
    names = {name: np.shape(feeds[key])[axis] for key, axes in layout.dynamic.items() for axis, name in axes.items()}
    axis = error.facts.get("axis")
    if isinstance(axis, str) and axis in names:
        return axis
    return next((name for name, size in names.items() if size == error.facts.get("steps")), None)


def _output_names(graph: Graph) -> list[str]:
    """The names of the file; an output that is an input has another name, because a file needs one for each."""
    names: list[str] = []
    taken = {spec.name for spec in graph.inputs} | set(graph.outputs)
    inputs = {spec.name for spec in graph.inputs}
    for name in graph.outputs:
        new, number = name, 0
        while new in inputs or (new != name and new in taken):
            number += 1
            new = f"{name}_out" if number == 1 else f"{name}_out_{number}"
        names.append(new)
    return names


def _is_final(error: Exception) -> bool:
    """Whether no other layout can help: an operator is not supported."""
    return bool(getattr(error, "facts", {}).get("operator"))


def _by_name(graph: Graph, samples: Mapping[str, Array]) -> dict[str, Array]:
    """The samples by the names of the model's inputs.

    Raises:
        InputError: an input has no samples.
    """
    names = [spec.name for spec in graph.inputs]
    places = matched(list(samples), names)
    if places is not None:
        return _rows_first(graph, {name: np.asarray(samples[place]) for name, place in places.items()})
    lacking = next((spec for spec in graph.inputs if spec.name not in samples), graph.inputs[0])
    raise InputError(
        f"the data have the inputs {', '.join(samples)}; the model takes {', '.join(names)}",
        f"give the inputs of the data the names of the model's inputs, or fix a value: `--fix {lacking.name}=VALUE`",
    )


def _rows_first(graph: Graph, given: dict[str, Array]) -> dict[str, Array]:
    """States that were given as the model takes them, ``[2, N, 64]``, with the rows on axis 0 like all others."""
    specs = {spec.name: spec for spec in graph.inputs}
    first = next((value for value in given.values() if value.ndim), None)
    if first is None:
        return given
    found = {}
    for name, value in given.items():
        shape = specs[name].shape
        own = value.ndim == len(shape) > 1 and value.shape[0] == shape[0] and isinstance(shape[1], str)
        moved = own and len(value) != len(first) and value.shape[1] == len(first)
        found[name] = np.moveaxis(value, 1, 0) if moved else value
    return found
