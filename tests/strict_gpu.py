"""A GPU that is not here, as strict as a real one: CUDA's driver and Python's ``tensorrt`` with their types and order.

The driver takes arguments of the types of ``cuda.h`` alone, keeps memory of the GPU where the host cannot read it, and
does the work of a stream when the stream is waited for. The engine computes ``y = 2 x``, and refuses what TensorRT
refuses. `test_device_plans.py` compares the names and arguments with those of the live bindings of TensorRT-RTX.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from typing import Any

import numpy as np

INT, UINT, SIZE, POINTER, DEVICE = (
    ctypes.c_int, ctypes.c_uint, ctypes.c_size_t, ctypes.c_void_p, ctypes.c_uint64,
)  # fmt: skip
BY_REFERENCE = type(ctypes.byref(ctypes.c_int()))
TYPES: dict[str, tuple[Any, ...]] = {
    "cuInit": (UINT,),
    "cuDeviceGet": (BY_REFERENCE, INT),
    "cuDeviceGetName": (ctypes.Array, INT, INT),
    "cuDeviceGetAttribute": (BY_REFERENCE, INT, INT),
    "cuDevicePrimaryCtxRetain": (BY_REFERENCE, INT),
    "cuCtxSetCurrent": (POINTER,),
    "cuGetErrorName": (INT, BY_REFERENCE),
    "cuStreamCreate": (BY_REFERENCE, UINT),
    "cuStreamSynchronize": (POINTER,),
    "cuStreamDestroy_v2": (POINTER,),
    "cuMemAlloc_v2": (BY_REFERENCE, SIZE),
    "cuMemFree_v2": (DEVICE,),
    "cuMemcpyHtoDAsync_v2": (DEVICE, POINTER, SIZE, POINTER),
    "cuMemcpyDtoHAsync_v2": (POINTER, DEVICE, SIZE, POINTER),
}
"""The arguments of the driver's functions (cuda.h, 12 and 13)."""
INVALID, NO_MEMORY, NO_CONTEXT = 1, 2, 201
NAMES = {INVALID: b"CUDA_ERROR_INVALID_VALUE", NO_MEMORY: b"CUDA_ERROR_OUT_OF_MEMORY", NO_CONTEXT: b"NO_CONTEXT"}
FIRST, CONTEXT = 0x7F00_0000_0000, 0x5555_0000_1000


class Driver:
    """libcuda: every function checks its arguments, and that a context is current."""

    def __init__(self, memory_bytes: int = 1 << 20) -> None:
        self.free, self.next, self.started, self.current = memory_bytes, FIRST, False, False
        self.memory: dict[int, bytearray] = {}
        self.streams: dict[int, list[Callable[[], None]]] = {}

    def __getattr__(self, name: str) -> Any:
        if name not in TYPES:
            raise AttributeError(name)

        def call(*arguments: Any) -> int:
            assert len(arguments) == len(TYPES[name]), name
            for given, wanted in zip(arguments, TYPES[name], strict=True):
                assert isinstance(given, wanted), f"{name} got {given!r} for a {wanted.__name__}"
            if name != "cuInit" and not self.started:
                return 3
            if name.startswith(("cuStream", "cuMem")) and not self.current:
                return NO_CONTEXT
            handler = getattr(type(self), "_" + name)
            return int(handler(self, *arguments) or 0)

        return call

    def _cuInit(self, flags: Any) -> None:
        self.started = True

    def _cuDeviceGet(self, device: Any, index: Any) -> int:
        device._obj.value = 0
        return 0 if index.value == 0 else 101

    def _cuDeviceGetName(self, name: Any, size: Any, device: Any) -> None:
        name.value = b"Double 9000"

    def _cuDeviceGetAttribute(self, value: Any, which: Any, device: Any) -> None:
        value._obj.value = {75: 9, 76: 0}[which.value]

    def _cuDevicePrimaryCtxRetain(self, context: Any, device: Any) -> None:
        context._obj.value = CONTEXT

    def _cuCtxSetCurrent(self, context: Any) -> int:
        self.current = context.value == CONTEXT
        return 0 if self.current else INVALID

    def _cuGetErrorName(self, code: Any, text: Any) -> None:
        text._obj.value = NAMES.get(code.value, b"CUDA_ERROR_UNKNOWN")

    def _cuStreamCreate(self, stream: Any, flags: Any) -> int:
        stream._obj.value = 0x6000_0000_0000 + 16 * (len(self.streams) + 1) + self.next % 4096
        self.next += 1 << 12
        self.streams[stream._obj.value] = []
        return 0 if flags.value in (0, 1) else INVALID

    def _cuStreamSynchronize(self, stream: Any) -> int:
        if stream.value not in self.streams:
            return INVALID
        for work in self.streams[stream.value]:
            work()
        self.streams[stream.value].clear()
        return 0

    def _cuStreamDestroy_v2(self, stream: Any) -> int:
        return 0 if self.streams.pop(stream.value, None) is not None else INVALID

    def _cuMemAlloc_v2(self, pointer: Any, size: Any) -> int:
        if not size.value:
            return INVALID
        if size.value > self.free:
            return NO_MEMORY
        self.free -= size.value
        pointer._obj.value, self.next = self.next, self.next + (size.value | 4095) + 1
        self.memory[pointer._obj.value] = bytearray(size.value)
        return 0

    def _cuMemFree_v2(self, pointer: Any) -> int:
        found = self.memory.pop(pointer.value, None)
        self.free += len(found or b"")
        return INVALID if found is None else 0

    def _cuMemcpyHtoDAsync_v2(self, target: Any, source: Any, size: Any, stream: Any) -> int:
        if size.value > len(self.memory.get(target.value, b"")) or stream.value not in self.streams or not source.value:
            return INVALID
        address, count, block = source.value, size.value, self.memory[target.value]

        def copy() -> None:
            block[:count] = ctypes.string_at(address, count)

        self.streams[stream.value].append(copy)
        return 0

    def _cuMemcpyDtoHAsync_v2(self, target: Any, source: Any, size: Any, stream: Any) -> int:
        if size.value > len(self.memory.get(source.value, b"")) or stream.value not in self.streams or not target.value:
            return INVALID
        address, count, block = target.value, size.value, self.memory[source.value]

        def copy() -> None:
            ctypes.memmove(address, bytes(block[:count]), count)

        self.streams[stream.value].append(copy)
        return 0


driver = Driver(int(os.environ.get("STRICT_GPU_BYTES", 1 << 20)))
"""The GPU of this process."""


class _Member:
    """A member of an enumeration of the bindings."""

    def __init__(self, name: str) -> None:
        self.name = name


class DataType:
    """Types of tensors."""

    FLOAT = _Member("FLOAT")


class TensorIOMode:
    """Whether a tensor is an input or an output."""

    INPUT = _Member("INPUT")
    OUTPUT = _Member("OUTPUT")


class ILogger:
    """The base of loggers, whose own constructor has to be called."""

    def __init__(self) -> None:
        self.made = True

    def log(self, severity: Any, msg: str) -> None:
        """Has to be overridden."""
        raise NotImplementedError


class Runtime:
    """Reads plans."""

    def __init__(self, logger: ILogger) -> None:
        assert logger.made
        self.logger, self.engine_host_code_allowed = logger, False

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None:
        """The engine of the bytes; None for those that are no plan, and for plans with code that is not allowed."""
        assert isinstance(serialized_engine, bytes)
        if serialized_engine.startswith(b"lean") and not self.engine_host_code_allowed:
            self.logger.log(_Member("ERROR"), "the plan has host code, and it is not allowed")
            return None
        if not serialized_engine.startswith((b"a plan", b"lean")):
            self.logger.log(_Member("WARNING"), "not this one")
            self.logger.log(_Member("INTERNAL_ERROR"), "Magic tag does not match")
            return None
        return ICudaEngine(self.logger)


class ICudaEngine:
    """``y = 2 x`` with the profiles of `trt_plans`: batches of 1 to 2, and of 1 to 16."""

    num_optimization_profiles = 2

    def __init__(self, logger: ILogger) -> None:
        self.logger = logger

    def create_execution_context(self) -> IExecutionContext:
        """A context, of profile 0 if it is the first."""
        return IExecutionContext(self)


class IExecutionContext:
    """Runs an engine on what stands at the addresses that it was given."""

    def __init__(self, engine: ICudaEngine) -> None:
        self.engine, self.profile, self.switched = engine, 0, 0
        self.shape: tuple[int, ...] | None = None
        self.places: dict[str, int] = {}

    def _error(self, text: str) -> bool:
        self.engine.logger.log(_Member("ERROR"), text)
        return False

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        """Switch on a stream, which has to be waited for before a run."""
        if profile_index not in (0, 1) or stream_handle not in driver.streams:
            return self._error("no such profile or stream")
        self.profile, self.shape, self.switched = profile_index, None, stream_handle
        driver.streams[stream_handle].append(lambda: setattr(self, "switched", 0))
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        """A shape within the profile."""
        assert isinstance(shape, tuple)
        if name != "x" or len(shape) != 2 or shape[1] != 4 or not 1 <= shape[0] <= (2, 16)[self.profile]:
            return self._error(f"shape {shape} is not in profile {self.profile}")
        self.shape = shape
        return True

    def set_tensor_address(self, name: str, memory: int) -> bool:
        """An address of the GPU."""
        assert type(memory) is int
        if name not in ("x", "y") or memory not in driver.memory:
            return self._error(f"{name} or its address is not known")
        self.places[name] = memory
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        """The shape of the input, -1 where it is not set."""
        assert name in ("x", "y")
        return self.shape or (-1, 4)

    def execute_async_v3(self, stream_handle: int) -> bool:
        """Enqueue a run on a stream of its own, with every shape and address set and no profile being switched."""
        if stream_handle not in driver.streams or self.shape is None or {*self.places} != {"x", "y"} or self.switched:
            return self._error("a run is not ready")
        count, (x, y) = int(np.prod(self.shape)) * 4, (driver.memory[self.places[name]] for name in "xy")

        def compute() -> None:
            y[:count] = (2 * np.frombuffer(bytes(x[:count]), np.float32)).tobytes()

        driver.streams[stream_handle].append(compute)
        return True
