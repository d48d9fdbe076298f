"""One class that runs models in every runtime, so that the measured model is the served model.

Part of the runtime half: standard library and numpy only; the runtime itself is imported where it is opened.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Protocol

from .errors import InputError, MissingFileError, UserError
from .signature import Signature
from .tensors import Array, Feeds

BACKENDS = {".onnx": "ort", ".pt2": "eager", ".plan": "trt", ".xml": "openvino"}
OPENVINO = "OpenVINO"
"""Stands among the providers for OpenVINO's own runtime; ONNX Runtime's provider of OpenVINO has another name."""
PROVIDERS: dict[str, tuple[str, ...]] = {
    "cpu": (),
    "cuda": ("CUDAExecutionProvider", "CPUExecutionProvider"),
    "tensorrt": ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"),
    "openvino": (OPENVINO,),
}
"""The user's name of a provider, and ONNX Runtime's names; a session must run on the first of them."""
ON_CPU = ("CPUExecutionProvider", OPENVINO)
"""Those that need no GPU."""
_NOISE = ("Exception from ", "Check '", "FrontEnd API failed", "Model wasn't fully")
"""How the lines begin in which OpenVINO says where in its source code an error was found."""

Ranges = Mapping[str, tuple[int, int, int]]
"""Smallest, usual and largest size of dynamic axes, by name."""


@dataclass(frozen=True)
class SessionOptions:
    """How to open a session.

    Attributes:
        threads: intra-op threads of the runtime; 0 lets the runtime choose.
        providers: ONNX Runtime execution providers in order; the first one is required. Empty means CPU.
            ``OPENVINO`` alone means that OpenVINO runs the model, and not ONNX Runtime.
        provider_options: options per provider name.
        spinning: let idle runtime threads spin; turn it off on shared machines.
        profile: write a runtime profile (ONNX Runtime) to this path prefix.
        cuda_graphs: record a CUDA graph per shape (TensorRT).
        ranges: ranges of dynamic axes for ONNX Runtime's TensorRT provider; the batch axis has a default range.
        engine_cache: folder of that provider's engines; empty means the user's cache folder, ``off`` means none.
        device: number of the GPU that CUDA and TensorRT use.
        signed: run INT8 activations in integer kernels, as ONNX Runtime does on Arm. On x86 it would change many of
            them to UINT8 or FP32, which gives the same numbers by other kernels.
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
    signed: bool = False


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
    """Open a model file with the runtime that its suffix selects (``.onnx``, ``.pt2``, ``.plan`` or ``.xml``).

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
        return _open(backend_of(options.providers), model, options, signature)
    path = Path(model)
    if not path.exists():
        raise MissingFileError(f"no such model: {path}", "check the path")
    name = BACKENDS.get(path.suffix)
    if name is None:
        raise UserError(
            f"cannot run {path.name}: unknown type of file '{path.suffix}'",
            f"give a file of type {', '.join(BACKENDS)}",
        )
    return _open(backend_of(options.providers) if name == "ort" else name, path, options, signature)


def backend_of(providers: Sequence[str]) -> str:
    """The module of the backend that runs ONNX files on these providers."""
    return "openvino" if tuple(providers[:1]) == (OPENVINO,) else "ort"


def of_runtime(error: BaseException) -> bool:
    """Whether ONNX Runtime or OpenVINO raised an error; neither has a base class for its errors."""
    return type(error).__module__.startswith("onnxruntime") or str(error).startswith(_NOISE)


def reason_of(error: BaseException) -> str:
    """What a runtime says, in one line of at most 200 characters and without the places in its source code."""
    text = str(error)
    lines = [line.strip() for line in (text.partition("Status Message: ")[2] or text).strip().splitlines()]
    told = [line for line in lines if line and not line.startswith(_NOISE)]
    return next(iter(told or lines), type(error).__name__)[:200]


@contextmanager
def model_faults(shown: str) -> Iterator[None]:
    """Tell in one sentence that a model cannot compute the values that a user gave.

    Args:
        shown: the model in words.

    Raises:
        InputError: ONNX Runtime or OpenVINO failed within this context.
    """
    try:
        yield
    except Exception as error:
        if not of_runtime(error):
            raise
        raise InputError(
            f"{shown} cannot compute these inputs: {reason_of(error)}",
            "check their values and shapes: an index may be outside of a table, or the model was made for another size",
        ) from error


@contextmanager
def naming_model(name: str) -> Iterator[None]:
    """Name the model in the error of samples that do not fit it, where there are several.

    Raises:
        InputError: samples did not fit within this context.
    """
    try:
        yield
    except InputError as error:
        raise InputError(f"the samples do not fit '{name}': {error.message}", error.remedy, **error.facts) from error


def _open(name: str, model: Path | bytes, options: SessionOptions, signature: Signature | None) -> Session:
    backend = import_module(f"{__package__}.backends.{name}")
    session: Session = backend.open_model(model, options, signature)
    return session
