"""The captured program: the form of a model between capture and export, which can be trained, edited and saved."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel
from torch import fx

from ..core.artifact import Artifact, load_artifact, new_artifact
from ..core.backends.eager import PROGRAM_FILE, SIGNATURE_FILE, load_exported, quiet
from ..core.console import SILENT, Console
from ..core.context import Place
from ..core.data.splits import Split, Splits, batches
from ..core.errors import ArtifactError, DataError
from ..core.facts.program_facts import ProgramFacts
from ..core.signature import Signature
from ..core.system.atomic_files import write_atomically
from ..core.tensors import BATCH, Array, TensorSpec
from .capture.cleanup import drop_traces, finish
from .capture.torch_export import trace
from .graph import train_eval_mode
from .graph.cost import Cost, measure, node_macs
from .graph.devices import as_array, as_tensor, move_module
from .graph.rows import batch_axes, row_count, rows

__all__ = [
    "Cost", "Program", "clone", "cost", "device_of", "evaluating", "load_program", "move", "predict",
    "reexport", "save_program", "set_training", "shared", "store",
]  # fmt: skip


NOTES = "notes"
"""Key in :attr:`Program.meta` of what the user should know about the way a program was captured."""


@dataclass
class Program:
    """A captured model.

    Attributes:
        module: a graph of ATen calls with its parameters. It takes the inputs by position and returns a flat tuple.
            Nodes whose behaviour changes in training carry ``node.meta["retort_trains"]``.
        signature: names, dtypes and shapes of inputs and outputs, in the module's order.
        example: small example feeds with a batch of at least 2.
        meta: JSON-ready facts that are saved with the program, such as its quantization scheme.
        exported: the last result of :func:`reexport`, and the code and the tensors from which it was made.
    """

    module: fx.GraphModule
    signature: Signature
    example: dict[str, torch.Tensor]
    meta: dict[str, Any] = field(default_factory=dict)
    exported: tuple[tuple[Any, ...], torch.export.ExportedProgram] | None = field(
        default=None, init=False, repr=False, compare=False
    )


def set_training(program: Program, training: bool) -> None:
    """Switch all nodes with a training mode (batch norm, dropout, recurrent layers, attention dropout …)."""
    train_eval_mode.apply(program.module, training)


@contextmanager
def evaluating(program: Program) -> Iterator[None]:
    """Put the program into evaluation form within this context, and restore its form afterwards."""
    before = program.module.training
    set_training(program, False)
    try:
        yield
    finally:
        set_training(program, before)


def clone(program: Program) -> Program:
    """A copy that shares no memory."""
    return Program(
        copy.deepcopy(program.module),
        program.signature,
        {name: tensor.clone() for name, tensor in program.example.items()},
        copy.deepcopy(program.meta),
    )


def shared(program: Program) -> Program:
    """A copy with its own graph and the same parameters and buffers."""
    module = fx.GraphModule(program.module, copy.deepcopy(program.module.graph), "Program")
    for name, child in [item for item in module.named_modules() if item[0] and isinstance(item[1], fx.GraphModule)]:
        parent, _, last = name.rpartition(".")
        setattr(module.get_submodule(parent), last, copy.deepcopy(child))
    module.training = program.module.training
    return Program(module, program.signature, dict(program.example), copy.deepcopy(program.meta))


def device_of(program: Program) -> torch.device:
    """The device of the program's parameters; the CPU if it has none."""
    state = next(program.module.parameters(), None)
    return state.device if state is not None else torch.device("cpu")


def move(program: Program, device: torch.device | str) -> None:
    """Move parameters, buffers and the devices written into the graph; the example stays on the CPU."""
    move_module(program.module, device)


def reexport(program: Program) -> torch.export.ExportedProgram:
    """The program in evaluation form as an ExportedProgram, with its dynamic axes; shares its parameters.

    A second call returns the same object as long as neither the code nor any tensor was replaced, because tracing takes
    most of the time of saving and exporting.

    Raises:
        CaptureError: an edit of the graph broke it.
    """
    axes = [
        {axis: size for axis, size in enumerate(spec.shape) if isinstance(size, str)}
        for spec in program.signature.inputs
    ]
    with evaluating(program):
        made_from = _made_from(program)
        if program.exported is None or program.exported[0] != made_from:
            inputs = [tensor.clone() for tensor in ordered(program).values()]
            program.exported = made_from, trace(program.module, inputs, axes)
    return program.exported[1]


def _made_from(program: Program) -> tuple[Any, ...]:
    code = [child.code for child in train_eval_mode.graphs(program.module)]
    module = program.module
    tensors = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
    shapes = [tuple(tensor.shape) for tensor in program.example.values()]
    return program.signature, *code, *[(name, id(tensor), tensor.dtype) for name, tensor in tensors], *shapes


def save_program(program: Program, path: Path) -> None:
    """Write a program as ``.pt2``, atomically, in evaluation form and without any pickled class.

    Raises:
        StorageError: the disk is full or not writable.
    """
    exported = reexport(program)
    drop_traces(exported.graph_module)
    facts = {"modes": train_eval_mode.to_json(program.module), "meta": program.meta}
    extra = {SIGNATURE_FILE: program.signature.to_json(), PROGRAM_FILE: json.dumps(facts, sort_keys=True)}
    with quiet():
        write_atomically(path, lambda stream: torch.export.save(exported, stream, extra_files=extra))


def load_program(path: Path, data: Splits | None = None) -> Program:
    """Read a program written by :func:`save_program`.

    Args:
        data: names the classes, the symbols of texts and the features of a program that has none.

    Raises:
        ArtifactError: the file is truncated, altered or foreign.
        MissingFileError: the file does not exist.
    """
    exported, signature, facts = load_exported(path)
    names = [spec.name for spec in signature.inputs]
    if len(exported.graph_signature.user_inputs) != len(names):
        raise ArtifactError(f"{path}: its signature does not fit its graph", "capture the model again")
    module, _, _ = finish(exported, names)
    if facts["modes"] is None:
        train_eval_mode.mark_training_form(module)
    else:
        train_eval_mode.from_json(module, facts["modes"], str(path))
    train_eval_mode.apply(module, False)
    signature = signature if data is None else data.describing(signature)
    return Program(module, signature, _example(exported, signature), facts["meta"])


def predict(program: Program, split: Split, batch_size: int = 256, console: Console = SILENT) -> dict[str, Array]:
    """Outputs in evaluation form for all samples of a split, computed on the device of the program.

    Args:
        split: samples whose inputs fit the program's signature.
        batch_size: samples run at a time.

    Returns:
        One array per output, samples along its batch axis.

    Raises:
        DataError: the split is empty, or outputs of different batches do not fit together.
    """
    device = device_of(program)
    parts: dict[str, list[Array]] = {spec.name: [] for spec in program.signature.outputs}
    with evaluating(program), torch.inference_mode(), console.progress("predict", len(split)) as bar:
        for inputs, _ in batches(split, batch_size):
            feeds = program.signature.validate(inputs)
            values = program.module(*(as_tensor(value, device) for value in feeds.values()))
            for name, value in zip(parts, values):
                parts[name].append(as_array(value))
            bar.advance(program.signature.batch_size(feeds))
    return {spec.name: _joined(spec, parts[spec.name]) for spec in program.signature.outputs}


def _joined(spec: TensorSpec, parts: list[Array]) -> Array:
    if BATCH not in spec.shape:
        if len(parts) > 1:
            raise DataError(
                f"output '{spec.describe()}' has no batch axis, so its values for {len(parts)} batches cannot be "
                "joined",
                "return one row per sample",
            )
        return parts[0]
    axis = spec.shape.index(BATCH)
    shapes = {part.shape[:axis] + part.shape[axis + 1 :] for part in parts}
    if len(shapes) > 1:
        raise DataError(
            f"output '{spec.name}' has different shapes in different batches: {', '.join(map(str, sorted(shapes)))}",
            "pad the inputs to one length",
        )
    return np.concatenate(parts, axis)


def _example(exported: torch.export.ExportedProgram, signature: Signature) -> dict[str, torch.Tensor]:
    """The example feeds in the file; zeros of the right shapes if it has none."""
    if exported.example_inputs is not None:
        args, kwargs = exported.example_inputs
        values = [value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor)]
        if len(values) == len(signature.inputs):
            feeds = {spec.name: value for spec, value in zip(signature.inputs, values)}
            axes = batch_axes(signature)
            return rows(feeds, max(2, row_count(feeds, axes)), axes)
    return {
        spec.name: torch.zeros(
            [size if isinstance(size, int) else 2 for size in spec.shape], dtype=getattr(torch, spec.dtype)
        )
        for spec in signature.inputs
    }


def store(
    program: Program,
    place: Place,
    stage: str,
    options: BaseModel | None = None,
    facts: ProgramFacts | None = None,
) -> Artifact:
    """Write a program as an artifact; its parameters, MACs and bytes are counted and set in the facts.

    Raises:
        StorageError: the disk is full or not writable.
    """
    counted, tools = asdict(cost(program)), {"torch": str(torch.__version__)}
    with new_artifact(place, "program", stage, options=options, tools=tools) as draft:
        path = draft.folder / "model.pt2"
        save_program(program, path)
        size_bytes = path.stat().st_size
        draft.facts = (facts or ProgramFacts()).model_copy(update={**counted, "size_bytes": size_bytes})
    return load_artifact(place.directory)


def cost(program: Program) -> Cost:
    """Parameters, bytes and multiply-accumulates for one sample."""
    return measure(program.module, ordered(program), batch_axes(program.signature))


def macs_by_node(program: Program) -> dict[str, int]:
    """Multiply-accumulates for one sample by node name; nodes without any are omitted."""
    return node_macs(program.module, ordered(program), batch_axes(program.signature))


def ordered(program: Program) -> dict[str, torch.Tensor]:
    """The example feeds in signature order."""
    return {spec.name: program.example[spec.name] for spec in program.signature.inputs}
