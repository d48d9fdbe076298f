"""One class that runs models in every runtime, so that the measured model is the served model.

Part of the runtime half: standard library and numpy only; the runtime itself is imported where it is opened.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Protocol

from .errors import InputError, MissingFileError, UserError
from .signature import Signature
from .tensors import Array, Feeds

BACKENDS = {".onnx": "ort", ".pt2": "eager", ".plan": "trt"}
PROVIDERS: dict[str, tuple[str, ...]] = {
    "cpu": (),
    "cuda": ("CUDAExecutionProvider", "CPUExecutionProvider"),
    "tensorrt": ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"),
}
"""The user's name of a provider, and ONNX Runtime's names; a session must run on the first of them."""

Ranges = Mapping[str, tuple[int, int, int]]
"""Smallest, usual and largest size of dynamic axes, by name."""


@dataclass(frozen=True)
class SessionOptions:
    """How to open a session.

    Attributes:
        threads: intra-op threads of the runtime; 0 lets the runtime choose.
        providers: ONNX Runtime execution providers in order; the first one is required. Empty means CPU.
        provider_options: options per provider name.
        spinning: let idle runtime threads spin; turn it off on shared machines.
        profile: write a runtime profile (ONNX Runtime) to this path prefix.
        cuda_graphs: record a CUDA graph per shape (TensorRT).
        ranges: ranges of dynamic axes for ONNX Runtime's TensorRT provider; the batch axis has a default range.
        engine_cache: folder of that provider's engines; empty means the user's cache folder, ``off`` means none.
        device: number of the GPU that CUDA and TensorRT use.
    """

    threads: int = 1
    providers: tuple[str, ...] = ()
    provider_options: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    spinning: bool = False
    profile: str = ""
    cuda_graphs: bool = True
    ranges: Ranges = field(default_factory=dict)
    engine_cache: str = ""
    device: int = 0


class Session(Protocol):
    """A loaded model, ready to run."""

    signature: Signature
    backend: str
    providers: tuple[str, ...]

    def run(self, feeds: Feeds) -> dict[str, Array]:
        """Run one batch.

        Args:
            feeds: one array per input of the signature.

        Returns:
            One array per output of the signature, in order.

        Raises:
            InputError: the feeds do not fit the signature.
        """
        ...

    def close(self) -> None:
        """Free the memory of the runtime; the session cannot be used afterwards."""
        ...


def open_session(
    model: str | Path | bytes,
    options: SessionOptions | None = None,
    signature: Signature | None = None,
) -> Session:
    """Open a model file with the runtime that its suffix selects (``.onnx``, ``.pt2`` or ``.plan``).

    Args:
        model: a path, or the bytes of an ONNX file (so that exactly the hashed bytes are loaded).
        options: threads and providers; by default one thread on the CPU.
        signature: replaces the signature stored in the file.

    Raises:
        MissingFileError: the path does not exist.
        ArtifactError: the file is truncated, or is not a model.
        MachineError: the runtime or the required provider is not installed.
    """
    options = options or SessionOptions()
    if isinstance(model, bytes):
        return _open("ort", model, options, signature)
    path = Path(model)
    if not path.exists():
        raise MissingFileError(f"no such model: {path}", "check the path")
    name = BACKENDS.get(path.suffix)
    if name is None:
        raise UserError(
            f"cannot run {path.name}: unknown type of file '{path.suffix}'",
            f"give a file of type {', '.join(BACKENDS)}",
        )
    return _open(name, path, options, signature)


@contextmanager
def model_faults(shown: str) -> Iterator[None]:
    """Tell in one sentence that a model cannot compute the values that a user gave.

    Args:
        shown: the model in words.

    Raises:
        InputError: ONNX Runtime failed within this context.
    """
    try:
        yield
    except Exception as error:
        if not type(error).__module__.startswith("onnxruntime"):
            raise
        reason = str(error).partition("Status Message: ")[2] or str(error)
        raise InputError(
            f"{shown} cannot compute these inputs: {reason.strip().splitlines()[0][:200]}",
            "check their values and shapes: an index may be outside of a table, or the model was made for another size",
        ) from error


def _open(name: str, model: Path | bytes, options: SessionOptions, signature: Signature | None) -> Session:
    backend = import_module(f"{__package__}.backends.{name}")
    session: Session = backend.open_model(model, options, signature)
    return session
