"""Conversion of a quantized program to a target: a copy whose activations have grids that the target supports."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from ...core.errors import ArtifactError
from ...core.grid import Grid
from ...core.options.stage_options import Target
from ..program_edit import assembled, constants_of, copied, declare_constant
from .grids import convert
from .roles import is_constant, is_weight, non_negative

if TYPE_CHECKING:
    from torch import Tensor
    from torch.export import ExportedProgram
    from torch.fx import Node

QDQ, DYNAMIC = "retort.qdq.default", "retort.dynamic_qdq.default"


def retarget(program: ExportedProgram, target: Target) -> ExportedProgram:
    """A copy of the program with its activations' grids in the form of ``target``.

    Raises:
        ArtifactError: no target supports a grid: a weight has a zero point, activations are per channel, a scale is not
            positive or not constant, or a grid has more than 8 bits.
    """
    values = constants_of(program)
    nodes = [node for node in program.graph.nodes if str(node.target) == QDQ]
    wanted = {node.name: _grid(node, values, target) for node in nodes}
    changes = {name: grid for name, grid in wanted.items() if grid is not None}
    return _rewritten(program, changes) if changes else program


def _grid(node: Node, values: dict[str, Tensor], target: Target) -> Grid | None:
    """The new grid of ``node``; None if its grid is not changed."""
    axis, qmin, qmax = (int(value) for value in _integers(node))
    scale, zero = (_evaluate(item, values, node) for item in _arguments(node)[1:3])
    if not bool(scale.isfinite().all()) or not bool((scale > 0).all()):
        raise ArtifactError(f"'{node.name}' has a scale that is not positive and finite", "calibrate again")
    if qmax - qmin > 255:
        raise ArtifactError(f"'{node.name}' quantizes to [{qmin}, {qmax}], more than 8 bits", "quantize it to INT8")
    if is_constant(_arguments(node)[0], values) and (axis >= 0 or is_weight(node, values)):
        if bool(zero.any()) or qmin < -128 or qmax > 127:
            raise ArtifactError(f"weight '{node.name}' is not symmetric INT8", "quantize the program with Retort")
        return None
    if axis >= 0:
        raise ArtifactError(
            f"activation '{node.name}' is quantized per channel, which no target supports",
            "quantize activations with one scale per tensor",
        )
    old = Grid(float(scale), int(zero), qmin, qmax)
    new = convert(old, target, non_negative(_arguments(node)[0]))
    return None if new == old else new


def is_quantized(program: ExportedProgram) -> bool:
    """Whether the program has fake-quantize nodes."""
    return any(str(node.target) == QDQ for node in program.graph.nodes)


def without_quantization(program: ExportedProgram) -> ExportedProgram:
    """A copy of the program that computes in floating point, without fake-quantize nodes."""
    module, signature = copied(program)
    for node in [node for node in module.graph.nodes if str(node.target) in (QDQ, DYNAMIC)]:
        node.replace_all_uses_with(source := node.args[0])
        module.graph.erase_node(node)
        for spec in signature.output_specs:
            if getattr(spec.arg, "name", None) == node.name:
                spec.arg.name = source.name
    return assembled(program, module, signature, dict(program.constants))


def _integers(node: Node) -> tuple[Any, Any, Any]:
    values = _arguments(node)
    return values[3], values[4], values[5]


def _arguments(node: Node) -> list[Any]:
    defaults = {"axis": -1, "qmin": -128, "qmax": 127}
    names = ("x", "scale", "zero_point", "axis", "qmin", "qmax")
    given = {**defaults, **dict(zip(names, node.args)), **node.kwargs}
    return [given[name] for name in names]


def _evaluate(item: Any, values: dict[str, Tensor], node: Node) -> Tensor:
    """A scale or zero point as a tensor, computed where the program computes it from constants."""
    import torch

    if not hasattr(item, "op"):
        return torch.as_tensor(item)
    if item.op == "placeholder" and item.name in values:
        return values[item.name].detach()
    if item.op != "call_function":
        raise ArtifactError(f"the scale of '{node.name}' depends on an input", "quantize with fixed scales")
    arguments = [_evaluate(arg, values, node) if hasattr(arg, "op") else arg for arg in item.args]
    with torch.no_grad():
        return cast("Tensor", item.target(*arguments, **item.kwargs))


def _rewritten(program: ExportedProgram, changes: dict[str, Grid]) -> ExportedProgram:
    """A copy of the program in which the named nodes read new constants; equal grids share their constants."""
    import torch

    module, signature = copied(program)
    constants: dict[str, Any] = dict(program.constants)
    made: dict[tuple[Any, ...], Any] = {}
    for node in [node for node in module.graph.nodes if node.name in changes]:
        grid = changes[node.name]
        fresh = (torch.tensor(grid.scale, dtype=torch.float32), torch.tensor(grid.zero_point, dtype=torch.int64))
        pair = []
        for value in fresh:
            known = (value.dtype, value.item())
            if known not in made:
                name = f"retort_grid_{len(made)}"
                made[known], constants[name] = declare_constant(module, signature, name, value), value
            pair.append(made[known])
        node.args, node.kwargs = (_arguments(node)[0], *pair, -1, grid.qmin, grid.qmax), {}
    return assembled(program, module, signature, constants)
