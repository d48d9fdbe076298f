"""The TensorRT backend of ``Session``: a plan run without PyTorch, with one context and one CUDA graph per shape.

Part of the runtime half: standard library and numpy only at module level (tensorrt.md 1.5).
"""

from __future__ import annotations

import functools
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ArtifactError, InputError, MachineError
from ..session import SessionOptions
from ..signature import Signature
from ..tensors import Array, Feeds
from .cuda import Cuda, find_device
from .trt_buffers import DTYPES, Buffer, Growing, free_all, output_allocator
from .trt_engine import Loaded, deserialize
from .trt_plan import Plan, Shape, read_plan, require_home
from .trt_reports import last
from .trt_versions import Flavor, load_flavor

BUCKETS = 16
"""Number of shapes whose context and graph are kept; the least recently used shape is dropped first."""


@dataclass
class Bucket:
    """One combination of input shapes: its context, and its graph once it is recorded.

    Attributes:
        outputs: shape of each output; None if it is known only after the run.
        graph: the recorded graph; 0 until it is recorded.
        graphs: whether recording may still be tried.
    """

    context: Any
    outputs: dict[str, Shape | None]
    graph: int = 0
    graphs: bool = True
    calls: int = 0
    keep: list[Any] = field(default_factory=list)


class TrtSession:
    """A plan loaded in TensorRT; see :class:`retort.core.session.Session`."""

    backend = "tensorrt"

    def __init__(self, plan: Plan, flavor: Flavor, loaded: Loaded, cuda: Cuda, graphs: bool) -> None:
        self.signature: Signature = plan.signature
        self.providers: tuple[str, ...] = (flavor.shown,)
        self._plan, self._flavor, self._cuda = plan, flavor, cuda
        self._runtime, self._engine, self._errors = loaded.runtime, loaded.engine, loaded.errors
        engine = loaded.engine
        self._graphs = graphs
        self._stream = cuda.new_stream()
        self._lock = threading.Lock()
        self._buckets: OrderedDict[tuple[Any, ...], Bucket] = OrderedDict()
        self._inputs = [spec.name for spec in self.signature.inputs]
        self._outputs = [spec.name for spec in self.signature.outputs]
        self._host_inputs = {name for name in self._inputs if engine.is_shape_inference_io(name)}
        self._profiles = plan.profiles
        self._buffers = {spec.name: Buffer(cuda, self._dtype(spec.name), 0) for spec in self.signature.inputs}
        self._growing: dict[str, Growing] = {}
        self._scratch_bytes = int(engine.device_memory_size_v2)
        self._scratch = cuda.allocate(self._scratch_bytes)

    def run(self, feeds: Feeds) -> dict[str, Array]:
        """Run one batch; see :meth:`retort.core.session.Session.run`."""
        return self.run_unchecked(self.signature.validate(feeds))

    def run_unchecked(self, feeds: Feeds) -> dict[str, Array]:
        """Run feeds that ``signature.validate`` returned, without checking them again."""
        with self._lock:
            self._cuda.enter()
            bucket = self._bucket(feeds)
            for name in self._inputs:
                self._buffers[name].put(np.asarray(feeds[name]))
                if name not in self._host_inputs:
                    self._buffers[name].upload(feeds[name].shape, self._stream)
            self._execute(bucket)
            for name, shape in bucket.outputs.items():
                if shape is not None:
                    self._buffers[name].download(shape, self._stream)
            self._cuda.synchronize(self._stream)
            self._require_no_errors()
            return {name: self._result(bucket, name) for name in self._outputs}

    def _require_no_errors(self) -> None:
        errors = self._errors.taken()
        if errors:
            more = f" (and {len(errors) - 1} more)" if errors[1:] else ""
            raise MachineError(f"TensorRT reports an error of a run: {errors[0]}{more}", "run `retort doctor`")

    def close(self) -> None:
        """Free contexts, graphs, memory and the device."""
        with self._lock:
            if self._engine is None:
                return
            self._cuda.enter()
            self._forget_buckets()
            self._engine = self._runtime = None
            memory = [item.free for item in self._buffers.values()] + [item.free for item in self._growing.values()]
            scratch = functools.partial(self._cuda.free, self._scratch)
            stream = functools.partial(self._cuda.destroy_stream, self._stream)
            free_all([*memory, scratch, stream, self._cuda.close])

    def recorded(self) -> int:
        """Number of shapes that run as a CUDA graph."""
        return sum(bucket.graph != 0 for bucket in self._buckets.values())

    def _bucket(self, feeds: Feeds) -> Bucket:
        shapes = {name: tuple(feeds[name].shape) for name in self._inputs}
        values = tuple(np.asarray(feeds[name]).tobytes() for name in sorted(self._host_inputs))
        key = (tuple(shapes.values()), values)
        found = self._buckets.get(key)
        if found is None:
            self._make_room(shapes)
            found = self._buckets[key] = self._new_bucket(shapes, feeds)
        self._buckets.move_to_end(key)
        while len(self._buckets) > BUCKETS:
            self._drop(self._buckets.popitem(last=False)[1])
        return found

    def _make_room(self, shapes: dict[str, Shape]) -> None:
        """Make every buffer large enough; if a buffer moves, all recorded addresses become invalid."""
        for name, shape in shapes.items():
            largest = max((prod(profile[name][2]) for profile in self._profiles if name in profile), default=0)
            if self._buffers[name].bytes_of(shape) > self._buffers[name].capacity:
                self._replace(name, max(largest, prod(shape)))

    def _replace(self, name: str, elements: int) -> None:
        self._forget_buckets()
        old = self._buffers.pop(name, None)
        if old is not None:
            old.free()
        dtype = np.dtype(self._dtype(name))
        self._buffers[name] = Buffer(self._cuda, str(dtype), elements * dtype.itemsize)

    def _new_bucket(self, shapes: dict[str, Shape], feeds: Feeds) -> Bucket:
        context = self._new_context(self._choose_profile(shapes))
        for name, shape in shapes.items():
            if name in self._host_inputs:
                self._buffers[name].put(np.asarray(feeds[name]))
            elif not context.set_input_shape(name, shape):
                raise InputError(f"TensorRT rejects shape {list(shape)} of '{name}': {last()}", self._plan.served())
            place = self._buffers[name].host if name in self._host_inputs else self._buffers[name].device
            self._must(context.set_tensor_address(name, place), f"the address of '{name}'")
        missing = context.infer_shapes()
        if missing:
            raise InputError(f"TensorRT does not know the shape of {', '.join(missing)}", self._plan.served())
        bucket = Bucket(context, {}, graphs=self._graphs)
        for name in self._outputs:
            self._bind_output(bucket, name, tuple(context.get_tensor_shape(name)))
        return bucket

    def _new_context(self, profile: int) -> Any:
        strategy = self._flavor.module.ExecutionContextAllocationStrategy.USER_MANAGED
        context = self._engine.create_execution_context(strategy)
        if context is None:
            raise MachineError(f"TensorRT cannot create an execution context: {last()}", "free memory on the GPU")
        context.set_device_memory(self._scratch, self._scratch_bytes)
        if self._engine.num_optimization_profiles:  # only the first context of an engine has a profile from the start
            self._must(context.set_optimization_profile_async(profile, self._stream), f"profile {profile}")
            self._cuda.synchronize(self._stream)
        return context

    def _bind_output(self, bucket: Bucket, name: str, shape: Shape) -> None:
        if -1 in shape:
            memory = self._growing.setdefault(name, Growing(self._cuda, self._dtype(name)))
            allocator = output_allocator(self._flavor.module, memory)
            self._must(bucket.context.set_output_allocator(name, allocator), f"the allocator of '{name}'")
            bucket.keep.append(allocator)
            bucket.outputs[name], bucket.graphs = None, False  # its size is not part of a recording
            return
        size = np.dtype(self._dtype(name)).itemsize * prod(shape)
        if name not in self._buffers or self._buffers[name].capacity < size:
            self._replace(name, prod(shape))
        bucket.outputs[name] = shape
        self._must(bucket.context.set_tensor_address(name, self._buffers[name].device), f"the address of '{name}'")

    def _choose_profile(self, shapes: dict[str, Shape]) -> int:
        found = self._plan.nearest_profile({n: s for n, s in shapes.items() if n not in self._host_inputs})
        if found is None:
            shown = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
            raise InputError(f"no profile of the engine contains {shown}", self._plan.served())
        return found

    def _execute(self, bucket: Bucket) -> None:
        bucket.calls += 1
        if bucket.graph:
            self._cuda.launch(bucket.graph, self._stream)
            return
        # the first call initialises what must not be recorded
        if bucket.graphs and bucket.calls > 1 and self._record(bucket):
            self._cuda.launch(bucket.graph, self._stream)
            return
        self._must(bucket.context.execute_async_v3(self._stream), "a run")

    def _record(self, bucket: Bucket) -> bool:
        """Record a run as a graph; a network that cannot be recorded runs without one."""
        self._cuda.synchronize(self._stream)
        self._cuda.begin_capture(self._stream)
        enqueued = bucket.context.execute_async_v3(self._stream)
        graph = self._cuda.end_capture(self._stream)
        if graph and not enqueued:
            self._cuda.destroy_graph(graph)
            graph = 0
        bucket.graph, bucket.graphs = graph, bool(graph)
        return bucket.graphs

    def _result(self, bucket: Bucket, name: str) -> Array:
        shape = bucket.outputs[name]
        return self._growing[name].take(self._stream) if shape is None else self._buffers[name].take(shape)

    def _forget_buckets(self) -> None:
        while self._buckets:
            self._drop(self._buckets.popitem()[1])

    def _drop(self, bucket: Bucket) -> None:
        if bucket.graph:
            self._cuda.destroy_graph(bucket.graph)
        bucket.context = None

    def _dtype(self, name: str) -> str:
        kind = self._engine.get_tensor_dtype(name).name
        if kind not in DTYPES:
            raise self._plan.refusal(f"has '{name}' in {kind}, which numpy does not know")
        return DTYPES[kind]

    def _must(self, done: bool, what: str) -> None:
        if not done:
            raise MachineError(f"TensorRT rejects {what}: {last()}", "run `retort doctor`, and build the engine again")


def open_model(model: Path | bytes, options: SessionOptions, signature: Signature | None) -> TrtSession:
    """Open a plan that `retort engine` wrote.

    Raises:
        ArtifactError: the plan has no manifest, or as :func:`open_plan`.
        MachineError: as :func:`open_plan`.
    """
    if isinstance(model, bytes):
        raise ArtifactError(
            "a plan cannot be opened from bytes, because its manifest is in a file next to it", "give its path"
        )
    return open_plan(read_plan(Path(model)), options, signature)


def open_plan(plan: Plan, options: SessionOptions, signature: Signature | None = None) -> TrtSession:
    """Open a plan whose bytes agree with its manifest.

    Args:
        signature: replaces the plan's own; its inputs and outputs must be the same.

    Raises:
        ArtifactError: the plan was built for another TensorRT or GPU, or has other tensors or profiles than the
            manifest and the signature say. All but the last is checked before TensorRT reads the plan.
        MachineError: no TensorRT can run on this machine.
    """
    if signature is not None:
        plan = plan.signed(signature)
    flavor = load_flavor("run", plan.runtime)
    device = find_device(options.device)
    if device is None:
        which = f"there is no GPU {options.device} on" if options.device else "no GPU can be used on"
        raise MachineError(f"{which} this machine", "run on a machine with an NVIDIA GPU and its driver")
    require_home(plan, flavor, device)
    cuda = Cuda(device.index)
    return TrtSession(plan, flavor, deserialize(plan, flavor), cuda, options.cuda_graphs)
