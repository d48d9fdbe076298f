"""Memory of a TensorRT session: each tensor has a fixed buffer on the GPU and a pinned buffer on the host.

Part of the runtime half: standard library and numpy only.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..tensors import Array
from .cuda import Cuda

DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "INT8": "int8",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
    "UINT8": "uint8",
}
_ALIGNMENT = 256


class Buffer:
    """Two buffers for one tensor: on the device and pinned on the host.

    Their addresses do not change as long as the tensor fits, because recorded graphs depend on the addresses.
    """

    def __init__(self, cuda: Cuda, dtype: str, size_bytes: int) -> None:
        self.cuda = cuda
        self.dtype = np.dtype(dtype)
        self.capacity = max(size_bytes, _ALIGNMENT)
        self.device = cuda.allocate(self.capacity)
        self.host = cuda.allocate_pinned(self.capacity)

    def bytes_of(self, shape: tuple[int, ...]) -> int:
        """Size in bytes of a tensor of that shape."""
        return math.prod(shape) * self.dtype.itemsize

    def put(self, value: Array) -> None:
        """Copy an array into the pinned buffer."""
        self._view(value.shape)[...] = value

    def take(self, shape: tuple[int, ...]) -> Array:
        """A copy of the pinned buffer's content."""
        return self._view(shape).copy()

    def upload(self, shape: tuple[int, ...], stream: int) -> None:
        """Copy to the device, in order on a stream."""
        if size := self.bytes_of(shape):
            self.cuda.upload(self.device, self.host, size, stream)

    def download(self, shape: tuple[int, ...], stream: int) -> None:
        """Copy from the device, in order on a stream."""
        if size := self.bytes_of(shape):
            self.cuda.download(self.host, self.device, size, stream)

    def free(self) -> None:
        """Free both buffers."""
        self.cuda.free(self.device)
        self.cuda.free_pinned(self.host)

    def _view(self, shape: tuple[int, ...]) -> NDArray[Any]:
        size = self.bytes_of(shape)
        assert size <= self.capacity, f"{size} bytes do not fit into {self.capacity}"
        raw = np.ctypeslib.as_array((ctypes.c_ubyte * max(size, 1)).from_address(self.host))
        view: NDArray[Any] = raw[:size].view(self.dtype).reshape(shape)
        return view


class Growing:
    """Device memory for one output whose size is known only after the run."""

    def __init__(self, cuda: Cuda, dtype: str) -> None:
        self.cuda = cuda
        self.dtype = np.dtype(dtype)
        self.device = 0
        self.capacity = 0
        self.shape: tuple[int, ...] = ()

    def reallocate(self, size_bytes: int) -> int:
        """Allocate that many bytes; the previous content is lost."""
        if size_bytes > self.capacity or not self.device:
            if self.device:
                self.cuda.free(self.device)
            self.capacity = max(size_bytes, _ALIGNMENT)
            self.device = self.cuda.allocate(self.capacity)
        return self.device

    def take(self, stream: int) -> Array:
        """The output, after the run has finished."""
        size = math.prod(self.shape) * self.dtype.itemsize
        host = Buffer(self.cuda, str(self.dtype), size)
        if size:
            self.cuda.download(host.host, self.device, size, stream)
        self.cuda.synchronize(stream)
        value = host.take(self.shape)
        host.free()
        return value

    def free(self) -> None:
        """Free the memory."""
        if self.device:
            self.cuda.free(self.device)
        self.device = self.capacity = 0


def output_allocator(trt: Any, memory: Growing) -> Any:
    """The object that TensorRT asks for memory once it knows the size of an output."""

    class Allocator(trt.IOutputAllocator):  # type: ignore[misc]
        """Allocates ``memory``; the two method names belong to different versions of TensorRT."""

        def __init__(self) -> None:
            super().__init__()

        def reallocate_output(self, tensor_name: str, address: int, size: int, alignment: int) -> int:
            """Room for ``size`` bytes."""
            return memory.reallocate(size)

        def reallocate_output_async(self, tensor_name: str, memory_: int, size: int, alignment: int, _: int) -> int:
            """Room for ``size`` bytes."""
            return memory.reallocate(size)

        def notify_shape(self, tensor_name: str, shape: Any) -> None:
            """Store the shape, which is known now."""
            memory.shape = tuple(shape)

    return Allocator()


def free_all(items: list[Callable[[], None]]) -> None:
    """Call every function, then raise the first error."""
    failed: Exception | None = None
    for item in items:
        try:
            item()
        except Exception as error:  # the others must be freed nevertheless
            failed = failed or error
    if failed is not None:
        raise failed
