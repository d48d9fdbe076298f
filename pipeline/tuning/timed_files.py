"""Programs as the files that are timed: exported for the CPU, and opened with one thread."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ...core.artifact import Artifact
from ...core.options.stage_options import ExportOptions
from ...core.session import Session, SessionOptions, open_session
from ...core.tensors import Feeds

if TYPE_CHECKING:
    import onnx

    from ...compress.program import Program


def exported(program: Program) -> onnx.ModelProto:
    """The ONNX model of a program, as it would be shipped for the CPU."""
    from ...compress.program import reexport
    from ...export.translate import to_onnx

    return to_onnx(reexport(program), program.signature, "cpu")


def file_of(artifact: Artifact, samples: Feeds | None = None) -> Path | bytes:
    """The file of a graph, or the ONNX file of a program, exported for the CPU.

    Args:
        samples: real inputs, on which the kernels of recurrent layers are chosen as the export stage does.
    """
    from ...export.translate import to_onnx

    if artifact.kind == "graph":
        return artifact.main
    model: bytes = (
        to_onnx(artifact.main, None, "cpu") if samples is None else _chosen(artifact, samples)
    ).SerializeToString()
    return model


def _chosen(artifact: Artifact, samples: Feeds) -> onnx.ModelProto:
    import onnx_ir as ir

    from ...core.backends.eager import load_exported
    from ...export.qdq.retarget import retarget
    from ...export.recurrent_kernels import build_accurate
    from ...export.translate import OPSETS

    program, signature, _ = load_exported(artifact.main)
    form = retarget(program, "cpu")
    return ir.to_proto(build_accurate(form, signature, ExportOptions(target="cpu"), OPSETS["cpu"], samples)[0])


def opened(file: Path | bytes) -> Session:
    """A session with one thread."""
    return open_session(file, SessionOptions(threads=1))


def opener(artifact: Artifact, samples: Feeds | None = None) -> Callable[[], Session]:
    """A function that opens a session with one thread on the file of an artifact; see :func:`file_of`."""
    return partial(opened, file_of(artifact, samples))
