"""Coupling rules of elementwise operators, normalisations, reductions and pooling; and the table of all rules."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from ....core.aten_names import CHANNEL_NORMS, TRAILING_NORMS, operator_name
from . import contractions, data_movement, indexing
from .coupler import Arguments, Coupler, Result, Unsupported, place
from .labels import Value, varying
from .shapes import describe, words

Rule = Callable[[Coupler, fx.Node, Arguments], Result]

POINTWISE = words("""
    hardswish masked_fill dropout feature_dropout alpha_dropout feature_alpha_dropout prelu
    _prelu_kernel to _to_copy contiguous clone alias detach lift_fresh lift_fresh_copy zeros_like
    ones_like full_like rand_like randn_like empty_like copy fill floor_divide log_sigmoid bernoulli
    float half double relu6 rrelu type_as nan_to_num __and__ __or__ __xor__ where fill_diagonal
    real imag conj _conj complex polar
""")
"""Operators that compute element by element although they do not have PyTorch's ``pointwise`` tag."""

_CASTS = frozenset(("type_as", "to", "_to_copy"))
TRIANGLES = frozenset(("tril", "triu"))
ALONG = words("""
    softmax _softmax log_softmax _log_softmax softmin cumsum cumprod cummax cummin logcumsumexp sort
    topk argsort kthvalue msort
""")
"""Operators that combine all elements along one dimension, and are independent along the others."""

FOURIER = words("""
    fft_fft fft_ifft fft_rfft fft_irfft fft_hfft fft_ihfft fft_fft2 fft_ifft2 fft_rfft2 fft_irfft2
    fft_fftn fft_ifftn fft_rfftn fft_irfftn fft_fftshift fft_ifftshift
""")

STATISTICS = words("""
    mean sum nansum amax amin var std var_mean std_mean linalg_vector_norm norm prod any all max min
""")
"""Reductions that are also meaningful over the kept channels alone."""

WHOLE_STATISTICS = words("""
    argmax argmin logsumexp median nanmedian mode count_nonzero
""")
"""Reductions whose result would change its meaning if channels were removed."""

_POOL = re.compile(r"^(?:adaptive_)?(?:max|avg)_pool(\d)d(?:_with_indices)?$")
_UPSAMPLE = re.compile(r"^_?upsample_[a-z_]*?(\d)d(?:_aa)?$")


def is_pointwise(node: fx.Node) -> bool:
    """Whether a node computes element by element."""
    target = node.target
    return isinstance(target, torch._ops.OpOverload) and (
        torch.Tag.pointwise in target.tags or operator_name(node) in POINTWISE
    )


def pointwise(c: Coupler, node: fx.Node, a: Arguments) -> Result:
    """Labels of the operands are united element by element."""
    operands = [item for key, item in a.items() if isinstance(item, fx.Node) and _is_tensor(c, item)]
    if operator_name(node) in _CASTS:
        operands = operands[:1]
    if operator_name(node) in ("prelu", "_prelu_kernel"):
        return affine(c, node, c.of(a["self"]), [a["weight"]], 1)
    shape = c.shape(node)
    if not operands:
        return Value(shape, [], f"created by {describe(node)}")
    result = c.meet(node, [c.of(item) for item in operands])
    if result.shape != shape:
        raise Unsupported("changes shape")
    return result


def _is_tensor(c: Coupler, node: fx.Node) -> bool:
    return isinstance(c.concrete.get(node), Tensor)


def affine(c: Coupler, node: fx.Node, value: Value, vectors: Sequence[Any], dim: int) -> Value:
    """Unite the labels of vectors along ``dim`` with those of the value."""
    operands = [value]
    for vector in vectors:
        if isinstance(vector, fx.Node):
            known = c.of(vector)
            operands.append(place(known, len(value.shape), dim) if len(known.shape) == 1 else known)
    return c.meet(node, operands)


def channel_norm(c: Coupler, node: fx.Node, a: Arguments) -> Value:
    """Batch and instance norm: parameters and statistics per channel."""
    vectors = [a[name] for name in ("weight", "bias", "running_mean", "running_var")]
    return affine(c, node, c.of(a["input"]), vectors, 1)


def trailing_norm(c: Coupler, node: fx.Node, a: Arguments) -> Value:
    """Layer and RMS norm: statistics over the kept part of the trailing dimensions."""
    vectors = [a.get("weight"), a.get("bias")]
    return c.meet(node, [c.of(a["input"]), *[c.of(item) for item in vectors if isinstance(item, fx.Node)]])


def group_norm(c: Coupler, node: fx.Node, a: Arguments) -> Value:
    """Complete groups are removed, or equally many channels of every group, whichever is finer."""
    source, groups = c.of(a["input"]), int(a["num_groups"])
    shape = source.shape
    inside = shape[1] // groups
    split = (shape[0], groups, inside, *shape[2:])
    value = c.settled(split, [array.reshape(split) for array in source.arrays], source.why)
    value = c.keep(value, [2] if groups >= inside else [1], node)
    source = c.settled(shape, [array.reshape(shape) for array in value.arrays], value.why)
    return affine(c, node, source, [a["weight"], a["bias"]], 1)


def weight_norm(c: Coupler, node: fx.Node, a: Arguments) -> Value:
    """``g v / |v|``: the norm is computed over the kept part."""
    return c.meet(node, [c.of(a["v"]), c.of(a["g"])])


def fake_quantize(c: Coupler, node: fx.Node, a: Arguments) -> Value:
    """``retort::qdq``: labels of scales per channel are united with those of their channels."""
    source = c.of(a["x"])
    vectors = [a[name] for name in ("scale", "zero_point")]
    dim = int(a["axis"])
    return source if dim < 0 else affine(c, node, source, vectors, dim)


def reduced_dims(rank: int, a: Arguments) -> list[int]:
    """The dimensions that a reduction reduces; all if it names none."""
    dims = a.get("dim")
    listed = list(dims) if isinstance(dims, list | tuple) else [dims] if dims is not None else []
    return [int(dim) % rank for dim in listed] if rank and listed else list(range(rank))


def reduction(c: Coupler, node: fx.Node, a: Arguments) -> Result:
    """Labels along reduced dimensions end here: the statistic is computed over the kept part."""
    if isinstance(a.get("other"), fx.Node):
        return pointwise(c, node, a)
    source = c.of(_input(a))
    dims = reduced_dims(len(source.shape), a)
    whole = operator_name(node) in WHOLE_STATISTICS or (operator_name(node) in ("max", "min") and "dim" in a)
    if whole:
        source = c.keep(source, dims, node)
    return used_up(c, node, source, dims, bool(a.get("keepdim", False)))


def used_up(c: Coupler, node: fx.Node, source: Value, dims: Collection[int], keepdim: bool) -> Result:
    """The value reduced over ``dims``; labels that also vary along other dimensions are united along ``dims``."""
    mixed = [array for array in source.arrays if varying(array) & set(dims) and varying(array) - set(dims)]
    pure = [array for array in source.arrays if not any(array is other for other in mixed)]
    source = Value(source.shape, [*pure, *c.keep(Value(source.shape, mixed), dims, node).arrays], source.why)
    left = [array for array in source.arrays if not varying(array) & set(dims)]
    return shrink(c, node, Value(source.shape, left, source.why), dims, keepdim)


def likeness(c: Coupler, node: fx.Node, a: Arguments) -> Result:
    """``cosine_similarity`` and ``pairwise_distance``: two values are combined and reduced over a dimension."""
    met = c.meet(node, [c.of(a["x1"]), c.of(a["x2"])])
    return used_up(c, node, met, [int(a.get("dim", -1)) % len(met.shape)], bool(a.get("keepdim", False)))


def shrink(c: Coupler, node: fx.Node, value: Value, dims: Collection[int], keepdim: bool) -> Result:
    """The value without ``dims``, along which no label varies, in the shape of every output."""
    index = tuple((slice(0, 1) if keepdim else 0) if dim in dims else slice(None) for dim in range(len(value.shape)))
    arrays = [array[index] for array in value.arrays]
    fixed = c.fixed(node, value.why)
    if fixed is None:
        raise Unsupported("has an output that is not a tensor")
    if isinstance(fixed, tuple):
        return tuple(c.settled(item.shape, arrays, value.why) for item in fixed)
    return c.settled(fixed.shape, arrays, value.why)


def resized(c: Coupler, node: fx.Node, value: Value, dims: Sequence[int]) -> Result:
    """The value with all channels of ``dims`` kept, which have another size in every output."""
    kept = c.keep(value, dims, node)
    places = {dim % len(value.shape) for dim in dims}
    index = tuple(slice(0, 1) if dim in places else slice(None) for dim in range(len(value.shape)))
    fixed = c.fixed(node, kept.why)
    outputs = fixed if isinstance(fixed, tuple) else (fixed,)
    results = [
        c.settled(item.shape, [array[index].expand(item.shape) for array in kept.arrays], kept.why)
        for item in outputs
        if item is not None
    ]
    return tuple(results) if isinstance(fixed, tuple) else results[0]


def along(c: Coupler, node: fx.Node, a: Arguments) -> Result:
    """Softmax, sort, cumulative sums."""
    return resized(c, node, c.of(_input(a)), [int(a.get("dim", -1))])


def fourier(c: Coupler, node: fx.Node, a: Arguments) -> Result:
    """Fourier transforms need all channels of the dimensions they name, which are all by default."""
    source = c.of(_input(a))
    return resized(c, node, source, reduced_dims(len(source.shape), a))


def triangle(c: Coupler, node: fx.Node, a: Arguments) -> Value:
    """``tril`` and ``triu`` need all channels of their last two dimensions."""
    return c.keep(c.of(_input(a)), [-2, -1], node)


def spatial(rank: int) -> Rule:
    """Pooling and resampling compute each channel separately and need all of their last ``rank`` dimensions."""

    def _rule(c: Coupler, node: fx.Node, a: Arguments) -> Result:
        return resized(c, node, c.of(_input(a)), range(-rank, 0))

    return _rule


def unpool(c: Coupler, node: fx.Node, a: Arguments) -> Result:
    """``max_unpool``: values and their indices have the same channels, which are independent of each other."""
    return resized(c, node, c.meet(node, [c.of(a["self"]), c.of(a["indices"])]), range(-len(a["output_size"]), 0))


def pairs(c: Coupler, node: fx.Node, a: Arguments) -> Result:
    """``view_as_complex`` and ``view_as_real``: the two parts of a number stay together."""
    source, shape = c.of(_input(a)), c.shape(node)
    if len(shape) > len(source.shape):
        return c.settled(shape, [array.unsqueeze(-1).expand(shape) for array in source.arrays], source.why)
    source = c.keep(source, [-1], node)
    return c.settled(shape, [array[..., 0] for array in source.arrays], source.why)


def sample_grid(c: Coupler, node: fx.Node, a: Arguments) -> Result:
    """``grid_sampler``: channels keep their labels, batch rows are united with those of the grid, the grid stays."""
    grid = c.of(a["grid"])
    rank = len(grid.shape) - 2
    grid = c.keep(grid, range(1, rank + 2), node)
    index = (slice(None), *[slice(0, 1)] * (rank + 1))
    lines = Value((grid.shape[0], *[1] * (rank + 1)), [array[index] for array in grid.arrays], grid.why)
    return resized(c, node, c.meet(node, [c.of(a["input"]), lines]), range(-rank, 0))


def _input(a: Arguments) -> Any:
    return a["self"] if "self" in a else a["input"]


def find_rule(node: fx.Node) -> Rule | None:
    """The rule for a node's operator; None if there is none."""
    name = operator_name(node)
    rule = RULES.get(name) or data_movement.RULES.get(name) or indexing.RULES.get(name) or contractions.RULES.get(name)
    if rule is not None:
        return rule
    if is_pointwise(node):
        return pointwise
    match = _POOL.match(name) or _UPSAMPLE.match(name)
    return spatial(int(match.group(1))) if match else None


RULES: dict[str, Rule] = {
    **dict.fromkeys(CHANNEL_NORMS, channel_norm),
    **dict.fromkeys(TRAILING_NORMS, trailing_norm),
    **dict.fromkeys(STATISTICS | WHOLE_STATISTICS, reduction),
    **dict.fromkeys(ALONG, along),
    **dict.fromkeys(TRIANGLES, triangle),
    **dict.fromkeys(FOURIER, fourier),
    "group_norm": group_norm,
    "_weight_norm": weight_norm,
    "grid_sampler": sample_grid,
    **dict.fromkeys(("cosine_similarity", "pairwise_distance"), likeness),
    **dict.fromkeys(("max_unpool2d", "max_unpool3d"), unpool),
    **dict.fromkeys(("view_as_complex", "view_as_real"), pairs),
    "retort::qdq": fake_quantize,
}
