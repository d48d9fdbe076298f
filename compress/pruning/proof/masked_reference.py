"""Runs a node of the original graph with removed channels masked to zero: the reference side of the proof."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from ....core.aten_names import operator_name
from ..coupling.data_movement import RULES as MOVES
from ..coupling.indexing import RULES as LOOKUPS
from ..coupling.labels import Mask, Value, core
from ..coupling.propagate import Coupling
from ..coupling.rules import reduced_dims
from ..coupling.shapes import bind

Keep = Tensor
_Statistic = Callable[[dict[str, Any], Keep], Tensor]


class Masks:
    """Which elements of every value are kept.

    Args:
        coupling: labels at the batch size of the run.
        removed: boolean mask over labels.
    """

    def __init__(self, coupling: Coupling, removed: Mask) -> None:
        self.coupling = coupling
        self.removed = removed

    def values(self, node: fx.Node) -> Sequence[Value]:
        """Labels of every output tensor of a node."""
        value = self.coupling.values.get(node.name, ())
        return value if isinstance(value, tuple) else (value,)

    def keep(self, value: Value) -> Keep | None:
        """True where an element is kept, broadcastable to the value's shape; None if all are kept."""
        result: Keep | None = None
        for array in value.arrays:
            gone = torch.from_numpy(self.removed[self.coupling.unions.find(core(array).numpy())])
            if bool(gone.any()):
                result = ~gone if result is None else result & ~gone
        return result

    def zeroed(self, result: Any, values: Sequence[Value], in_place: bool = False) -> Any:
        """The tensors of a node's result with removed elements set to zero; a single tensor can be changed in place."""
        if isinstance(result, list | tuple):
            return type(result)(self.zeroed(item, [value]) for item, value in zip(result, values, strict=True))
        keep = self.keep(values[0]) if isinstance(result, Tensor) and values else None
        if keep is None:
            return result
        return result.masked_fill_(~keep, 0) if in_place else result.masked_fill(~keep, 0)

    def settled(self, node: fx.Node, result: Any) -> Any:
        """A node's result with removed elements set to zero; in place if the operator writes in place."""
        mutable = isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable
        keep = self.keep(self.values(node)[0]) if mutable and isinstance(result, Tensor) else None
        return self.zeroed(result, self.values(node)) if keep is None else result.masked_fill_(~keep, 0)

    def kept_indices(self, value: Value) -> list[Tensor | None]:
        """The kept indices along every dimension of a tensor; None if all are kept."""
        found = self.coupling.kept(value, self.removed)
        return [None if indices is None else torch.from_numpy(indices) for indices in found]


def run_masked(node: fx.Node, args: Any, kwargs: Any, masks: Masks) -> Any:
    """Run a node of the original graph on masked values, and mask its result."""
    target: Any = node.target
    statistic = STATISTICS.get(operator_name(node))
    if statistic is not None:
        source = next((item for item in node.all_input_nodes), None)
        values = masks.values(source) if source is not None else ()
        keep = masks.keep(values[0]) if values else None
        if keep is not None:
            return masks.zeroed(statistic(bind(node, args, kwargs), keep), masks.values(node))
    result = target(*args, **kwargs)
    return result if _only_moves(node) else masks.settled(node, result)


def _only_moves(node: fx.Node) -> bool:
    """Whether a result contains only elements that were masked when they were computed."""
    name = operator_name(node)
    return (
        name in (MOVES | LOOKUPS)
        and name not in {"glu", "zeros", "ones", "full", "empty"}
        and not name.startswith("new_")
    )


def _moments(x: Tensor, keep: Keep, dims: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Count, mean and summed squared deviation over the kept elements along ``dims``."""
    dims = list(dims)
    weights = keep.expand(x.shape).to(x.dtype)
    count = weights.sum(dims, keepdim=True).clamp(min=1)
    mean = (x * weights).sum(dims, keepdim=True) / count
    return count, mean, ((x - mean).square() * weights).sum(dims, keepdim=True)


def _normalised(x: Tensor, keep: Keep, dims: Sequence[int], eps: float) -> Tensor:
    count, mean, squares = _moments(x, keep, dims)
    return (x - mean) * torch.rsqrt(squares / count + eps)


def _affine(x: Tensor, weight: Tensor | None, bias: Tensor | None, shape: Sequence[int]) -> Tensor:
    x = x if weight is None else x * weight.reshape(tuple(shape))
    return x if bias is None else x + bias.reshape(tuple(shape))


def _layer_norm(a: dict[str, Any], keep: Keep) -> Tensor:
    x, shape = a["input"], list(a["normalized_shape"])
    dims = range(x.dim() - len(shape), x.dim())
    return _affine(_normalised(x, keep, list(dims), a["eps"]), a["weight"], a["bias"], shape)


def _rms_norm(a: dict[str, Any], keep: Keep) -> Tensor:
    x, shape = a["input"], list(a["normalized_shape"])
    dims = list(range(x.dim() - len(shape), x.dim()))
    weights = keep.expand(x.shape).to(x.dtype)
    mean = (x.square() * weights).sum(dims, keepdim=True) / weights.sum(dims, keepdim=True).clamp(min=1)
    eps = a["eps"] if a["eps"] is not None else torch.finfo(x.dtype).eps
    return _affine(x * torch.rsqrt(mean + eps), a["weight"], None, shape)


def _group_norm(a: dict[str, Any], keep: Keep) -> Tensor:
    x, groups = a["input"], int(a["num_groups"])
    split = (x.shape[0], groups, x.shape[1] // groups, *x.shape[2:])
    mask = keep.expand(x.shape).reshape(split)
    y = _normalised(x.reshape(split), mask, list(range(2, len(split))), a["eps"]).reshape(x.shape)
    return _affine(y, a["weight"], a["bias"], (1, -1, *[1] * (x.dim() - 2)))


def _channel_norm(a: dict[str, Any], keep: Keep) -> Tensor:
    """Batch norm and instance norm; running statistics are used if the operator uses them."""
    x = a["input"]
    shape = (1, -1, *[1] * (x.dim() - 2))
    own = a["training"] if "training" in a else a["use_input_stats"]
    if own or a["running_mean"] is None:
        dims = [dim for dim in range(x.dim()) if dim != 1 and not ("use_input_stats" in a and dim == 0)]
        y = _normalised(x, keep, dims, a["eps"])
    else:
        y = (x - a["running_mean"].reshape(shape)) * torch.rsqrt(a["running_var"].reshape(shape) + a["eps"])
    return _affine(y, a["weight"], a["bias"], shape)


def _dims(a: dict[str, Any]) -> tuple[Tensor, list[int], bool]:
    x = a["self"]
    return x, reduced_dims(x.dim(), a), bool(a.get("keepdim", False))


def _squeezed(value: Tensor, dims: Sequence[int], keepdim: bool) -> Tensor:
    return value if keepdim else value.squeeze(tuple(dims))


def _mean(a: dict[str, Any], keep: Keep) -> Tensor:
    x, dims, keepdim = _dims(a)
    return _squeezed(_moments(x, keep, dims)[1], dims, keepdim)


def _correction(a: dict[str, Any]) -> float:
    given = a.get("correction")
    return float(given) if given is not None else float(a.get("unbiased", True))


def _variance(a: dict[str, Any], keep: Keep) -> Tensor:
    x, dims, keepdim = _dims(a)
    count, _, squares = _moments(x, keep, dims)
    return _squeezed(squares / (count - _correction(a)).clamp(min=0), dims, keepdim)


def _deviation(a: dict[str, Any], keep: Keep) -> Tensor:
    return _variance(a, keep).sqrt()


def _with_mean(first: _Statistic) -> Callable[[dict[str, Any], Keep], Any]:
    return lambda a, keep: (first(a, keep), _mean(a, keep))


def _extreme(sign: int) -> _Statistic:
    def _statistic(a: dict[str, Any], keep: Keep) -> Tensor:
        x, dims, keepdim = _dims(a)
        fill = (
            -sign * torch.inf
            if x.is_floating_point()
            else (torch.iinfo(x.dtype).min if sign > 0 else torch.iinfo(x.dtype).max)
        )
        masked = torch.where(keep, x, torch.full((), fill, dtype=x.dtype))
        return masked.amax(dims, keepdim) if sign > 0 else masked.amin(dims, keepdim)

    return _statistic


def _product(a: dict[str, Any], keep: Keep) -> Tensor:
    x, dims, keepdim = _dims(a)
    masked = torch.where(keep, x, torch.ones((), dtype=x.dtype))
    for dim in dims:
        masked = masked.prod(dim, keepdim=True)
    return _squeezed(masked, dims, keepdim)


STATISTICS: dict[str, Callable[[dict[str, Any], Keep], Any]] = {
    "layer_norm": _layer_norm,
    "rms_norm": _rms_norm,
    "group_norm": _group_norm,
    "batch_norm": _channel_norm,
    "instance_norm": _channel_norm,
    "mean": _mean,
    "var": _variance,
    "std": _deviation,
    "var_mean": _with_mean(_variance),
    "std_mean": _with_mean(_deviation),
    "amax": _extreme(1),
    "amin": _extreme(-1),
    "prod": _product,
}
"""Operators whose result depends on the number of channels, or for which zero is not neutral."""
