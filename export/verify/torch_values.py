"""The values that PyTorch computes at every operator of an exported program, for comparison with ONNX Runtime."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from ...core.tensors import Array

if TYPE_CHECKING:
    from torch.export import ExportedProgram
    from torch.fx import Node


def node_values(program: ExportedProgram, feeds: Iterable[Array]) -> list[tuple[str, Array, str]]:
    """Name, value, operator and source line of each floating-point value, in graph order."""
    import torch

    from ..translate import place

    found: list[tuple[str, Array, str]] = []

    class Values(torch.fx.Interpreter):
        def run_node(self, n: Node) -> Any:
            """Run one node and keep its value."""
            result = super().run_node(n)
            if isinstance(result, torch.Tensor) and n.op == "call_function" and result.is_floating_point():
                found.append((n.name, result.clone().numpy(), f"{n.target} '{n.name}'{place(n)}"))
            return result

    module = program.module(check_guards=False)
    assert isinstance(module, torch.fx.GraphModule)
    with torch.no_grad():
        Values(module).run(*(torch.from_numpy(np.array(value)) for value in feeds))
    return found
