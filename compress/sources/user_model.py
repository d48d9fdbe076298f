"""The user's own model: call of its factory, loading of its weights without unpickling, and capture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from ...core.artifact import Artifact
from ...core.context import Context, Place
from ...core.data.references import call
from ...core.data.splits import Splits
from ...core.errors import ArtifactError, CaptureError, MissingFileError, ModelError, UserError
from ...core.facts.program_facts import CaptureFacts
from ...core.options.recipe import nearest
from ...core.options.stage_options import CaptureOptions, ModelSpec
from ..capture.capture_program import capture as capture_module
from ..onnx_import import import_onnx
from ..program import NOTES, Program, load_program, store
from .huggingface import example_of, free_axes, is_pretrained, load_pretrained

CHECKED_ROWS = 4
WRAPPERS = ("state_dict", "model_state_dict", "model", "net")


def load_model(spec: ModelSpec, base: Path, seed: int = 0) -> nn.Module:
    """Call the factory of ``spec`` and load the weights.

    Args:
        base: folder in which relative paths and modules are looked up, in addition to the current folder.
        seed: random seed that is set before the factory is called, so that new weights are the same each time.

    Raises:
        ModelError: the factory raised or returned no ``torch.nn.Module``, or the weights do not fit.
        MissingFileError: the file of weights does not exist.
    """
    torch.manual_seed(seed)
    model = call(spec.source, spec.args, base, "model factory", ModelError)
    if not isinstance(model, nn.Module):
        raise ModelError(f"'{spec.source}' returned a {type(model).__name__}", "return a torch.nn.Module")
    if spec.weights:
        load_weights(model, base / spec.weights)
    return model


def load_weights(model: nn.Module, path: Path) -> None:
    """Load a ``.safetensors`` file, or a state dict read with ``weights_only=True``.

    Raises:
        MissingFileError: the file does not exist.
        ArtifactError: the file is truncated, or contains pickled objects.
        ModelError: keys are missing or unknown, or have another shape.
    """
    if not path.is_file():
        raise MissingFileError(f"no such weights: {path}", "check the path of `weights`")
    state = _unwrap(_read_state(path))
    own = model.state_dict()
    faults = _shape_faults(own, state) + _key_faults(own, state)
    if faults:
        shown = "".join(f"\n  {fault}" for fault in faults[:12])
        more = f"\n  and {len(faults) - 12} more" if len(faults) > 12 else ""
        raise ModelError(
            f"the weights in {path} do not fit the model:{shown}{more}", "give the weights of this architecture"
        )
    model.load_state_dict(state)


def _read_state(path: Path) -> Any:
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise ArtifactError(
                f"{path} is not a complete safetensors file: {error}", "save or copy the file again"
            ) from error
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises zipfile, pickle and runtime errors alike
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ArtifactError(
            f"{path} cannot be read as a state dict: {first}",
            "save it with torch.save(model.state_dict(), path) or as safetensors; pickled modules are rejected",
        ) from error


def _unwrap(state: Any) -> dict[str, torch.Tensor]:
    for key in WRAPPERS:
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    tensors = isinstance(state, Mapping) and all(isinstance(value, torch.Tensor) for value in state.values())
    if not tensors or not state:
        raise ArtifactError(
            "the file of weights contains no state dict", "save it with torch.save(model.state_dict(), path)"
        )
    prefixes = ("module.", "_orig_mod.")
    for prefix in prefixes:
        if all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    return dict(state)


def _key_faults(own: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    missing = [f"missing: {key}{nearest(key, sorted(set(given) - set(own)))}" for key in own if key not in given]
    return missing + [f"not in the model: {key}" for key in given if key not in own]


def _shape_faults(own: Mapping[str, torch.Tensor], given: Mapping[str, torch.Tensor]) -> list[str]:
    return [
        f"{key} has shape {list(given[key].shape)} in the file and {list(own[key].shape)} in the model"
        for key in own
        if key in given and own[key].shape != given[key].shape
    ]


def capture_source(spec: ModelSpec, context: Context, options: CaptureOptions) -> Program:
    """The program of the model of ``spec``: it is captured, or read from a ``.pt2`` file.

    Args:
        context: relative paths are looked up in its base; its data are the example inputs, which a Hugging Face
            directory does not need.

    Raises:
        UserError: a ``.pt2`` was given together with weights, or data are missing.
    """
    base, data = context.base, context.data
    if spec.source.endswith(".pt2"):
        if spec.weights:
            raise UserError("a .pt2 file contains its own weights", "remove `weights`, or give a factory as `source`")
        path = base / spec.source
        if not path.is_file():
            raise MissingFileError(f"no such program: {path}", "check the path of `model.source`")
        return load_program(path)
    if spec.source.endswith(".onnx"):
        return _import(spec, base, data)
    if is_pretrained(base / spec.source):
        return _capture_pretrained(spec, base, data, options)
    if data is None:
        raise UserError(
            "--data is required, because capture needs example inputs",
            "give a built-in data set, package.module:function, a .npz file or a folder",
        )
    return capture_module(load_model(spec, base, context.seed), data.example(), dynamic=options.dynamic or None)


def _import(spec: ModelSpec, base: Path, data: Splits | None) -> Program:
    if spec.weights or spec.args:
        raise UserError("an .onnx file contains its own weights", "remove `weights` and `args`")
    if data is None:
        raise UserError("--data is required, because the import is checked on real inputs", "give a data source")
    return import_onnx(base / spec.source, data.example(CHECKED_ROWS))


def _capture_pretrained(spec: ModelSpec, base: Path, data: Splits | None, options: CaptureOptions) -> Program:
    unknown = sorted(set(spec.args) - {"task"})
    if unknown or spec.weights:
        what = f"args.{unknown[0]}" if unknown else "weights"
        raise UserError(
            f"`{what}` does not apply to the directory {spec.source}", "such a directory takes only `args.task`"
        )
    model = load_pretrained(base / spec.source, spec.args.get("task"))
    feeds = data.example() if data is not None else example_of(model)
    axes = options.dynamic or free_axes(feeds)
    try:
        return capture_module(model, feeds, dynamic=axes)
    except CaptureError as error:
        if options.dynamic or error.facts.get("axis") != "sequence":
            raise
        program = capture_module(model, feeds)  # a model with one fixed length
        program.meta.setdefault(NOTES, []).append(f"the sequence length is fixed: {error.message}")
        return program


def capture(options: CaptureOptions, parent: ModelSpec, place: Place, context: Context) -> Artifact:
    """The stage that captures the model of ``parent`` as a program.

    Raises:
        RetortError: as :func:`capture_source`.
    """
    context.console.stage("capture", parent.source)
    program = capture_source(parent, context, options)
    described = _Captured(model=parent, **options.model_dump())
    notes = list(program.meta.get(NOTES, ()))
    for note in notes:
        context.console.warn(note)
    return store(program, place, "capture", options=described, facts=CaptureFacts(notes=tuple(notes) or None))


class _Captured(CaptureOptions):
    """The source of a captured program, according to its manifest."""

    model: ModelSpec
