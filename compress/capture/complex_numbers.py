"""Rewrites complex numbers as pairs of real ones, as rotary embeddings use them; ONNX has no complex arithmetic.

A complex tensor ``[…]`` becomes a real one ``[…, 2]``. Fourier transforms keep their operator between two conversions,
which ONNX has. A graph with any other complex operator is left as it is.
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
        if _is_transform(node):
            _convert(graph, node, pairs)
            continue
        made = _made(write, node, pairs)
        if _is_complex(node):
            pairs[node] = made
        else:
            node.replace_all_uses_with(made)
    for node in reversed(touched):
        if not _is_transform(node):
            graph.erase_node(node)


def _is_transform(node: fx.Node) -> bool:
    return name_of(node).startswith("fft_")


def _convert(graph: fx.Graph, node: fx.Node, pairs: dict[fx.Node, fx.Node]) -> None:
    """Convert the complex inputs and the complex output of a Fourier transform."""
    for source in [item for item in node.all_input_nodes if item in pairs]:
        node.replace_input_with(source, NodeWriter(graph, node)(_aten.view_as_complex.default, pairs[source]))
    if _is_complex(node):
        pairs[node] = NodeWriter(graph, node.next)(_aten.view_as_real.default, node)


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
    if _is_transform(node):
        return True
    if name in ("zeros", "zeros_like", "new_zeros"):
        return bool(node.meta["val"].dtype == torch.complex64)
    if name == "copy_":
        return all(map(_is_complex, node.args[:2]))
    if name == "einsum":
        return len(inputs) == 2 and all(map(_is_complex, inputs)) and not node.kwargs
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
    if name in ("zeros", "zeros_like", "new_zeros"):
        sizes = [*(_size(write, node, axis) for axis in range(node.meta["val"].dim())), 2]
        return write(_aten.zeros.default, sizes, value=torch.view_as_real(node.meta["val"]))
    if name == "einsum":
        return _contracted(write, args)
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


def _size(write: Write, node: fx.Node, axis: int) -> Any:
    """The size of an axis of new zeros, as they were created."""
    size = node.meta["val"].shape[axis]
    if isinstance(size, int):
        return size
    if name_of(node) == "zeros_like":
        return write(_aten.sym_size.int, node.args[0], axis)
    sizes: Any = node.args[1] if name_of(node) == "new_zeros" else node.args[0]
    return sizes[axis]


def _contracted(write: Write, args: Any) -> Any:
    """``einsum`` of two pairs."""
    equation, (first, second) = args[:2]
    (a, b), (c, d) = _split(write, first), _split(write, second)

    def _product(left: Any, right: Any) -> Any:
        return write(_aten.einsum.default, equation, [left, right])

    real = write(_aten.sub.Tensor, _product(a, c), _product(b, d))
    imaginary = write(_aten.add.Tensor, _product(a, d), _product(b, c))
    return write(_aten.stack.default, [real, imaginary], -1)


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
