"""One way to run a model, whatever the runtime: what was measured is what is served.

Part of the runtime half: standard library and numpy only; the runtime itself is imported where it is opened.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Protocol

from .errors import MissingFileError, UserError
from .tensors import Array, Feeds, Signature

BACKENDS = {".onnx": "ort", ".pt2": "eager", ".plan": "trt"}
PROVIDERS: dict[str, tuple[str, ...]] = {
    "cpu": (),
    "cuda": ("CUDAExecutionProvider", "CPUExecutionProvider"),
    "tensorrt": ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"),
}
"""What a user calls a provider, and ONNX Runtime's names; a session that does not run on the first is refused."""

Ranges = Mapping[str, tuple[int, int, int]]
"""Smallest, usual and largest size of dynamic axes, by name."""


@dataclass(frozen=True)
class SessionOptions:
    """How to open a session.

    Attributes:
        threads: intra-op threads of the runtime; 0 leaves the choice to it.
        providers: ONNX Runtime execution providers in order; the first one is required. Empty means CPU.
        provider_options: options per provider name.
        spinning: let idle runtime threads spin; off suits machines that are shared.
        profile: write a runtime profile (ONNX Runtime) to this path prefix.
        cuda_graphs: record a CUDA graph per shape (TensorRT).
        ranges: of dynamic axes, for ONNX Runtime's TensorRT provider; the batch has one unless given.
        engine_cache: folder where that provider keeps its engines; empty is the user's cache folder, ``off`` none.
    """

    threads: int = 1
    providers: tuple[str, ...] = ()
    provider_options: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    spinning: bool = False
    profile: str = ""
    cuda_graphs: bool = True
    ranges: Ranges = field(default_factory=dict)
    engine_cache: str = ""


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
        """Free what the runtime holds; the session cannot be used afterwards."""
        ...


def open_session(
    model: str | Path | bytes,
    options: SessionOptions | None = None,
    signature: Signature | None = None,
) -> Session:
    """Open a model file with the runtime its suffix names (``.onnx``, ``.pt2`` or ``.plan``).

    Args:
        model: a path, or the bytes of an ONNX file (so that what was hashed is what is loaded).
        options: threads and providers; by default one thread on the CPU.
        signature: overrides the one stored inside the file.

    Raises:
        MissingFileError: the path is not there.
        ArtifactError: the file is truncated or not a model.
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
            f"cannot run {path.name}: unknown kind of model '{path.suffix}'", f"give one of {', '.join(BACKENDS)}"
        )
    return _open(name, path, options, signature)


def _open(name: str, model: Path | bytes, options: SessionOptions, signature: Signature | None) -> Session:
    backend = import_module(f"{__package__}.backends.{name}")
    session: Session = backend.open_model(model, options, signature)
    return session
