"""Recurrent layers that stay in FP32 because INT8 weights would cost them too much accuracy, as few as possible.

Errors of a recurrent layer act on all later times and on all later layers, so one layer can ruin an output: the first
of three LSTM layers of a speaker encoder, which reads power spectra of very different sizes, limits it to 20 dB, while
the other two together leave 35 dB.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import fx

from ....core.aten_names import name_of
from ...graph.module_edit import drop_unused, fetch
from ...program import Program
from ..copy_on_write import fork, replace
from ..recurrent_layers import module_of
from .judge import Judge
from .recurrent_rounding import Sublayer, sublayers

GOOD_DB, LEAST_GAIN_DB = 30.0, 1.0
"""Layers stay in FP32 until the outputs have this centred SQNR, and as long as each of them gains that much."""

Unit = tuple[str, int]
"""A recurrent node by its name, and the number of one of its layers."""


def keep_accurate(program: Program, exact: Program, judge: Judge) -> tuple[Program, Program, list[str]]:
    """Leave the most harmful recurrent layers in FP32, if the outputs have less than 30 dB.

    Args:
        program: INT8.
        exact: the same graph with the FP32 weights.
        judge: computes scores on held-out samples.

    Returns:
        Both programs, and what stays in floating point, in words; ``float_nodes`` of the program has the reasons.
    """
    score, _ = judge.score(program)
    left = list(dict.fromkeys((item.node.name, item.index) for item in sublayers(program.module)))
    chosen: list[Unit] = []
    reasons: list[dict[str, str]] = []
    while left and score < GOOD_DB:
        trials = {unit: judge.score(_without(program, exact, [*chosen, unit]))[0] for unit in left}
        best = max(trials, key=trials.__getitem__)
        if trials[best] < score + LEAST_GAIN_DB:
            break
        reasons.append(_reason(program, best, score, trials[best]))
        chosen, score = [*chosen, best], trials[best]
        left.remove(best)
    if not chosen:
        return program, exact, []
    result = _without(program, exact, chosen)
    result.meta["quantization"]["float_nodes"] = [*reasons, *result.meta["quantization"]["float_nodes"]]
    return (
        result,
        _without(exact, exact, chosen),
        [f"{item['layer']} {item['reason'].split(' with')[0]}" for item in reasons],
    )


def _without(program: Program, exact: Program, units: Sequence[Unit]) -> Program:
    """The program with the FP32 weights of some layers."""
    result = fork(program)
    for layer in sublayers(result.module):
        if (layer.node.name, layer.index) in units:
            _restore(result, exact.module, layer)
    drop_unused(result.module)
    result.module.recompile()
    return result


def _restore(program: Program, exact: fx.GraphModule, layer: Sublayer) -> None:
    for quantizer in (layer.inputs, layer.states):
        source = quantizer.args[0]
        assert isinstance(source, fx.Node)
        replace(program.module, str(source.target), fetch(exact, str(source.target)))
        layer.node.replace_input_with(quantizer, source)
        program.meta["quantization"]["weights"].pop(str(quantizer.args[1].target), None)  # type: ignore[union-attr]
        if not quantizer.users:
            program.module.graph.erase_node(quantizer)
    program.module.graph.eliminate_dead_code()


def _reason(program: Program, unit: Unit, before: float, after: float) -> dict[str, str]:
    node = next(item for item in program.module.graph.nodes if item.name == unit[0])
    name = module_of(node) or node.name
    return {
        "node": node.name,
        "layer": name,
        "op": name_of(node),
        "reason": f"layer {unit[1]} with INT8 weights: the outputs would have {before:.1f} instead of {after:.1f} dB",
    }
