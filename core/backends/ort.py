"""The ONNX Runtime backend of ``Session``.

Part of the runtime half: standard library and numpy only at module level.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ArtifactError, MachineError, RetortError
from ..session import Ranges, SessionOptions
from ..signature import Signature
from ..tensors import Array, Feeds
from .ort_binding import DeviceMemory
from .ort_signature import session_signature
from .ort_tensorrt import PROVIDER as TENSORRT
from .ort_tensorrt import require_inside, tensorrt_options

CPU = "CPUExecutionProvider"
CPU_INFO = Path("/proc/cpuinfo")
ON_GPU = ("CUDAExecutionProvider", TENSORRT)
SIGNED = "session.qdqisint8allowed"
_EXACT, _SHARED = "session.x64quantprecision", "Attempt to replace the existing tensor"
HEAVY = frozenset(
    ("Conv", "ConvTranspose", "Gemm", "MatMul", "LSTM", "GRU", "Attention", "QLinearConv", "MatMulInteger")
)


class OrtSession:
    """A model loaded in ONNX Runtime; see :class:`retort.core.session.Session`."""

    backend = "onnxruntime"

    def __init__(
        self, inner: Any, signature: Signature, ranges: Ranges | None = None, memory: DeviceMemory | None = None
    ) -> None:
        self.inner = inner
        self._memory = memory
        self.signature = signature
        self.ranges = ranges
        self.providers: tuple[str, ...] = tuple(inner.get_providers())
        self._outputs = [spec.name for spec in signature.outputs]

    def run(self, feeds: Feeds) -> dict[str, Array]:
        """Run one batch; see :meth:`retort.core.session.Session.run`."""
        checked = self.signature.validate(feeds)
        if self.ranges is not None:
            require_inside(self.signature, checked, self.ranges)
        return self.run_unchecked(checked)

    def run_unchecked(self, feeds: Feeds) -> dict[str, Array]:
        """Run feeds that ``signature.validate`` returned, without checking them again."""
        values = self.inner.run(self._outputs, feeds) if self._memory is None else self._memory.run(feeds)
        return dict(zip(self._outputs, map(np.asarray, values), strict=True))

    def close(self) -> None:
        """Free the runtime's memory."""
        if self._memory is not None:
            self._memory.close()
        self.inner = None


def open_model(model: Path | bytes, options: SessionOptions, signature: Signature | None) -> OrtSession:
    """Open an ONNX file or its bytes.

    Raises:
        ArtifactError: the file cannot be read as a model.
        MachineError: onnxruntime or the required provider is missing, or fell back silently.
        UserError: a dynamic axis has no range for TensorRT's provider.
        StorageError: the folder of its engines is not writable.
    """
    runtime = _runtime()
    wanted = options.providers or (CPU,)
    _require(wanted, runtime.get_available_providers(), runtime)
    source = model if isinstance(model, bytes) else str(model)
    shown = "the model" if isinstance(model, bytes) else Path(model).name
    given = {name: _device(name, options) | dict(options.provider_options.get(name, {})) for name in wanted}
    ranges: Ranges | None = None
    if wanted[0] == TENSORRT:
        signature = signature or session_signature(_inner(runtime, source, shown, runtime.SessionOptions(), {CPU: {}}))
        derived, ranges = tensorrt_options(model, signature, options)
        given[TENSORRT] = _device(TENSORRT, options) | derived
    inner = _inner(runtime, source, shown, _session_options(runtime, options), given)
    inner.disable_fallback()
    used = inner.get_providers()
    if used[0] != wanted[0]:
        raise MachineError(
            f"ONNX Runtime runs {shown} on {used[0]}, not on {wanted[0]} as requested",
            f"install the libraries that {wanted[0]} needs, or request {used[0]}",
            requested=wanted[0],
            actual=used[0],
        )
    if wanted[0] != CPU:
        _require_used(inner, wanted[0], shown)
    signature = signature or session_signature(inner)
    number = int(given[wanted[0]].get("device_id", 0))
    memory = DeviceMemory(runtime, inner, signature, ("cuda", number)) if wanted[0] in ON_GPU else None
    return OrtSession(inner, signature, ranges, memory)


def read_signature(model: Path | bytes) -> Signature:
    """The signature of an ONNX file for another runtime: as stored in the file, or as ONNX Runtime sees it.

    Raises:
        ArtifactError: the file cannot be read as a model.
        MachineError: onnxruntime is missing.
    """
    runtime = _runtime()
    settings = runtime.SessionOptions()
    settings.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    source, shown = (model, "the model") if isinstance(model, bytes) else (str(model), Path(model).name)
    return session_signature(_inner(runtime, source, shown, settings, {CPU: {}}))


def _device(name: str, options: SessionOptions) -> dict[str, str]:
    """The option that says which GPU a provider uses; without it, ONNX Runtime takes the first."""
    return {"device_id": str(options.device)} if name in ON_GPU else {}


def _inner(runtime: Any, source: bytes | str, shown: str, settings: Any, given: dict[str, dict[str, str]]) -> Any:
    try:
        return start_session(runtime, source, settings, list(given), list(given.values()))
    except Exception as error:  # the exceptions of onnxruntime have no narrower common base class
        raise _readable(error, shown) from error


def placement(inner: Any) -> dict[str, list[str]]:
    """The operators that each execution provider runs; empty if ONNX Runtime does not report them (before 1.24)."""
    ask = getattr(inner, "get_provider_graph_assignment_info", None)
    found: dict[str, list[str]] = {}
    for part in ask() if ask else ():
        found.setdefault(part.ep_name, []).extend(node.op_type for node in part.get_nodes())
    return found


def _require_used(inner: Any, wanted: str, shown: str) -> None:
    """Reject a session that does not compute on the requested provider: ONNX Runtime falls back silently."""
    placed = placement(inner)
    if not placed:
        return
    astray = [(op, name) for name, ops in placed.items() if name != wanted for op in ops if op in HEAVY]
    if wanted in placed and not astray:
        return
    counts = {name: len(ops) for name, ops in placed.items()}
    what = "it runs no node there"
    if wanted in placed:
        where = sorted({name for _, name in astray})
        what = f"{len(astray)} of its heavy nodes run on {' and '.join(where)} ({astray[0][0]})"
    raise MachineError(
        f"{shown} does not run on {wanted} as requested: {what}",
        f"nodes per provider: {', '.join(f'{name} {n}' for name, n in counts.items())}; "
        "see `retort lint MODEL` for what TensorRT rejects, or request another provider",
        requested=wanted,
        nodes=counts,
    )


def _runtime() -> Any:
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        return import_module("onnxruntime")
    except ImportError as error:
        raise MachineError(f"onnxruntime cannot be imported: {error}", "pip install onnxruntime") from error


def exact_settings(runtime: Any) -> Any:
    """Settings of a session whose INT8 products are exact on every x86 processor.

    Without VNNI, ONNX Runtime multiplies UINT8 by INT8 with ``vpmaddubsw``, whose sums of two products saturate at 16
    bits: up to 2 x 255 x 127 = 64770 is limited to 32767. With ``session.x64quantprecision`` it converts INT8 weights
    to UINT8 and uses wider products. It also does so on a processor with VNNI and without AMX, whose products are exact
    anyway, and a network takes up to 2.2 times as long there (EfficientNet-Lite0 on Zen 5, ONNX Runtime 1.31), so the
    setting is left out where Linux lists VNNI.
    """
    settings = runtime.SessionOptions()
    settings.log_severity_level = 4
    if not _has_vnni(CPU_INFO):
        settings.add_session_config_entry(_EXACT, "1")
    return settings


@cache
def _has_vnni(source: Path) -> bool:
    """Whether all processors have 8-bit dot products; false where the system does not list their features."""
    try:
        found = re.findall(r"^flags\s*:(.*)$", source.read_text(), re.MULTILINE)
    except OSError:
        return False
    return bool(found) and all({"avx512_vnni", "avx_vnni"} & set(line.split()) for line in found)


def start_session(
    runtime: Any, source: bytes | str, settings: Any, providers: Sequence[str], given: Sequence[dict[str, str]] = ()
) -> Any:
    """An ``InferenceSession`` that never falls back; without exact products where ONNX Runtime fails on them.

    By itself it would only print why a provider failed, and open the model on the CPU.
    Its pass from INT8 to UINT8 weights (1.31) stops with "Attempt to replace the existing tensor" where two nodes share
    a weight. Such a file runs as it would by default: right with VNNI, with saturating sums without.
    """
    asked = (source, settings, list(providers), list(given) or None)
    try:
        return runtime.InferenceSession(*asked, enable_fallback=0)
    except Exception as error:  # onnxruntime's exceptions share no narrower base class
        if _SHARED not in str(error):
            raise
        settings.add_session_config_entry(_EXACT, "0")
        return runtime.InferenceSession(*asked, enable_fallback=0)


def _session_options(runtime: Any, options: SessionOptions) -> Any:
    settings = exact_settings(runtime)
    settings.intra_op_num_threads = options.threads
    settings.inter_op_num_threads = 1
    settings.execution_mode = runtime.ExecutionMode.ORT_SEQUENTIAL
    settings.add_session_config_entry("session.intra_op.allow_spinning", "1" if options.spinning else "0")
    if options.providers and options.providers[0] != CPU:
        settings.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    if options.signed:
        settings.add_session_config_entry(SIGNED, "1")
    if options.profile:
        settings.enable_profiling = True
        settings.profile_file_prefix = options.profile
    return settings


def _require(wanted: Sequence[str], available: Sequence[str], runtime: Any) -> None:
    lacking = [name for name in wanted if name not in available]
    if lacking:
        raise MachineError(
            f"ONNX Runtime {runtime.__version__} has no {lacking[0]}; it has {', '.join(available)}",
            "pip install onnxruntime-gpu (and uninstall onnxruntime)"
            if lacking[0] in ON_GPU
            else "choose one of these",
        )


_OF_GPU = re.compile(r"(?:CUDA|CUDNN|CUBLAS) failure -?\d+: ?[^;\n]*|TensorRT EP[^\n]*")
_INVALID = ("Type Error:", "ShapeInferenceError", "TypeInferenceError", "INVALID_GRAPH")


def _readable(error: Exception, shown: str) -> RetortError:
    text = str(error).splitlines()[0][:300] if str(error) else type(error).__name__
    reason = str(error).rpartition("FAIL : ")[2].strip()[:300]
    if found := _OF_GPU.search(str(error)):
        fault = found[0].strip()[:300]
        remedy = "see `nvidia-smi`: the GPU may be missing, full, or too new or old for the installed libraries"
        if "eserialize" in fault:
            remedy = "delete the folder `engines` in Retort's cache: they are built again"
        return MachineError(f"ONNX Runtime cannot open {shown} on the GPU: {fault}", remedy)
    if "xternal data" in reason or "External initializer" in reason:
        remedy = "copy the complete file into the same folder, or export the model again"
        return ArtifactError(
            f"{shown} cannot be loaded with the weights that it stores in another file: {reason}", remedy
        )
    if "not a registered function/op" in text:
        return ArtifactError(
            f"{shown} has an operator that ONNX Runtime does not know: {reason or text}",
            "replace the custom operator by standard ones, or cut the model in front of it",
        )
    if type(error).__name__ == "NotImplemented":
        return MachineError(
            f"ONNX Runtime has no kernel for an operator of {shown}: {text.rpartition('NOT_IMPLEMENTED : ')[2]}",
            "give the operator inputs of another type (such as int64 or float32), or another operator",
        )
    if type(error).__name__ == "InvalidGraph" or any(sign in text for sign in _INVALID):
        return ArtifactError(
            f"{shown} is not a valid model: {(reason or text).partition(' failed:')[2] or text}",
            "the tool that wrote it gave an operator other types or shapes than ONNX defines; export the PyTorch model "
            "with `retort export`, or the file with another tool",
        )
    if type(error).__name__ in {"InvalidProtobuf", "NoSuchFile", "InvalidGraph", "InvalidArgument", "Fail"}:
        return ArtifactError(f"{shown} cannot be loaded: {text}", "the file is truncated or damaged: export it again")
    return MachineError(f"ONNX Runtime cannot open {shown}: {text}", "run `retort doctor`")
