"""What is sent to other processes of a training: programs, losses and data as bytes, each large array only once."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from ....core.errors import UserError
from ....core.tensors import Array

LARGE_BYTES = 1 << 20
"""Arrays from this size are sent apart from the rest, and only the first time."""
_KEPT_META = ("retort_trains", "nn_module_stack")


class Packer:
    """Packs objects for other processes; remembers the large arrays that were sent before."""

    def __init__(self) -> None:
        self._sent: dict[int, tuple[int, Array]] = {}

    def pack(self, value: object) -> tuple[bytes, list[Array]]:
        """The bytes of an object, and the arrays that go before them.

        Raises:
            UserError: the object contains something that cannot be sent, such as an open file or a lambda function.
        """
        stream, arrays = io.BytesIO(), list[Array]()
        pickler = _Pickler(stream, self._sent, arrays)
        try:
            pickler.dump(value)
        except (pickle.PicklingError, AttributeError, TypeError, RuntimeError) as error:
            raise UserError(
                f"the data or the loss cannot be sent to the other processes: {error}",
                "define its classes and functions at the top of a module, without lambda functions and open files, or "
                "train in a single process",
            ) from error
        return stream.getvalue(), arrays


class Unpacker:
    """Inverse of :class:`Packer` in another process."""

    def __init__(self) -> None:
        self._received: list[Array] = []

    def unpack(self, content: bytes, arrays: list[Array]) -> Any:
        """The object of :meth:`Packer.pack`."""
        self._received += arrays
        return _Unpickler(io.BytesIO(content), self._received).load()


class _Pickler(pickle.Pickler):
    def __init__(self, stream: io.BytesIO, sent: dict[int, tuple[int, Array]], arrays: list[Array]) -> None:
        super().__init__(stream, protocol=pickle.HIGHEST_PROTOCOL)
        self._sent, self._arrays = sent, arrays

    def persistent_id(self, value: Any) -> int | None:
        """The number of a large array, which is sent apart."""
        if type(value) is not np.ndarray or value.nbytes < LARGE_BYTES or value.dtype.hasobject:
            return None
        if id(value) not in self._sent:  # the array is kept, so that its id stays its own
            self._sent[id(value)] = len(self._sent), value
            self._arrays.append(value)
        return self._sent[id(value)][0]

    def reducer_override(self, value: Any) -> Any:
        """How graphs, operators and tensors on other devices are packed."""
        if isinstance(value, fx.GraphModule):
            return _module, (_nodes(value), _state(value), value.training)
        if isinstance(value, torch._ops.OpOverload | torch._ops.HigherOrderOperator):
            return _operator, (_path(value),)
        if isinstance(value, torch.Tensor) and value.device.type != "cpu":
            return value.detach().cpu().requires_grad_(value.requires_grad).__reduce_ex__(pickle.HIGHEST_PROTOCOL)
        return NotImplemented


class _Unpickler(pickle.Unpickler):
    def __init__(self, stream: io.BytesIO, received: list[Array]) -> None:
        super().__init__(stream)
        self._received = received

    def persistent_load(self, number: Any) -> Any:
        """The large array with a number."""
        return self._received[number]


class _Reference(str):
    """The name of a node in the arguments of another one."""

    __slots__ = ()


def _path(operator: Any) -> tuple[str, ...]:
    if isinstance(operator, torch._ops.OpOverload):
        namespace, name = operator._schema.name.split("::")
        return namespace, name, operator._overloadname
    return "higher_order", operator.name()


def _operator(path: tuple[str, ...]) -> Any:
    found: Any = torch.ops
    for name in path:
        found = getattr(found, name)
    return found


def _nodes(module: fx.GraphModule) -> list[tuple[Any, ...]]:
    def _named(argument: Any) -> Any:
        return fx.map_arg(argument, lambda node: _Reference(node.name))

    return [
        (node.op, node.target, _named(node.args), _named(node.kwargs), node.name, _meta(node))
        for node in module.graph.nodes
    ]


def _meta(node: fx.Node) -> dict[str, Any]:
    meta = {key: node.meta[key] for key in _KEPT_META if key in node.meta}
    stack = meta.get("nn_module_stack")
    if stack:  # classes of the user need not exist elsewhere
        meta["nn_module_stack"] = {key: (str(path), str(kind)) for key, (path, kind) in stack.items()}
    return meta


def _state(module: nn.Module) -> dict[str, Any]:
    """Own parameters, buffers and nested modules, and those of plain containers, by their dotted names."""
    state: dict[str, Any] = {"parameters": {}, "buffers": {}, "graphs": {}, "transient": set()}
    containers = [("", module)]
    for prefix, owner in containers:
        state["parameters"].update({prefix + name: value for name, value in owner._parameters.items()})
        state["buffers"].update({prefix + name: value for name, value in owner._buffers.items()})
        state["transient"].update(prefix + name for name in owner._non_persistent_buffers_set)
        for name, child in owner._modules.items():
            if isinstance(child, fx.GraphModule):
                state["graphs"][prefix + name] = child
            elif child is not None:
                containers.append((f"{prefix}{name}.", child))
    return state


def _module(nodes: list[tuple[Any, ...]], state: dict[str, Any], training: bool) -> fx.GraphModule:
    root = nn.Module()
    for name, value in state["parameters"].items():
        owner, last = _owner(root, name)
        owner.register_parameter(last, value)
    for name, value in state["buffers"].items():
        owner, last = _owner(root, name)
        owner.register_buffer(last, value, persistent=name not in state["transient"])
    for name, child in state["graphs"].items():
        owner, last = _owner(root, name)
        owner.add_module(last, child)
    graph, made = fx.Graph(), dict[str, fx.Node]()

    def _linked(argument: Any) -> Any:
        return _mapped(argument, lambda name: made[name])

    for operation, target, args, kwargs, name, meta in nodes:
        made[name] = graph.create_node(operation, target, _linked(args), _linked(kwargs), name)
        made[name].meta.update(meta)
    module = fx.GraphModule(root, graph, "Program")
    _keep_unused(module, root)
    module.training = training
    return module


def _keep_unused(module: fx.GraphModule, root: nn.Module) -> None:
    """A graph module copies what its nodes read; parameters that no node reads belong to the state as well."""
    module._parameters, module._buffers, module._modules = root._parameters, root._buffers, root._modules
    module._non_persistent_buffers_set = root._non_persistent_buffers_set


def _owner(root: nn.Module, name: str) -> tuple[nn.Module, str]:
    *path, last = name.split(".")
    owner = root
    for part in path:
        if part not in owner._modules:
            owner.add_module(part, nn.Module())
        owner = owner.get_submodule(part)
    return owner, last


def _mapped(argument: Any, node_of: Callable[[str], fx.Node]) -> Any:
    if isinstance(argument, _Reference):
        return node_of(str(argument))
    if isinstance(argument, tuple | list):
        return type(argument)(_mapped(item, node_of) for item in argument)
    if isinstance(argument, dict):
        return {key: _mapped(item, node_of) for key, item in argument.items()}
    if isinstance(argument, slice):
        return slice(*(_mapped(item, node_of) for item in (argument.start, argument.stop, argument.step)))
    return argument
