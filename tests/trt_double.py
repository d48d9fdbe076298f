"""A double of the GPU: the driver's calls on host memory, and an engine that doubles its input; both keep a record.

Every name of it exists in the live TensorRT-RTX module, which a test holds; it stands only for what is not here.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np


class Driver:
    """libcuda on host memory: allocations are real, streams and graphs are numbers, every call is recorded."""

    def __init__(self, count: int = 1) -> None:
        self.count = count
        self.calls: list[str] = []
        self.memory: dict[int, Any] = {}
        self.capturing: list[Callable[[], None]] | None = None
        self.graphs: dict[int, list[Callable[[], None]]] = {}
        self.void = False
        self.number = 0

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("cu"):
            raise AttributeError(name)

        def call(*arguments: Any) -> int:
            self.calls.append(name)
            handler = getattr(type(self), "_" + name, None)
            return int(handler(self, *arguments) or 0) if handler else 0

        return call

    def _cuDeviceGetCount(self, count: Any) -> None:
        count._obj.value = self.count

    def _cuDeviceGetName(self, name: Any, size: int, device: Any) -> None:
        name.value = b"Double 9000"

    def _cuDriverGetVersion(self, version: Any) -> None:
        version._obj.value = 13020

    def _cuDeviceGetAttribute(self, value: Any, which: int, device: Any) -> None:
        value._obj.value = 9 if which == 75 else 0

    def _cuMemAlloc_v2(self, pointer: Any, size: Any) -> None:
        pointer._obj.value = self._new(size.value)

    def _cuMemHostAlloc(self, pointer: Any, size: Any, flags: Any) -> None:
        pointer._obj.value = self._new(size.value)

    def _new(self, size: int) -> int:
        block = ctypes.create_string_buffer(size)
        self.memory[ctypes.addressof(block)] = block
        return ctypes.addressof(block)

    def _cuMemFree_v2(self, pointer: Any) -> int:
        return 0 if self.memory.pop(pointer.value, None) is not None else 1

    def _cuMemFreeHost(self, pointer: Any) -> int:
        return self._cuMemFree_v2(pointer)

    def _cuMemcpyHtoDAsync_v2(self, target: Any, source: Any, size: Any, stream: Any) -> None:
        ctypes.memmove(target.value, source.value, size.value)

    def _cuMemcpyDtoHAsync_v2(self, target: Any, source: Any, size: Any, stream: Any) -> None:
        ctypes.memmove(target.value, source.value, size.value)

    def _cuStreamCreate(self, stream: Any, flags: Any) -> None:
        stream._obj.value = 77

    def _cuStreamBeginCapture_v2(self, stream: Any, mode: Any) -> None:
        self.capturing = []

    def _cuStreamEndCapture(self, stream: Any, graph: Any) -> int:
        recorded, self.capturing = self.capturing, None
        if self.void or not recorded:
            return 901
        self.number += 1
        graph._obj.value = self.number
        self.graphs[self.number] = recorded
        return 0

    def _cuGraphInstantiateWithFlags(self, executable: Any, graph: Any, flags: Any) -> None:
        executable._obj.value = graph.value

    def _cuGraphLaunch(self, graph: Any, stream: Any) -> None:
        for work in self.graphs[graph.value]:
            work()

    def _cuGraphExecDestroy(self, graph: Any) -> None:
        del self.graphs[graph.value]


class Kind:
    """A member of an enum."""

    def __init__(self, name: str) -> None:
        self.name = name


class Runtime:
    """Makes the engine, or none."""

    def __init__(self, logger: Any) -> None:
        self.logger = logger
        self.engine_host_code_allowed = False
        self.error_recorder: Any = None

    def deserialize_cuda_engine(self, content: bytes) -> Any:
        """The engine that the bytes name."""
        if content.startswith(b"broken"):
            self.logger.log(Kind("ERROR"), "Magic tag does not match")
            return None
        return Engine(TensorRT.driver, content.startswith(b"dynamic"))


class Engine:
    """``y = 2 x``; with a data-dependent output the positive elements of it."""

    num_io_tensors = 2
    num_optimization_profiles = 2
    device_memory_size_v2 = 512

    def __init__(self, driver: Driver, dynamic: bool) -> None:
        self.driver, self.dynamic = driver, dynamic
        self.contexts: list[Context] = []

    def get_tensor_name(self, index: int) -> str:
        """x, then y."""
        return "xy"[index]

    def get_tensor_dtype(self, name: str) -> Kind:
        """FP32."""
        return Kind("FLOAT")

    def is_shape_inference_io(self, name: str) -> bool:
        """No shape tensors."""
        return False

    def create_execution_context(self, strategy: Any) -> Any:
        """A context that is kept on record."""
        self.contexts.append(Context(self))
        return self.contexts[-1]


class Context:
    """Computes with what stands at the addresses it was given."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.shape: tuple[int, ...] = ()
        self.places: dict[str, int] = {}
        self.profile: int | None = None
        self.allocator: Any = None
        self.scratch = 0

    def set_device_memory(self, pointer: int, size: int) -> None:
        """Scratch memory."""
        self.scratch = pointer

    def set_optimization_profile_async(self, index: int, stream: int) -> bool:
        """One of the two profiles."""
        self.profile = index
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        """Any shape."""
        self.shape = tuple(shape)
        return True

    def set_tensor_address(self, name: str, place: int) -> bool:
        """A place in memory."""
        self.places[name] = place
        return True

    def set_output_allocator(self, name: str, allocator: Any) -> bool:
        """Who gives memory for an output."""
        self.allocator = allocator
        return True

    def infer_shapes(self) -> list[str]:
        """Inputs that lack a shape."""
        return [] if self.shape else ["x"]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        """Of the output: the input's, or unknown."""
        return (-1,) if self.engine.dynamic and name == "y" else self.shape

    def execute_async_v3(self, stream: int) -> bool:
        """Run now, or record while a capture goes on."""
        assert self.profile is not None
        assert self.scratch
        places, shape = dict(self.places), self.shape
        if self.engine.driver.capturing is not None:
            self.engine.driver.capturing.append(lambda: self._compute(places, shape))
        else:
            self._compute(places, shape)
        return True

    def _compute(self, places: dict[str, int], shape: tuple[int, ...]) -> None:
        result = 2 * np.frombuffer(ctypes.string_at(places["x"], 4 * int(np.prod(shape))), np.float32)
        if self.engine.dynamic:
            result = result[result > 0]
            places["y"] = self.allocator.reallocate_output_async("y", 0, result.nbytes, 256, 0)
            self.allocator.notify_shape("y", result.shape)
        ctypes.memmove(places["y"], result.astype(np.float32).tobytes(), result.nbytes)


class TensorRT:
    """What a session uses of the module."""

    driver: Driver
    __version__ = "11.4.0.106"
    Runtime = Runtime

    class ILogger:
        """The base of loggers."""

    class IErrorRecorder:
        """The base of error recorders."""

    class IOutputAllocator:
        """The base of allocators."""

    class ExecutionContextAllocationStrategy:
        """How contexts get their memory."""

        USER_MANAGED = Kind("USER_MANAGED")
