"""Folds BatchNorm with its evaluation statistics into the layer before it."""

from __future__ import annotations

import torch
from torch import fx, nn

from ....core.aten_names import CONVOLUTIONS, TRANSPOSED, name_of
from ....core.errors import VerificationError
from ....core.metrics.relative_error import error_by_largest
from ...graph.devices import as_array
from ...graph.module_edit import Shapes, drop_unused, fetch, free_path, has, put, shapes_of
from ...program import Program, clone, ordered, set_training
from ..copy_on_write import fork
from ..operator_classes import Weighted, operand, weighted

TOLERANCE = 1e-4


def fold_batch_norms(program: Program, tolerance: float = TOLERANCE, share: bool = False) -> Program:
    """Fold every BatchNorm, with its evaluation statistics, into the layer before it.

    Layers are convolutions, transposed convolutions, and linear layers on ``[N, C]``. A BatchNorm stays if the layer's
    output has other readers, if it follows another operator (an add, a concatenation), or if it has no running
    statistics. The given program is not changed.

    Args:
        program: any captured program.
        tolerance: largest accepted error on the example, relative to the largest output.
        share: whether the new program shares the weights that stay the same with the given one.

    Returns:
        A new program in evaluation mode.

    Raises:
        VerificationError: the folded program does not compute the same outputs.
    """
    result = fork(program) if share else clone(program)
    set_training(result, False)
    # a program that changes its buffers must start from the same ones each time
    buffers = {name: buffer.clone() for name, buffer in result.module.named_buffers()}
    before = _outputs(fork(result))
    shapes = shapes_of(result)
    for name, value in buffers.items():
        fetch(result.module, name).copy_(value)
    for node in list(result.module.graph.nodes):
        layer = _foldable(node, shapes)
        if layer is not None:
            _fold(result.module, node, layer)
    finish(result)
    _verify(before, _outputs(fork(result)), tolerance)
    return result


def _foldable(node: fx.Node, shapes: Shapes) -> Weighted | None:
    """The layer into which a BatchNorm can be folded."""
    if name_of(node) != "batch_norm" or operand(node, "running_mean") is None or operand(node, "training"):
        return None
    source = operand(node, "input")
    layer = weighted(source)
    if layer is None or layer.consumer is not source or len(source.users) != 1:
        return None
    if any(item is not None and item.op != "get_attr" for item in _statistics(node)):
        return None
    if operand(source, "bias") is not None and layer.bias is None:
        return None
    rank = len(shapes[source][0])
    if name_of(source) == "linear":
        return layer if rank == 2 else None
    spatial = len(shapes[layer.weight][0]) - 2
    return layer if name_of(source) in (*CONVOLUTIONS, *TRANSPOSED) and rank == spatial + 2 else None


def _statistics(node: fx.Node) -> list[fx.Node | None]:
    return [operand(node, name) for name in ("weight", "bias", "running_mean", "running_var")]


def _fold(module: fx.GraphModule, node: fx.Node, layer: Weighted) -> None:
    """Jacob et al., 2018, eq. 14: ``w' = w * gamma / sqrt(var + eps)``, ``b' = (b - mean) * that + beta``."""
    gamma, beta, mean, var = (
        None if item is None else fetch(module, str(item.target)).detach().double() for item in _statistics(node)
    )
    assert mean is not None
    assert var is not None
    factor = torch.rsqrt(var + float(operand(node, "eps")))
    factor = factor if gamma is None else factor * gamma
    rescale(module, layer, factor, (0 if beta is None else beta) - mean * factor)
    node.replace_all_uses_with(layer.node)
    module.graph.erase_node(node)


def rescale(module: fx.GraphModule, layer: Weighted, factor: torch.Tensor, shift: torch.Tensor) -> None:
    """Change a layer's weight and bias so that it computes ``y * factor + shift`` instead of ``y``.

    Args:
        layer: the layer; its bias, if any, is a parameter.
        factor: float64 ``[C]``, per output channel.
        shift: float64 ``[C]``, per output channel.
    """
    weight = fetch(module, str(layer.weight.target)).detach()
    bias = torch.zeros_like(shift) if layer.bias is None else fetch(module, str(layer.bias.target)).detach().double()
    scaled = _product(weight, _spread(factor, weight, layer))
    stem = str(layer.weight.target).rpartition(".")[0]
    _replace(module, layer, "weight", str(layer.weight.target), scaled)
    bias_path = str(layer.bias.target) if layer.bias else free_path(module, f"{stem}.bias" if stem else "bias")
    _replace(module, layer, "bias", bias_path, (bias * factor + shift).to(weight.dtype))


def _product(weight: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """``weight * factor`` in FP64, row by row, because a whole FP64 weight would take twice its memory."""
    result = torch.empty_like(weight)
    for row, some in enumerate(factor.expand(len(weight), *factor.shape[1:])):
        result[row] = (weight[row].double() * some).to(weight.dtype)
    return result


def _spread(factor: torch.Tensor, weight: torch.Tensor, layer: Weighted) -> torch.Tensor:
    """``factor`` per output channel, shaped like the weight; a transposed convolution stores channels by group."""
    if name_of(layer.node) not in TRANSPOSED:
        return factor.reshape(-1, *[1] * (weight.dim() - 1))
    groups = int(operand(layer.node, "groups"))
    rows = factor.reshape(groups, 1, -1).expand(groups, weight.shape[0] // groups, -1)
    return rows.reshape(*weight.shape[:2], *[1] * (weight.dim() - 2))


def _replace(module: fx.GraphModule, layer: Weighted, name: str, path: str, value: torch.Tensor) -> None:
    """Give the layer a new parameter; a shared parameter stays for its other readers."""
    readers = [node for node in module.graph.find_nodes(op="get_attr", target=path) if node.users]
    if any(set(node.users) != {layer.node} for node in readers):
        path = free_path(module, f"{path}_folded")
    frozen = has(module, path) and not fetch(module, path).requires_grad
    put(module, path, nn.Parameter(value, requires_grad=not frozen))
    with module.graph.inserting_before(layer.node):
        fresh = module.graph.get_attr(path)
    place = [item.name for item in layer.node.target._schema.arguments].index(name)  # type: ignore[union-attr]
    args = list(layer.node.args) + [None] * (place + 1 - len(layer.node.args))
    args[place] = fresh
    layer.node.args = tuple(args)
    layer.node.kwargs = {key: kept for key, kept in layer.node.kwargs.items() if key != name}


def finish(program: Program) -> None:
    """Remove unused nodes and parameters, check the graph and recompile it."""
    program.module.graph.eliminate_dead_code()
    drop_unused(program.module)
    program.module.graph.lint()
    program.module.recompile()


def _outputs(program: Program) -> list[torch.Tensor]:
    with torch.inference_mode():
        return [value for value in program.module(*ordered(program).values()) if value.is_floating_point()]


def _verify(wanted: list[torch.Tensor], found: list[torch.Tensor], tolerance: float) -> None:
    for index, (before, after) in enumerate(zip(wanted, found, strict=True)):
        error = error_by_largest(as_array(before), as_array(after), least=1e-12, equal_nan=True)
        if not error <= tolerance:
            raise VerificationError(
                f"folding BatchNorm changed output {index} by {error:.1e} of its largest value",
                "please report this model, and quantize it with the BatchNorm layers in evaluation mode",
                error=error,
            )
