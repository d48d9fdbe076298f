"""Cost of a captured graph: parameters, bytes and multiply-accumulates, computed by shape propagation."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import fx

from ...core.aten_names import (
    ATTENTION,
    CONVOLUTIONS,
    GENERAL_CONVOLUTIONS,
    OPERANDS,
    RECURRENT,
    RECURRENT_CELLS,
    TRANSPOSED,
    VECTOR_PRODUCTS,
    name_of,
    out_of_place,
)
from . import train_eval_mode
from .rows import BatchAxes, rows
from .workarounds import DataDependentOutputException, FakeTensorMode

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Cost:
    """The cost of a program.

    Attributes:
        parameters: number of trainable values; shared ones are counted once.
        parameter_bytes: their bytes in their own dtype.
        macs: multiply-accumulates of convolutions, matrix products, attention and recurrent layers for one sample.
    """

    parameters: int
    parameter_bytes: int
    macs: int


def measure(module: fx.GraphModule, feeds: Mapping[str, torch.Tensor], axes: BatchAxes | None = None) -> Cost:
    """The cost of a graph; ``feeds`` give the input shapes, of which one row is used."""
    weights = list(module.parameters())
    return Cost(
        parameters=sum(weight.numel() for weight in weights),
        parameter_bytes=sum(weight.numel() * weight.element_size() for weight in weights),
        macs=sum(node_macs(module, feeds, axes).values()),
    )


def node_macs(
    module: fx.GraphModule, feeds: Mapping[str, torch.Tensor], axes: BatchAxes | None = None
) -> dict[str, int]:
    """Multiply-accumulates for one sample by node name; nodes without any are omitted."""
    code = [graph.code for graph in train_eval_mode.graphs(module)]
    state = [*module.state_dict().values(), *feeds.values()]
    key = *code, *[(tuple(tensor.shape), tensor.dtype) for tensor in state]
    if module not in _KNOWN or _KNOWN[module][0] != key:
        _KNOWN[module] = key, _count(module, rows(feeds, 1, axes))
    return dict(_KNOWN[module][1])


_KNOWN: WeakKeyDictionary[fx.GraphModule, tuple[tuple[Any, ...], dict[str, int]]] = WeakKeyDictionary()
"""The last count of a graph, with its code and shapes, because stages need it many times."""


def _count(module: fx.GraphModule, feeds: Mapping[str, torch.Tensor]) -> dict[str, int]:
    try:
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            counter = _Counter(module, mode)
            counter.run(*map(mode.from_tensor, feeds.values()))
    except DataDependentOutputException:  # numbers are read from tensors (`.item()`), but fake tensors have no values
        with torch.no_grad():
            counter = _Counter(module, None)
            counter.run(*(row.to(_device(module)) for row in feeds.values()))
    return counter.macs


def _device(module: fx.GraphModule) -> torch.device:
    return next((weight.device for weight in module.parameters()), torch.device("cpu"))


class _Counter(fx.Interpreter):
    """Runs a graph in evaluation mode on fake tensors (without a fake mode on real ones), and counts operations."""

    def __init__(self, module: fx.GraphModule, mode: FakeTensorMode | None) -> None:
        super().__init__(module)
        self.macs: dict[str, int] = {}
        self._mode = mode
        self._fakes: dict[int, torch.Tensor] = {}

    def fetch_attr(self, target: str) -> Any:
        """A fake tensor instead of a parameter or buffer."""
        value = super().fetch_attr(target)
        if self._mode is None or not isinstance(value, torch.Tensor):
            return value
        return self._fakes.setdefault(id(value), self._mode.from_tensor(value))

    def run_node(self, n: fx.Node) -> Any:
        """Propagate shapes through one node and count it."""
        if n.op != "call_function":
            return super().run_node(n)
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        named = _bind(n, args, kwargs)
        rule = _RULES.get(out_of_place(name_of(n)))
        result = _recurrent_shapes(named) if rule is _recurrent else self._call(n, args, kwargs, named)
        if rule is not None:
            self.macs[n.name] = rule(named, result)
        return result

    def _call(self, node: fx.Node, args: Any, kwargs: Any, named: dict[str, Any]) -> Any:
        if isinstance(node.target, torch._ops.HigherOrderOperator):
            return self._wrapped(node, args, kwargs)
        name = train_eval_mode.mode_argument(node)
        if name is not None and train_eval_mode.TRAINS in node.meta:
            named = {**named, name: train_eval_mode.off(name)}
            args, kwargs = tuple(named[item.name] for item in _schema(node) if not item.kwarg_only), {}
            kwargs = {item.name: named[item.name] for item in _schema(node) if item.kwarg_only}
        return self.call_function(node.target, args, kwargs)

    def _wrapped(self, node: fx.Node, args: Any, kwargs: Any) -> Any:
        """Count bodies under no_grad or autocast as part of the graph, and only the more expensive of two branches."""
        bodies = [index for index, item in enumerate(args) if isinstance(item, fx.GraphModule)]
        kind = node.target.name()  # type: ignore[union-attr]
        if not bodies or not kind.startswith(("wrap_", "cond")):
            return self.call_function(node.target, args, kwargs)
        operands = args[bodies[-1] + 1 :]
        if kind == "cond":
            operands = operands[0]
        inner = [_Counter(args[index], self._mode) for index in bodies]
        results = [counter.run(*operands) for counter in inner]
        larger = max(inner, key=lambda counter: sum(counter.macs.values()))
        self.macs.update({f"{node.name}.{name}": count for name, count in larger.macs.items()})
        return results[0]


def _schema(node: fx.Node) -> list[Any]:
    return list(node.target._schema.arguments) if isinstance(node.target, torch._ops.OpOverload) else []


def _bind(node: fx.Node, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """All arguments of an operator by name, including defaults."""
    schema = _schema(node)
    bound = {item.name: item.default_value for item in schema}
    return {**bound, **dict(zip((item.name for item in schema), args)), **kwargs}


def _conv(named: dict[str, Any], result: torch.Tensor) -> int:
    return int(result.numel() * math.prod(named["weight"].shape[1:]))


def _conv_transpose(named: dict[str, Any], result: torch.Tensor) -> int:
    return int(named["input"].numel() * math.prod(named["weight"].shape[1:]))


def _convolution(named: dict[str, Any], result: torch.Tensor) -> int:
    return (_conv_transpose if named["transposed"] else _conv)(named, result)


def _linear(named: dict[str, Any], result: torch.Tensor) -> int:
    return result.numel() * int(named["weight"].shape[-1])


def _product(first: str) -> Callable[[dict[str, Any], torch.Tensor], int]:
    """Any matrix product: every output value sums over the last axis of the first factor."""
    return lambda named, result: result.numel() * int(named[first].shape[-1])


def _addbmm(named: dict[str, Any], result: torch.Tensor) -> int:
    return int(named["batch1"].numel()) * int(named["batch2"].shape[-1])


def _bilinear(named: dict[str, Any], result: torch.Tensor) -> int:
    return int(result.numel() * math.prod(named["weight"].shape[1:]))


def _einsum(named: dict[str, Any], result: torch.Tensor) -> int:
    """Count an einsum; operands are contracted pairwise from the left, as PyTorch does without a path optimiser."""
    left, _, right = named["equation"].replace(" ", "").partition("->")
    terms = left.split(",")
    terms = _spell_ellipsis(terms, [tensor.dim() for tensor in named["tensors"]])
    sizes: dict[str, int] = {}
    for term, tensor in zip(terms, named["tensors"]):
        sizes.update({label: max(size, sizes.get(label, 1)) for label, size in zip(term, tensor.shape)})
    total, held = 0, set(terms[0])
    for index, term in enumerate(terms[1:], start=1):
        joint = held | set(term)
        total += math.prod(sizes[label] for label in joint)
        later = set("".join(terms[index + 1 :])) | set(right) | {label for label in joint if label.isdigit()}
        held = joint & later
    return total


def _spell_ellipsis(terms: list[str], ranks: list[int]) -> list[str]:
    """Replace ``...`` by digits, aligned at the right."""
    spelled = []
    for term, rank in zip(terms, ranks):
        extra = rank - len(term.replace("...", ""))
        spelled.append(term.replace("...", "".join(str(9 - place) for place in reversed(range(extra)))))
    return spelled


def _attention(named: dict[str, Any], result: torch.Tensor) -> int:
    """Scores and the weighted sum: ``[…, L, E] x [E, S]`` and ``[…, L, S] x [S, Ev]``."""
    query, key = named["query"], named["key"]
    scores = int(math.prod(query.shape[:-1])) * int(key.shape[-2])
    return scores * (int(query.shape[-1]) + int(result.shape[-1]))


def _recurrent(named: dict[str, Any], result: Any) -> int:
    """Every weight matrix is used once per step and sample."""
    steps = int(math.prod(_sequence(named).shape[:-1]))
    return steps * sum(int(weight.numel()) for weight in named["params"] if weight.dim() == 2)


def _cell(named: dict[str, Any], result: Any) -> int:
    rows = int(named["input"].numel()) // int(named["input"].shape[-1])
    return rows * (int(named["w_ih"].numel()) + int(named["w_hh"].numel()))


def _sequence(named: dict[str, Any]) -> torch.Tensor:
    sequence: torch.Tensor = named["data"] if "data" in named else named["input"]
    return sequence


def _recurrent_shapes(named: dict[str, Any]) -> tuple[torch.Tensor, ...]:
    """Outputs of a recurrent layer without unrolling its steps."""
    sequence = _sequence(named)
    states = named["hx"] if isinstance(named["hx"], list | tuple) else [named["hx"]]
    width = int(states[0].shape[-1]) * (2 if named["bidirectional"] else 1)
    return (sequence.new_empty((*sequence.shape[:-1], width)), *(state.new_empty(state.shape) for state in states))


_SUMS_OVER_LAST = ("mm", "bmm", "matmul", "addmm", "addmv", "baddbmm", *VECTOR_PRODUCTS)
Rule = Callable[[dict[str, Any], Any], int]
_RULES: dict[str, Rule] = {
    **dict.fromkeys(CONVOLUTIONS, _conv),
    **dict.fromkeys(TRANSPOSED, _conv_transpose),
    **dict.fromkeys(GENERAL_CONVOLUTIONS, _convolution),
    **{name: _product(OPERANDS[name].data) for name in _SUMS_OVER_LAST},
    **dict.fromkeys(RECURRENT, _recurrent),
    **dict.fromkeys(RECURRENT_CELLS, _cell),
    "linear": _linear,
    "addbmm": _addbmm,
    "bilinear": _bilinear,
    "einsum": _einsum,
    ATTENTION: _attention,
}
