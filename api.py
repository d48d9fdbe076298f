"""What a script or a notebook calls, with live objects: the verbs and options of the command line and the recipe."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .core.console import SILENT
from .core.errors import UserError
from .core.options import (
    BenchOptions,
    DistillOptions,
    EngineOptions,
    ExportOptions,
    MetricName,
    PackOptions,
    Provider,
    PruneOptions,
    QuantizeOptions,
    SparsifyOptions,
    Target,
    Task,
    TrainOptions,
)
from .core.session import PROVIDERS, Session, SessionOptions
from .live import opening, running
from .live.adapters import as_splits
from .live.capturing import CaptureRequest, capture_module, capture_source
from .live.comparison import Result
from .live.documented import checked, with_options
from .live.facts import Facts
from .live.model_files import Archive, Engine, Graph, ModelFile
from .live.opening import Run
from .live.programs import Program
from .live.running import Request
from .live.workspace import ScriptConsole, Workspace

if TYPE_CHECKING:
    from torch import nn
    from typing_extensions import Unpack

    from .live.arguments import (
        CaptureArguments,
        CompareArguments,
        DistillArguments,
        EngineArguments,
        ExportArguments,
        PackArguments,
        PruneArguments,
        QuantizeArguments,
        SparsifyArguments,
        TrainArguments,
    )

__all__ = [
    "Archive", "Engine", "Facts", "Graph", "Program", "Result", "Run",
    "capture", "compare", "distill", "engine", "export", "load", "open_session", "pack", "prune", "quantize",
    "sparsify", "train",
]  # fmt: skip


@with_options(CaptureRequest)
def capture(
    model: nn.Module | Graph | str | Path,
    example: Any = None,
    *,
    data: Any = None,
    seed: int = 0,
    folder: str | Path | None = None,
    progress: bool = False,
    **options: Unpack[CaptureArguments],
) -> Program:
    """Capture a model as a program: a graph that trains, opens anywhere and needs none of your code.

    The module is left as it was, and shares no memory with the program. The batch is dynamic, and for models of
    transformers the length of the text, too; ``dynamic`` frees further axes.

    Args:
        model: an ``nn.Module``; or an ``.onnx`` file, a folder of ``save_pretrained``, or ``package.module:factory``.
        example: inputs of the module: a tensor ``[N, …]``, a tuple, a mapping by name, or a DataLoader, whose first
            batch is taken. Targets are left out: what the forward does not take, and of a loader's batch what it does
            not require.
        data: samples in place of the example, which the program remembers for later stages. An ``.onnx`` file needs
            them, to compare the program with ONNX Runtime.
        seed: set before a factory is called.
        folder: where artifacts are kept and reused; by default a temporary folder that lives as long as the objects.
        progress: show what is going on, on stderr.

    Returns:
        The program, which computes what the model does: compared at three batch sizes.

    Raises:
        CaptureError: ``torch.export`` cannot take the model, or the program does not agree with it; says where.
        ModelError: the model does not run on the example.
        DataError: the example does not fit the forward.
        UserError: an option is unknown or has a wrong value.

    Example:
        >>> import retort, torch
        >>> net = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3))
        >>> program = retort.capture(net, torch.randn(4, 8))
        >>> program(torch.randn(5, 8)).shape
        torch.Size([5, 3])
    """
    request = checked("capture", CaptureRequest, options)
    workspace, console = Workspace(folder), ScriptConsole(progress)
    if isinstance(model, str | Path | Graph):
        source = str(model.path.resolve()) if isinstance(model, Graph) else str(model)
        if example is not None:
            raise UserError("a model that is given by name takes `data`, not an example", "capture(source, data=…)")
        splits = running.splits_for_source(source, data, seed)
        return capture_source(source, request, splits, seed, workspace, console)
    if not hasattr(model, "forward"):
        raise UserError(f"a {type(model).__name__} is no model", "give an nn.Module, a file, or package.module:factory")
    program = capture_module(model, data if example is None else example, request, workspace)
    if data is not None and example is None:
        program.data = as_splits(data, program.signature, "calibrate", seed)
    if folder is not None:
        console.stage("capture", str(program.path))
    return program


@with_options(TrainOptions)
def train(
    program: Program | str | Path,
    *,
    data: Any = None,
    task: Task | None = None,
    seed: int = 0,
    folder: str | Path | None = None,
    progress: bool = False,
    **options: Unpack[TrainArguments],
) -> Program:
    """Train a program on its task; ``program.module`` takes a training loop of your own instead.

    Args:
        program: what to start from; it stays as it is.
        data: labelled samples; see ``retort.prune``.
        task: ``classification`` (cross entropy) or ``regression`` (squared error); by default what the targets say.
        seed: of the order of samples, of augmentation and dropout.
        folder: where artifacts are kept and reused; by default the program's own folder.
        progress: show stages and progress bars on stderr.

    Returns:
        The trained program, with its best weights by the validation split; ``facts`` has its history.

    Raises:
        DataError: no labels, or samples that do not fit.
        UserError: an option is unknown or has a wrong value, or the training diverged.

    Example:
        >>> import retort
        >>> program = retort.capture("retort.examples.digits:student", data="digits")
        >>> trained = retort.train(program, epochs=1)
        >>> trained.facts.epochs
        1
    """
    asked = checked("train", TrainOptions, options)
    return _program(running.run_stage("train", program, asked, Request(data, task, "cpu", seed, folder, progress)))


@with_options(DistillOptions, leave_out=("student",))
def distill(
    program: Program | str | Path,
    student: Program | nn.Module | str | Path,
    *,
    data: Any = None,
    task: Task | None = None,
    seed: int = 0,
    folder: str | Path | None = None,
    progress: bool = False,
    **options: Unpack[DistillArguments],
) -> Program:
    """Train a smaller student on the soft targets of a program (Hinton et al., 2015).

    Args:
        program: the teacher; it stays as it is.
        student: the smaller model: a module, a program, a ``.pt2``, or ``package.module:factory``. It stays as it is.
        data: samples; see ``retort.prune``. With ``alpha=1.0`` they need no labels.
        task: ``classification`` or ``regression``; by default what the targets say.
        seed: of everything random.
        folder: where artifacts are kept and reused; by default the program's own folder.
        progress: show stages and progress bars on stderr.

    Returns:
        The trained student.

    Raises:
        ModelError: teacher and student do not take the same inputs, or do not predict the same classes.
        DataError: no labels, or samples that do not fit.
        UserError: an option is unknown or has a wrong value.

    Example:
        >>> import retort
        >>> from retort.examples.digits import student
        >>> teacher = retort.capture("retort.examples.digits:teacher", data="digits")
        >>> small = retort.distill(teacher, student(width=8), epochs=1)
        >>> small.facts.parameters < teacher.facts.parameters
        True
    """
    request = Request(data, task, "cpu", seed, folder, progress)
    teacher = _program(running.opened(program))
    asked = checked("distill", DistillOptions, {**options, "student": "live"})
    spec = running.student_spec(student, teacher, request)
    return _program(running.run_stage("distill", teacher, asked.model_copy(update={"student": spec}), request))


@with_options(PruneOptions)
def prune(
    program: Program | Graph | str | Path,
    *,
    data: Any = None,
    task: Task | None = None,
    seed: int = 0,
    folder: str | Path | None = None,
    progress: bool = False,
    **options: Unpack[PruneArguments],
) -> Program | Graph:
    """Remove coupled channels, prove the cut, and recover by training.

    Give exactly one budget (``macs``, ``parameters``, ``size``, ``size_bytes``, ``latency``, ``latency_ms``), or
    ``layers`` alone.

    Args:
        program: what to cut; it stays as it is. An ONNX file gives an ONNX file again.
        data: samples, by which channels are ranked and recovery trains. A DataLoader, a Dataset, arrays, a pair
            ``(x, y)``, a mapping with the names of the inputs and ``labels``, or an iterable of batches: 15 % of one
            set are held out for validation. Or a mapping of splits ``{"train": …, "validation": …}``, a built-in name
            (``digits``), or ``package.module:function``. By default what the program was last given.
        task: ``classification`` or ``regression``; by default what the targets say.
        seed: of everything random.
        folder: where artifacts are kept and reused; by default the program's own folder, or else a temporary one.
        progress: show stages and progress bars on stderr.

    Returns:
        The smaller program. Its ``facts`` have ``macs_before`` and ``macs_after`` (multiply-accumulates for one
        sample), ``parameters_before`` and ``parameters_after``, ``groups``, ``locked`` (what stayed whole, and why) and
        ``proof_relative_error``.

    Raises:
        UserError: an option is unknown or has a wrong value, a pattern matches nothing, or the budget cannot be met.
        DataError: no labels, or samples that do not fit.
        VerificationError: the cut program does not equal the dense one with the removed channels masked.

    Example:
        >>> import retort
        >>> program = retort.capture("retort.examples.digits:student", data="digits")
        >>> small = retort.prune(program, macs=0.5, recover={"epochs": 1})
        >>> small.facts.macs_after <= 0.5 * small.facts.macs_before
        True
    """
    asked = checked("prune", PruneOptions, options)
    return running.run_stage("prune", program, asked, Request(data, task, "cpu", seed, folder, progress))


@with_options(SparsifyOptions)
def sparsify(
    program: Program | Graph | str | Path,
    *,
    data: Any = None,
    task: Task | None = None,
    seed: int = 0,
    folder: str | Path | None = None,
    progress: bool = False,
    **options: Unpack[SparsifyArguments],
) -> Program | Graph:
    """Zero weights in the 2:4 pattern of sparse tensor cores, or anywhere, and recover by training.

    Args:
        program: it stays as it is. An ONNX file gives an ONNX file again.
        data: samples; see ``retort.prune``.
        task: ``classification`` or ``regression``; by default what the targets say.
        seed: of everything random.
        folder: where artifacts are kept and reused; by default the program's own folder.
        progress: show stages and progress bars on stderr.

    Returns:
        The program with zeros in its weights; ``facts`` tells the layers and their shares.

    Raises:
        UserError: an option is unknown or has a wrong value.
        DataError: no labels, or samples that do not fit.

    Example:
        >>> import retort
        >>> program = retort.capture("retort.examples.digits:student", data="digits")
        >>> sparse = retort.sparsify(program, pattern="2:4", recover=None)
        >>> sparse.stage
        'sparsify'
    """
    asked = checked("sparsify", SparsifyOptions, options)
    return running.run_stage("sparsify", program, asked, Request(data, task, "cpu", seed, folder, progress))


@with_options(QuantizeOptions)
def quantize(
    program: Program | Graph | str | Path,
    *,
    data: Any = None,
    task: Task | None = None,
    target: Target = "cpu",
    seed: int = 0,
    folder: str | Path | None = None,
    progress: bool = False,
    **options: Unpack[QuantizeArguments],
) -> Program | Graph:
    """Quantize a program to INT8 after training, calibrated on real samples; ``qat`` trains on with it.

    Args:
        program: in FP32; it stays as it is. An ONNX file gives an ONNX file again.
        data: samples, which need no labels unless ``qat`` trains on them; see ``retort.prune``.
        task: ``classification`` or ``regression``; by default what the targets say.
        target: what the model is for: ``cpu`` (x86 with VNNI or AMX, timed against FP32) or ``tensorrt``.
        seed: of everything random.
        folder: where artifacts are kept and reused; by default the program's own folder, or else a temporary one.
        progress: show stages and progress bars on stderr.

    Returns:
        The INT8 program. Its ``facts`` have ``sqnr_db`` against FP32, ``float_nodes`` (what stays in floating point,
        and why) and, for ``cpu``, ``speed`` (times as fast as FP32 by batch size, with intervals).

    Raises:
        UserError: an option is unknown or has a wrong value, or the program is INT8 already.
        DataError: no samples, or samples that do not fit.

    Example:
        >>> import retort
        >>> program = retort.capture("retort.examples.digits:student", data="digits")
        >>> int8 = retort.quantize(program, timed=False)
        >>> int8.facts.target
        'cpu'
    """
    asked = checked("quantize", QuantizeOptions, options)
    return running.run_stage("quantize", program, asked, Request(data, task, target, seed, folder, progress))


@with_options(ExportOptions, leave_out=("target",))
def export(
    program: Program | str | Path,
    path: str | Path | None = None,
    *,
    data: Any = None,
    target: Target = "cpu",
    folder: str | Path | None = None,
    progress: bool = False,
    **options: Unpack[ExportArguments],
) -> Graph:
    """Write a program as ONNX for a target, and refuse it unless it agrees with PyTorch.

    Args:
        program: it stays as it is.
        path: the ``.onnx`` file to write; without one it lies in the folder, or in a temporary one.
        data: samples that parity is checked on; by default what the program was last given, or its example.
        target: what runs the file: ``cpu`` (ONNX Runtime on x86) or ``tensorrt``.
        folder: where artifacts are kept and reused; by default the program's own folder.
        progress: show what is going on, on stderr.

    Returns:
        The graph: ``graph(x)`` runs it, ``retort.open_session(graph)`` opens it, ``facts.parity`` has the errors.

    Raises:
        VerificationError: the file does not compute what the program does; nothing is written.
        CaptureError: an operator has no ONNX form.
        UserError: an option is unknown or has a wrong value.

    Example:
        >>> import retort, torch
        >>> program = retort.capture(torch.nn.Linear(8, 3), torch.randn(4, 8))
        >>> graph = retort.export(program)
        >>> graph(torch.randn(5, 8)).shape
        (5, 3)
    """
    asked = checked("export", ExportOptions, options).model_copy(update={"target": target})
    return running.export(program, asked, Request(data, None, target, 0, folder, progress), _file(path, ".onnx"))


@with_options(EngineOptions)
def engine(
    graph: Graph | str | Path,
    path: str | Path | None = None,
    *,
    folder: str | Path | None = None,
    progress: bool = False,
    **options: Unpack[EngineArguments],
) -> Engine:
    """Build the TensorRT plan of an ONNX graph, for the GPU and the TensorRT of this machine.

    Args:
        graph: exported for the target ``tensorrt``.
        path: the ``.plan`` file to write; without one it lies in the folder, or in a temporary one.
        folder: where artifacts are kept and reused; by default the graph's own folder.
        progress: show what is going on, on stderr.

    Returns:
        The engine; ``retort.open_session(engine)`` opens it.

    Raises:
        MachineError: no TensorRT is installed, or there is no GPU for it.
        UserError: an option is unknown or has a wrong value.
    """
    asked = checked("engine", EngineOptions, options)
    request = Request(folder=folder, progress=progress)
    made = running.on_graph("engine", graph, asked, request, _file(path, ".plan"))
    assert isinstance(made, Engine)
    return made


@with_options(PackOptions)
def pack(
    graph: Graph | str | Path,
    path: str | Path | None = None,
    *,
    folder: str | Path | None = None,
    progress: bool = False,
    **options: Unpack[PackArguments],
) -> Archive:
    """Pack an ONNX graph into a TorchServe archive that carries its own runtime.

    Args:
        graph: made by ``retort.export``.
        path: the ``.mar`` file to write; without one it lies in the folder, or in a temporary one.
        folder: where artifacts are kept and reused; by default the graph's own folder.
        progress: show what is going on, on stderr.

    Returns:
        The archive, which ``retort serve`` starts.

    Raises:
        UserError: an option is unknown or has a wrong value.

    Example:
        >>> import retort, torch
        >>> program = retort.capture(torch.nn.Linear(8, 3), torch.randn(4, 8))
        >>> archive = retort.pack(retort.export(program), name="linear")
        >>> archive.path.suffix
        '.mar'
    """
    asked = checked("pack", PackOptions, options)
    request = Request(folder=folder, progress=progress)
    made = running.on_graph("pack", graph, asked, request, _file(path, ".mar"))
    assert isinstance(made, Archive)
    return made


@with_options(BenchOptions)
def compare(
    models: Mapping[str, Any],
    *,
    data: Any = None,
    metric: MetricName | None = None,
    progress: bool = False,
    **options: Unpack[CompareArguments],
) -> Result:
    """Measure models beside the first of them: accuracy sample by sample, latency in randomised interleaved blocks.

    Args:
        models: a name for each; the first is the reference. Graphs and ``.onnx`` files run in ONNX Runtime, programs
            and ``.pt2`` files in PyTorch, engines in TensorRT; an ``nn.Module`` is captured and runs in PyTorch.
        data: the test samples: all of them, where no splits are named; see ``retort.prune``. By default the test split
            of what the last model was given.
        metric: by default accuracy for classes, mean squared error for values, none without targets.
        progress: show progress bars on stderr.

    Returns:
        The result: ``print`` shows a table with the intervals, a notebook shows it by itself, ``save`` writes JSON or
        an HTML report.

    Raises:
        DataError: no data, or samples that do not fit.
        UserError: an option is unknown or has a wrong value, or something that is no model.
        MachineError: a runtime that a model needs is missing.

    Example:
        >>> import retort
        >>> program = retort.capture("retort.examples.digits:student", data="digits")
        >>> graph = retort.export(program)
        >>> result = retort.compare({"torch": program, "onnx": graph}, batch_sizes=[1], budget_s=1, blocks=4)
        >>> [stage.stage for stage in result.stages]
        ['torch', 'onnx']
    """
    from .results import compare_files

    asked = checked("compare", BenchOptions, options)
    console = ScriptConsole(True) if progress else SILENT
    opened = running.candidates(models, data)
    splits = running.test_splits(opened, data)
    artifacts = {name: model.artifact for name, model in opened.items()}
    return Result.of(compare_files(artifacts, splits, asked, metric, console))


def load(path: str | Path) -> Any:
    """Open whatever Retort wrote.

    Args:
        path: a ``.pt2`` or ``.onnx`` file, a ``.plan``, a ``.mar``, the JSON of a result, an artifact folder, or the
            folder of a run.

    Returns:
        A ``Program``, a ``Graph``, an ``Engine``, an ``Archive``, a ``Result``, or for the folder of a run a ``Run``,
        which is a mapping from stages to those.

    Raises:
        MissingFileError: there is nothing.
        ArtifactError: unfinished, truncated, altered or foreign.
        UserError: a kind of file that is not for scripts, such as a report.

    Example:
        >>> import retort, torch
        >>> program = retort.capture(torch.nn.Linear(8, 3), torch.randn(4, 8))
        >>> retort.load(program.save("linear.pt2")).facts.parameters
        27
    """
    return opening.load(path)


def open_session(model: Program | ModelFile | str | Path, *, threads: int = 1, provider: Provider = "cpu") -> Session:
    """Open a model with the runtime of its kind: what is measured by it is what is served.

    Args:
        model: a graph, an engine or a program, or the path of one.
        threads: of the runtime; 0 leaves the choice to it.
        provider: what ONNX Runtime must really run it on: ``cpu``, ``cuda`` or ``tensorrt``.

    Returns:
        A session: ``session.run({name: array})`` gives the outputs as arrays by name.

    Raises:
        MissingFileError: nothing is there.
        ArtifactError: the file is damaged.
        MachineError: the runtime or the provider is not installed.

    Example:
        >>> import retort, torch
        >>> program = retort.capture(torch.nn.Linear(8, 3), torch.randn(4, 8))
        >>> session = retort.open_session(retort.export(program))
        >>> session.run({"input": torch.randn(5, 8).numpy()})["output"].shape
        (5, 3)
    """
    from .core.session import open_session as opens

    if provider not in PROVIDERS:
        raise UserError(f"no such provider: '{provider}'", f"choose one of {', '.join(PROVIDERS)}")
    found = running.opened(model)
    main = found.artifact.main if isinstance(found, Program) else found.path
    return opens(main, SessionOptions(threads=threads, providers=PROVIDERS[provider]))


def _program(model: Any) -> Program:
    if not isinstance(model, Program):
        raise UserError(f"{model} is no program", "capture an ONNX file first: retort.capture(path, data=…)")
    return model


def _file(path: str | Path | None, suffix: str) -> Path | None:
    if path is not None and Path(path).suffix != suffix:
        raise UserError(f"cannot write '{path}'", f"name a {suffix} file")
    return None if path is None else Path(path)
