"""Programs as the files that are timed: exported for a CPU target, and opened with one thread."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ...core.artifact import Artifact, stable_hash
from ...core.console import Console
from ...core.options.stage_options import BenchOptions, ExportOptions, Target
from ...core.session import Session, SessionOptions, open_session
from ...core.tensors import Feeds

if TYPE_CHECKING:
    import onnx

    from ...benchmarks.timing.latency import LatencyComparison
    from ...compress.program import Program


def exported(program: Program, target: Target = "cpu") -> onnx.ModelProto:
    """The ONNX model of a program, as it would be shipped for a CPU target."""
    from ...compress.program import reexport
    from ...export.translate import to_onnx

    return to_onnx(reexport(program), program.signature, target)


def file_of(artifact: Artifact, folder: Path, samples: Feeds | None = None, target: Target = "cpu") -> Path:
    """The file of a graph, or the ONNX file of a program, exported for a CPU target.

    Args:
        folder: for the file of a program; its weights lie beside it, where sessions map them instead of copying them.
        samples: real inputs, on which the kernels of recurrent layers are chosen as the export stage does.
        target: ``cpu`` or ``arm``.
    """
    if artifact.kind == "graph":
        return artifact.main
    import onnx_ir as ir

    from ...core.backends.eager import load_exported
    from ...export.qdq.retarget import retarget
    from ...export.recurrent_kernels import build_accurate
    from ...export.translate import OPSETS, build

    program, signature, _ = load_exported(artifact.main)
    form = retarget(program, target)
    if samples is None:
        model = build(form, signature, target)
    else:
        model = build_accurate(form, signature, ExportOptions(target=target), OPSETS[target], samples)[0]
    path = folder / f"{stable_hash(str(artifact.path))}.onnx"
    ir.save(model, path, external_data=f"{path.stem}.weights")
    return path


def compared(
    files: Mapping[str, Path | bytes], samples: Feeds, options: BenchOptions, console: Console, reference: str = "fp32"
) -> dict[int, LatencyComparison]:
    """Time files in interleaved blocks with one thread, on this machine or on the device of the options."""
    if options.timer is not None:
        from ...benchmarks.edge.device_timing import compare_on_device

        return compare_on_device(files, samples, options, console, reference=reference)[0]
    from ...benchmarks.timing.latency import compare_sessions

    openers = {name: partial(opened, file) for name, file in files.items()}
    return compare_sessions(openers, samples, options, console, reference=reference)


def opened(file: Path | bytes) -> Session:
    """A session with one thread."""
    return open_session(file, SessionOptions(threads=1))


def opener(
    artifact: Artifact, folder: Path, samples: Feeds | None = None, target: Target = "cpu"
) -> Callable[[], Session]:
    """A function that opens a session with one thread on the file of an artifact; see :func:`file_of`."""
    return partial(opened, file_of(artifact, folder, samples, target))
