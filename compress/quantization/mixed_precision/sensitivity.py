"""Sensitivity analysis: the error that INT8 causes in each single layer, and its cause."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import fx

from ....core.aten_names import SATURATING, name_of
from ....core.console import SILENT, Console
from ....core.data.splits import Split
from ....core.facts.quantize_facts import Sensitivity
from ....core.metrics.streamed_outputs import Noise, Signal
from ....core.tensors import Array
from ...program import Program
from ..correction.layerwise import MEMORY_BYTES, small_feeds
from ..operator_classes import channels_first, is_dynamic, is_qdq
from .partial_quantization import Partial, Unit

_SAMPLES = 48
_OUTLIER, _FEW_LEVELS, _SATURATED, _CLIPPED = 8.0, 12.0, 0.7, 0.5


def sensitivity(
    quantized: Program,
    exact: Program,
    split: Split,
    samples: int = _SAMPLES,
    console: Console = SILENT,
    room_bytes: int = MEMORY_BYTES,
) -> list[Sensitivity]:
    """Measure the effect of each integer layer alone; the most harmful layer comes first.

    Args:
        quantized: an INT8 program.
        exact: the same graph with the FP32 weights; see :class:`.partial_quantization.Partial`.
        split: samples, with labels or without, of which at most ``samples`` are used.
        room_bytes: memory for the activations of a batch.

    Returns:
        One line per layer and per operator without weights.
    """
    feeds = small_feeds(exact, split, samples, room_bytes)
    partial = Partial(quantized, exact, feeds)
    targets = split.read(range(sum(len(feed[0]) for feed in feeds)))[1]
    signal, noises = Signal(), [Noise() for _ in partial.units]
    causes: list[tuple[str, str]] = []
    with console.progress("sensitivity", len(feeds) * len(partial.units)) as bar:
        for known in partial.fp32_values():
            wanted = partial.outputs({}, known)
            signal.add(wanted)
            if not causes:
                causes = [cause_of(unit, known) for unit in partial.units]
            for unit, noise in zip(partial.units, noises):
                noise.add(wanted, partial.outputs(partial.run(known, [unit]), known))
                bar.advance(note=unit.name)
    lines = [_line(unit, signal, noise, targets, cause) for unit, noise, cause in zip(partial.units, noises, causes)]
    return sorted(lines, key=lambda line: np.inf if line.sqnr_db is None else line.sqnr_db)


def _line(unit: Unit, signal: Signal, noises: Noise, targets: Array | None, cause: tuple[str, str]) -> Sensitivity:
    noise, agreement, drop = noises.sqnr_db(signal), noises.agreement(signal), None
    classes = bool(noises.classes and noises.classes[0]) and noises.finite
    if classes and targets is not None and targets.dtype.kind in "iu" and targets.shape == (signal.rows,):
        before, after = (np.mean(np.concatenate(item.classes[0]) == targets) for item in (signal, noises))
        drop = float(before - after)
    shown = round(noise, 2) if np.isfinite(noise) else (None if noise > 0 else -999.0)
    return Sensitivity(
        layer=unit.name,
        kind=unit.kind,
        sqnr_db=shown,
        agreement=agreement,
        accuracy_drop=drop,
        cost=unit.cost,
        cause=cause[0],
        detail=cause[1],
    )


def cause_of(unit: Unit, values: dict[fx.Node, Any]) -> tuple[str, str]:
    """The cause of a unit's loss of accuracy: the first of several tests that one of its tensors fails.

    Args:
        values: values of the FP32 form, from :meth:`.partial_quantization.Partial.fp32_values`.

    Returns:
        The cause, and its numbers in words.
    """
    for node in sorted(unit.quantizers, key=lambda item: item.name):
        if is_dynamic(node) or node.args[0].op == "get_attr":  # type: ignore[union-attr]
            continue
        found = _of_tensor(node, values)
        if found is not None:
            return found
    return _of_weight(unit, values) or ("rounding", "")


def _of_tensor(node: fx.Node, values: dict[fx.Node, Any]) -> tuple[str, str] | None:
    source = node.args[0]
    assert isinstance(source, fx.Node)
    numbers: Any = node.args
    value, step, zero = values[source].float(), *(float(values[item].reshape(-1)[0]) for item in numbers[1:3])
    low, high = ((code - zero) * step for code in numbers[4:6])
    spread = float(value.std())
    if spread <= 1e-6 * max(float(value.abs().max()), 1e-12):
        return "constant", f"{source.name} is always {float(value.reshape(-1)[0]):.4g}"
    if name_of(source) in SATURATING and float(((value < 0.02) | (value > 0.98)).float().mean()) > _SATURATED:
        return "saturation", f"at least {_SATURATED:.0%} of the values of {source.name} are at its limits"
    clipped = (value - value.clamp(low, high)).square().sum()
    rounded = value.numel() * step**2 / 12
    if float(clipped) > _CLIPPED * (float(clipped) + rounded):
        reach = f"[{float(value.min()):.4g}, {float(value.max()):.4g}]"
        return "clipping", f"{source.name} has values in {reach}, but its grid is [{low:.4g}, {high:.4g}]"
    axis = 1 if value.dim() > 3 or (value.dim() == 3 and channels_first(source)) else value.dim() - 1
    return _outlier(source.name, value, spread, step, axis)


def _outlier(name: str, value: torch.Tensor, spread: float, step: float, axis: int) -> tuple[str, str] | None:
    largest = value.abs().amax([dim for dim in range(value.dim()) if dim != axis])
    median = float(largest.median())
    if largest.numel() > 1 and float(largest.max()) > _OUTLIER * max(median, 1e-12):
        channel = int(largest.argmax())
        return (
            "outlier channel",
            f"{name}: channel {channel} reaches {float(largest[channel]):.4g}, the median channel {median:.4g}",
        )
    middle = value.quantile(0.75) - value.quantile(0.25) if value.numel() < 1 << 24 else torch.tensor(spread)
    levels = float(middle) / step
    if levels < _FEW_LEVELS and spread / step < 2 * _FEW_LEVELS:
        return "few levels", f"{name}: half of its values use {max(1, round(levels))} of 256 codes"
    return None


def _of_weight(unit: Unit, values: dict[fx.Node, Any]) -> tuple[str, str] | None:
    if unit.layer is None:
        return None
    if unit.layer.limit < 64:
        return "few levels", f"{2 * unit.layer.limit + 1} codes per weight"
    quantizer = next((node for node in unit.node.graph.nodes if _reads(node, unit.layer.weight)), None)
    if quantizer is None:
        return None
    weight = values[quantizer.all_input_nodes[0]].detach().movedim(unit.layer.axis, 0).flatten(1)
    ratio = weight.abs().amax(1) / weight.square().mean(1).sqrt().clamp_min(1e-12)
    if float(ratio.max()) > 3 * _OUTLIER / 2 and weight.shape[1] > 16:
        channel = int(ratio.argmax())
        return (
            "outlier weight",
            f"output channel {channel} has a weight {float(ratio[channel]):.0f} times its mean size",
        )
    return None


def _reads(node: fx.Node, path: str) -> bool:
    return is_qdq(node) and node.args[0].op == "get_attr" and node.args[0].target == path  # type: ignore[union-attr]


def table(lines: Sequence[Sensitivity], console: Console, most: int = 20) -> None:
    """Print the most harmful layers."""
    rows = [
        (
            line.layer,
            line.kind,
            "-" if line.sqnr_db is None else f"{line.sqnr_db:.1f}",
            "-" if line.agreement is None else f"{line.agreement:.3f}",
            "-" if line.accuracy_drop is None else f"{100 * line.accuracy_drop:+.1f}",
            f"{line.cost:,}",
            f"{line.cause}{': ' + line.detail if line.detail else ''}",
        )
        for line in lines[:most]
    ]
    columns = ["layer", "kind", "SQNR dB", "agreement", "drop pp", "MACs", "cause"]
    console.table("effect of INT8 in one layer at a time", columns, rows, words=True)
