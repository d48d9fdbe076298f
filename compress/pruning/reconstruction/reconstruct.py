"""Fits the kept weights of a cut program again, layer by layer, so that every layer gives its former output.

For every convolution (transposed or not) and linear layer, in graph order, the kept weights become the least-squares
solution ``argmin ‖Y - W X - b‖² + ridge``: ``Y`` is the layer's output before the cut and ``X`` its input in the cut
program, in which the earlier layers are fitted already. So the kept channels take over what the removed ones
contributed (ThiNet, Luo et al., 2017; He et al., 2017). Where the output is added to a residual stream, ``Y`` includes
what is missing in that stream. No label and no training is needed. A layer changes only if that lowers its error on
held-out samples.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ....core.console import SILENT, Console
from ....core.data.splits import Split, batches
from ....core.facts.prune_facts import ReconstructedLayer
from ...graph.devices import as_tensor
from ...graph.module_edit import fetch
from ...program import Program, evaluating
from ..coupling.labels import Mask, Value
from ..coupling.propagate import Coupling
from ..coupling.shapes import bind
from .fitted_layers import FittedLayer, as_groups, fitted_layers, from_groups, scale_of
from .layer_rows import Rows
from .normal_equations import Moments
from .paired_runs import PairedRuns, Values
from .recurrent_fit import RecurrentNode, fit_recurrent, recurrent_nodes

FEWEST = 8
"""Smallest number of samples with which weights are fitted."""
LARGEST = 4608
"""Largest number of inputs of a layer whose weights are fitted one by one: the matrix then takes 170 MB."""
_RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
_ROWS_PER_COLUMN = 12
_FEWEST_ROWS = 4096
_CHUNK = 16
_HELD_OUT_EVERY = 4
_NOTHING_LEFT = 1e-3
"""Share of the largest scale, below which the scale of a channel is not divided by."""

Chunk = list[Tensor]


@dataclass
class Cut:
    """A cut that is proven, and samples for its reconstruction.

    Attributes:
        dense: the program before the cut.
        pruned: the program after it; its weights are changed.
        coupling: labels of ``dense``.
        removed: the removed classes, as a mask over labels.
    """

    dense: Program
    pruned: Program
    coupling: Coupling
    removed: Mask

    def kept(self, name: str, value: Tensor) -> Tensor:
        """The kept part of a value of the dense program."""
        labels = self.coupling.values.get(name)
        kept = self.coupling.kept(labels, self.removed) if isinstance(labels, Value) else ()
        for dim, indices in enumerate(kept):
            if indices is not None:
                value = value.index_select(dim, torch.from_numpy(indices))
        return value


def samples_of(program: Program, split: Split, most: int) -> list[Chunk]:
    """Inputs in signature order, in at least four chunks.

    Raises:
        UserError: the samples do not fit the program.
    """
    size = max(2, min(_CHUNK, min(most, len(split)) // _HELD_OUT_EVERY))
    return [
        [as_tensor(value, torch.device("cpu")) for value in program.signature.validate(inputs).values()]
        for inputs, _ in batches(split, size, most)
    ]


def reconstruct(cut: Cut, chunks: Sequence[Chunk], console: Console = SILENT) -> list[ReconstructedLayer]:
    """Fit the weights of the cut program, in place; every fourth chunk of samples is held out to judge each layer.

    Returns:
        The error of every layer on held-out samples, before and after.
    """
    held = [place % _HELD_OUT_EVERY == _HELD_OUT_EVERY - 1 for place in range(len(chunks))]
    results = []
    with evaluating(cut.dense), evaluating(cut.pruned), torch.no_grad():
        runs = PairedRuns(cut.dense, cut.pruned, chunks)
        order = {node: place for place, node in enumerate(cut.pruned.module.graph.nodes)}
        known: list[FittedLayer | RecurrentNode] = [*fitted_layers(cut.pruned.module)]
        layers = sorted([*known, *recurrent_nodes(cut.pruned.module)], key=lambda item: order[item.node])
        with console.progress("reconstruct", len(layers)) as bar:
            for layer in layers:
                if isinstance(layer, RecurrentNode):
                    results += fit_recurrent(cut, layer, runs, held)
                else:
                    fit = _Fit(cut, layer, held)
                    results.append(fit.result(fit.gather(runs)))
                bar.advance(note=layer.node.name)
    return results


@dataclass(frozen=True)
class _Candidate:
    """Weights ``[G, O, K]`` and intercepts ``[G, O]`` of a layer, how they were made, and their error."""

    weight: Tensor
    intercept: Tensor
    method: str
    ridge: float = 0.0
    error: float = math.inf


@dataclass
class _Fit:
    """The fit of one layer.

    Attributes:
        cut: the cut.
        layer: the layer.
        held: whether a chunk is held out, for each chunk.
    """

    cut: Cut
    layer: FittedLayer
    held: Sequence[bool]
    weight: Tensor = field(init=False)
    wide: bool = field(init=False)

    def __post_init__(self) -> None:
        self.weight = as_groups(self.layer, fetch(self.cut.pruned.module, self.layer.weight))
        self.wide = self.weight.shape[2] > LARGEST

    def gather(self, runs: PairedRuns) -> list[Moments]:
        """The sums over the samples that are used to fit, and over those that are held out."""
        columns = 1 if self.wide else self.weight.shape[2]
        most = max(_FEWEST_ROWS, _ROWS_PER_COLUMN * columns) * _HELD_OUT_EVERY // (3 * len(self.held)) + 1
        rows = Rows(self.layer, fetch(self.cut.pruned.module, self.layer.weight), most)
        other = self.layer.other
        sums: list[Moments | None] = [None, None]
        visited = runs.visit(self.layer.node.name, [other] if other else [])
        for held, (dense, pruned) in zip(self.held, visited, strict=True):
            x, y = rows.choose(pruned[self.layer.data], self._wanted(dense, pruned))
            if self.wide:
                x, y = (
                    torch.einsum("rgk,gok->rgo", x, self.weight.float()).flatten(1)[..., None],
                    y.flatten(1)[..., None],
                )
            if sums[held] is None:
                sums[held] = Moments.about(x, y, sums[not held])
            sums[held].add(x, y)  # type: ignore[union-attr]
        return [item for item in sums if item is not None]

    def _wanted(self, dense: Values, pruned: Values) -> Tensor:
        """The output that the layer had, plus what is missing in the value to which it is added."""
        wanted = self.cut.kept(self.layer.node.name, dense[self.layer.node.name])
        if self.layer.other is None:
            return wanted
        missing = self.cut.kept(self.layer.other, dense[self.layer.other]) - pruned[self.layer.other]
        scale = scale_of(self.cut.pruned.module, self.layer).to(wanted.dtype)
        scale = torch.where(scale.abs() < _NOTHING_LEFT * scale.abs().max(), torch.inf, scale)
        if scale.dim():
            axis = self.layer.axis % wanted.dim()
            scale = scale.reshape([-1 if dim == axis else 1 for dim in range(wanted.dim())])
        result: Tensor = wanted + missing / scale
        return result

    def result(self, sums: Sequence[Moments]) -> ReconstructedLayer:
        """Choose the weights with the least error on held-out samples, and set them."""
        fit, held = sums[0], sums[-1]
        known = self._known(fit)
        candidates = [known, *self._candidates(fit, known)]
        errors = [float(held.error(item.weight, item.intercept).sum()) for item in candidates]
        errors = [error if math.isfinite(error) else math.inf for error in errors]
        place = min(range(len(errors)), key=errors.__getitem__)
        energy = max(float(held.energy().sum()), torch.finfo(torch.float32).tiny)
        if place:
            self._set(self._final(sums, known, candidates[place]))
        return ReconstructedLayer(
            name=self.layer.weight,
            inputs=self.weight.shape[2],
            method=candidates[place].method,
            error_before=errors[0] / energy,
            error_after=errors[place] / energy,
        )

    def _known(self, fit: Moments) -> _Candidate:
        """The weights after the cut; those of a wide layer are one factor per output."""
        bias = self.layer.bias
        offset = fetch(self.cut.pruned.module, bias).detach().double() if bias else torch.zeros(())
        weight = torch.ones(fit.yy.shape, dtype=torch.float64)[..., None] if self.wide else self.weight
        return _Candidate(weight, offset.expand(fit.yy.numel()).reshape(fit.yy.shape), "none")

    def _candidates(self, fit: Moments, known: _Candidate) -> Iterator[_Candidate]:
        if self.layer.shifts:
            yield _Candidate(known.weight, fit.intercept(known.weight), "bias")
        for ridge in _RIDGES:
            yield self._solved(fit, known, ridge)

    def _solved(self, fit: Moments, known: _Candidate, ridge: float) -> _Candidate:
        weight, intercept = fit.solve(known.weight, ridge, self.layer.shifts)
        return _Candidate(weight, intercept, "scale" if self.wide else "least squares", ridge)

    def _final(self, sums: Sequence[Moments], known: _Candidate, chosen: _Candidate) -> _Candidate:
        """The chosen candidate, fitted to all samples."""
        whole = sums[0] if len(sums) < 2 else sums[0].plus(sums[1])
        if chosen.method == "bias":
            return _Candidate(known.weight, whole.intercept(known.weight), "bias")
        return self._solved(whole, known, chosen.ridge)

    def _set(self, chosen: _Candidate) -> None:
        module, weight = self.cut.pruned.module, chosen.weight
        if self.wide:
            weight = weight.reshape(*self.weight.shape[:2], 1) * self.weight
        target = fetch(module, self.layer.weight)
        target.data.copy_(from_groups(self.layer, weight, target))
        intercept = chosen.intercept.reshape(-1)
        if self.layer.bias is not None:
            bias = fetch(module, self.layer.bias)
            bias.data.copy_(intercept.to(bias.dtype))
        elif self.layer.norm is not None:
            mean = fetch(module, str(bind(self.layer.norm)["running_mean"].target))
            mean.data.sub_(intercept.to(mean.dtype))


def total_error(layers: Iterable[ReconstructedLayer]) -> tuple[float, float]:
    """The mean relative error of layers, before and after."""
    pairs: list[Any] = [(layer.error_before, layer.error_after) for layer in layers]
    count = max(len(pairs), 1)
    return sum(one for one, _ in pairs) / count, sum(two for _, two in pairs) / count
