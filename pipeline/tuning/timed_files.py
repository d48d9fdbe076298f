"""Programs as the files that are timed: exported for the CPU, and opened with one thread."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ...core.artifact import Artifact
from ...core.session import Session, SessionOptions, open_session

if TYPE_CHECKING:
    import onnx

    from ...compress.program import Program


def exported(program: Program) -> onnx.ModelProto:
    """The ONNX model of a program, as it would be shipped for the CPU."""
    from ...compress.program import reexport
    from ...export.translate import to_onnx

    return to_onnx(reexport(program), program.signature, "cpu")


def file_of(artifact: Artifact) -> Path | bytes:
    """The file of a graph, or the ONNX file of a program, exported for the CPU."""
    from ...export.translate import to_onnx

    if artifact.kind == "graph":
        return artifact.main
    model: bytes = to_onnx(artifact.main, None, "cpu").SerializeToString()
    return model


def opened(file: Path | bytes) -> Session:
    """A session with one thread."""
    return open_session(file, SessionOptions(threads=1))


def opener(artifact: Artifact) -> Callable[[], Session]:
    """A function that opens a session with one thread on the file of an artifact."""
    return partial(opened, file_of(artifact))
