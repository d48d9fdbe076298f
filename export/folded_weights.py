"""Weights that a program computes from parameters, replaced by their values for the file.

Parametrizations (``weight_norm``, ``orthogonal``, any function of a weight) compute a weight on every call. The program
keeps them, so that it can be trained. The file gets the values: many of these operators have no ONNX form
(``matrix_exp``, decompositions of matrices), and the others would be computed at every run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..core.graph_state import overwritten
from .program_edit import assembled, constants_of, copied, declare_constant
from .qdq.retarget import DYNAMIC, QDQ

if TYPE_CHECKING:
    from torch.export import ExportedProgram
    from torch.fx import Node

_MOVES = ("clone", "contiguous", "reshape", "_to_copy", "to", "cat", "concat", "stack", "repeat")
_SMALL_BYTES = 65536
"""Values up to this size are stored even if the parameters from which they are computed stay in the file too."""


def fold_weights(program: ExportedProgram) -> ExportedProgram:
    """A copy of the program that reads the values of what it computes from parameters alone, if there is anything.

    Values that are only moved or cast stay, and so do large ones that would make the file larger.
    """
    import torch

    values: dict[Any, Any] = dict(constants_of(program))
    sources = _computed_from(program, values)
    returned = set(program.graph.output_node().all_input_nodes)  # a constant may not be an output
    read = _real([node for node in sources if any(user not in sources for user in node.users)])
    kept = {item for node in read if all(map(_moves, _chain(node))) for item in sources[node]}
    chosen = [node for node in read if node not in returned and _is_stored(node, sources[node] - kept)]
    if not chosen:
        return program
    module, signature = copied(program)
    copies = dict(zip(program.graph.nodes, module.graph.nodes, strict=True))
    constants, known = dict(program.constants), dict[Any, Any]()
    with torch.no_grad():
        for node in chosen:
            constants[f"folded_{node.name}"] = _evaluate(node, values, known).detach().clone().contiguous()
    for node in chosen:
        name = f"folded_{node.name}"
        copies[node].replace_all_uses_with(declare_constant(module, signature, name, constants[name]))
    _erase_unread(module.graph)
    return assembled(program, module, signature, constants)


def _computed_from(program: ExportedProgram, values: dict[Any, Any]) -> dict[Node, set[Node]]:
    """The parameters and constants from which each node is computed, for nodes that depend on nothing else."""
    found: dict[Node, set[Node]] = {}
    written = overwritten(program.graph)
    for node in program.graph.nodes:
        if node in written:
            continue
        if node.op == "placeholder":
            if node.name in values:
                found[node] = {node}
        elif _is_function(node) and all(item in found for item in node.all_input_nodes):
            found[node] = set().union(*(found[item] for item in node.all_input_nodes))
    return {node: items for node, items in found.items() if items}


def _real(nodes: list[Node]) -> list[Node]:
    """The nodes, with every complex one replaced by the real ones that it is computed from: files have no complex
    constants, but they have the Fourier transform of a real one (the kernels of S4, arXiv:2111.00396)."""
    found: list[Node] = []
    waiting = list(nodes)
    while waiting:
        node = waiting.pop(0)
        value: Any = node.meta.get("val")
        if node.op == "call_function" and hasattr(value, "dtype") and value.dtype.is_complex:
            waiting += node.all_input_nodes
        elif node not in found:
            found.append(node)
    return found


def _is_function(node: Node) -> bool:
    """Whether a node gives the same value for the same inputs, and changes nothing."""
    if node.op != "call_function" or str(node.target) in (QDQ, DYNAMIC):
        return False
    schema: Any = getattr(node.target, "_schema", None)
    if schema is None:
        return "getitem" in str(node.target)
    tags = [str(tag) for tag in getattr(node.target, "tags", ())]
    return not schema.is_mutable and not any("nondeterministic" in tag for tag in tags)


def _is_stored(node: Node, freed: set[Node]) -> bool:
    """Whether the file gets the value of a node: computed, and not larger than the parameters that it replaces."""
    value: Any = node.meta.get("val")
    chain = _chain(node)
    if all(map(_moves, chain)) or not hasattr(value, "dtype") or value.dtype.is_complex:
        return False
    if any("linalg" in str(item.target) for item in chain):
        return True
    return _bytes(value) <= max(_SMALL_BYTES, sum(_bytes(item.meta["val"]) for item in freed))


def _chain(node: Node) -> list[Node]:
    """The node and all operators that it is computed by."""
    found, waiting = [], [node]
    while waiting:
        item = waiting.pop()
        if item.op == "call_function" and item not in found:
            found.append(item)
            waiting += item.all_input_nodes
    return found


def _moves(node: Node) -> bool:
    schema: Any = getattr(node.target, "_schema", None)
    if schema is None:
        return True
    if str(schema.name) == "aten::view_as_real":
        return False  # files have no complex constants
    view = any(item.alias_info is not None for item in schema.returns)
    return view or not node.all_input_nodes or str(schema.name).partition("::")[2] in _MOVES


def _writes(node: Node) -> bool:
    schema: Any = getattr(node.target, "_schema", None)
    return schema is not None and bool(schema.is_mutable)


def _bytes(value: Any) -> int:
    return int(value.numel()) * int(value.element_size())


def _evaluate(node: Node, values: dict[Any, Any], known: dict[Node, Any]) -> Any:
    if node.op == "placeholder":
        return values[node.name]
    if node not in known:
        from torch.fx import map_arg

        arguments = map_arg((node.args, node.kwargs), lambda item: _evaluate(item, values, known))
        target: Any = node.target
        known[node] = target(*arguments[0], **arguments[1])
    return known[node]


def _erase_unread(graph: Any) -> None:
    for node in reversed(list(graph.nodes)):
        if node.op == "call_function" and not node.users and not _writes(node):
            graph.erase_node(node)
