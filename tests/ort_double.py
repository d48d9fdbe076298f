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


class Runtime:
    """A simulated ONNX Runtime with GPU providers, which records requests and computes with the real one."""

    def __init__(self, placed: dict[str, list[str]]) -> None:
        self.asked: list[tuple[list[str], list[dict[str, str]]]] = []
        self.placed = placed
        self.__version__ = onnxruntime.__version__
        self.SessionOptions, self.ExecutionMode = onnxruntime.SessionOptions, onnxruntime.ExecutionMode

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
        inner.get_provider_graph_assignment_info = lambda: parts
        return inner
