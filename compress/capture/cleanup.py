"""Cleanup of an exported graph: flat inputs and outputs, no dead code, no in-place changes of inputs."""

from __future__ import annotations

import copy
import itertools
import keyword
import re
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

import torch
from torch import fx

from ...core.graph_assertions import drop_assertions
from ..graph import train_eval_mode
from .canonicalize import canonicalize
from .complex_numbers import expand_complex_numbers
from .embedding_bag import expand_embedding_bags
from .inline_contexts import inline_contexts
from .masked_rows import expand_masked_rows, require_known_sizes
from .per_sample_conv import expand_per_sample_convolutions
from .tensor_products import expand_tensor_products

_aten = torch.ops.aten
_COPIES = {"aten.lift_fresh_copy.default", "aten.lift_fresh.default", "aten.detach_.default"}
_SOMETIMES_VIEWS = {"aten::reshape", "aten::contiguous", "aten::to", "aten::flatten", "aten::type_as", "aten::float"}
COUNTER = "num_batches_tracked"
TRACE = "stack_trace"
_FRAME = re.compile(r'File "([^"]+)", line (\d+), in (\S+)\n\s*([^\n]*)')
_NOT_THE_MODELS = ("<", *(str(folder) for folder in (PurePath(torch.__file__).parent, PurePath(__file__).parents[1])))
_LINE = 160
_PLAIN, _GRAPH = torch.nn.Module(), fx.GraphModule({}, fx.Graph())
_TAKEN = {*dir(_GRAPH), *vars(_GRAPH)} - {*dir(_PLAIN), *vars(_PLAIN)}


def finish(
    exported: torch.export.ExportedProgram, inputs: Sequence[str], prefix: str = ""
) -> tuple[fx.GraphModule, list[torch.Tensor], list[torch.Tensor]]:
    """A self-contained module whose ``forward`` takes the inputs by position and returns a flat tuple.

    It shares no memory with the model; parameters keep the model's names, those that no output depends on are left
    out, and so are BatchNorm's counters, which nothing reads.

    Args:
        inputs: names of the inputs, in order.
        prefix: what to strip from the names of parameters.

    Returns:
        The module and the symbolic values of its inputs and outputs.
    """
    source = exported.module(check_guards=False)
    assert isinstance(source, fx.GraphModule)
    inline_contexts(source)
    graph, values = _rebuilt(source.graph, inputs, prefix)
    _drop_counters(graph)
    _guard_inputs(graph)
    _make_functional(graph)
    canonicalize(graph)
    _use_parts(graph)
    expand_complex_numbers(graph)
    expand_tensor_products(graph)
    expand_per_sample_convolutions(graph)
    expand_embedding_bags(graph)
    drop_assertions(graph)
    expand_masked_rows(graph)
    graph.eliminate_dead_code(has_effect)
    require_known_sizes(graph)
    root = {node.target: _fetch(source, node.meta.pop("retort_source")) for node in graph.find_nodes(op="get_attr")}
    module = fx.GraphModule(copy.deepcopy(root), graph, "Program")
    for child in train_eval_mode.graphs(module):
        drop_assertions(child.graph)
        child.recompile()
    module.meta.clear()
    drop_traces(module, prefix)
    outputs = [node.meta["val"] for node in graph.output_node().args[0]]  # type: ignore[union-attr]
    return module, values, outputs


def drop_traces(module: torch.nn.Module, prefix: str = "") -> None:
    """Remove the origin of nodes except for the submodule's name and the line of the model's code.

    Class names, folders and memory addresses differ from run to run and may be private.

    Args:
        prefix: what to strip from the submodules' names.
    """
    wanted = {"val", train_eval_mode.TRAINS}
    for child in train_eval_mode.graphs(module):
        for node in child.graph.nodes:
            place = f"{train_eval_mode.owner(node)}.".removeprefix(prefix).removesuffix(".")
            line = own_line(str(node.meta.get(TRACE) or ""))
            node.meta = {key: value for key, value in node.meta.items() if key in wanted}
            node.meta |= {train_eval_mode.STACK: {"owner": (place, "")}} if place else {}
            node.meta |= {TRACE: line} if line else {}


def own_line(trace: str) -> str:
    """The innermost frame of the model's own code in a stack trace, in the same form, with the file's name alone.

    Frames of PyTorch and of Retort do not describe the model.
    """
    own = [frame for frame in _FRAME.findall(trace) if not frame[0].startswith(_NOT_THE_MODELS)]
    if not own:
        return ""
    path, line, function, text = own[-1]
    return f'File "{PurePath(path).name}", line {line}, in {function}\n    {text[:_LINE]}'


def inside(path: str) -> str:
    """The name of a model's parameter in its program: a layer called `code` would hide an attribute of the graph."""
    first, dot, rest = path.partition(".")
    return f"{first}_{dot}{rest}" if first in _TAKEN else path


def identifier(name: str) -> str:
    """A Python identifier for an input name."""
    text = re.sub(r"\W", "_", name)
    return f"_{text}" if not text.isidentifier() or keyword.iskeyword(text) else text


def _rebuilt(old: fx.Graph, inputs: Sequence[str], prefix: str) -> tuple[fx.Graph, list[torch.Tensor]]:
    graph = fx.Graph()
    copied: dict[fx.Node, fx.Node] = {}
    names = iter(inputs)
    values = []
    for node in old.nodes:
        if node.op == "output":
            results = node.args[0] if isinstance(node.args[0], tuple | list) else [node.args[0]]
            graph.output(tuple(copied[item] for item in results if isinstance(item, fx.Node)))
        elif node.op == "placeholder":
            copied[node] = graph.placeholder(identifier(next(names)))
            copied[node].meta = dict(node.meta)
            values.append(node.meta["val"])
        elif node.op == "get_attr":
            copied[node] = graph.get_attr(inside(str(node.target).removeprefix(prefix)))
            copied[node].meta = {**node.meta, "retort_source": node.target}
        else:
            copied[node] = graph.node_copy(node, lambda item: copied[item])
    return graph, values


def _fetch(module: torch.nn.Module, path: str) -> Any:
    value: Any = module
    for part in path.split("."):
        value = getattr(value, part)
    return value


def has_effect(node: fx.Node) -> bool:
    """Whether a node is needed although no node reads it; unread dropout is not needed."""
    random = isinstance(node.target, torch._ops.OpOverload) and torch.Tag.nondeterministic_seeded in node.target.tags
    return node.is_impure() and (_mutates(node) or not random)


def _drop_counters(graph: fx.Graph) -> None:
    for node in reversed(list(graph.nodes)):
        counted = node.target is _aten.add_.Tensor and isinstance(node.args[0], fx.Node) and not node.users
        if counted and str(node.args[0].target).endswith(COUNTER):
            graph.erase_node(node)


def _make_functional(graph: fx.Graph) -> None:
    """Replace in-place operators on new values by their out-of-place forms (``relu_`` by ``relu``)."""
    for node in list(graph.nodes):
        if str(node.target) in _COPIES and _only_read(node):
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
    for node in list(graph.nodes):
        replacement = _out_of_place(node)
        if replacement is None or not _is_fresh(node.args[0]):
            continue
        changed = node.args[0]
        node.target = replacement
        changed.replace_all_uses_with(node, _after(graph, node).__contains__)


def _use_parts(graph: fx.Graph) -> None:
    """Replace the selection of one of several stacked values by that value, so that they may have other sizes."""
    for node in list(graph.find_nodes(op="call_function", target=_aten.select.int)):
        stack: Any = node.args[0]
        if stack.target is not _aten.stack.default or _written(stack):
            continue
        axis, count = (stack.args[1] if len(stack.args) > 1 else 0), len(stack.args[0])
        if axis == node.args[1] == 0 and isinstance(node.args[2], int) and -count <= node.args[2] < count:
            node.replace_all_uses_with(stack.args[0][node.args[2]])
            graph.erase_node(node)
    graph.eliminate_dead_code(has_effect)


def _guard_inputs(graph: fx.Graph) -> None:
    """Copy inputs that the model writes to, so that the caller's arrays are not changed."""
    for node in graph.find_nodes(op="placeholder"):
        if _written(node):
            with graph.inserting_after(graph.find_nodes(op="placeholder")[-1]):
                copied = graph.call_function(_aten.clone.default, (node,))
            node.replace_all_uses_with(copied, lambda user, keep=copied: user is not keep)
            copied.meta = dict(node.meta)


def _written(node: fx.Node) -> bool:
    """Whether a value or a view of it is changed in place."""
    return any(_mutates(user) or (_aliases(user) and _written(user)) for user in node.users)


def _after(graph: fx.Graph, node: fx.Node) -> set[fx.Node]:
    return set(itertools.takewhile(lambda other: other is not node, reversed(graph.nodes)))


def _mutates(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def _only_read(node: fx.Node) -> bool:
    return all(not _mutates(user) and str(user.target) not in _COPIES for user in node.users) and isinstance(
        node.args[0], fx.Node
    )


def _out_of_place(node: fx.Node) -> Any:
    """The out-of-place operator with the same arguments, when the node is in-place on its first one."""
    target = node.target
    if not isinstance(target, torch._ops.OpOverload) or not target._schema.is_mutable:
        return None
    name = target._schema.name.split("::")[1]
    if target.namespace != "aten" or not name.endswith("_") or name.endswith("__"):
        return None
    packet = getattr(_aten, name[:-1], None)
    replacement = getattr(packet, target._overloadname, None)
    same = replacement is not None and _arguments(replacement) == _arguments(target)
    return replacement if same and isinstance(node.args[0], fx.Node) else None


def _arguments(target: torch._ops.OpOverload) -> list[tuple[str, str]]:
    """Names and types; the first is called `self` here and `input` there."""
    listed = [(item.name, str(item.type)) for item in target._schema.arguments]
    return [("", listed[0][1]), *listed[1:]]


def _is_fresh(node: Any) -> bool:
    """Whether no other value shares the memory: it has no views, and is not a view of a value still in use."""
    if not isinstance(node, fx.Node) or node.op != "call_function" or any(_aliases(user) for user in node.users):
        return False
    while _aliases(node):
        node = node.args[0]
        if not isinstance(node, fx.Node) or node.op != "call_function" or len(node.users) != 1:
            return False
    return True


def _aliases(node: fx.Node) -> bool:
    """Whether a node's output may be a view of its input."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return node.op == "call_function"
    schema = node.target._schema
    shared = [result.alias_info for result in schema.returns if result.alias_info is not None]
    return any(not info.is_write for info in shared) or schema.name in _SOMETIMES_VIEWS
