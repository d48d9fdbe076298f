"""Layers of recurrent models that stay in FP32 because INT8 would cost them too much accuracy, as few as possible.

Errors of a recurrent layer act on all later times and on all later layers, so one layer can ruin an output: the first
of three LSTM layers of a speaker encoder, which reads power spectra of very different sizes, limits it to 20 dB, while
the other two together leave 35 dB. A layer that reads the last state alone costs next to no time, but all accuracy of
an embedding passes through it: in the same encoder it limits the outputs to 29 dB.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import fx

from ....core.aten_names import RECURRENT, TURNS, name_of
from ....core.dynamic_kernels import form_on, runs_in_integers
from ...graph.module_edit import drop_unused, fetch
from ...program import Program, macs_by_node
from ..copy_on_write import fork, replace
from ..operator_classes import is_qdq, kind_of, operand, operands, rounds
from ..recurrent_layers import module_of
from .judge import Judge
from .layer_matrices import quantized_layer
from .recurrent_rounding import Sublayer, sublayers

GOOD_DB, LEAST_GAIN_DB = 30.0, 1.0
"""Layers stay in FP32 until the outputs have this centred SQNR, and as long as each of them gains that much."""
CHEAP = 0.02
"""Largest share of the multiply-accumulates that a layer which is not recurrent may have."""
_TRIALS = 8
"""Such layers are tried from the last one on, and not more of them than this."""


@dataclass(frozen=True)
class Unit:
    """What stays in FP32 as a whole: one layer of a recurrent node, or a node that is not recurrent.

    Attributes:
        node: name of the node.
        index: number of the layer of a recurrent node, from 0; None for other nodes.
    """

    node: str
    index: int | None = None


def keep_accurate(program: Program, exact: Program, judge: Judge) -> tuple[Program, Program, list[str]]:
    """Leave the most harmful layers in FP32, if the outputs have less than 30 dB: cheap ones before recurrent ones.

    Args:
        program: INT8.
        exact: the same graph with the FP32 weights.
        judge: computes scores on held-out samples.

    Returns:
        Both programs, and what stays in floating point, in words; ``float_nodes`` of the program has the reasons.
    """
    score, _ = judge.score(program)
    macs = macs_by_node(program)
    left = [*_cheap(program, macs), *_recurrent(program)]
    chosen: list[Unit] = []
    reasons: list[dict[str, str]] = []
    while left and score < GOOD_DB:
        trials = {unit: judge.score(_without(program, exact, [*chosen, unit]))[0] for unit in left}
        enough = [unit for unit in left if trials[unit] >= score + LEAST_GAIN_DB]
        if not enough:
            break
        best = max(enough, key=lambda unit: (unit.index is None, trials[unit]))
        reasons.append(_reason(program, best, score, trials[best]))
        chosen, score = [*chosen, best], trials[best]
        left.remove(best)
    if not chosen:
        return program, exact, []
    result = _without(program, exact, chosen)
    _record(result, program, chosen, macs)
    result.meta["quantization"]["float_nodes"] = [*reasons, *result.meta["quantization"]["float_nodes"]]
    named = [
        item["layer"] + ("" if unit.index is None else f" layer {unit.index}") for unit, item in zip(chosen, reasons)
    ]
    return result, _without(exact, exact, chosen), named


def _cheap(program: Program, macs: Mapping[str, int]) -> list[Unit]:
    """Layers with next to no work, the last ones of the graph first; none whose weight other layers read, too."""
    total = sum(macs.values())
    nodes = [node for node in reversed(program.module.graph.nodes) if quantized_layer(node) is not None]
    few = [node for node in nodes if macs.get(node.name, total) <= CHEAP * total]
    return [Unit(node.name) for node in few if len(_weight_reader(node)[1].users) == 1][:_TRIALS]


def _recurrent(program: Program) -> list[Unit]:
    """Layers of recurrent nodes; none whose weights other nodes read, too."""
    found: dict[Unit, bool] = {}
    for layer in sublayers(program.module):
        unit, alone = Unit(layer.node.name, layer.index), len(layer.inputs.users) == len(layer.states.users) == 1
        found[unit] = alone and found.get(unit, True)
    return [unit for unit, alone in found.items() if alone]


def _weight_reader(node: fx.Node) -> tuple[fx.Node, fx.Node]:
    """What reads the fake-quantize of a layer's weight, the layer or a transpose before it, and the fake-quantize."""
    reader, quantizer = node, operands(node)[1]
    while name_of(quantizer) in TURNS:
        reader, quantizer = quantizer, quantizer.args[0]
    return reader, quantizer


def _without(program: Program, exact: Program, units: Sequence[Unit]) -> Program:
    """The program with the FP32 weights of some layers."""
    result = fork(program)
    for layer in sublayers(result.module):
        if Unit(layer.node.name, layer.index) in units:
            _restore(result, exact.module, layer)
    for node in list(result.module.graph.nodes):
        if Unit(node.name) in units:
            _restore_layer(result, exact.module, node)
    result.module.graph.eliminate_dead_code()
    drop_unused(result.module)
    result.module.recompile()
    return result


def _restore(program: Program, exact: fx.GraphModule, layer: Sublayer) -> None:
    for quantizer in (layer.inputs, layer.states):
        source = _unquantized(program, exact, quantizer)
        layer.node.replace_input_with(quantizer, source)


def _restore_layer(program: Program, exact: fx.GraphModule, node: fx.Node) -> None:
    """FP32 weights, bias and input of a layer that is not recurrent; its output keeps its grid for later layers."""
    layer = quantized_layer(node)
    assert layer is not None
    reader, quantizer = _weight_reader(node)
    reader.replace_input_with(quantizer, _unquantized(program, exact, quantizer))
    if layer.bias is not None:
        replace(program.module, layer.bias, fetch(exact, layer.bias))
    if rounds(layer.data):
        node.replace_input_with(layer.data, layer.data.args[0])  # type: ignore[arg-type]


def _unquantized(program: Program, exact: fx.GraphModule, quantizer: fx.Node) -> fx.Node:
    """The FP32 parameter behind a fake-quantize."""
    source = quantizer.args[0]
    assert isinstance(source, fx.Node)
    replace(program.module, str(source.target), fetch(exact, str(source.target)))
    program.meta["quantization"]["weights"].pop(str(quantizer.args[1].target), None)  # type: ignore[union-attr]
    return source


def _record(result: Program, before: Program, units: Sequence[Unit], macs: Mapping[str, int]) -> None:
    """Take the work of the chosen layers out of the facts about integer nodes."""
    facts = result.meta["quantization"]
    nodes = {node.name: node for node in before.module.graph.nodes}
    target = facts["target"]
    there = {node.name for node in result.module.graph.nodes if _is_integer(node, target)}
    lost, kinds = 0.0, dict(facts["kinds"])
    for name in dict.fromkeys(unit.node for unit in units):
        node = nodes[name]
        if not _is_integer(node, target):
            continue
        lost += macs.get(name, 0) * sum(_share(node, unit.index, before.module) for unit in units if unit.node == name)
        if name not in there:
            kinds[kind_of(node)] -= 1
    total = max(1, sum(macs.values()))
    facts["kinds"] = {kind: count for kind, count in kinds.items() if count}
    facts["integer_macs_percent"] = round(max(0.0, facts["integer_macs_percent"] - 100 * lost / total), 2)


def _is_integer(node: fx.Node, target: str) -> bool:
    if name_of(node) not in RECURRENT:
        return quantized_layer(node) is not None
    sources: list[Any] = [item.args[0] for item in operand(node, "params") if is_qdq(item)]
    if not sources:
        return False
    module = node.graph.owning_module
    assert module is not None
    hidden = fetch(module, str(sources[-1].target)).shape[-1]
    return runs_in_integers(name_of(node), hidden, form_on(target))


def _share(node: fx.Node, index: int | None, module: fx.GraphModule) -> float:
    """Part of the work of a node that one of its layers does; every step multiplies by each weight once."""
    if index is None:
        return 1.0
    sizes: dict[int, int] = {}
    for layer in sublayers(module):
        if layer.node is node:
            sources: list[Any] = [item.args[0] for item in (layer.inputs, layer.states)]
            count = sum(fetch(module, str(source.target)).numel() for source in sources)
            sizes[layer.index] = sizes.get(layer.index, 0) + count
    return sizes[index] / sum(sizes.values())


def _reason(program: Program, unit: Unit, before: float, after: float) -> dict[str, str]:
    node = next(item for item in program.module.graph.nodes if item.name == unit.node)
    layer = quantized_layer(node)
    what = "in INT8" if unit.index is None else f"layer {unit.index} with INT8 weights"
    return {
        "node": node.name,
        "layer": (module_of(node) if layer is None else layer.weight.rpartition(".")[0]) or node.name,
        "op": kind_of(node) if unit.index is None else name_of(node),
        "reason": f"{what}: the outputs would have {before:.1f} instead of {after:.1f} dB",
    }


__all__ = ["keep_accurate"]
