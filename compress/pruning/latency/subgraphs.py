"""Subgraphs of a program for timing: an operator with the chain that follows it, as a separate model at any width.

The time of a width is measured on subgraphs, because runtimes fuse an operator with the operators after it. A subgraph
is cut by the same rules as the program (labels, slices, rewritten constants), so everything that can be cut can be
measured.
"""

from __future__ import annotations

import operator as python_operator
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from ....core.artifact import stable_hash
from ....core.signature import Signature
from ....core.tensors import TensorSpec
from ...graph.module_edit import fetch
from ...graph.rows import batch_axes, rows
from ...program import Program
from ..coupling.coupler import made_of_parameters
from ..coupling.labels import Mask, Value, core
from ..coupling.propagate import Coupling, couple
from ..coupling.shapes import propagate
from ..surgery.rewrite_constants import Sizes, rewrite
from ..surgery.slice_parameters import kept_of, sliced

_SIZE = 0.1


@dataclass
class Subgraph:
    """Operators that are measured together.

    Attributes:
        nodes: in graph order; the first is the operator that the others follow.
    """

    nodes: list[fx.Node]


class Subgraphs:
    """All subgraphs of a program at one batch size.

    Args:
        batch: batch size of every subgraph.
        narrow: see :class:`retort.compress.pruning.coupling.propagate.Coupling`.

    Attributes:
        coupling: labels at that batch size, which are the same as at any other.
    """

    def __init__(self, program: Program, batch: int, narrow: frozenset[str]) -> None:
        self.program = replace(program, example=rows(program.example, batch, batch_axes(program.signature)))
        self.coupling: Coupling = couple(self.program, narrow)
        self.concrete = propagate(self.program)
        self.all = _split(self.program.module.graph, self.coupling)

    def touched(self, subgraph: Subgraph) -> set[int]:
        """Classes on which the widths of a subgraph depend."""
        unions, found = self.coupling.unions, set()
        for node in subgraph.nodes:
            for item in (node, *node.all_input_nodes):
                value = self.coupling.values.get(item.name)
                for part in value if isinstance(value, tuple) else (value,):
                    for array in part.arrays if isinstance(part, Value) else ():
                        found.update(unions.find(core(array).numpy().reshape(-1)).tolist())
        return found

    def key(self, subgraph: Subgraph, removed: Mask) -> str:
        """Hash of everything that the time of a subgraph depends on: its operators, their constants and shapes."""
        sizes = Sizes(self.coupling, removed)
        parts = []
        for node in subgraph.nodes:
            known = [self._shape(item, sizes) for item in node.all_input_nodes]
            constants = fx.map_arg((node.args, node.kwargs), lambda item: None)
            parts.append([str(node.target), known, str(constants), self._shape(node, sizes)])
        return str(stable_hash(parts))

    def weight_bytes(self, subgraph: Subgraph) -> int:
        """Bytes of the parameters of a subgraph before the cut."""
        read = [item for node in subgraph.nodes for item in node.all_input_nodes if item.op == "get_attr"]
        weights = [self.concrete[item] for item in read]
        return sum(item.numel() * item.element_size() for item in weights if isinstance(item, Tensor))

    def _shape(self, node: fx.Node, sizes: Sizes) -> Any:
        value = self.concrete[node]
        if not isinstance(value, Tensor):
            return str(value) if not isinstance(value, list | tuple) else "parts"
        return [str(value.dtype), sizes.shape(node) if sizes.value(node) is not None else list(value.shape)]

    def assemble(self, requests: Sequence[tuple[Subgraph, Mask]]) -> tuple[Program, list[list[str]]]:
        """One program that contains independent subgraphs, and the names of the outputs of each.

        Args:
            requests: subgraphs, each with a mask over labels of what is removed from it.
        """
        graph, root = fx.Graph(), nn.Module()
        smalls = [self._graph_of(item, gone, root, f"p{place}") for place, (item, gone) in enumerate(requests)]
        example = {f"p{place}_{name}": feed for place, (_, feeds) in enumerate(smalls) for name, feed in feeds.items()}
        inputs = {name: graph.placeholder(name) for name in example}
        results = [_inlined(graph, small, inputs, f"p{place}_") for place, (small, _) in enumerate(smalls)]
        names = [[f"p{place}_out{k}" for k in range(len(items))] for place, items in enumerate(results)]
        graph.output(tuple(node for items in results for node in items))
        module = fx.GraphModule(root, graph)
        taken = tuple(_spec(name, value) for name, value in example.items())
        with torch.no_grad():
            values = module(*example.values())
        flat = [name for items in names for name in items]
        outputs = tuple(_spec(name, value) for name, value in zip(flat, values))
        return Program(module, Signature(taken, outputs), example), names

    def _graph_of(
        self, subgraph: Subgraph, removed: Mask, root: nn.Module, prefix: str
    ) -> tuple[fx.Graph, dict[str, Tensor]]:
        """A graph of one subgraph, its nodes named as in the program, and its inputs."""
        sizes, graph = Sizes(self.coupling, removed), fx.Graph()
        env: dict[fx.Node, Any] = {}
        feeds: dict[str, Tensor] = {}

        def _copied(node: fx.Node) -> Any:
            if node in env:
                return env[node]
            if node.op == "get_attr":
                env[node] = self._constant(node, removed, root, f"{prefix}_{node.name}", graph)
            elif not isinstance(self.concrete[node], Tensor | list | tuple):
                return int(self.concrete[node]) if not isinstance(self.concrete[node], float) else self.concrete[node]
            elif node in subgraph.nodes or made_of_parameters(node):
                args, kwargs = fx.map_arg((node.args, node.kwargs), _copied)
                env[node] = graph.create_node("call_function", node.target, args, kwargs, name=node.name)
                rewrite(env[node], sizes)
            else:
                feeds[node.name] = _feed(self._kept(node, sizes), self.concrete[node].dtype)
                env[node] = graph.placeholder(node.name)
            return env[node]

        ends = [_copied(node) for node in subgraph.nodes if _seen_outside(node, subgraph, self.concrete)]
        graph.output(tuple(ends))
        return graph, feeds

    def _kept(self, node: fx.Node, sizes: Sizes) -> list[int]:
        return sizes.shape(node) if sizes.value(node) is not None else list(self.concrete[node].shape)

    def _constant(self, node: fx.Node, removed: Mask, root: nn.Module, name: str, graph: fx.Graph) -> fx.Node:
        value = fetch(self.program.module, str(node.target))
        leader = self.coupling.aliases.get(str(node.target))
        if isinstance(value, Tensor) and leader is not None:
            value = sliced(value, kept_of(self.coupling, leader, removed))
        root.register_buffer(name, value.detach())
        return graph.create_node("get_attr", name, name=node.name)


def _inlined(graph: fx.Graph, small: fx.Graph, inputs: dict[str, fx.Node], prefix: str) -> list[fx.Node]:
    """Copy a small graph into a large one, whose inputs have the same names with a prefix; return the results."""
    copied: dict[fx.Node, fx.Node] = {}
    for node in small.nodes:
        if node.op == "placeholder":
            copied[node] = inputs[f"{prefix}{node.name}"]
        elif node.op != "output":
            copied[node] = graph.node_copy(node, copied.__getitem__)
    return [copied[node] for node in small.output_node().args[0]]  # type: ignore[union-attr, index]


def _split(graph: fx.Graph, coupling: Coupling) -> list[Subgraph]:
    """Divide all computed tensors into subgraphs; a contraction, or the reader of a shared tensor, starts a new one."""
    heavy = {term.node for term in coupling.terms}
    owner: dict[fx.Node, Subgraph] = {}
    for node in graph.nodes:
        if node.op != "call_function" or node.name not in coupling.values or made_of_parameters(node):
            continue
        if node.target is python_operator.getitem:
            subgraph: Subgraph | None = owner.get(node.args[0])
        else:
            subgraph = None if node.name in heavy else _followed(node, owner)
        subgraph = subgraph or Subgraph([])
        subgraph.nodes.append(node)
        owner[node] = subgraph
    return list({id(subgraph): subgraph for subgraph in owner.values()}.values())


def _followed(node: fx.Node, owner: dict[fx.Node, Subgraph]) -> Subgraph | None:
    last = [item for item in node.all_input_nodes if item in owner and item is owner[item].nodes[-1]]
    chains = [owner[item] for item in last if len(item.users) == 1]
    return chains[-1] if chains else None


def _seen_outside(node: fx.Node, subgraph: Subgraph, concrete: dict[fx.Node, Any]) -> bool:
    return isinstance(concrete[node], Tensor) and (
        not node.users or any(user not in subgraph.nodes for user in node.users)
    )


def _feed(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    if dtype.is_floating_point:
        return (torch.randn(tuple(shape), generator=generator) * _SIZE).to(dtype)
    return torch.ones(tuple(shape), dtype=dtype) if dtype == torch.bool else torch.zeros(tuple(shape), dtype=dtype)


def _spec(name: str, value: Tensor) -> TensorSpec:
    return TensorSpec(name, str(value.dtype).removeprefix("torch."), tuple(value.shape))
