"""The functions that write files for production: export, engine, bundle, pack."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...core.errors import UserError
from ...core.options.serving_options import BundleOptions, PackOptions
from ...core.options.stage_options import EngineOptions, ExportOptions, Target
from . import running
from .documented import checked, with_options
from .objects.model_files import Archive, Bundle, Deployment, Engine, Graph
from .objects.programs import Program
from .running import Request

if TYPE_CHECKING:
    from typing import Unpack

    from .arguments import BundleArguments, EngineArguments, ExportArguments, PackArguments


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
    """Write a program as an ONNX file for a target, and reject the file if its outputs differ from PyTorch.

    Args:
        program: the program; it is not changed.
        path: the ``.onnx`` file to write; by default it is written in ``folder`` or in a temporary folder.
        data: samples for the parity check; by default those last used with the program, or its example.
        target: runtime of the file: ``cpu`` (ONNX Runtime on x86) or ``tensorrt``.
        folder: folder in which artifacts are stored and reused; by default the program's own folder.
        progress: show progress on stderr.

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
    """Build a TensorRT plan from an ONNX graph for this machine's GPU and TensorRT version.

    Args:
        graph: exported for the target ``tensorrt``.
        path: the ``.plan`` file to write; by default it is written in ``folder`` or in a temporary folder.
        folder: folder in which artifacts are stored and reused; by default the graph's own folder.
        progress: show progress on stderr.

    Returns:
        The engine; ``retort.open_session(engine)`` opens it.

    Raises:
        MachineError: TensorRT is not installed, or there is no GPU; ``tensorrt_rtx`` builds without a GPU.
        VerificationError: TensorRT would reject or misread the graph; the message names the nodes.
        UserError: an option is unknown or has a wrong value.

    Example:
        >>> import retort, torch
        >>> program = retort.capture(torch.nn.Linear(8, 3), torch.randn(4, 8))
        >>> engine = retort.engine(retort.export(program, target="tensorrt"), batch_sizes=(1, 4, 8))
        >>> engine.path.suffix
        '.plan'
    """
    asked = checked("engine", EngineOptions, options)
    request = Request(folder=folder, progress=progress)
    made = running.on_graph("engine", graph, asked, request, _file(path, ".plan"))
    assert isinstance(made, Engine)
    return made


@with_options(BundleOptions)
def bundle(
    graph: Graph | Engine | str | Path,
    path: str | Path | None = None,
    *,
    folder: str | Path | None = None,
    progress: bool = False,
    **options: Unpack[BundleArguments],
) -> Bundle:
    """Write an ONNX graph or a TensorRT plan as a bundle: a folder with its own runtime, for any Python server.

    Args:
        graph: made by ``retort.export``, or a plan made by ``retort.engine``.
        path: the folder to write; by default it is written in ``folder`` or in a temporary folder.
        folder: folder in which artifacts are stored and reused; by default the graph's own folder.
        progress: show progress on stderr.

    Returns:
        The bundle.

    Raises:
        UserError: an option is unknown or has a wrong value.

    Example:
        >>> import retort, torch
        >>> program = retort.capture(torch.nn.Linear(8, 3), torch.randn(4, 8))
        >>> bundle = retort.bundle(retort.export(program), name="linear")
        >>> sorted(file.name for file in bundle.path.glob("*.onnx"))
        ['model.onnx']
    """
    asked = checked("bundle", BundleOptions, options)
    request = Request(folder=folder, progress=progress)
    made = running.on_graph("bundle", graph, asked, request, None if path is None else Path(path))
    assert isinstance(made, Bundle)
    return made


@with_options(PackOptions)
def pack(
    graph: Graph | Engine | Bundle | str | Path,
    path: str | Path | None = None,
    *,
    folder: str | Path | None = None,
    progress: bool = False,
    **options: Unpack[PackArguments],
) -> Archive | Deployment:
    """Pack an ONNX graph, a TensorRT plan or a bundle for TorchServe or another server, with its own runtime.

    Args:
        graph: made by ``retort.export``, a plan made by ``retort.engine``, or a bundle made by ``retort.bundle``.
        path: the ``.mar`` file to write, or the folder for another target; by default it is written in ``folder`` or
            in a temporary folder.
        folder: folder in which artifacts are stored and reused; by default the graph's own folder.
        progress: show progress on stderr.

    Returns:
        The archive, which ``retort serve`` starts; for another target its deployment, a folder.

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
    archive = asked.target == "torchserve"
    place = _file(path, ".mar") if archive else Path(path) if path is not None else None
    made = running.on_graph("pack", graph, asked, request, place)
    assert isinstance(made, Archive | Deployment)
    return made


def _file(path: str | Path | None, suffix: str) -> Path | None:
    if path is not None and Path(path).suffix != suffix:
        raise UserError(f"cannot write '{path}'", f"give the path of a {suffix} file")
    return None if path is None else Path(path)
