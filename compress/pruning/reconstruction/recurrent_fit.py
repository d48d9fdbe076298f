"""Fits the gates of LSTM, GRU and plain recurrent layers again after a cut of their hidden units.

The inputs of a gate, the layer's input and its previous state, are fitted to the gate's value before the cut, for the
kept units. A GRU multiplies the part of its new gate that comes from the state, so both parts of that gate are fitted
by themselves. The first fit uses the states of the dense layer; further ones use those that the cut layer really has. A
layer changes only if its states on held-out samples get nearer to those before the cut.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from ....core.aten_names import RECURRENT, operator_name
from ....core.facts.prune_facts import ReconstructedLayer
from ...graph.module_edit import fetch, readers_of
from ..coupling.shapes import bind
from .normal_equations import Moments
from .paired_runs import MEMORY_BYTES, PairedRuns

_RIDGES = (1e-3, 1e-1)
_ROUNDS = 3
_ROWS_PER_COLUMN = 12


@dataclass(frozen=True)
class _Part:
    """Gates that are fitted together.

    Attributes:
        gates: their numbers, in the order of the weights.
        sides: the matrices that take part: 0 for the one of the input, 1 for that of the state.
    """

    gates: tuple[int, ...]
    sides: tuple[int, ...] = (0, 1)

    def rows(self, units: Tensor, full: int) -> Tensor:
        """The rows of the gates in a matrix, for some of the ``full`` units of a gate."""
        return torch.cat([units + gate * full for gate in self.gates])


_PARTS = {
    "lstm": (_Part((0, 1, 2, 3)),),
    "gru": (_Part((0, 1)), _Part((2,), (0,)), _Part((2,), (1,))),
    "rnn_tanh": (_Part((0,)),),
    "rnn_relu": (_Part((0,)),),
}


_Inputs = tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class RecurrentNode:
    """A recurrent operator whose gates can be fitted again.

    Attributes:
        node: the operator of the cut program.
        paths: paths of its parameters: for every layer and direction ``W_ih``, ``W_hh`` and, with biases, two biases.
        per_cell: number of parameters of one direction of one layer.
        directions: 1 or 2.
    """

    node: fx.Node
    paths: tuple[str, ...]
    per_cell: int
    directions: int

    @property
    def layers(self) -> int:
        """Number of layers."""
        return len(self.paths) // (self.per_cell * self.directions)

    def cell(self, layer: int, direction: int) -> tuple[str, ...]:
        """The paths of one direction of one layer."""
        start = (layer * self.directions + direction) * self.per_cell
        return self.paths[start : start + self.per_cell]


def recurrent_nodes(module: fx.GraphModule) -> list[RecurrentNode]:
    """Recurrent operators without projections, whose parameters are their own."""
    found = []
    for node in module.graph.nodes:
        if node.op != "call_function" or operator_name(node) not in RECURRENT:
            continue
        given = bind(node)
        params = given.get("params", ())
        if "batch_sizes" in given or not all(isinstance(item, fx.Node) and item.op == "get_attr" for item in params):
            continue
        directions = 2 if given["bidirectional"] else 1
        per_cell = len(params) // (int(given["num_layers"]) * directions)
        paths = tuple(str(item.target) for item in params)
        own = len(set(paths)) == len(paths) and all(len(readers_of(module.graph, path)) == 1 for path in paths)
        if own and per_cell == (4 if given["has_biases"] else 2):
            found.append(RecurrentNode(node, paths, per_cell, directions))
    return found


def fit_recurrent(cut: Any, layer: RecurrentNode, runs: PairedRuns, held: Sequence[bool]) -> list[ReconstructedLayer]:
    """Fit all layers of a recurrent operator, the first one first.

    Args:
        cut: the :class:`retort.compress.pruning.reconstruction.reconstruct.Cut`.
        held: whether a chunk is held out, for each chunk.
    """
    given = bind(layer.node)
    states = given["hx"] if isinstance(given["hx"], list | tuple) else [given["hx"]]
    sequences: list[tuple[Tensor, Tensor]] = []
    starts: list[list[tuple[Tensor, Tensor]]] = []
    for dense, pruned in runs.visit(layer.node.name):
        look = runs.value_of
        pair = look(0, given["input"], dense), look(1, given["input"], pruned)
        if len(held) * sum(item.numel() * item.element_size() for item in pair) <= MEMORY_BYTES:
            sequences.append(pair)
            starts.append([(look(0, state, dense), look(1, state, pruned)) for state in states])
    if len(sequences) < len(held):
        return []
    results = []
    for place in range(layer.layers):
        stack = _Stack(cut, layer, place, sequences, starts, held)
        results += stack.fit()
        sequences = stack.outputs()
    return results


@dataclass
class _Stack:
    """One layer of a recurrent operator, with all its directions, on all chunks."""

    cut: Any
    layer: RecurrentNode
    place: int
    sequences: list[tuple[Tensor, Tensor]]
    starts: list[list[tuple[Tensor, Tensor]]]
    held: Sequence[bool]

    def __post_init__(self) -> None:
        self.given = bind(self.layer.node)
        self.dense = [self._run(0, chunk) for chunk in range(len(self.held))]
        self.kept = self._kept()

    def _kept(self) -> Tensor:
        """The kept units of one direction."""
        coupling, removed = self.cut.coupling, self.cut.removed
        path = self.layer.cell(self.place, 0)[1]
        gone = torch.from_numpy(removed[coupling.unions.find(coupling.parameters[coupling.aliases[path]][1].numpy())])
        return torch.arange(len(gone))[~gone]

    def _run(self, side: int, chunk: int) -> Tensor:
        """The states of the dense (0) or the cut (1) layer for all steps."""
        module = (self.cut.dense if side == 0 else self.cut.pruned).module
        count = self.layer.directions
        part = slice(self.place * count, (self.place + 1) * count)
        hx = [pair[side][part].contiguous() for pair in self.starts[chunk]]
        params = [fetch(module, path) for way in range(count) for path in self.layer.cell(self.place, way)]
        kind, given = operator_name(self.layer.node), self.given
        flags = (bool(given["has_biases"]), 1, 0.0, False, bool(given["bidirectional"]), bool(given["batch_first"]))
        run: Any = getattr(torch.ops.aten, kind).input
        states: Tensor = run(self.sequences[chunk][side], hx if kind == "lstm" else hx[0], params, *flags)[0]
        return states

    def outputs(self) -> list[tuple[Tensor, Tensor]]:
        """The states of both programs for every chunk: the input of the next layer."""
        return [(self.dense[chunk], self._run(1, chunk)) for chunk in range(len(self.held))]

    def fit(self) -> list[ReconstructedLayer]:
        """Fit all directions, and keep the weights with the least error of the held-out states."""
        paths = [path for way in range(self.layer.directions) for path in self.layer.cell(self.place, way)]
        module = self.cut.pruned.module

        def _copy() -> list[Tensor]:
            return [fetch(module, path).detach().clone() for path in paths]

        tried = [(self._error(), _copy())]
        for ridge in _RIDGES:
            for path, value in zip(paths, tried[0][1]):
                fetch(module, path).data.copy_(value)
            for step in range(_ROUNDS):
                self._fit_once(ridge, own=step > 0)
                tried.append((self._error(), _copy()))
        best = min(range(len(tried)), key=lambda place: tried[place][0])
        for path, value in zip(paths, tried[best][1]):
            fetch(module, path).data.copy_(value)
        inputs = sum(fetch(module, path).shape[1] for path in self.layer.cell(self.place, 0)[:2])
        method = "least squares" if best else "none"
        facts = {"error_before": tried[0][0], "error_after": tried[best][0]}
        return [ReconstructedLayer(name=paths[0], inputs=inputs, method=method, **facts)]

    def _error(self) -> float:
        """The error of the held-out states, as a share of their variance."""
        wanted = self._units()
        noise = energy = 0.0
        for chunk in [chunk for chunk, held in enumerate(self.held) if held] or range(len(self.held)):
            truth = self.dense[chunk].index_select(-1, wanted)
            noise += float((self._run(1, chunk) - truth).square().sum())
            energy += float((truth - truth.mean((0, 1))).square().sum())
        return noise / max(energy, torch.finfo(torch.float32).tiny)

    def _units(self) -> Tensor:
        """The kept units of all directions."""
        width = self.dense[0].shape[-1] // self.layer.directions
        return torch.cat([self.kept + way * width for way in range(self.layer.directions)])

    def _fit_once(self, ridge: float, own: bool) -> None:
        """Fit the gates of every direction.

        Args:
            own: use the states of the cut layer as inputs, instead of the kept states of the dense layer.
        """
        found = [self._run(1, chunk) if own else None for chunk in range(len(self.held))]
        for way in range(self.layer.directions):
            inputs = [self._inputs(way, chunk, found[chunk]) for chunk in range(len(self.held))]
            for part in _PARTS[operator_name(self.layer.node)]:
                self._fit_part(part, way, inputs, ridge)

    def _fit_part(self, part: _Part, way: int, inputs: Sequence[_Inputs], ridge: float) -> None:
        """Fit the weights of some gates, and their biases: the first one gets the intercept, a second one zero."""
        sums = self._moments(part, way, inputs)
        cell = self.layer.cell(self.place, way)
        matrices = [cell[side] for side in part.sides]
        own, biases = len(self.kept), [cell[2 + side] for side in part.sides] if self.given["has_biases"] else []
        rows = part.rows(torch.arange(own), own)
        module = self.cut.pruned.module
        before = torch.cat([fetch(module, path).detach().double()[rows] for path in matrices], 1)
        weight, intercept = sums.solve(before[None], ridge, bool(biases))
        widths = [fetch(module, path).shape[1] for path in matrices]
        values = [*weight[0].split(widths, 1), intercept[0], torch.zeros_like(intercept[0])]
        for path, value in zip([*matrices, *biases], values):
            target = fetch(module, path)
            target.data[rows] = value.to(target.dtype)

    def _inputs(self, way: int, chunk: int, own: Tensor | None) -> _Inputs:
        """The input and the previous state, before the cut, and those of the cut layer.

        Args:
            own: states of the cut layer; the kept states of the dense layer stand for them if None.
        """
        x, own_x = self.sequences[chunk]
        full = self.dense[chunk].shape[-1] // self.layer.directions
        states = self.dense[chunk][..., way * full : (way + 1) * full]
        before = self._previous(states, self.starts[chunk][0][0], way)
        if own is None:
            return (x, before), (own_x, before.index_select(-1, self.kept))
        states = own[..., way * len(self.kept) : (way + 1) * len(self.kept)]
        return (x, before), (own_x, self._previous(states, self.starts[chunk][0][1], way))

    def _moments(self, part: _Part, way: int, inputs: Sequence[_Inputs]) -> Moments:
        """Sums over the steps of the chunks that are not held out, of the gates' inputs and values."""
        module, paths = self.cut.dense.module, self.layer.cell(self.place, way)
        params = [fetch(module, path).detach() for path in paths]
        rows = part.rows(self.kept, params[1].shape[1])
        fits = [chunk for chunk, held in enumerate(self.held) if not held]
        sums: Moments | None = None
        draw = torch.Generator().manual_seed(0)
        for chunk in fits:
            dense, pruned = inputs[chunk]
            terms = [dense[side] @ params[side][rows].T for side in part.sides]
            terms += [params[2 + side][rows] for side in part.sides if self.given["has_biases"]]
            wanted = functools.reduce(torch.add, terms)
            flat = torch.cat([pruned[side] for side in part.sides], -1).flatten(0, 1)
            most = _ROWS_PER_COLUMN * flat.shape[1] // len(fits) + 1
            chosen = torch.randperm(len(flat), generator=draw)[:most]
            sample = flat[chosen, None].float(), wanted.flatten(0, 1)[chosen, None].float()
            sums = sums or Moments.about(*sample)
            sums.add(*sample)
        assert sums is not None, "there is a chunk that is not held out"
        return sums

    def _previous(self, states: Tensor, start: Tensor, way: int) -> Tensor:
        """The state before every step, in the direction of the layer."""
        dim = 1 if self.given["batch_first"] else 0
        first = start[self.place * self.layer.directions + way].unsqueeze(dim)
        steps = states.shape[dim]
        if way == 0:
            return torch.cat([first, states.narrow(dim, 0, steps - 1)], dim)
        return torch.cat([states.narrow(dim, 1, steps - 1), first], dim)
