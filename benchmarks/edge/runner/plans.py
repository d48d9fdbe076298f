"""TensorRT plans on a GPU: Python's ``tensorrt``, and CUDA's driver, which is there with every GPU, through ctypes.

It travels only with bundles that have a plan, whose tensors the manifest describes.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from ctypes import byref, c_char_p, c_int, c_size_t, c_uint, c_uint64, c_void_p
from functools import cache, partial
from pathlib import Path
from typing import Any
from weakref import finalize

import numpy as np

NON_BLOCKING = 1


class Cuda:
    """CUDA's driver in the primary context of the first GPU."""

    def __init__(self) -> None:
        self.library = ctypes.CDLL("libcuda.so.1")
        self.call("cuInit", c_uint(0))
        device = self.made("cuDeviceGet", c_int, c_int(0))
        self.call("cuCtxSetCurrent", self.made("cuDevicePrimaryCtxRetain", c_void_p, device))

    def call(self, name: str, *arguments: Any) -> None:
        """Call a function; RuntimeError if it fails."""
        if code := getattr(self.library, name)(*arguments):
            text = c_char_p()
            self.library.cuGetErrorName(c_int(code), byref(text))
            raise RuntimeError(f"{name} failed: {(text.value or b'unknown error').decode()}")

    def made(self, name: str, kind: Any, *arguments: Any) -> Any:
        """What a function makes, which writes it to the place that is its first argument."""
        value = kind()
        self.call(name, byref(value), *arguments)
        return value


cuda = cache(Cuda)


@cache
def logger(trt: Any) -> Any:
    """The logger of this process, of which TensorRT takes one; it keeps the last error."""

    class Log(trt.ILogger):  # type: ignore[misc]
        said = "it gives no reason"

        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, msg: str) -> None:
            if severity.name.endswith("ERROR"):
                self.said = msg

    return Log()


def in_tensorrt(path: str, candidate: Mapping[str, Any], trt: Any) -> tuple[list[str], Callable[..., Any]]:
    """Names of the outputs, and how TensorRT is called; there is a context for each shape of the inputs."""
    runtime = trt.Runtime(logger(trt))
    runtime.engine_host_code_allowed = candidate["version_compatible"]  # its checksum says that it is the user's file
    engine = taken(trt, runtime.deserialize_cuda_engine(Path(path).read_bytes()), "the plan")
    known: dict[tuple[Any, ...], Bound] = {}

    def called(feeds: Mapping[str, Any]) -> Callable[[], Any]:
        given = {name: np.ascontiguousarray(feeds[name]) for name in candidate["inputs"]}
        shapes = tuple(array.shape for array in given.values())
        if shapes not in known:
            known[shapes] = Bound(trt, engine, candidate, given)
        return partial(known[shapes].run, given)

    return list(candidate["outputs"]), called


def taken(trt: Any, given: Any, what: str) -> Any:
    """What TensorRT gave; where it is None or False, an error with the reason that it logged."""
    if given is None or given is False:
        raise RuntimeError(f"TensorRT refuses {what}: {logger(trt).said}")
    return given


class Bound:
    """A context of a plan for one shape of each input, and the memory of its tensors on the GPU."""

    def __init__(self, trt: Any, engine: Any, candidate: Mapping[str, Any], feeds: Mapping[str, Any]) -> None:
        self.trt, self.cuda, self.memory = trt, cuda(), dict[str, Any]()
        self.stream = self._made("cuStreamDestroy_v2", "cuStreamCreate", c_void_p, c_uint(NON_BLOCKING))
        self.context = taken(trt, engine.create_execution_context(), "a context")
        if engine.num_optimization_profiles:
            rows = next((feeds[name].shape[axis] for name, axis in candidate["batch_axis"].items()), 1)
            number = next((number for low, high, number in candidate["profiles"] if low <= rows <= high), 0)
            taken(trt, self.context.set_optimization_profile_async(number, self.stream.value), f"profile {number}")
            self.cuda.call("cuStreamSynchronize", self.stream)
        for name, array in feeds.items():
            taken(trt, self.context.set_input_shape(name, array.shape), f"shape {array.shape} of '{name}'")
            self._place(name, array)
        self.results = {}
        for name, dtype in candidate["outputs"].items():
            self.results[name] = np.empty(tuple(self.context.get_tensor_shape(name)), dtype)
            self._place(name, self.results[name])

    def _made(self, end: str, name: str, kind: Any, *arguments: Any) -> Any:
        """What a function of the driver makes; ``end`` frees it when this object is gone."""
        value = self.cuda.made(name, kind, *arguments)
        finalize(self, self.cuda.call, end, value)
        return value

    def _place(self, name: str, array: Any) -> None:
        memory = self._made("cuMemFree_v2", "cuMemAlloc_v2", c_uint64, c_size_t(max(1, array.nbytes)))
        taken(self.trt, self.context.set_tensor_address(name, memory.value), f"the address of '{name}'")
        self.memory[name] = memory

    def run(self, feeds: Mapping[str, Any]) -> list[Any]:
        """The outputs of one run, with the copies to the GPU and back."""
        call, results = self.cuda.call, {name: np.empty_like(array) for name, array in self.results.items()}
        for name, array in feeds.items():
            place, size = c_void_p(array.ctypes.data), c_size_t(array.nbytes)
            call("cuMemcpyHtoDAsync_v2", self.memory[name], place, size, self.stream)
        taken(self.trt, self.context.execute_async_v3(self.stream.value), "a run")
        for name, array in results.items():
            place, size = c_void_p(array.ctypes.data), c_size_t(array.nbytes)
            call("cuMemcpyDtoHAsync_v2", place, self.memory[name], size, self.stream)
        call("cuStreamSynchronize", self.stream)
        return list(results.values())
