"""Doubles of what this machine does not have: ONNX Runtime for GPUs, TensorRT, and the driver of a GPU.

They stand in the place of the real packages, so that a session is opened and refused by the same code as on a GPU.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import patch

from ....core.backends import cuda, trt_reports
from ....core.session import PROVIDERS

CUDA, TENSORRT = PROVIDERS["cuda"][0], PROVIDERS["tensorrt"][0]
CPU = "CPUExecutionProvider"
GPUS = 1


@dataclass
class GpuBuild:
    """ONNX Runtime with the providers of a GPU, which computes on the CPU.

    Attributes:
        placed: operators by provider, as its sessions report them.
        used: providers that a session has; by default those that were asked for.
        error: what opening a session on a GPU raises.
        factor: by which its outputs are wrong.
        real: the installed ONNX Runtime.
    """

    placed: Mapping[str, Sequence[str]] = field(default_factory=lambda: {CUDA: ["Conv"]})
    used: tuple[str, ...] = ()
    error: Exception | None = None
    factor: float = 1.0
    real: Any = field(default_factory=lambda: import_module("onnxruntime"), repr=False)

    def get_available_providers(self) -> list[str]:
        """All three."""
        return [TENSORRT, CUDA, CPU]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    @property
    def OrtValue(self) -> GpuBuild:  # noqa: N802
        """The class of values, of which only memory on a GPU is asked for."""
        return self

    def ortvalue_from_shape_and_type(self, shape: Sequence[int], kind: Any, device: str, number: int) -> Any:
        """Memory of a GPU, which is the CPU's."""
        return self.real.OrtValue.ortvalue_from_shape_and_type(shape, kind, "cpu", 0)

    def InferenceSession(  # noqa: N802
        self, source: Any, settings: Any, names: list[str], options: Any = None, enable_fallback: int = 1
    ) -> Any:
        """A session on the CPU that reports what was asked for, or what is wrong.

        As the real class does, it opens the model on the CPU where a provider raises, unless that is forbidden.
        """
        used = list(self.used or names)
        device = int((options or [{}])[0].get("device_id", 0))
        error = self.error or (RuntimeError(_NO_DEVICE.format(device)) if device >= GPUS else None)
        if error is not None and names != [CPU]:
            if not (enable_fallback and isinstance(error, ValueError | RuntimeError)):
                raise error
            used = [CPU]
        return _Session(self.real.InferenceSession(source, settings, [CPU]), used, self)


_NO_DEVICE = (
    "/onnxruntime_src/onnxruntime/core/providers/cuda/cuda_call.cc:129 onnxruntime::CudaCall CUDA failure 101: "
    "invalid device ordinal ; GPU={} ; hostname=here ; expr=cudaSetDevice(info_.device_id);"
)


class _Session:
    def __init__(self, inner: Any, used: list[str], build: GpuBuild) -> None:
        self._inner, self._used, self._build = inner, used, build

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def get_providers(self) -> list[str]:
        """The providers that it claims."""
        return self._used

    def get_provider_graph_assignment_info(self) -> list[Any]:
        """The operators by provider that it claims."""
        return [
            SimpleNamespace(ep_name=name, get_nodes=lambda kinds=kinds: [SimpleNamespace(op_type=one) for one in kinds])
            for name, kinds in self._build.placed.items()
        ]

    def run(self, names: Any, feeds: Any) -> list[Any]:
        """The outputs, times the factor of its build."""
        return [self._build.factor * value for value in self._inner.run(names, feeds)]

    def io_binding(self) -> _Binding:
        """A binding whose places on a GPU are on the CPU."""
        return _Binding(self._inner.io_binding(), self._build.factor)

    def run_with_iobinding(self, binding: _Binding) -> None:
        """Compute into the places of a binding."""
        self._inner.run_with_iobinding(binding.inner)


class _Binding:
    def __init__(self, inner: Any, factor: float) -> None:
        self.inner, self._factor = inner, factor

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def bind_output(self, name: str, device: str, number: int) -> None:
        """An output that each run allocates."""
        self.inner.bind_output(name, "cpu", 0)

    def copy_outputs_to_cpu(self) -> list[Any]:
        """The outputs, times the factor of the build."""
        return [self._factor * value for value in self.inner.copy_outputs_to_cpu()]


@contextmanager
def instead_of(name: str, module: Any) -> Iterator[None]:
    """Another module in the place of an imported one; None makes its import fail."""
    with patch.dict(sys.modules, {name: module}):
        yield


class _Broken:
    """Finds a package whose import raises."""

    def __init__(self, name: str, error: Exception) -> None:
        self.name, self.error = name, error

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Where the package is."""
        return ModuleSpec(name, self) if name == self.name else None  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> None:
        """The usual one."""

    def exec_module(self, module: ModuleType) -> None:
        """Raise its error."""
        raise self.error


@contextmanager
def broken_import(name: str, error: Exception) -> Iterator[None]:
    """A package that is there and whose import raises."""
    finder = _Broken(name, error)
    with patch.dict(sys.modules), patch.object(sys, "meta_path", [finder, *sys.meta_path]):
        sys.modules.pop(name, None)
        yield


class Driver:
    """The driver of some GPUs, as far as it is asked before an engine is made."""

    def __init__(self, gpus: int = GPUS, error: int = 0) -> None:
        self._gpus, self._error = gpus, error

    def __getattr__(self, name: str) -> Callable[..., int]:
        if not name.startswith("cu"):
            raise AttributeError(name)
        answers: dict[str, Callable[..., int]] = {
            "cuInit": lambda flags: self._error,
            "cuDeviceGetCount": lambda count: _set(count, self._gpus),
            "cuDeviceGet": lambda handle, index: 101 * (_number(index) >= self._gpus),
            "cuDeviceGetName": lambda name, size, handle: _name(name),
            "cuDeviceGetAttribute": lambda value, which, handle: _set(value, 9 if which == 75 else 0),
            "cuGetErrorName": lambda code, text: _set(text, b"CUDA_ERROR_SYSTEM_DRIVER_MISMATCH"),
        }
        return answers.get(name, lambda *_: 0)


def _set(pointer: Any, value: object) -> int:
    """Give a value through a pointer, and the code of success."""
    pointer._obj.value = value
    return 0


def _number(value: Any) -> int:
    return int(getattr(value, "value", value))


def _name(buffer: Any) -> int:
    buffer.value = b"Double 9000"
    return 0


class _Runtime:
    def __init__(self, logger: Any) -> None:
        self._logger = logger

    def deserialize_cuda_engine(self, content: bytes) -> None:
        """No engine, and a line in the log."""
        self._logger.log(SimpleNamespace(name="ERROR"), "Magic tag does not match")


@contextmanager
def gpu_with_tensorrt(driver: Driver, version: str = "11.4.0.106") -> Iterator[None]:
    """A machine with a driver and TensorRT, which can load no engine."""
    module: Any = ModuleType("tensorrt")
    module.__spec__ = ModuleSpec("tensorrt", None)
    module.__version__, module.Runtime = version, _Runtime
    module.ILogger, module.IErrorRecorder = type("ILogger", (), {}), type("IErrorRecorder", (), {})
    real = ctypes.CDLL

    def opened(name: Any, *args: Any, **kwargs: Any) -> Any:
        return driver if name in cuda.LIBRARIES else real(name, *args, **kwargs)

    caches = [vars(cuda)["_library"], trt_reports.logger]
    with ExitStack() as stack:
        stack.enter_context(instead_of("tensorrt", module))
        stack.enter_context(patch.object(ctypes, "CDLL", opened))
        for cache in caches:
            cache.cache_clear()
            stack.callback(cache.cache_clear)
        yield
