"""Runs a dense and a cut program side by side up to one layer after the other, within a memory budget.

The values that later nodes read are kept at one position of the graph, for all samples. Every visit starts there and
moves the position as far as the kept values fit in the budget, so that each program runs about once as a whole.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from ....core.aten_names import CHANNEL_NORMS, operator_name
from ...program import Program

MEMORY_BYTES = 512 << 20

Values = dict[str, Any]


class PairedRuns:
    """Two programs with the same nodes, and the kept values of every chunk of samples.

    Args:
        dense: the program before the cut.
        pruned: the program after it; its parameters can change between visits.
        feeds: inputs in signature order, by chunk.
        budget_bytes: memory of the kept values of both programs and all chunks.
    """

    def __init__(
        self, dense: Program, pruned: Program, feeds: Sequence[Sequence[Tensor]], budget_bytes: int = MEMORY_BYTES
    ) -> None:
        self.sides = _Side(dense.module), _Side(pruned.module)
        self.order = self.sides[0].names
        self._places = {name: place for place, name in enumerate(self.order)}
        writes = any(_writes(node) for node in dense.module.graph.nodes)
        self._budget = -1 if writes else budget_bytes  # an operator that writes in place would change kept values
        inputs = [node.name for node in dense.module.graph.find_nodes(op="placeholder")]
        start = [dict(zip(inputs, chunk)) for chunk in feeds]
        self._kept: list[list[Values]] = [[dict(chunk) for chunk in start] for _ in self.sides]
        self._at = 0

    def visit(self, node: str, also: Collection[str] = ()) -> Iterator[tuple[Values, Values]]:
        """For every chunk, the values of both programs before ``node``; those of the dense program include it.

        Args:
            also: names of earlier nodes whose values are needed too.
        """
        end = self._places[node]
        dense = self.sides[0]
        wanted = {*also, *(item.name for item in dense.nodes[node].all_input_nodes)}
        target = self._next_position(end)
        for side in self.sides:
            side.fixed = {}
        for chunk in range(len(self._kept[0])):
            values = []
            for side, kept in zip(self.sides, self._kept):
                env = {name: _copied(value) if self._budget < 0 else value for name, value in kept[chunk].items()}
                if target > self._at:
                    side.run(env, self._at, target, wanted)
                    kept[chunk] = {name: env[name] for name in side.live_at(target) if name in env}
                side.run(env, target, end, wanted)
                values.append(env)
            dense.run(values[0], end, end + 1, {*wanted, node})
            yield values[0], values[1]
        self._at = target

    def value_of(self, side: int, node: fx.Node, values: Values) -> Any:
        """The value of a node of the dense (0) or the cut (1) program, given or computed from constants."""
        return (
            values[node.name] if node.name in values else self.sides[side].constant(self.sides[side].nodes[node.name])
        )

    def _next_position(self, end: int) -> int:
        """The last position up to ``end`` at which the values to keep fit in the budget."""
        if self._budget < 0:
            return self._at
        chunks = len(self._kept[0])
        sizes = [side.sizes(self._kept[place][0], self._at, end) for place, side in enumerate(self.sides)]
        for position in range(end, self._at, -1):
            needed = sum(size.get(name, 0) for side, size in zip(self.sides, sizes) for name in side.live_at(position))
            if needed * chunks <= self._budget:
                return position
        return self._at


class _Side:
    """One program, run node by node."""

    def __init__(self, module: fx.GraphModule) -> None:
        self.module = module
        self.nodes = {node.name: node for node in module.graph.nodes}
        self.names = list(self.nodes)
        self.fixed: Values = {}
        self._depends: set[str] = set()
        last: dict[str, int] = {}
        for place, node in enumerate(module.graph.nodes):
            read = [item.name for item in node.all_input_nodes]
            if node.op == "placeholder" or any(name in self._depends for name in read):
                self._depends.add(node.name)
            last |= dict.fromkeys(read, place)
        self._last = last
        inputs = {node.name for node in module.graph.find_nodes(op="placeholder")}  # they are there from the start
        self._born = {name: -1 if name in inputs else place for place, name in enumerate(self.names)}
        self._sizes: dict[str, int] = {}

    def live_at(self, position: int) -> list[str]:
        """Values that are computed before a position and read at or after it."""
        return [
            name for name, last in self._last.items() if self._born[name] < position <= last and name in self._depends
        ]

    def sizes(self, start: Values, first: int, end: int) -> dict[str, int]:
        """Bytes of the values of one chunk, from a run of that chunk."""
        if all(name in self._sizes for name in self.names[first:end] if name in self._depends):
            return self._sizes
        env = dict(start)
        self._sizes |= {name: _bytes(value) for name, value in env.items()}
        self.fixed = {}
        self.run(env, first, end, (), measured=self._sizes)
        return self._sizes

    def run(
        self, env: Values, first: int, end: int, wanted: Collection[str], measured: dict[str, int] | None = None
    ) -> None:
        """Compute the nodes from one place to another; values that are read by no later node are dropped."""
        for place in range(first, end):
            node = self.nodes[self.names[place]]
            if node.name not in self._depends or node.op in ("placeholder", "output"):
                continue
            env[node.name] = self._call(node, env)
            if measured is not None:
                measured[node.name] = _bytes(env[node.name])
            for item in node.all_input_nodes:
                if self._last[item.name] <= place and item.name not in wanted:
                    env.pop(item.name, None)

    def _call(self, node: fx.Node, env: Values) -> Any:
        def _look(item: fx.Node) -> Any:
            return env[item.name] if item.name in env else self.constant(item)

        args: Any = fx.map_arg(node.args, _look)
        kwargs: Any = fx.map_arg(node.kwargs, _look)
        return node.target(*args, **kwargs)  # type: ignore[operator]

    def constant(self, node: fx.Node) -> Any:
        """A value that depends on no input; it is computed anew in every visit, because parameters change."""
        if node.name not in self.fixed:
            if node.op == "get_attr":
                value: Any = self.module
                for part in str(node.target).split("."):
                    value = getattr(value, part)
            else:
                value = self._call(node, {})
            self.fixed[node.name] = value
        return self.fixed[node.name]


def _writes(node: fx.Node) -> bool:
    """Whether an operator writes into one of its arguments, except into the statistics of a normalisation."""
    kind = operator_name(node)
    return (
        isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable and kind not in CHANNEL_NORMS
    )


def _copied(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


def _bytes(value: Any) -> int:
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    return sum(_bytes(item) for item in value) if isinstance(value, list | tuple) else 0
