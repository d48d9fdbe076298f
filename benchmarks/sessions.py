"""Sessions for measurements: threads, provider and ranges of axes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..core.artifact import Artifact
from ..core.options.execution_provider import given_options
from ..core.options.stage_options import BenchOptions
from ..core.session import BACKENDS, PROVIDERS, Session, SessionOptions, open_session
from ..core.tensors import BATCH

LATENCY_SAMPLES = 256


def opener(artifact: Artifact, options: BenchOptions) -> Callable[[], Session]:
    """A function that opens an artifact's model with the options of a measurement."""
    settings = session_options(options)
    return lambda: open_session(artifact.main, settings)


RUNTIMES = {"ort": "ONNX Runtime", "eager": "PyTorch", "trt": "TensorRT"}
DEVICES = {"cpu": "the CPU", "cuda": "CUDA", "tensorrt": "its TensorRT provider"}


def runtime_name(model: Path, provider: str = "cpu") -> str:
    """``ONNX Runtime on the CPU``: what runs a file in a measurement; empty for a file that is not run."""
    backend = BACKENDS.get(model.suffix)
    if backend is None:
        return ""
    if backend == "trt":
        return "TensorRT on the GPU"
    if backend == "openvino" or (backend == "ort" and provider == "openvino"):
        return "OpenVINO on the CPU"
    return f"{RUNTIMES[backend]} on {DEVICES[provider if backend == 'ort' else 'cpu']}"


def session_options(options: BenchOptions) -> SessionOptions:
    """The session options of a measurement: threads, provider and, for TensorRT, the ranges and the cache.

    Raises:
        UserError: a range or an option of the provider has a wrong form.
    """
    providers = PROVIDERS[options.provider]
    asked = given_options(options.provider_option, options.provider)
    return SessionOptions(
        threads=options.threads,
        providers=providers,
        provider_options={providers[0]: asked} if asked else {},
        ranges=_ranges(options) if options.provider == "tensorrt" else {},
        engine_cache=options.engine_cache or "",
    )


def _ranges(options: BenchOptions) -> dict[str, tuple[int, int, int]]:
    """The given ranges; the range of the batch axis covers the timed batch sizes and the batch size of accuracy."""
    from ..core.options.axis_ranges import parse_axis
    from .accuracy import ROWS

    sizes = sorted(options.batch_sizes)
    batch = (1, sizes[len(sizes) // 2], max(*sizes, ROWS))
    return {BATCH: batch, **dict(parse_axis(item) for item in options.axis)}
