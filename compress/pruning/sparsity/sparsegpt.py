"""SparseGPT: removes weights of a layer and adjusts the others to compensate (Frantar and Alistarh, 2023).

Per layer, it minimises ``‖W X - W' X‖²`` over sparse ``W'``. Columns are processed in order; the error of a removed
weight is compensated in the columns to its right by the inverse of the damped Hessian ``H = X Xᵀ``, of which only the
Cholesky factor is needed. ``H`` is accumulated batch by batch, so that memory does not grow with the samples.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn import functional

from ....core.aten_names import MATRIX_LAYERS, operator_name
from ....core.errors import DataError
from ....core.options.stage_options import SparsifyOptions
from ...graph.module_edit import fetch
from ...program import Program
from ...training.losses import Tensors
from ..coupling.shapes import bind
from .masks import MaskedWeight

BLOCK = 128
LARGEST = 4608
"""Largest number of columns for which a Hessian is computed; wider layers are pruned by magnitude."""
HESSIAN_BYTES = 1 << 28


def columns(place: MaskedWeight, weight: Tensor) -> int:
    """Number of columns of a layer as a matrix; 0 if it has no such form (groups, recurrent layers)."""
    kind = operator_name(place.node)
    if kind in ("conv1d", "conv2d"):
        plain = bind(place.node)["groups"] == 1 and not isinstance(bind(place.node)["padding"], str)
        return weight[0].numel() if plain else 0
    return weight.shape[place.axis] if kind in MATRIX_LAYERS and weight.dim() == 2 else 0


def as_matrix(place: MaskedWeight, weight: Tensor) -> Tensor:
    """The weight as ``[out, columns]``, with the input channels innermost, as a copy in double precision."""
    if place.axis == 0:
        return weight.detach().double().T.clone()
    return weight.detach().double().movedim(1, -1).reshape(len(weight), -1).clone()


def from_matrix(place: MaskedWeight, matrix: Tensor, like: Tensor) -> Tensor:
    """Inverse of :func:`as_matrix`."""
    if place.axis == 0:
        return matrix.T.to(like.dtype).contiguous()
    shape = (len(like), *like.shape[2:], like.shape[1])
    return matrix.reshape(shape).movedim(-1, 1).to(like.dtype).contiguous()


def hessians(program: Program, places: Sequence[MaskedWeight], inputs: Iterable[Tensors]) -> dict[str, Tensor]:
    """``X Xᵀ`` of every layer by parameter name, averaged, in one pass over the inputs.

    Raises:
        DataError: there are no samples.
    """
    watcher = _Watcher(program.module, {place.node.name: place for place in places})
    count = 0
    with torch.no_grad():
        for feeds in inputs:
            watcher.run(*feeds.values())
            count += 1
    if not count:
        raise DataError("the calibration split is empty", "give at least one sample, or use `method: magnitude`")
    return {name: total / count for name, total in watcher.sums.items()}


class _Watcher(fx.Interpreter):
    """Runs a graph and sums ``X Xᵀ`` of the inputs of the watched layers."""

    def __init__(self, module: fx.GraphModule, places: dict[str, MaskedWeight]) -> None:
        super().__init__(module)
        self.sums: dict[str, Tensor] = {}
        self._places = places

    def run_node(self, n: fx.Node) -> Any:
        """Run a node after adding the product of its input."""
        place = self._places.get(n.name)
        if place is not None:
            given = bind(n)
            source: Any = next(given[key] for key in ("input", "mat1", "self") if key in given)
            rows = _rows(self.env[source], n, fetch(self.module, place.parameter))
            product = rows.T @ rows / max(len(rows), 1)
            name = place.parameter
            self.sums[name] = self.sums[name] + product if name in self.sums else product
        return super().run_node(n)


def _rows(value: Tensor, node: fx.Node, weight: Tensor) -> Tensor:
    """A layer's input as ``float64[rows, columns]``, in the column order of :func:`as_matrix`."""
    kind, value = operator_name(node), value.detach().double()
    if kind not in ("conv1d", "conv2d"):
        return value.reshape(-1, value.shape[-1])
    given = bind(node)
    kernel = list(weight.shape[2:])
    listed = [list(given[key]) for key in ("dilation", "padding", "stride")]
    settings = [item * len(kernel) if len(item) == 1 else item for item in listed]
    if kind == "conv1d":
        value, kernel = value.unsqueeze(2), [1, *kernel]
        settings = [[fill, *item] for fill, item in zip((1, 0, 1), settings)]
    sizes: list[Any] = [kernel, *settings]
    unfolded = functional.unfold(value, *sizes)
    channels = weight.shape[1]
    spread = unfolded.reshape(len(value), channels, -1, unfolded.shape[-1]).permute(0, 3, 2, 1)
    return spread.reshape(-1, unfolded.shape[1])


def reconstruct(weight: Tensor, hessian: Tensor, options: SparsifyOptions) -> Tensor:
    """The sparse matrix whose outputs are nearest to those of a dense one.

    Args:
        weight: ``float64[out, columns]``; changed.
        hessian: ``float64[columns, columns]``; changed.
    """
    dead = hessian.diagonal() == 0
    hessian.diagonal()[dead] = 1.0
    weight[:, dead] = 0.0
    hessian.diagonal().add_(options.damping * hessian.diagonal().mean())
    inverse = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(hessian)), upper=True)
    size = options.group[1] if options.group else 1
    width = max(BLOCK // size, 1) * size
    for start in range(0, weight.shape[1], width):
        end = min(start + width, weight.shape[1])
        losses = _block(weight[:, start:end], inverse[start:end, start:end], options)
        weight[:, end:] -= losses @ inverse[start:end, end:]
    return weight


def _block(weight: Tensor, inverse: Tensor, options: SparsifyOptions) -> Tensor:
    """Prune a block of columns in place; return the errors to compensate in the later columns, ``[out, block]``."""
    losses = torch.zeros_like(weight)
    scale = inverse.diagonal().square()
    gone = torch.zeros_like(weight, dtype=torch.bool)
    if options.group is None:
        harm = (weight.square() / scale).reshape(-1)
        count = round(options.sparsity * harm.numel())
        gone.view(-1)[harm.argsort(stable=True)[:count]] = True
    for column in range(weight.shape[1]):
        if options.group is not None and column % options.group[1] == 0:
            kept, size = options.group
            part = slice(column, column + size)
            harm = weight[:, part].square() / scale[part]
            gone[:, part].scatter_(1, harm.topk(size - kept, 1, largest=False).indices, True)
        before = weight[:, column].clone()
        weight[gone[:, column], column] = 0.0
        losses[:, column] = (before - weight[:, column]) / inverse[column, column]
        weight[:, column + 1 :] -= losses[:, column : column + 1] * inverse[column, column + 1 :]
    return losses
