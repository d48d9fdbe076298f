"""A double of ONNX Runtime with the providers of a GPU, which this machine has not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnxruntime

from retort.core.session import PROVIDERS


class Node:
    """A node as ONNX Runtime reports it."""

    def __init__(self, op_type: str) -> None:
        self.op_type = op_type


class Part:
    """Nodes of one provider."""

    def __init__(self, ep_name: str, operators: Sequence[str]) -> None:
        self.ep_name, self._nodes = ep_name, [Node(name) for name in operators]

    def get_nodes(self) -> list[Node]:
        """Its nodes."""
        return self._nodes


class Binding:
    """A binding of the real ONNX Runtime, whose places on a GPU are on the CPU; it records them."""

    def __init__(self, inner: Any, places: list[tuple[str, str, int]]) -> None:
        self.inner, self._places = inner, places

    def bind_output(self, name: str, device: str, number: int) -> None:
        """An output that each run allocates."""
        self._places.append((name, device, number))
        self.inner.bind_output(name, "cpu", 0)

    def bind_ortvalue_input(self, name: str, value: Any) -> None:
        """An input in its place."""
        self.inner.bind_ortvalue_input(name, value)

    def bind_ortvalue_output(self, name: str, value: Any) -> None:
        """An output in its place."""
        self.inner.bind_ortvalue_output(name, value)

    def clear_binding_outputs(self) -> None:
        """No outputs are bound."""
        self.inner.clear_binding_outputs()

    def copy_outputs_to_cpu(self) -> Any:
        """The outputs as arrays."""
        return self.inner.copy_outputs_to_cpu()


class Runtime:
    """A simulated ONNX Runtime with GPU providers, which records requests and computes with the real one."""

    def __init__(self, placed: dict[str, list[str]]) -> None:
        self.asked: list[tuple[list[str], list[dict[str, str]]]] = []
        self.placed = placed
        self.__version__ = onnxruntime.__version__
        self.allocated: list[tuple[tuple[int, ...], str, int]] = []
        self.unplaced: list[tuple[str, str, int]] = []
        self.OrtValue = self
        self.SessionOptions, self.ExecutionMode = onnxruntime.SessionOptions, onnxruntime.ExecutionMode

    def ortvalue_from_shape_and_type(self, shape: Sequence[int], kind: Any, device: str, number: int) -> Any:
        """Memory of a GPU, which is the CPU's."""
        self.allocated.append((tuple(shape), device, number))
        return onnxruntime.OrtValue.ortvalue_from_shape_and_type(shape, kind, "cpu", 0)

    def get_available_providers(self) -> list[str]:
        """All three."""
        return list(PROVIDERS["tensorrt"])

    def InferenceSession(
        self, source: Any, settings: Any, names: list[str], options: list[dict[str, str]], enable_fallback: int = 1
    ) -> Any:
        """A session on the CPU that reports the requested provider."""
        self.asked.append((names, options))
        inner = onnxruntime.InferenceSession(source, settings, ["CPUExecutionProvider"])
        parts = [Part(name, operators) for name, operators in self.placed.items()]
        inner.get_providers = lambda: names
        bound, run = inner.io_binding, inner.run_with_iobinding
        inner.io_binding = lambda: Binding(bound(), self.unplaced)
        inner.run_with_iobinding = lambda binding: run(binding.inner)
        inner.get_provider_graph_assignment_info = lambda: parts
        return inner
