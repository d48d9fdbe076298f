"""Inspection of a quantized program: tensors on samples, axes of weight scales, modes and sensitive layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ...compress.graph.devices import as_array
from ...compress.graph.module_edit import fetch
from ...compress.program import Program
from ...compress.quantization.correction.layer_matrices import is_matrix, quantized_layers, scales_of, to_matrix
from ...compress.quantization.correction.layerwise import small_feeds
from ...compress.quantization.mixed_precision.partial_quantization import Partial
from ...compress.quantization.mixed_precision.sensitivity import sensitivity
from ...compress.quantization.operator_classes import channels_first, fixed_grid, is_qdq
from ...compress.quantization.scheme import SCHEMES, gate_grid
from ...core.aten_names import TRANSPOSED, name_of
from ...core.console import SILENT, Console
from ...core.data.splits import Split
from ...core.facts.quantize_facts import Sensitivity
from .tensor_symptoms import Finding, Seen, seen

if TYPE_CHECKING:
    import torch
    from torch import fx

_SAMPLES = 48
_NEAR_DB = 4.0
_HARMFUL_DB = 25.0
_FULL_CODES, _FITS, _OFF = 64, (0.85, 1.1), 0.3


def tensors_of(program: Program, split: Split) -> list[Seen]:
    """All quantized activations and gates of a program on samples, computed by its FP32 form."""
    feeds = small_feeds(program, split, _SAMPLES)
    nodes = [node for node in program.module.graph.nodes if is_qdq(node) and node.args[0].op != "get_attr"]
    quantized = {node.args[0] for node in nodes}
    gates = [node for node in program.module.graph.nodes if fixed_grid(node) and node not in quantized]
    parts: dict[fx.Node, list[Any]] = {node: [] for node in (*nodes, *gates)}
    for values in Partial(program, program, feeds).fp32_values():
        for node in parts:
            shown: Any = node.args[0] if is_qdq(node) else node
            parts[node].append(as_array(values[shown]))
    found = {node: np.concatenate(values) for node, values in parts.items() if np.ndim(values[0]) > 0}
    return [_seen(program, node, values) if is_qdq(node) else _gate(node, values) for node, values in found.items()]


def _gate(node: fx.Node, values: Any) -> Seen:
    """A gate in floating point, with the grid that it would get."""
    grid = gate_grid(SCHEMES["cpu"])
    return seen(node.name, name_of(node), values, grid.scale, grid.zero_point, (grid.qmin, grid.qmax))


def _seen(program: Program, node: fx.Node, values: Any) -> Seen:
    from torch import fx

    source, scale, zero, _, low, high = node.args
    assert isinstance(source, fx.Node)
    step, shift = (float(fetch(program.module, str(item.target)).reshape(-1)[0]) for item in (scale, zero))  # type: ignore[union-attr]
    op = "" if source.op == "placeholder" else name_of(source) or "other"
    codes = int(low), int(high)  # type: ignore[arg-type]
    return seen(source.name, op, values, step, shift, codes, channels_first(source))


def axis_faults(program: Program) -> list[Finding]:
    """Weights whose scales are not along their output channels."""
    found = []
    for layer in quantized_layers(program.module):
        name = name_of(layer.node)
        weight = fetch(program.module, layer.weight)
        inputs = {"linear": 1, **dict.fromkeys(TRANSPOSED, 0)}.get(name, 1 if name.startswith("conv") else -1)
        if layer.axis == inputs and fetch(program.module, layer.scale).numel() > 1:
            detail = f"{weight.shape[layer.axis]} scales along axis {layer.axis} of {list(weight.shape)}, its inputs"
            found.append(Finding("weight axis", layer.weight.rpartition(".")[0] or layer.node.name, detail))
    return found


def stale_weights(program: Program) -> list[Finding]:
    """Scales that do not fit the weights, because the weights have changed since calibration."""
    import torch

    ratios: list[torch.Tensor] = []
    if program.meta.get("quantization", {}).get("trained"):
        return []  # learned scales may differ from those of the largest weights
    for layer in quantized_layers(program.module):
        if layer.limit >= _FULL_CODES and is_matrix(layer):
            weight = to_matrix(layer, fetch(program.module, layer.weight).detach())
            held = scales_of(program.module, layer) * layer.limit
            ratios.append((weight.abs().amax(2) / held).reshape(-1))
    if not ratios:
        return []
    every = torch.cat(ratios)
    off = float(((every < _FITS[0]) | (every > _FITS[1])).float().mean())
    if off < _OFF:
        return []
    detail = f"the scales of {off:.0%} of the weights' channels do not fit, so they belong to other weights"
    return [Finding("stale calibration", "the whole model", detail)]


def weak_layers(program: Program, exact: Program, split: Split, console: Console = SILENT) -> list[Finding]:
    """The layer that INT8 harms most, with the cause; among nearly equal layers, one with a known cause.

    Args:
        exact: the same graph with FP32 weights; the program itself if it is not available.
    """
    lines = sensitivity(program, exact, split, _SAMPLES, console)
    harmful = [line for line in lines if line.sqnr_db is not None and line.sqnr_db < _HARMFUL_DB]
    if not harmful:
        return []
    worst: float = harmful[0].sqnr_db or 0.0
    near = [line for line in harmful if (line.sqnr_db or 0.0) <= worst + _NEAR_DB]
    near.sort(key=lambda line: line.cause == "rounding")
    return [_finding(line) for line in near]


def _finding(line: Sensitivity) -> Finding:
    detail = (
        f"{line.detail}; with only this layer in INT8 the SQNR is {line.sqnr_db:.1f} dB"
        if line.detail
        else f"{line.sqnr_db} dB"
    )
    return Finding(line.cause, line.layer, detail)
