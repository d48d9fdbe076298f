"""The few functions of CUDA that a session needs, called in the driver's library, without toolkit or PyTorch.

Part of the runtime half: standard library only. Every machine with a GPU has the driver API, whatever toolkit TensorRT
was built with. Its streams, events and pointers work with the runtime API, because both use the device's primary
context.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from ctypes import byref, c_char_p, c_int, c_size_t, c_uint, c_ulonglong, c_void_p
from dataclasses import dataclass
from typing import Any

from ..errors import MachineError

LIBRARIES = ("libcuda.so.1", "nvcuda.dll")
_NON_BLOCKING, _RELAXED = 1, 2
_MAJOR, _MINOR = 75, 76


@dataclass(frozen=True)
class Device:
    """One GPU.

    Attributes:
        index: its number.
        name: such as ``NVIDIA H200``.
        compute_capability: such as ``9.0``.
        driver: newest CUDA version that the driver supports, such as ``13.2``.
        memory_bytes: total memory in bytes.
    """

    index: int
    name: str
    compute_capability: str
    driver: str
    memory_bytes: int


@functools.cache
def _library() -> ctypes.CDLL | None:
    for name in LIBRARIES:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    return None


def driver_fault(load: Callable[[], Any] = _library) -> str | None:
    """Why no GPU can be used, in a few words; None if one can be used. Creates no context."""
    library = load()
    if library is None:
        return "no NVIDIA driver: libcuda.so.1 was not found"
    code = library.cuInit(0)
    if code != 0:
        return f"the NVIDIA driver does not start: {_error_name(library, code)}"
    count = c_int(0)
    code = library.cuDeviceGetCount(byref(count))
    if code != 0 or count.value < 1:
        return "the driver sees no GPU"
    return None


def find_device(index: int = 0, load: Callable[[], Any] = _library) -> Device | None:
    """The GPU with that number; None if it does not exist."""
    if driver_fault(load) is not None:
        return None
    library = load()
    handle, version, memory, name = c_int(0), c_int(0), c_size_t(0), ctypes.create_string_buffer(256)
    if library.cuDeviceGet(byref(handle), index) != 0:
        return None
    library.cuDeviceGetName(name, 256, handle)
    library.cuDriverGetVersion(byref(version))
    library.cuDeviceTotalMem_v2(byref(memory), handle)
    major, minor = (_attribute(library, number, handle) for number in (_MAJOR, _MINOR))
    driver = f"{version.value // 1000}.{version.value % 1000 // 10}"
    return Device(index, name.value.decode(), f"{major}.{minor}", driver, memory.value)


class Cuda:
    """Memory, streams and graphs of one device, used through its primary context.

    Args:
        index: number of the device.
        library: the driver's library; the installed one by default.

    Raises:
        MachineError: there is no such device.
    """

    def __init__(self, index: int = 0, library: Any = None) -> None:
        self._library: Any = library if library is not None else _library()
        fault = driver_fault(lambda: self._library)
        if fault is not None:
            raise MachineError(f"CUDA cannot be used: {fault}", "run on a machine with an NVIDIA GPU and its driver")
        self._device, context = c_int(0), c_void_p()
        self._call("cuDeviceGet", byref(self._device), c_int(index))
        self._call("cuDevicePrimaryCtxRetain", byref(context), self._device)
        self._context = context
        self.enter()

    def enter(self) -> None:
        """Make the device current in this thread. It is cheap, and every calling thread needs it."""
        self._call("cuCtxSetCurrent", self._context)

    def new_stream(self) -> int:
        """Create a stream that does not wait for the default stream."""
        stream = c_void_p()
        self._call("cuStreamCreate", byref(stream), c_uint(_NON_BLOCKING))
        return _address(stream)

    def synchronize(self, stream: int) -> None:
        """Wait until all work of a stream is finished."""
        self._call("cuStreamSynchronize", c_void_p(stream))

    def allocate(self, size_bytes: int) -> int:
        """Allocate device memory; addresses are multiples of 256."""
        pointer = c_ulonglong()
        self._call("cuMemAlloc_v2", byref(pointer), c_size_t(max(size_bytes, 1)))
        return int(pointer.value)

    def free(self, pointer: int) -> None:
        """Free device memory."""
        self._call("cuMemFree_v2", c_ulonglong(pointer))

    def allocate_pinned(self, size_bytes: int) -> int:
        """Allocate pinned host memory, which the GPU can read and write directly."""
        pointer = c_void_p()
        self._call("cuMemHostAlloc", byref(pointer), c_size_t(max(size_bytes, 1)), c_uint(0))
        return _address(pointer)

    def free_pinned(self, pointer: int) -> None:
        """Free pinned memory."""
        self._call("cuMemFreeHost", c_void_p(pointer))

    def upload(self, target: int, source: int, size_bytes: int, stream: int) -> None:
        """Copy from host to device, in order on a stream."""
        self._call(
            "cuMemcpyHtoDAsync_v2", c_ulonglong(target), c_void_p(source), c_size_t(size_bytes), c_void_p(stream)
        )

    def download(self, target: int, source: int, size_bytes: int, stream: int) -> None:
        """Copy from device to host, in order on a stream."""
        self._call(
            "cuMemcpyDtoHAsync_v2", c_void_p(target), c_ulonglong(source), c_size_t(size_bytes), c_void_p(stream)
        )

    def begin_capture(self, stream: int) -> None:
        """Start recording the work of a stream instead of running it."""
        self._call("cuStreamBeginCapture_v2", c_void_p(stream), c_uint(_RELAXED))

    def end_capture(self, stream: int) -> int:
        """Stop recording and return a graph that can be launched, or 0 if the recording is invalid."""
        graph, executable = c_void_p(), c_void_p()
        code = self._library.cuStreamEndCapture(c_void_p(stream), byref(graph))
        if code != 0 or not graph.value:
            return 0
        code = self._library.cuGraphInstantiateWithFlags(byref(executable), graph, c_ulonglong(0))
        self._library.cuGraphDestroy(graph)
        return 0 if code != 0 else _address(executable)

    def launch(self, graph: int, stream: int) -> None:
        """Run a recorded graph."""
        self._call("cuGraphLaunch", c_void_p(graph), c_void_p(stream))

    def destroy_graph(self, graph: int) -> None:
        """Free a recorded graph."""
        self._call("cuGraphExecDestroy", c_void_p(graph))

    def destroy_stream(self, stream: int) -> None:
        """Free a stream."""
        self._call("cuStreamDestroy_v2", c_void_p(stream))

    def close(self) -> None:
        """Release the device."""
        self._call("cuDevicePrimaryCtxRelease_v2", self._device)

    def _call(self, name: str, *arguments: Any) -> None:
        code = getattr(self._library, name)(*arguments)
        if code != 0:
            what = _error_name(self._library, code)
            raise MachineError(f"{name} failed: {what}", "see `nvidia-smi`; the GPU may be out of memory", code=what)


def _address(pointer: c_void_p) -> int:
    return int(pointer.value or 0)


def _attribute(library: Any, number: int, device: c_int) -> int:
    value = c_int(0)
    library.cuDeviceGetAttribute(byref(value), number, device)
    return value.value


def _error_name(library: Any, code: int) -> str:
    text = c_char_p()
    library.cuGetErrorName(code, byref(text))
    return text.value.decode() if text.value else f"error {code}"
