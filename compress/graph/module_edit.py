"""Small edits and queries of a program's graph: parameters by path, new nodes, shapes from a run on the example."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import fx, nn

from ..program import Program, ordered

Shapes = Mapping[fx.Node, tuple[torch.Size, torch.dtype]]
_NEW = nn.Module()


def fetch(module: nn.Module, path: str) -> torch.Tensor:
    """The parameter or buffer at a dotted path."""
    value: Any = module
    for part in path.split("."):
        value = getattr(value, part)
    assert isinstance(value, torch.Tensor)
    return value


def put(module: nn.Module, path: str, value: torch.Tensor) -> None:
    """Set a parameter or, if ``value`` is a plain tensor, a buffer; create submodules that do not exist yet."""
    *parents, name = path.split(".")
    for part in parents:
        if not hasattr(module, part):
            module.add_module(part, nn.Module())
        module = getattr(module, part)
    if isinstance(value, nn.Parameter):
        setattr(module, name, value)
    else:
        module.register_buffer(name, value)


def free_path(module: nn.Module, path: str) -> str:
    """``path``, with a number appended if that path exists already."""
    candidate, number = path, 1
    while has(module, candidate):
        candidate, number = f"{path}_{number}", number + 1
    return candidate


def has(module: nn.Module, path: str) -> bool:
    """Whether a dotted path is taken: by what the module holds, or by what every module has, such as ``to``."""
    value: Any = module
    for part in path.split("."):
        if not hasattr(value, part):
            value = _NEW  # the submodule that would be created
        else:
            value = getattr(value, part)
            if not isinstance(value, nn.Module):
                return True
    return value is not _NEW


def drop_unused(module: fx.GraphModule) -> None:
    """Remove parameters and buffers that no node reads any more."""
    used = {str(node.target) for node in module.graph.find_nodes(op="get_attr")}
    for path in [name for name, _ in (*module.named_parameters(), *module.named_buffers()) if name not in used]:
        *parents, name = path.split(".")
        owner: Any = module
        for part in parents:
            owner = getattr(owner, part)
        delattr(owner, name)


def call_after(graph: fx.Graph, place: fx.Node, target: Any, args: tuple[Any, ...], name: str | None = None) -> fx.Node:
    """Insert a call after ``place``, with the same user module in its metadata."""
    with graph.inserting_after(place):
        node = graph.create_node("call_function", target, args, {}, name)
    if "nn_module_stack" in place.meta:
        node.meta["nn_module_stack"] = place.meta["nn_module_stack"]
    return node


def shapes_of(program: Program) -> Shapes:
    """Shape and dtype of every tensor in the graph, from a run on the example."""
    recorder = _Recorder(program.module)
    with torch.inference_mode():
        recorder.run(*ordered(program).values())
    return recorder.shapes


class _Recorder(fx.Interpreter):
    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.shapes: dict[fx.Node, tuple[torch.Size, torch.dtype]] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Run a node and record the shape of its output."""
        value = super().run_node(n)
        if isinstance(value, torch.Tensor):
            self.shapes[n] = value.shape, value.dtype
        return value


def readers_of(graph: fx.Graph, path: str) -> list[fx.Node]:
    """Every node that reads a parameter; a weight tied to an embedding has two readers."""
    return [user for node in graph.find_nodes(op="get_attr", target=path) for user in node.users]
