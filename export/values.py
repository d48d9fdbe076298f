"""What PyTorch computes at every operator of an exported program: what ONNX Runtime's values are held against."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch.export import ExportedProgram

from ..core.tensors import Array
from .onnx_graph import place


def node_values(program: ExportedProgram, feeds: Iterable[Array]) -> list[tuple[str, Array, str]]:
    """Name, value, and which operator it is and where it stands, in graph order."""
    values = _Values(program.module(check_guards=False))
    with torch.no_grad():
        values.run(*(torch.from_numpy(np.array(value)) for value in feeds))
    return values.found


class _Values(torch.fx.Interpreter):
    """Keeps the floating-point value of every operator."""

    def __init__(self, module: torch.nn.Module) -> None:
        assert isinstance(module, torch.fx.GraphModule)
        super().__init__(module)
        self.found: list[tuple[str, Array, str]] = []

    def run_node(self, n: torch.fx.Node) -> Any:
        """One node."""
        result = super().run_node(n)
        if isinstance(result, torch.Tensor) and n.op == "call_function" and result.is_floating_point():
            self.found.append((n.name, result.clone().numpy(), f"{n.target} '{n.name}'{place(n)}"))
        return result
