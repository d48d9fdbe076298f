"""The user's own model: call of its factory, loading of its weights without unpickling, and capture."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import signature
from pathlib import Path

import torch
from torch import nn

from ...core.artifact import Artifact, load_artifact
from ...core.console import SILENT, Console
from ...core.context import Context, Place
from ...core.counts import counted, with_article
from ...core.data.hf_processor import read_processor
from ...core.data.references import call
from ...core.data.splits import Splits
from ...core.errors import CaptureError, MissingFileError, ModelError, RetortError, UserError
from ...core.facts.program_facts import CaptureFacts
from ...core.formats.weight_files import require_model_file
from ...core.options.stage_options import CaptureOptions, ModelSpec
from ...core.preprocessing.fitting import completed, preprocessed
from ...core.tensors import Array
from ..capture.capture_program import capture as capture_module
from ..capture.flat_module import ready
from ..graph.rows import moved_samples
from ..onnx_import import import_onnx
from ..program import NOTES, Program, load_program, store
from .huggingface import class_names, example_of, free_axes, is_pretrained, load_pretrained
from .new_head import replace_head
from .saved_weights import OTHERS, load_weights

CHECKED_ROWS = 4


def load_model(spec: ModelSpec, base: Path, seed: int = 0, console: Console = SILENT) -> nn.Module:
    """Call the factory of ``spec`` and load the weights.

    Args:
        base: folder in which relative paths and modules are looked up, in addition to the current folder.
        seed: random seed that is set before the factory is called, so that new weights are the same each time.
        console: shows where in the file the weights were found.

    Raises:
        ModelError: the factory raised or returned no ``torch.nn.Module``, or the weights do not fit.
        MissingFileError: the file of weights does not exist.
    """
    torch.manual_seed(seed)
    model = call(spec.source, spec.args, base, "model factory", ModelError)
    if not isinstance(model, nn.Module):
        raise ModelError(f"'{spec.source}' returned {with_article(type(model).__name__)}", "return a torch.nn.Module")
    if spec.weights:
        matching = spec.weights_fit == "matching"
        for note in load_weights(model, base / spec.weights, matching=matching, names=spec.weights_names):
            console.warn(note) if note.startswith(OTHERS) else console.say(f"            {note}")
    return model


def capture_source(spec: ModelSpec, context: Context, options: CaptureOptions) -> Program:
    """The program of the model of ``spec``: it is captured, or read from a ``.pt2`` file.

    Args:
        context: relative paths are looked up in its base; its data are the example inputs, which a Hugging Face
            directory does not need.

    Raises:
        UserError: a ``.pt2`` was given together with weights, or data are missing.
    """
    base, data = context.base, context.data
    if options.batch_axis and (spec.source.endswith((".pt2", ".onnx")) or is_pretrained(base / spec.source)):
        raise UserError("`batch_axis` applies to a module only", "remove it: the batch axis of a file is found")
    if spec.source.endswith(".pt2"):
        if spec.weights:
            raise UserError("a .pt2 file contains its own weights", "remove `weights`, or give a factory as `source`")
        path = base / spec.source
        if not path.is_file():
            raise MissingFileError(f"no such program: {path}", "check the path of `model.source`")
        return load_program(load_artifact(path).main)
    if spec.source.endswith(".onnx"):
        return _import(spec, base, data, options)
    if options.fixed:
        raise UserError("`fixed` applies to an .onnx file only", "give the value in the model's forward instead")
    require_model_file(base / spec.source)
    if is_pretrained(base / spec.source):
        return _capture_pretrained(spec, context, options)
    _require_factory(spec.source, base)
    if data is None:
        raise UserError(
            "--data is required, because capture needs example inputs",
            "give a built-in data set, package.module:function, a file (.csv, .jsonl, .parquet, .npz …) or a folder",
        )
    model = ready(load_model(spec, base, context.seed, context.console))
    feeds = moved_samples(taken_inputs(model, data.example(), context.console), options.batch_axis)
    return capture_module(model, feeds, dynamic=options.dynamic or None, batch=options.batch_axis or None)


def _require_factory(source: str, base: Path) -> None:
    """Fail if a source is a path instead of the factory of a module.

    Raises:
        UserError: it is a folder, a Python file, or another file.
    """
    path, wanted = base / source, "give package.module:factory, a .pt2 or .onnx file, or a folder of save_pretrained"
    if ":" in source and not path.exists():
        return
    if path.is_dir():
        raise UserError(f"{source} is a folder, and no model that save_pretrained wrote (no config.json)", wanted)
    if path.suffix == ".py" and path.is_file():
        where = f" in {path.parent}" if path.parent.resolve() != Path.cwd() else ""
        call = f"give its function that returns the model, such as {path.stem}:build{where}"
        raise UserError(f"{source} is a Python file, and does not say which function makes the model", call)
    if path.is_file():
        raise UserError(f"{source} is not a kind of file that contains a model", wanted)
    if "/" in source:
        raise UserError(f"no such model: {source}", wanted)


def taken_inputs(model: nn.Module, feeds: Mapping[str, Array], console: Console = SILENT) -> dict[str, Array]:
    """The inputs that a forward names, if it names some of the data's and needs no other; else all."""
    parameters = signature(model.forward).parameters.values()
    names = {item.name for item in parameters if item.kind in (item.POSITIONAL_OR_KEYWORD, item.KEYWORD_ONLY)}
    needed = {item.name for item in parameters if item.default is item.empty and item.name in names}
    kept = {name: value for name, value in feeds.items() if name in names}
    every = any(item.kind in (item.VAR_KEYWORD, item.VAR_POSITIONAL) for item in parameters)
    if every or not kept or len(kept) == len(feeds) or not needed <= set(kept):
        return dict(feeds)
    console.say(f"            the model takes {', '.join(kept)}, and not {', '.join(set(feeds) - set(kept))}")
    return kept


def _import(spec: ModelSpec, base: Path, data: Splits | None, options: CaptureOptions) -> Program:
    if spec.weights or spec.args:
        raise UserError("an .onnx file contains its own weights", "remove `weights` and `args`")
    if data is None:
        raise UserError("--data is required, because the import is checked on real inputs", "give a data source")
    path = base / spec.source
    if path.is_file():
        load_artifact(path)
    return import_onnx(path, data.example(CHECKED_ROWS), options.fixed)


def _capture_pretrained(spec: ModelSpec, context: Context, options: CaptureOptions) -> Program:
    base, data, console = context.base, context.data, context.console
    unknown = sorted(set(spec.args) - {"task"})
    if unknown or spec.weights:
        what = f"args.{unknown[0]}" if unknown else "weights"
        raise UserError(
            f"`{what}` does not apply to the directory {spec.source}", "such a directory takes only `args.task`"
        )
    model = load_pretrained(base / spec.source, spec.args.get("task"))
    feeds = taken_inputs(model, data.example(), console) if data is not None else example_of(model)
    axes = options.dynamic or free_axes(feeds)
    try:
        program = capture_module(model, feeds, dynamic=axes)
    except CaptureError as error:
        if options.dynamic or error.facts.get("axis") != "sequence":
            raise
        program = capture_module(model, feeds)  # a model with one fixed length
        program.meta.setdefault(NOTES, []).append(f"the sequence length is fixed: {error.message}")
    program.signature = program.signature.naming(class_names(model))
    return program


def capture(options: CaptureOptions, parent: ModelSpec, place: Place, context: Context) -> Artifact:
    """The stage that captures the model of ``parent`` as a program.

    Raises:
        RetortError: as :func:`capture_source`.
    """
    context.console.stage("capture", parent.source)
    program = capture_source(parent, context, options)
    if options.classes is not None:
        context.console.say(f"            {replace_head(program, options.classes, context.seed)}")
    _name_classes(program, context)
    _read_processor(program, parent, context)
    for hint in _fixed_lengths(program, parent, context.data):
        context.console.say(f"            {hint}")
    described = _Captured(model=parent, **options.model_dump())
    notes = list(program.meta.get(NOTES, ()))
    for note in notes:
        context.console.warn(note)
    return store(program, place, "capture", options=described, facts=CaptureFacts(notes=tuple(notes) or None))


def _fixed_lengths(program: Program, model: ModelSpec, data: Splits | None) -> list[str]:
    """What to do if token inputs, which have a fixed length, come in other lengths later."""
    if data is None or model.source.endswith((".pt2", ".onnx")):
        return []
    shapes = {spec.name: spec.shape for spec in program.signature.inputs}
    found = ((name, shapes.get(name, ())) for name in free_axes(data.example()))
    return [
        f"{name} always has {shape[1]} values per sample; if its length may vary, use `--set dynamic.{name}.1=length`, "
        f"or `capture: {{dynamic: {{{name}: {{1: length}}}}}}` in a recipe"
        for name, shape in found
        if len(shape) == 2 and isinstance(shape[1], int)
    ]


def _name_classes(program: Program, context: Context) -> None:
    """Give a program the names of the data's classes, or say why it cannot have them."""
    names = context.data.classes if context.data is not None and context.task == "classification" else ()
    program.signature = program.signature.naming(names)
    if context.data is not None:
        program.signature = completed(program.signature, context.data)
    if names and not program.signature.classes:
        context.console.warn(
            f"the data have {counted(names, 'class')}, and no output has a score for each, so answers will not have "
            "names"
        )


def _read_processor(program: Program, model: ModelSpec, context: Context) -> None:
    """Give a program of a Hugging Face folder what its processor says, if the data do not describe raw samples."""
    folder = context.base / model.source
    if program.signature.preprocessing or not folder.is_dir() or not is_pretrained(folder):
        return
    try:
        found = read_processor(folder).preprocessing
    except RetortError as error:  # such a folder can have a tokenizer that only code of its own reads
        context.console.warn(f"its processor cannot be read, so its endpoint will take only arrays: {error.message}")
        return
    program.signature = preprocessed(program.signature, found)


class _Captured(CaptureOptions):
    """The source of a captured program, according to its manifest."""

    model: ModelSpec
