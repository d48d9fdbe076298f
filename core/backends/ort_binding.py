"""Memory of an ONNX Runtime session on a GPU: for each shape, inputs and outputs that are allocated there once.

Part of the runtime half: standard library and numpy only (serve.md H19).
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..signature import Signature
from ..tensors import Array, Feeds, TensorSpec

SHAPES = 8
"""Number of combinations of input shapes whose memory is kept; the least recently used is freed first."""


@dataclass
class Bound:
    """The memory of one combination of input shapes.

    Attributes:
        binding: tells ONNX Runtime where inputs and outputs are.
        inputs: the place of each input on the GPU.
        free: names of the outputs that each run allocates, because only a run knows their size.
        runs: how often it ran; the first run shows which sizes are known.
    """

    binding: Any
    inputs: Mapping[str, Any]
    free: tuple[str, ...]
    runs: int = 0


class DeviceMemory:
    """Runs a session with its inputs and outputs on a GPU: one copy there and one back for each tensor of a batch.

    Args:
        runtime: the module of ONNX Runtime.
        inner: its session.
        place: type and number of the device, such as ``("cuda", 0)``.
    """

    def __init__(self, runtime: Any, inner: Any, signature: Signature, place: tuple[str, int]) -> None:
        self._runtime, self._inner, self._signature, self._place = runtime, inner, signature, place
        self._bound: OrderedDict[tuple[Any, ...], Bound] = OrderedDict()
        self._lock = threading.Lock()

    def run(self, feeds: Feeds) -> Sequence[Array]:
        """The outputs, in order, of feeds that were checked."""
        with self._lock:
            bound = self._for(feeds)
            for name, value in bound.inputs.items():
                value.update_inplace(np.asarray(feeds[name]))
            try:
                outputs = self._outputs(bound)
            except Exception:  # onnxruntime's exceptions share no narrower base class
                if len(bound.free) == len(self._signature.outputs):
                    raise
                # a size that depends on the values does not fit what another run had
                self._bind_outputs(bound, {})
                outputs = self._outputs(bound)
            if bound.runs == 1:
                self._bind_outputs(bound, self._known(feeds, outputs))
            return outputs

    def _outputs(self, bound: Bound) -> list[Array]:
        for name in bound.free:  # a binding keeps what a run allocated, whose size may be wrong for the next
            bound.binding.bind_output(name, *self._place)
        self._inner.run_with_iobinding(bound.binding)
        bound.runs += 1
        return list(map(np.asarray, bound.binding.copy_outputs_to_cpu()))

    def close(self) -> None:
        """Free the memory."""
        with self._lock:
            self._bound.clear()
            self._inner = None

    def _for(self, feeds: Feeds) -> Bound:
        key = tuple(np.shape(feeds[spec.name]) for spec in self._signature.inputs)
        found = self._bound.get(key)
        if found is None:
            while len(self._bound) >= SHAPES:
                self._bound.popitem(last=False)
            inputs = {spec.name: self._allocated(np.shape(feeds[spec.name]), spec) for spec in self._signature.inputs}
            found = self._bound[key] = Bound(self._inner.io_binding(), inputs, ())
            for name, value in inputs.items():
                found.binding.bind_ortvalue_input(name, value)
            self._bind_outputs(found, {})
        self._bound.move_to_end(key)
        return found

    def _bind_outputs(self, bound: Bound, shapes: Mapping[str, tuple[int, ...]]) -> None:
        bound.binding.clear_binding_outputs()
        for spec in self._signature.outputs:  # in this order they come back
            if spec.name in shapes:
                bound.binding.bind_ortvalue_output(spec.name, self._allocated(shapes[spec.name], spec))
            else:
                bound.binding.bind_output(spec.name, *self._place)
        bound.free = tuple(spec.name for spec in self._signature.outputs if spec.name not in shapes)

    def _known(self, feeds: Feeds, outputs: Sequence[Array]) -> dict[str, tuple[int, ...]]:
        """The shapes of outputs that follow from those of the inputs, as the signature says and a run confirmed."""
        sizes = {
            axis: size
            for spec in self._signature.inputs
            for axis, size in zip(spec.shape, np.shape(feeds[spec.name]), strict=True)
            if isinstance(axis, str)
        }
        found = {}
        for spec, array in zip(self._signature.outputs, outputs, strict=True):
            told = tuple(sizes.get(axis, -1) if isinstance(axis, str) else axis for axis in spec.shape)
            if told == array.shape and array.size:
                found[spec.name] = array.shape
        return found

    def _allocated(self, shape: tuple[int, ...], spec: TensorSpec) -> Any:
        return self._runtime.OrtValue.ortvalue_from_shape_and_type(list(shape), np.dtype(spec.dtype).type, *self._place)
