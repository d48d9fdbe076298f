"""Rewrites complex numbers as pairs of real ones, as rotary embeddings use them; ONNX has no complex arithmetic.

A complex tensor ``[…]`` becomes a real one ``[…, 2]``. A graph with any other complex operator (a Fourier transform) is
left as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from ...core.aten_names import name_of
from ..graph.node_writer import NodeWriter

_aten = torch.ops.aten
_SAME = ("alias", "clone", "contiguous", "detach", "resolve_conj", "lift_fresh_copy")
_CONJUGATES = ("_conj", "conj", "conj_physical", "_conj_physical")
_SIZES = ("view", "reshape", "expand")
_AXIS = ("slice", "select", "unsqueeze", "squeeze")
Write = Callable[..., Any]


def expand_complex_numbers(graph: fx.Graph) -> None:
    """Write every complex value as a pair of real ones, if all operators that make or read one are known."""
    touched = [node for node in graph.nodes if node.op != "get_attr" and _touches(node)]
    if not touched or not all(_is_known(node) for node in touched):
        return
    pairs: dict[fx.Node, fx.Node] = {}
    for node in touched:
        write = NodeWriter(graph, node)
        for source in node.all_input_nodes:
            if source.op == "get_attr" and _is_complex(source) and source not in pairs:
                pairs[source] = write(_aten.view_as_real.default, source)
        made = _made(write, node, pairs)
        if _is_complex(node):
            pairs[node] = made
        else:
            node.replace_all_uses_with(made)
    for node in reversed(touched):
        graph.erase_node(node)


def _is_complex(node: Any) -> bool:
    value = node.meta.get("val") if isinstance(node, fx.Node) else None
    return isinstance(value, torch.Tensor) and value.dtype.is_complex


def _touches(node: fx.Node) -> bool:
    return _is_complex(node) or any(map(_is_complex, node.all_input_nodes))


def _is_known(node: fx.Node) -> bool:
    """Whether a node that makes or reads complex numbers can be written with pairs."""
    name, inputs = name_of(node), node.all_input_nodes
    if node.op != "call_function":
        return False
    if name in ("view_as_complex", "complex", "polar", "view_as_real", "real", "imag", "abs", "neg"):
        return True
    if name in (*_SAME, *_CONJUGATES, *_SIZES, *_AXIS, "transpose", "permute", "flatten"):
        axes = node.args[1:2] if name in _AXIS else ()
        return not node.kwargs and all(isinstance(axis, int) for axis in axes)
    if name in ("add", "sub"):
        return not node.kwargs and len(node.args) == 2 and all(map(_is_complex, node.args))
    if name in ("mul", "div"):
        first, second = node.args[:2]
        number = isinstance(second, int | float) or (isinstance(second, fx.Node) and not _is_complex(second))
        return not node.kwargs and _is_complex(first) and (number or (name == "mul" and _is_complex(second)))
    return name == "cat" and all(map(_is_complex, inputs))


def _made(write: Write, node: fx.Node, pairs: dict[fx.Node, fx.Node]) -> Any:
    """The pair, or the real value, that a node gives."""
    name = name_of(node)
    args: Any = fx.map_arg(node.args, lambda item: pairs.get(item, item))
    target: Any = node.target
    if name in ("view_as_complex", "view_as_real", *_SAME):
        return args[0]
    if name in ("complex", "polar", *_CONJUGATES, "real", "imag", "abs"):
        return _parts(write, name, args)
    if name in _SIZES:
        return write(target, args[0], [*args[1], 2])
    if name in (*_AXIS, "transpose"):
        axes = 2 if name == "transpose" else 1
        moved = [_before_the_pair(axis) for axis in args[1 : 1 + axes]]
        return write(target, args[0], *moved, *args[1 + axes :])
    if name == "flatten":
        ends = (*args[1:], *(0, -1)[len(args) - 1 :])
        return write(target, args[0], *[_before_the_pair(axis) for axis in ends])
    if name == "permute":
        rank = len(args[1])
        return write(target, args[0], [*(axis % rank for axis in args[1]), rank])
    if name == "cat":
        return write(target, args[0], _before_the_pair(args[1] if len(args) > 1 else 0))
    if name in ("mul", "div") and isinstance(node.args[1], fx.Node):
        return _product(write, node, args)
    return write(target, *args)


def _parts(write: Write, name: str, args: Any) -> Any:
    """Operators on real and imaginary parts."""
    if name == "complex":
        return write(_aten.stack.default, [args[0], args[1]], -1)
    if name == "polar":
        parts = [write(_aten.mul.Tensor, args[0], write(turn.default, args[1])) for turn in (_aten.cos, _aten.sin)]
        return write(_aten.stack.default, parts, -1)
    real, imaginary = _split(write, args[0])
    if name in ("real", "imag"):
        return real if name == "real" else imaginary
    if name == "abs":
        squares = [write(_aten.mul.Tensor, part, part) for part in (real, imaginary)]
        return write(_aten.sqrt.default, write(_aten.add.Tensor, *squares))
    return write(_aten.stack.default, [real, write(_aten.neg.default, imaginary)], -1)


def _product(write: Write, node: fx.Node, args: Any) -> Any:
    if not _is_complex(node.args[1]):
        return write(node.target, args[0], write(_aten.unsqueeze.default, args[1], -1))
    (a, b), (c, d) = (_split(write, pair) for pair in args[:2])
    real = write(_aten.sub.Tensor, write(_aten.mul.Tensor, a, c), write(_aten.mul.Tensor, b, d))
    imaginary = write(_aten.add.Tensor, write(_aten.mul.Tensor, a, d), write(_aten.mul.Tensor, b, c))
    return write(_aten.stack.default, [real, imaginary], -1)


def _split(write: Write, pair: Any) -> tuple[Any, Any]:
    real, imaginary = (write(_aten.select.int, pair, -1, index) for index in (0, 1))
    return real, imaginary


def _before_the_pair(axis: int) -> int:
    """An axis of a complex tensor in its pair, which has one axis more at the end."""
    return axis if axis >= 0 else axis - 1
