"""The user's own model: the factory called, the weights loaded without unpickling anything, and captured."""

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
from ...core.data.references import importable, place, resolve
from ...core.data.splits import Splits
from ...core.errors import ArtifactError, CaptureError, MissingFileError, ModelError, RetortError, UserError
from ...core.options.recipe import nearest
from ...core.options.stage_options import CaptureOptions, ModelSpec
from ..onnx_import import import_onnx
from ..program import NOTES, Program, load_program, store
from ..program import capture as capture_module
from .huggingface import example_of, free_axes, is_pretrained, load_pretrained

CHECKED_ROWS = 4
WRAPPERS = ("state_dict", "model_state_dict", "model", "net")


def load_model(spec: ModelSpec, base: Path, seed: int = 0) -> nn.Module:
    """Call the factory that ``spec`` names and load its weights.

    Args:
        base: folder that relative paths and modules are looked up from, beside the current one.
        seed: set before the factory is called, so that fresh weights are the same each time.

    Raises:
        ModelError: the factory raised or gave no ``torch.nn.Module``, or the weights do not fit.
        MissingFileError: the weights are not there.
    """
    factory = resolve(spec.source, base)
    torch.manual_seed(seed)
    try:
        with importable(base, Path.cwd()):
            model = factory(**spec.args)
    except RetortError:
        raise
    except Exception as error:  # the user's factory may raise anything
        raise ModelError(
            f"the model factory '{spec.source}' raised {type(error).__name__}: {error}", f"mend it: {place(error)}"
        ) from error
    if not isinstance(model, nn.Module):
        raise ModelError(f"'{spec.source}' gave a {type(model).__name__}", "return a torch.nn.Module")
    if spec.weights:
        load_weights(model, base / spec.weights)
    return model


def load_weights(model: nn.Module, path: Path) -> None:
    """Load a ``.safetensors`` file, or a state dict read with ``weights_only=True``.

    Raises:
        MissingFileError: no such file.
        ArtifactError: the file is truncated, or holds pickled objects.
        ModelError: keys are missing, left over or of another shape.
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
            f"the weights in {path} do not fit the model:{shown}{more}", "give the weights of this very architecture"
        )
    model.load_state_dict(state)


def _read_state(path: Path) -> Any:
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise ArtifactError(f"{path} is not a whole safetensors file: {error}", "save or copy it again") from error
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises zipfile, pickle and runtime errors alike
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ArtifactError(
            f"{path} cannot be read as a state dict: {first}",
            "save it with torch.save(model.state_dict(), path) or as safetensors; pickled modules are refused",
        ) from error


def _unwrap(state: Any) -> dict[str, torch.Tensor]:
    for key in WRAPPERS:
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    tensors = isinstance(state, Mapping) and all(isinstance(value, torch.Tensor) for value in state.values())
    if not tensors or not state:
        raise ArtifactError("the weights file holds no state dict", "save it with torch.save(model.state_dict(), path)")
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
        f"{key} is {list(given[key].shape)} in the file and {list(own[key].shape)} in the model"
        for key in own
        if key in given and own[key].shape != given[key].shape
    ]


def capture_source(spec: ModelSpec, context: Context, options: CaptureOptions) -> Program:
    """The program of the model that ``spec`` names: captured, or read from a ``.pt2``.

    Args:
        context: relative paths are looked up from its base; its data give the example inputs, without which a Hugging
            Face directory can do.

    Raises:
        UserError: a ``.pt2`` was given together with weights, or data are missing.
    """
    base, data = context.base, context.data
    if spec.source.endswith(".pt2"):
        if spec.weights:
            raise UserError("a .pt2 carries its own weights", "drop `weights`, or name a factory as `source`")
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
            "--data is required: it gives the example inputs",
            "name a built-in set, package.module:function, a .npz file or a folder",
        )
    return capture_module(load_model(spec, base, context.seed), data.example(), dynamic=options.dynamic or None)


def _import(spec: ModelSpec, base: Path, data: Splits | None) -> Program:
    if spec.weights or spec.args:
        raise UserError("an .onnx file carries its own weights", "drop `weights` and `args`")
    if data is None:
        raise UserError("--data is required: it gives the inputs that the import is checked with", "name a data source")
    return import_onnx(base / spec.source, data.example(CHECKED_ROWS))


def _capture_pretrained(spec: ModelSpec, base: Path, data: Splits | None, options: CaptureOptions) -> Program:
    unknown = sorted(set(spec.args) - {"task"})
    if unknown or spec.weights:
        what = f"args.{unknown[0]}" if unknown else "weights"
        raise UserError(f"`{what}` does not apply to the directory {spec.source}", "it takes `args.task` only")
    model = load_pretrained(base / spec.source, spec.args.get("task"))
    feeds = data.example() if data is not None else example_of(model)
    axes = options.dynamic or free_axes(feeds)
    try:
        return capture_module(model, feeds, dynamic=axes)
    except CaptureError as error:
        if options.dynamic or error.facts.get("axis") != "sequence":
            raise
        program = capture_module(model, feeds)  # a model of one length
        program.meta.setdefault(NOTES, []).append(f"the sequence length is fixed: {error.message}")
        return program


def capture(options: CaptureOptions, parent: ModelSpec, place: Place, context: Context) -> Artifact:
    """The stage that captures the model that ``parent`` names as a program.

    Raises:
        RetortError: as :func:`capture_source`.
    """
    context.console.stage("capture", parent.source)
    program = capture_source(parent, context, options)
    described = _Captured(model=parent, **options.model_dump())
    notes = list(program.meta.get(NOTES, ()))
    for note in notes:
        context.console.warn(note)
    return store(program, place, "capture", options=described, facts={NOTES: notes} if notes else {})


class _Captured(CaptureOptions):
    """What a captured program was made from, as its manifest tells."""

    model: ModelSpec
