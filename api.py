"""The Python API for scripts and notebooks: the stages of the command line and the recipe on live objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .core.console import SILENT
from .core.context import require_seed
from .core.errors import UserError
from .core.explanation.explanation import Asked, Baseline, Choice, Method
from .core.options.stage_options import BenchOptions, MetricName, Provider
from .core.session import PROVIDERS, Session, SessionOptions
from .pipeline.live import running
from .pipeline.live.capturing import CaptureRequest, capture_module, capture_source, require_model
from .pipeline.live.compressing import distill, prune, quantize, sparsify, train
from .pipeline.live.data.adapters import as_splits, is_source, one_value
from .pipeline.live.documented import checked, with_options
from .pipeline.live.objects import opening
from .pipeline.live.objects.compared_models import candidates, test_splits
from .pipeline.live.objects.comparison import Result
from .pipeline.live.objects.explained_samples import Explanations
from .pipeline.live.objects.facts import Facts
from .pipeline.live.objects.model_files import Archive, Bundle, Deployment, Engine, Graph, ModelFile
from .pipeline.live.objects.opening import Run
from .pipeline.live.objects.programs import Program
from .pipeline.live.shipping import bundle, engine, export, pack
from .pipeline.live.workspace import ScriptConsole, Workspace

if TYPE_CHECKING:
    from typing import Unpack

    from torch import nn

    from .pipeline.live.arguments import CaptureArguments, CompareArguments

__all__ = [
    "Archive", "Bundle", "Deployment", "Engine", "Explanations", "Facts", "Graph", "Program", "Result", "Run",
    "bundle", "capture", "compare", "distill", "engine", "explain", "export", "load", "open_session", "pack", "prune",
    "quantize", "sparsify", "train",
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
    """Capture a model as a program, a graph that can be trained and opened without your source code.

    The module is not changed, and shares no memory with the program. The batch axis is dynamic, and for models of
    transformers the length of the text as well. ``dynamic`` makes further axes dynamic.

    Args:
        model: an ``nn.Module``; or an ``.onnx`` file, a folder of ``save_pretrained``, or ``package.module:factory``.
        example: inputs of the module: a tensor ``[N, …]``, a tuple, a mapping by name, or a DataLoader, whose first
            batch is used, or such a batch. Targets are ignored: values that the forward does not take, and in the
            batch (a list) of a loader values that it does not require.
        data: samples that later stages use by default; without an example, their first rows are the example. An
            ``.onnx`` file needs them, to compare the program with ONNX Runtime.
        seed: random seed that is set before a factory is called.
        folder: folder in which artifacts are stored and reused; by default a temporary folder that exists as long as
            the objects.
        progress: show progress on stderr.

    Returns:
        The program. It was compared with the model at three batch sizes.

    Raises:
        CaptureError: ``torch.export`` cannot capture the model, or the program differs from it; the message says where.
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
    require_seed(seed)
    request = checked("capture", CaptureRequest, options)
    workspace, console = Workspace(folder), ScriptConsole(progress)
    if isinstance(model, str | Path | Graph):
        source = str(model.path.resolve()) if isinstance(model, Graph) else str(model)
        if example is not None:
            message = "a model that is given by name needs `data` instead of an example"
            raise UserError(message, "capture(source, data=…)")
        splits = running.splits_for_source(source, data, seed, request.fixed)
        program = capture_source(source, request, splits, seed, workspace, console)
        if is_source(data) and one_value(program.signature):  # read again: whole numbers are its values
            program.data = as_splits(data, program.signature, "calibrate", seed)
        return program
    require_model(model)
    program = capture_module(model, data if example is None else example, request, workspace)
    if data is not None:
        program.data = as_splits(data, program.signature, "calibrate", seed)
    if folder is not None:
        console.stage("capture", str(program.path))
    return program


@with_options(BenchOptions)
def compare(
    models: Mapping[str, Any],
    *,
    data: Any = None,
    metric: MetricName | None = None,
    progress: bool = False,
    **options: Unpack[CompareArguments],
) -> Result:
    """Compare models with the first one: accuracy sample by sample, latency in randomised interleaved blocks.

    Args:
        models: the models by name; the first is the reference. Graphs and ``.onnx`` files run in ONNX Runtime, programs
            and ``.pt2`` files in PyTorch, engines in TensorRT; an ``nn.Module`` is captured and runs in PyTorch.
        data: the test samples; all of them are used if there are no splits; see ``retort.prune``. The default is the
            test split that was last used with the last model.
        metric: by default accuracy for classes, mean squared error for values, none without targets.
        progress: show progress bars on stderr.

    Returns:
        The result: ``print`` shows a table with the intervals, a notebook shows it automatically, ``save`` writes JSON
        or an HTML report.

    Raises:
        DataError: there are no data, or the samples do not fit.
        UserError: an option is unknown or has a wrong value, a value is not a model, or two models give outputs of
            different shapes for a sample.
        MachineError: a runtime that a model needs is missing.

    Example:
        >>> import retort
        >>> program = retort.capture("retort.examples.digits:student", data="digits")
        >>> graph = retort.export(program)
        >>> result = retort.compare({"torch": program, "onnx": graph}, batch_sizes=[1], budget_s=0.2, blocks=4)
        >>> [stage.stage for stage in result.stages]
        ['torch', 'onnx']
    """
    from .benchmarks.compare_models import compare_files

    asked = checked("compare", BenchOptions, options)
    console = ScriptConsole(True) if progress else SILENT
    opened = candidates(models, data)
    splits = test_splits(opened, data)
    artifacts = {name: model.artifact for name, model in opened.items()}
    return Result.of(compare_files(artifacts, splits, asked, metric, console))


def explain(
    model: Any,
    samples: Any,
    *,
    rows: int = 4,
    label: str | int | None = None,
    method: Method = "occlusion",
    baseline: Baseline = "auto",
    budget: int = 256,
    target: Choice = "auto",
    output: str | None = None,
    inputs: Sequence[str] = (),
    progress: bool = False,
) -> Explanations:
    """Show which parts of samples the score of a model rests on; by default without gradients, so for any model.

    Args:
        model: a program, a graph, an engine or an archive, or the path of one; a module is captured.
        samples: the samples, in any form that ``retort.compare`` takes as data.
        rows: number of samples that are explained, from the first one.
        label: name or index of the class that is explained; by default the one that the model predicts.
        method: ``occlusion``, or ``integrated-differences`` for inputs that are not tokens; of programs also
            ``integrated-gradients``, ``grad-cam`` (convolutions) and ``attention`` (transformers).
        baseline: what takes the place of parts: ``zero``, ``mean`` or ``blur``, for tokens ``pad`` or ``unknown``; by
            default by the kind of input.
        budget: most samples that the model computes for one explanation.
        target: ``class``, ``value`` or ``similarity`` to the whole sample; by default by the kind of output.
        output: output with the score, by default the first that has one.
        inputs: inputs that are explained, by default all that can be.
        progress: show a progress bar on stderr.

    Returns:
        One explanation per sample: ``heatmaps`` by input, which add up to the score minus that of the baseline, and
        ``evidence``, which says whether they are more than chance.

    Raises:
        InputError: what is asked for does not fit the model.
        DataError: there are no samples, or they do not fit the model.
        UserError: the model is none of the above.

    Example:
        >>> import retort, torch
        >>> net = torch.nn.Linear(4, 1)
        >>> net.weight.data[:] = torch.tensor([[0.0, 0.0, 5.0, 0.0]])
        >>> program = retort.capture(net, torch.randn(4, 4))
        >>> print(retort.explain(program, torch.ones(1, 4)))
        sample 0: 'output', by feature 2
    """
    from .pipeline.explaining import explained

    asked = Asked(method, target, label, output, tuple(inputs), baseline, budget)
    ((_, found),) = candidates({"model": model}, samples).items()
    console = ScriptConsole(True) if progress else SILENT
    return Explanations(explained(found.artifact, samples, rows, asked, console))


def load(path: str | Path) -> Any:
    """Open anything that Retort wrote.

    Args:
        path: a ``.pt2`` or ``.onnx`` file, a ``.plan``, a ``.mar``, the JSON of a result, an artifact folder, or the
            folder of a run.

    Returns:
        A ``Program``, a ``Graph``, an ``Engine``, an ``Archive``, a ``Result``, or for the folder of a run a ``Run``,
        which is a mapping from stages to those. Other measurements are returned as ``Facts``, reports as their file.

    Raises:
        MissingFileError: the path does not exist.
        ArtifactError: the file or folder is unfinished, truncated, altered or foreign.
        UserError: the folder contains a model that has not been captured yet.

    Example:
        >>> import retort, torch
        >>> program = retort.capture(torch.nn.Linear(8, 3), torch.randn(4, 8))
        >>> retort.load(program.save("linear.pt2")).facts.parameters
        27
    """
    return opening.load(path)


def open_session(model: Program | ModelFile | str | Path, *, threads: int = 1, provider: Provider = "cpu") -> Session:
    """Open a model with the runtime of its kind; measurements and serving use the same sessions.

    Args:
        model: a graph, an engine or a program, or the path of one.
        threads: number of runtime threads; 0 lets the runtime choose.
        provider: execution provider on which ONNX Runtime must run it (``cpu``, ``cuda`` or ``tensorrt``);
            ``openvino`` is another runtime.

    Returns:
        A session: ``session.run({name: array})`` returns the outputs as arrays by name.

    Raises:
        MissingFileError: the file does not exist.
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
