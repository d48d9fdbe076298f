"""Concrete values of every node of a captured graph at the example's batch size: fake tensors, sizes, and tuples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import fx

from ....core.aten_names import RECURRENT, operator_name
from ...graph.train_eval_mode import owner
from ...graph.workarounds import FakeTensorMode
from ...program import Program, ordered

_OURS = str(Path(__file__).parents[2])


def propagate(program: Program) -> dict[fx.Node, Any]:
    """Run the program on fake tensors.

    Returns:
        The value of every node except the output; shapes are concrete, with the example's batch size.
    """
    with FakeTensorMode(allow_non_fake_inputs=True) as mode, torch.no_grad():
        runner = _Recorder(program.module, mode)
        runner.run(*(mode.from_tensor(tensor) for tensor in ordered(program).values()))
    return runner.values


class _Recorder(fx.Interpreter):
    """Records the value of every node; recurrent layers are not unrolled."""

    def __init__(self, module: fx.GraphModule, mode: FakeTensorMode) -> None:
        super().__init__(module)
        self.values: dict[fx.Node, Any] = {}
        self._mode = mode
        self._fakes: dict[int, torch.Tensor] = {}

    def fetch_attr(self, target: str) -> Any:
        """A fake tensor instead of a parameter or buffer."""
        value = super().fetch_attr(target)
        if not isinstance(value, torch.Tensor):
            return value
        return self._fakes.setdefault(id(value), self._mode.from_tensor(value))

    def run_node(self, n: fx.Node) -> Any:
        """Run a node and record its value."""
        if n.op == "call_function" and operator_name(n) in RECURRENT:
            arguments = bind(n, *self.fetch_args_kwargs_from_env(n))
            result = _recurrent(arguments) if "hx" in arguments and "input" in arguments else super().run_node(n)
        else:
            result = super().run_node(n)
        self.values[n] = result
        return result


def words(text: str) -> frozenset[str]:
    """The operator names in a text."""
    return frozenset(text.split())


def bind(node: fx.Node, args: Any = None, kwargs: Any = None) -> dict[str, Any]:
    """All arguments of an operator by name, including defaults."""
    args, kwargs = (node.args if args is None else args), (node.kwargs if kwargs is None else kwargs)
    if not isinstance(node.target, torch._ops.OpOverload):
        return {**dict(enumerate(args)), **kwargs}
    schema = node.target._schema.arguments
    defaults = {item.name: item.default_value for item in schema}
    return {**defaults, **dict(zip((item.name for item in schema), args)), **kwargs}


def describe(node: fx.Node) -> str:
    """The origin of a node: operator, node name, and the user's submodule and source line if they are known."""
    module = owner(node)
    lines = [line.strip() for line in str(node.meta.get("stack_trace") or "").splitlines()]
    sources = [line for line in lines if line.startswith("File ") and _OURS not in line]
    place = f" in {module}" if module else ""
    source = ""
    if sources:
        path, _, rest = sources[-1].removeprefix('File "').partition('", line ')
        source = f" ({path.rsplit('/', 1)[-1]}:{rest.split(',')[0]})"
    return f"{operator_name(node)} '{node.name}'{place}{source}"


def _recurrent(arguments: dict[str, Any]) -> tuple[torch.Tensor, ...]:
    sequence, states = arguments["input"], arguments["hx"]
    states = states if isinstance(states, list | tuple) else [states]
    width = int(states[0].shape[-1]) * (2 if arguments["bidirectional"] else 1)
    return (sequence.new_empty((*sequence.shape[:-1], width)), *(state.new_empty(state.shape) for state in states))
