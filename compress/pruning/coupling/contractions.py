"""Coupling rules of contractions: they consume the labels of the summed dimensions and produce those of the output."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import fx

from ....core.aten_names import ATTENTION, CONVOLUTIONS, RECURRENT, TRANSPOSED, VECTOR_PRODUCTS
from .coupler import Arguments, Coupler, Result, Unsupported, made_of_parameters, place
from .labels import Value


def convolution(c: Coupler, node: fx.Node, a: Arguments) -> Value:
    """Convolutions of any rank, grouped, depthwise and transposed."""
    transposed = bool(a["transposed"]) if "transposed" in a else "transpose" in str(node.target)
    source, weight, groups = c.of(a["input"]), c.of(a["weight"]), int(c.fill(a["groups"]))
    rank = len(weight.shape)
    if len(source.shape) != rank:
        raise Unsupported("takes inputs without a batch axis")
    spatial = range(2, rank)
    source, weight = c.keep(source, spatial, node), c.keep(weight, spatial, node)
    channels = source.shape[1]
    labelled = bool(source.arrays)
    inside = channels // groups
    x = _regroup(c, source, [source.shape[0], groups, inside])
    if transposed:
        letters, w = ("g", "i", "o"), _regroup(c, weight, [groups, inside, weight.shape[1]])
    else:
        letters, w = ("g", "o", "i"), _regroup(c, weight, [groups, weight.shape[0] // groups, weight.shape[1]])
    if groups > 1:
        whole = labelled and groups >= inside
        x = c.keep(x, [2] if whole else [1], node)
        w = c.keep(w, [1, 2] if whole else [0], node)
    out = c.contract(node, [(x, ("n", "g", "i")), (w, letters)], ("n", "g", "o"))
    c.produce(node, a["weight"], 1 if transposed else 0)
    return _finish_convolution(c, node, a, out)


def _regroup(c: Coupler, value: Value, shape: Sequence[int]) -> Value:
    """The leading two dimensions reshaped to ``shape``, without the spatial dimensions, which are constant here."""
    arrays = [array.flatten(2)[:, :, 0] if array.dim() > 2 else array for array in value.arrays]
    return c.settled(shape, [array.reshape(tuple(shape)) for array in arrays], value.why)


def _finish_convolution(c: Coupler, node: fx.Node, a: Arguments, out: Value) -> Value:
    shape = c.shape(node)
    flat = (shape[0], shape[1], *[1] * (len(shape) - 2))
    arrays = [array.reshape(flat).expand(shape) for array in out.arrays]
    result = c.settled(shape, arrays, out.why)
    if a["bias"] is not None:
        result = c.meet(node, [result, place(c.of(a["bias"]), len(shape), 1)])
    return result


def linear(c: Coupler, node: fx.Node, a: Arguments) -> Value:
    """``[…, i] x [o, i]``."""
    source, weight = c.of(a["input"]), c.of(a["weight"])
    batch = _letters(len(source.shape) - 1)
    weight_letters = ("o", "i")[-len(weight.shape) :] if len(weight.shape) > 1 else ("i",)
    out = c.contract(
        node, [(source, (*batch, "i")), (weight, weight_letters)], (*batch, "o") if len(weight.shape) > 1 else batch
    )
    if len(weight.shape) > 1:
        c.produce(node, a["weight"], 0)
    return out if a["bias"] is None else c.meet(node, [out, c.of(a["bias"])])


def bilinear(c: Coupler, node: fx.Node, a: Arguments) -> Value:
    """``[…, i] x [o, i, j] x […, j]``."""
    first, weight, second = c.of(a["input1"]), c.of(a["weight"]), c.of(a["input2"])
    batch = _letters(len(first.shape) - 1)
    out = c.contract(node, [(first, (*batch, "i")), (weight, ("o", "i", "j")), (second, (*batch, "j"))], (*batch, "o"))
    c.produce(node, a["weight"], 0)
    return out if a["bias"] is None else c.meet(node, [out, c.of(a["bias"])])


def matmul(c: Coupler, node: fx.Node, a: Arguments) -> Value:
    """``[…, m, k] x […, k, n]`` with broadcasting, and the vector forms."""
    first, second = c.of(a["self"]), c.of(a.get("other", a.get("mat2", a.get("vec", a.get("tensor")))))
    return _product(c, node, first, second, a)


def _product(c: Coupler, node: fx.Node, first: Value, second: Value, a: Arguments) -> Value:
    rank = max(len(first.shape), len(second.shape), 2) - 2
    batch = _letters(rank)

    def _own_letters(value: Value, own: tuple[str, str], vector: str) -> tuple[str, ...]:
        if len(value.shape) == 1:
            return (vector,)
        return (*batch[rank - (len(value.shape) - 2) :], *own)

    left, right = _own_letters(first, ("m", "k"), "k"), _own_letters(second, ("k", "n"), "k")
    out = (*batch, *[letter for letter in ("m", "n") if letter in (*left, *right)])
    result = c.contract(node, [(first, left), (second, right)], out)
    for key, dim in (("other", -1), ("mat2", -1), ("batch2", -1)):
        operand = a.get(key)
        if isinstance(operand, fx.Node) and made_of_parameters(operand) and len(second.shape) > 1:
            c.produce(node, operand, len(second.shape) + dim)
    return result


def add_product(c: Coupler, node: fx.Node, a: Arguments) -> Value:
    """``addmm`` and ``baddbmm``: a product plus a tensor that broadcasts to it."""
    first, second = c.of(a.get("mat1", a.get("batch1"))), c.of(a.get("mat2", a.get("batch2")))
    return c.meet(node, [_product(c, node, first, second, a), c.of(a["self"])])


def einsum(c: Coupler, node: fx.Node, a: Arguments) -> Value:
    """Any Einstein summation, with ``…`` and without repeated letters in one operand."""
    left, arrow, right = str(a["equation"]).replace(" ", "").partition("->")
    values = [c.of(item) for item in a["tensors"]]
    terms = [_spell(term, len(value.shape)) for term, value in zip(left.split(","), values)]
    if any(len(set(term)) != len(term) for term in terms):
        raise Unsupported("takes a diagonal")
    if not arrow:
        flat = [letter for term in terms for letter in term]
        right = "".join(sorted({letter for letter in flat if flat.count(letter) == 1 and len(letter) == 1}))
    out = _spell(right, len(c.shape(node)))
    for item, term in zip(a["tensors"], terms):
        others = {letter for other in terms if other is not term for letter in other}
        if made_of_parameters(item):
            for dim, letter in enumerate(term):
                if letter in out and letter not in others:
                    c.produce(node, item, dim)
    return c.contract(node, list(zip(values, terms)), out)


def _spell(term: str, rank: int) -> list[str]:
    """Letters, with ``…`` spelled out and aligned at the right."""
    before, dots, after = term.partition("...")
    extra = rank - len(before) - len(after) if dots else 0
    return [*before, *(f"…{index}" for index in reversed(range(extra))), *after]


def _letters(count: int) -> tuple[str, ...]:
    return tuple(f"b{index}" for index in range(count))


def attention(c: Coupler, node: fx.Node, a: Arguments) -> Value:
    """``softmax(q k^T + mask) v``: complete heads or the head dimension can be removed, see :attr:`Coupler.narrow`."""
    query, key, value = (c.of(a[name]) for name in ("query", "key", "value"))
    if a["enable_gqa"]:
        key, value = (_repeat_heads(c, item, query.shape[-3] // item.shape[-3]) for item in (key, value))
    rank = len(query.shape)
    batch = _letters(rank - 2)
    key, value = c.keep(key, [rank - 2], node), c.keep(value, [rank - 2], node)
    sizes = query.shape[-1], value.shape[-1]
    share = sizes[0] / sum(sizes)
    scores = c.contract(node, [(query, (*batch, "l", "d")), (key, (*batch, "s", "d"))], (*batch, "l", "s"), share)
    if a["attn_mask"] is not None:
        scores = c.meet(node, [scores, c.of(a["attn_mask"])])
    scores = c.keep(scores, [rank - 1], node)
    return c.contract(node, [(scores, (*batch, "l", "s")), (value, (*batch, "s", "e"))], (*batch, "l", "e"), 1 - share)


def _repeat_heads(c: Coupler, value: Value, times: int) -> Value:
    shape = list(value.shape)
    shape[-3] *= times
    return c.settled(shape, [array.repeat_interleave(times, -3) for array in value.arrays], value.why)


def recurrent(c: Coupler, node: fx.Node, a: Arguments) -> Result:
    """LSTM, GRU and plain recurrent layers: one hidden size, and one projected size, for all layers and directions."""
    if "batch_sizes" in a:
        raise Unsupported("takes packed sequences")
    states = list(a["hx"]) if isinstance(a["hx"], list | tuple) else [a["hx"]]
    params = list(a["params"])
    directions = 2 if a["bidirectional"] else 1
    per_layer = len(params) // (int(a["num_layers"]) * directions)
    projects = per_layer > (4 if a["has_biases"] else 2)
    hiddens = c.unions.fresh(c.shape(states[-1])[-1])
    carried = c.unions.fresh(c.shape(states[0])[-1]) if projects else hiddens
    for state, ids in zip(states, (carried, hiddens)):
        c.keep(c.of(state), range(len(c.shape(state)) - 1), node)
        c.meet(node, [c.of(state), Value((len(ids),), [ids])])
    source = c.of(a["input"])
    total = sum(math.prod(c.shape(item)) for item in params if len(c.shape(item)) == 2)
    layer_input = c.keep(source, range(len(source.shape) - 1), node)
    layer_input = Value(source.shape[-1:], [array[(0,) * (array.dim() - 1)] for array in layer_input.arrays])
    for start in range(0, len(params), per_layer * directions):
        for first in range(start, start + per_layer * directions, per_layer):
            _recurrent_weights(c, node, params[first : first + per_layer], layer_input, hiddens, carried, total)
        layer_input = Value((len(carried) * directions,), [carried.repeat(directions)])
    return _recurrent_outputs(c, node, (carried.repeat(directions), carried, hiddens))


def _recurrent_weights(
    c: Coupler,
    node: fx.Node,
    params: list[fx.Node],
    source: Value,
    hiddens: torch.Tensor,
    carried: torch.Tensor,
    total: int,
) -> None:
    gates = c.shape(params[0])[0] // len(hiddens)
    rows = Value((gates * len(hiddens),), [hiddens.repeat(gates)])
    state = Value((len(carried),), [carried])
    products = [(params[0], rows, source), (params[1], rows, state)]
    if carried is not hiddens:
        products.append((params.pop(), state, Value((len(hiddens),), [hiddens])))
        c.produce(node, products[-1][0], 0)
    for weight, made, read in products:
        share = math.prod(c.shape(weight)) / total
        known = c.contract(node, [(made, ("o",)), (read, ("i",)), (c.of(weight), ("o", "i"))], ("o",), share)
        c.meet(node, [known, made])
    for bias in params[2:]:
        c.meet(node, [c.of(bias), rows])
    c.produce(node, products[-1][0], 1)


def _recurrent_outputs(c: Coupler, node: fx.Node, labels: Sequence[torch.Tensor]) -> tuple[Value, ...]:
    outputs = zip(c.concrete[node], labels)
    return tuple(c.settled(item.shape, [ids.expand(tuple(item.shape))]) for item, ids in outputs)


def embedding(c: Coupler, node: fx.Node, a: Arguments) -> Value:
    """Rows selected by index; the columns are channels."""
    weight = c.keep(c.of(a["weight"]), [0], node)
    shape = c.shape(node)
    c.produce(node, a["weight"], 1)
    return c.settled(shape, [array[0].expand(shape) for array in weight.arrays], weight.why)


_Rule = Callable[[Coupler, fx.Node, Arguments], Result]
RULES: dict[str, _Rule] = {
    **dict.fromkeys((*CONVOLUTIONS, *TRANSPOSED, "convolution"), convolution),
    **dict.fromkeys(("matmul", "mm", "bmm", *VECTOR_PRODUCTS), matmul),
    **dict.fromkeys(("addmm", "baddbmm"), add_product),
    **dict.fromkeys(RECURRENT, recurrent),
    "linear": linear,
    "bilinear": bilinear,
    "einsum": einsum,
    ATTENTION: attention,
    "embedding": embedding,
}
