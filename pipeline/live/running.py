"""Stages on live objects: inputs become artifacts, the stage runs or is reused, and its result is returned."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from ...core.artifact import Artifact
from ...core.context import Context, Place, require_seed
from ...core.counts import with_article
from ...core.data.sample_axis import as_samples
from ...core.data.splits import ArraySplit, Splits
from ...core.errors import DataError, UserError
from ...core.options.recipe import nearest
from ...core.options.stage_options import (
    DistillOptions,
    ExportOptions,
    ModelSpec,
    Options,
    PruneOptions,
    QuantizeOptions,
    SoftTargetOptions,
    Target,
    Task,
)
from ...core.signature import Signature
from ...core.tensors import BATCH
from .. import dispatch
from ..cache_key import key_of
from ..student_axes import captured_like
from ..tuning.int8_speed import speed_of
from .capturing import CaptureRequest, capture_module, capture_source
from .data.adapters import REMEDY, Use, as_splits, is_source, require_targets, task_of
from .objects.model_files import Graph, ModelFile
from .objects.opening import FILES, load
from .objects.programs import Program
from .workspace import ScriptConsole, Workspace, finished, same_or_new

TRAINING = {
    "train": "give (inputs, targets)",
    "distill": "give (inputs, targets), or alpha=1.0 or hard_weight=0, which learns only from the teacher",
    "recover": "give (inputs, targets); or recover={'alpha': 1.0}, which learns only from the outputs before the cut; "
    "or recover=None",
    "qat": "give (inputs, targets), or qat={'alpha': 1.0}, which learns only from the FP32 outputs",
}


@dataclass(frozen=True)
class Request:
    """The arguments of all functions in addition to a model and the options of their stage.

    Attributes:
        data: samples in any form; None for those that were last used with the model.
        task: None for the task that the type of the targets implies.
        target: hardware for which the model is made.
        seed: random seed.
        folder: folder in which artifacts are stored and reused.
        progress: show stages and progress bars on stderr.
    """

    data: Any = None
    task: Task | None = None
    target: Target = "cpu"
    seed: int = 0
    folder: str | Path | None = None
    progress: bool = False

    def __post_init__(self) -> None:
        require_seed(self.seed)
        for name, kinds in (("target", Target), ("task", Task)):
            value, known = getattr(self, name), list(get_args(kinds))
            if value is not None and value not in known:
                raise UserError(f"{name} '{value}' is not known{nearest(value, known)}", f"give {' or '.join(known)}")


def opened(model: Any) -> Program | ModelFile:
    """Return a live object, or open a path as one.

    Raises:
        UserError: the value is neither.
    """
    if isinstance(model, Program | ModelFile):
        return model
    if isinstance(model, str | Path):
        found = load(model)
        if isinstance(found, Program | ModelFile):
            return found
    if hasattr(model, "forward") and hasattr(model, "state_dict"):
        raise UserError(
            f"{type(model).__name__} is a module that is not captured yet", "program = retort.capture(net, example)"
        )
    raise UserError(
        f"an object of type {type(model).__name__} is not a model of Retort",
        "give a Program, a Graph, or a path to one",
    )


def run_stage(stage: str, model: Any, options: Options, request: Request) -> Program | Graph:
    """Run a stage that works on programs; an ONNX file is imported before the stage and exported after it.

    Raises:
        RetortError: an error of the stage.
    """
    given = opened(model)
    if isinstance(given, Program):
        return _on_program(stage, given, options, request)
    if not isinstance(given, Graph):
        raise UserError(f"`{stage}` needs a program or an ONNX file; {given.path} is of kind {given.kind}", "name one")
    console = ScriptConsole(request.progress)
    workspace = same_or_new(request.folder, given.workspace)
    data = splits_of(given, given.signature, request, "train" if _trains_on(stage, options) else "calibrate")
    program = capture_source(str(given.path.resolve()), CaptureRequest(), data, request.seed, workspace, console)
    made = _on_program(stage, program, options, replace(request, data=data, folder=request.folder))
    return export(made, ExportOptions(), replace(request, data=data))


def _on_program(stage: str, program: Program, options: Options, request: Request) -> Program:
    console = ScriptConsole(request.progress)
    workspace = same_or_new(request.folder, program.workspace)
    trained = _trains_on(stage, options)
    data = splits_of(program, program.signature, request, "train" if trained else "calibrate")
    if trained and _needs_targets(options, trained) and not _may_skip(options, trained):
        require_targets(data, stage, TRAINING[trained])
    context = Context(data, Path.cwd(), task_of(data, request.task), request.target, request.seed, console)
    parent = program.artifact
    options, described = _with_student(options, data, workspace)
    place = workspace.place(stage, key_of(stage, described, [parent], context), (parent.key,))
    context = replace(context, scratch=workspace.scratch(place))
    made, facts = _made(stage, options, parent, place, context)
    return Program(workspace, made, facts=facts, data=data, notes=console.notes)


def _made(
    stage: str, options: Options, parent: Artifact, place: Place, context: Context
) -> tuple[Artifact, dict[str, Any]]:
    made = finished(place, context.console) or dispatch.run_stage(stage, options, parent, place, context)
    if not isinstance(options, QuantizeOptions) or not options.timed:
        return made, {}
    ratios = speed_of(options, parent, made, context)
    return made, {"speed": {batch: ratio.to_dict() for batch, ratio in ratios.items()}} if ratios else {}


def _trains_on(stage: str, options: Options) -> str:
    """The option that makes a stage train, or the stage itself; empty if nothing is trained."""
    if stage in ("train", "distill"):
        return stage
    return next((name for name in ("recover", "qat") if getattr(options, name, None) is not None), "")


def _may_skip(options: Options, trained: str) -> bool:
    """Whether the stage itself leaves out this training if there are no labels: the default recovery of `prune`."""
    return isinstance(options, PruneOptions) and trained not in options.model_fields_set


def _needs_targets(options: Options, trained: str) -> bool:
    inner = getattr(options, trained, options)
    if not isinstance(inner, SoftTargetOptions) or not getattr(inner, "distill", True):
        return True
    return inner.needs_targets


def _with_student(options: Options, data: Splits, workspace: Workspace) -> tuple[Options, Options]:
    """Options for the run and for the key, in which the content represents a student in memory."""
    student = getattr(options, "student", None)
    if not isinstance(options, DistillOptions) or not isinstance(student, _LiveSpec):
        return options, options
    artifact = student.program.artifact
    run, named = ({"student": ModelSpec(source=text)} for text in (str(artifact.main), artifact.key))
    return options.model_copy(update=run), options.model_copy(update=named)


class _LiveSpec(ModelSpec):
    """A student in memory."""

    program: Any = None


def student_spec(student: Any, teacher: Program, request: Request) -> ModelSpec:
    """The options of distillation for any form of student.

    Args:
        student: a module, a program, or a source as in a recipe.
        teacher: provides names and examples of the inputs if the data do not.
    """
    if isinstance(student, str | Path):
        return ModelSpec(source=str(student))
    if isinstance(student, Program):
        return _LiveSpec(source="live", program=student)
    data = splits_of(teacher, teacher.signature, request, "train")
    program = captured_like(
        teacher.signature,
        lambda axes: capture_module(student, data.example(4), CaptureRequest(dynamic=axes), teacher.workspace),
        lambda made: made.signature,
        ScriptConsole(request.progress),
    )
    return _LiveSpec(source="live", program=program)


def splits_of(model: Program | ModelFile, signature: Any, request: Request, use: Use) -> Splits:
    """The data of a call, or those that were last used with the model.

    Raises:
        DataError: there are none.
    """
    if request.data is not None:
        return as_splits(request.data, signature, use, request.seed, request.task)
    if model.data is None:
        raise DataError("no data were given", REMEDY)
    return model.data


def export(model: Any, options: ExportOptions, request: Request, path: Path | None = None) -> Graph:
    """Write a program as ONNX; without data, parity is checked on the example of its capture."""
    program = opened(model)
    if not isinstance(program, Program):
        raise UserError(f"{program.path} is already {with_article(program.kind)}", "export a program")
    console = ScriptConsole(request.progress)
    workspace = same_or_new(request.folder, program.workspace)
    known = request.data is not None or program.data is not None
    data = splits_of(program, program.signature, request, "calibrate") if known else _example_splits(program)
    parent = program.artifact
    context = Context(data, Path.cwd(), task_of(data, None), request.target, request.seed, console)
    place = workspace.place("export", key_of("export", options, [parent], context), (parent.key,))
    context = replace(context, scratch=workspace.scratch(place))
    made = finished(place, console) or dispatch.run_stage("export", options, parent, place, context)
    graph = Graph(workspace, made, path=path, program=program, data=program.data or data, notes=console.notes)
    if path is not None:
        graph.save(path)
    return graph


def _example_splits(program: Program) -> Splits:
    specs = program.signature.inputs
    axes = {spec.name: spec.shape.index(BATCH) for spec in specs if BATCH in spec.shape}
    example = program.example()
    whole = ArraySplit(as_samples(example, specs, axes) if axes else {k: value[None] for k, value in example.items()})
    return Splits(whole, whole, whole, whole)


def on_graph(stage: str, model: Any, options: Options, request: Request, path: Path | None) -> ModelFile:
    """Run a stage that works on an ONNX file; `pack` also takes a bundle."""
    graph = opened(model)
    takes = {"pack": ("graph", "engine", "bundle"), "bundle": ("graph", "engine")}.get(stage, ("graph",))
    if isinstance(graph, Program) or graph.kind not in takes:
        kind = "program" if isinstance(graph, Program) else graph.kind
        raise UserError(
            f"`{stage}` needs an ONNX file, but this is {with_article(kind)}", "graph = retort.export(program)"
        )
    console = ScriptConsole(request.progress)
    workspace = same_or_new(request.folder, graph.workspace)
    context = Context(None, console=console)  # type: ignore[arg-type]  # it reads no data
    parent = graph.artifact
    place = workspace.place(stage, key_of(stage, options, [parent], context), (parent.key,))
    context = replace(context, scratch=workspace.scratch(place))
    made = finished(place, console) or dispatch.run_stage(stage, options, parent, place, context)
    live = FILES[made.kind](workspace, made, path=path, program=graph.program, data=graph.data, notes=console.notes)
    if path is not None:
        live.save(path)
    return live


def splits_for_source(source: str, data: Any, seed: int, fixed: Collection[str] = ()) -> Splits | None:
    """Data for a model that is given by name: in any form for an ONNX file, else splits or the name of a source.

    Args:
        fixed: inputs of the file that become constants, so that the data need not have them.

    Raises:
        DataError: there are no data for an ONNX file.
        ModelError: an ONNX file is quantized.
        UserError: samples were given for a model whose inputs are not known yet.
    """
    if source.endswith(".onnx"):
        if data is None:
            raise DataError("an .onnx file needs data, because the import is checked on real inputs", REMEDY)
        from ...compress.onnx_import.reader import require_floating

        require_floating(Path(source))
        graph = load(source)
        assert isinstance(graph, Graph)
        inputs = tuple(spec for spec in graph.signature.inputs if spec.name not in fixed)
        return as_splits(data, replace(graph.signature, inputs=inputs), "calibrate", seed)
    if data is None or isinstance(data, Splits):
        return data
    if is_source(data):
        return as_splits(data, Signature((), ()), "calibrate", seed)
    raise UserError(
        "a model that is given by name also needs its data by name",
        "give 'digits', a .npz, package.module:function, or a mapping such as {'source': 'pics', 'args': {'size': 16}}",
    )
