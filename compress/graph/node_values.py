"""Values inside a program: the nodes that compute them, found by name or by the path of the user's module.

A node is named by its own name in the graph (``relu_3``) or by the dotted path of a submodule of the user
(``layer1.0``), which stands for the last value that this submodule computes.
"""

from __future__ import annotations

import difflib
import operator
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import fx

from ...core.aten_names import operator_name
from ...core.errors import ModelError
from ...core.tensors import BATCH
from ..program import Program, evaluating, ordered
from .module_edit import Shapes, shapes_of
from .rows import batch_axes, row_count, rows
from .train_eval_mode import owner

OBSERVED = "node:"
"""Prefix of the names of observed values among the outputs of a program."""
_HOOKED = "_empty_nn_module_stack_from_metadata_hook"


@dataclass(frozen=True)
class NodeValue:
    """A tensor that a program computes.

    Attributes:
        name: of the node in the graph.
        path: dotted path of the user's submodule that computes it; empty for the model itself.
        operator: such as ``conv2d``.
        shape: sizes; ``batch`` for an axis that has the size of the batch.
        dtype: such as ``float32``.
    """

    name: str
    path: str
    operator: str
    shape: tuple[int | str, ...]
    dtype: str

    @property
    def floating(self) -> bool:
        """Whether it consists of floating-point numbers."""
        return self.dtype.startswith(("float", "bfloat"))

    def describe(self) -> str:
        """``layer1.0 (add): [batch, 8, 16, 16]``."""
        sizes = ", ".join(str(size) for size in self.shape)
        return f"{self.path or self.name} ({self.name}): [{sizes}]"


def path_of(node: fx.Node) -> str:
    """Dotted path of the user's submodule from which a node came; empty for the model itself."""
    path = owner(node)
    return "" if path == _HOOKED else path


def node_values(program: Program) -> list[NodeValue]:
    """The tensors that a program computes from its inputs, in the order of computation.

    Parameters and constants are left out. An axis is called ``batch`` if it grows with the number of samples.
    """
    shapes, longer = _shapes_of_two_batches(program)
    found = []
    for node in program.module.graph.nodes:
        if node.op != "call_function" or node not in shapes:
            continue
        shape, dtype = shapes[node]
        other = longer.get(node, (shape, dtype))[0]
        same = len(shape) == len(other)
        sizes = tuple(BATCH if same and size != other[axis] else int(size) for axis, size in enumerate(shape))
        found.append(NodeValue(node.name, path_of(node), operator_name(node), sizes, str(dtype).split(".")[-1]))
    return found


def _shapes_of_two_batches(program: Program) -> tuple[Shapes, Shapes]:
    """Shapes for the example, and for an example with one more sample; the same twice if the batch is fixed."""
    with evaluating(program):
        shapes = shapes_of(program)
        if program.signature.fixed_batch:
            return shapes, shapes
        axes = batch_axes(program.signature)
        feeds = ordered(program)
        more = rows(feeds, row_count(feeds, axes) + 1, axes)
        return shapes, shapes_of(Program(program.module, program.signature, more))


def find_node(program: Program, name: str, whose: str = "the program") -> fx.Node:
    """The node with a name, or the last node of the user's submodule with this path.

    Args:
        whose: the program's part in messages, such as ``the student``.

    Raises:
        ModelError: there is neither; the message names the nearest ones.
    """
    nodes: list[fx.Node] = [node for node in program.module.graph.nodes if _computes_a_tensor(node)]
    exact = [node for node in nodes if node.name == name]
    inside = [node for node in nodes if _is_inside(path_of(node), name)]
    found: list[fx.Node] = exact or inside
    if found:
        return found[-1]
    known = list(dict.fromkeys([*_prefixes(path_of(node) for node in nodes), *(node.name for node in nodes)]))
    near = difflib.get_close_matches(name, [one for one in known if one], n=3, cutoff=0.4)
    listed = f"; nearest: {', '.join(near)}" if near else ""
    raise ModelError(
        f"{whose} has no layer '{name}'{listed}", "list the layers with `retort show MODEL --nodes`", layer=name
    )


def _computes_a_tensor(node: fx.Node) -> bool:
    """Whether a node computes one tensor, not several and not a size."""
    if node.op != "call_function":
        return False
    if not isinstance(node.target, torch._ops.OpOverload):
        return node.target is operator.getitem
    returns = node.target._schema.returns
    return len(returns) == 1 and str(returns[0].type) == "Tensor"


def _is_inside(path: str, name: str) -> bool:
    return bool(name) and (path == name or path.startswith(f"{name}."))


def _prefixes(paths: Iterator[str]) -> Iterator[str]:
    for path in paths:
        parts = path.split(".")
        yield from (".".join(parts[:count]) for count in range(1, len(parts) + 1))


@contextmanager
def observing(program: Program, names: Sequence[str]) -> Iterator[None]:
    """Within this context the program's module returns the values of these nodes after its outputs, in this order.

    Parameters, buffers and the signature are not changed.

    Args:
        names: of nodes of the graph.

    Raises:
        ModelError: there is no such node.
    """
    if not names:
        yield
        return
    output = program.module.graph.output_node()
    before = output.args
    observe(program, names)
    try:
        yield
    finally:
        output.args = before
        program.module.recompile()


def observe(program: Program, names: Sequence[str]) -> None:
    """Make the program's module return the values of these nodes after its outputs, from now on.

    Raises:
        ModelError: there is no such node.
    """
    output = program.module.graph.output_node()
    values = output.args[0]
    assert isinstance(values, tuple | list)
    output.args = ((*values, *(find_node(program, name) for name in names)),)
    program.module.recompile()


def named_values(program: Program, observed: Sequence[str], values: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
    """What a program returned, by name: its outputs, and the observed values as ``node:NAME``."""
    names = [*(spec.name for spec in program.signature.outputs), *(f"{OBSERVED}{name}" for name in observed)]
    return dict(zip(names, values, strict=True))
