"""Never slower: INT8 is timed against the program it was made of, and what keeps it slow is named."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...core.artifact import Artifact, is_finished, load_artifact, new_artifact
from ...core.console import Console
from ...core.context import Context, Place
from ...core.data.data_sources import fit_to
from ...core.errors import RetortError
from ...core.metrics.ratio import Ratio, mean_of
from ...core.options.stage_options import BenchOptions, QuantizeOptions
from ...core.options.stage_table import PROGRAM_STAGES
from ...core.session import Session, SessionOptions, open_session
from .. import measure
from . import mixed_precision

if TYPE_CHECKING:
    from ..line import Line

BLOCKS, BUDGET_S, BATCHES = 12, 3.0, 2
_SHOWN = 3

Ratios = dict[str, Ratio]
"""Times as fast as FP32, by batch size."""


def int8_is_faster(line: Line) -> bool:
    """Time the quantized program and the one before it in interleaved blocks, both as exported, and say what came out.

    Where INT8 is slower, it is quantized again without the layers that are faster in floating point.

    Returns:
        Whether INT8 is faster on average over the batch sizes of the bench stage (the first two).
    """
    ratios = _measured(line)
    options = next(options for _, options in line.plan if isinstance(options, QuantizeOptions))
    if options.timed and options.plan is None and options.qat is None and is_slower(ratios):
        slow = _searched(line, options.model_copy(update={"timed_batches": tuple(map(int, ratios))}))
        if slow:
            line.quantize_again(slow)
            ratios = _measured(line)
    faster = _say(ratios, line.outcome.artifacts["quantize"].facts["float_nodes"], line.console)
    if not faster and line.recipe.prefer == "fastest":
        line.console.warn("the FP32 program is shipped, as `prefer: fastest` asks")
    return faster


def is_slower(ratios: Ratios) -> bool:
    """Whether INT8 is slower than FP32 at a batch size, or cannot be told from it.

    After too few rounds for an interval the value decides.
    """
    return any((ratio.value if ratio.low is None else ratio.low) <= 1 for ratio in ratios.values())


def look_for_faster(program: Artifact, options: QuantizeOptions, context: Context) -> dict[str, str]:
    """What to leave in floating point for speed, with the measured reason; what was tried is told.

    Nothing is left where that gains nothing, or where a form of the program cannot be timed, which is said.
    """
    try:
        found = mixed_precision.search(program, options, context.data, context.console)
    except RetortError as error:  # what is made is good all the same
        context.console.warn(f"no faster placement was looked for: {error.message}")
        return {}
    _tell_tried(found, context.console)
    slow: dict[str, str] = found["float"]
    return slow


def _tell_tried(found: Mapping[str, Any], console: Console) -> None:
    for item in found["tried"]:
        kept = "kept" if found["float"] and set(item["float"]) == set(found["float"]) else "tried"
        shown = ", ".join(f"{ratio['value']:.2f}x at batch {batch}" for batch, ratio in item["speed"].items())
        what = f"{len(item['float'])} layers and operators in floating point" if item["float"] else "all in INT8"
        console.say(f"            {kept}: {what}: {shown}")
    if found["doubts"]:
        console.warn(f"the times of placements decide nothing, and all layers stay INT8: {'; '.join(found['doubts'])}")
    elif not found["float"]:
        console.say("            no placement was found that is nowhere slower than FP32 and faster on average")


def _searched(line: Line, options: QuantizeOptions) -> dict[str, str]:
    """The search of a line, stored, so that a second run finds the same."""
    before = _before(line)
    program = line.outcome.artifacts[before]

    def _make(place: Place) -> Artifact:
        facts = {"slow": look_for_faster(program, options, line.context)}
        with new_artifact(place, "measurement", "gate", facts=facts) as folder:
            (folder / "measurement.json").write_text(json.dumps(facts))
        return load_artifact(place.directory)

    slow: dict[str, str] = line.measure("gate", options, [program], _make, {"search": True}, "quantize-gate").facts[
        "slow"
    ]
    return slow


def _before(line: Line) -> str:
    """The program stage before INT8."""
    return [name for name in line.outcome.artifacts if name in PROGRAM_STAGES][-2]


def tell(parent: Artifact, made: Artifact, context: Context, batches: Sequence[int] = (1, 32)) -> Ratios:
    """Time what `retort quantize` made against what it was made of, one thread, and say what came out.

    Args:
        parent: a program, or the graph that was imported.
        made: the quantized program, or the graph it was exported as again.
        batches: the batch sizes.

    Returns:
        Times as fast as FP32 by batch size, with intervals; empty for other targets than ``cpu``, and where one of
        the two cannot be exported or run, which is said.
    """
    if context.target != "cpu":
        return {}
    try:
        found = _timed(parent, made, context, batches)
    except RetortError as error:  # what was made is good all the same
        context.console.warn(f"INT8 was not timed against FP32: {error.message}")
        return {}
    _say(found, _program_beside(made).facts.get("float_nodes", []), context.console)
    return found


def _program_beside(made: Artifact) -> Artifact:
    """The INT8 program that a graph was exported from, where it lies beside it."""
    beside = made.path.with_name(f"{made.path.name}-program")
    return load_artifact(beside) if made.kind == "graph" and is_finished(beside) else made


def _timed(parent: Artifact, made: Artifact, context: Context, batches: Sequence[int]) -> Ratios:
    from ...benchmarks.latency import compare_sessions

    openers = {name: _opener(item) for name, item in (("fp32", parent), ("int8", made))}
    session = openers["fp32"]()
    split = fit_to(context.data, session.signature).calibration
    session.close()
    options = BenchOptions(batch_sizes=tuple(batches), blocks=BLOCKS, budget_s=BUDGET_S)
    samples = split.read(range(min(max(options.batch_sizes), len(split))))[0]
    found = compare_sessions(openers, samples, options, context.console, reference="fp32")
    return {str(batch): compared.ratio_of("int8") for batch, compared in found.items()}


def _opener(artifact: Artifact) -> Callable[[], Session]:
    """Opens it as it is exported for the CPU."""
    from ...export.translate import to_onnx

    graph: Path | bytes = artifact.main
    if artifact.kind != "graph":
        graph = to_onnx(artifact.main, None, "cpu").SerializeToString()
    return lambda: open_session(graph, SessionOptions(threads=1))


def _say(ratios: Ratios, floating: Sequence[Mapping[str, str]], console: Console) -> bool:
    """The ratios, the verdict where INT8 is not faster, and which layers are not INT8; whether it is on average."""
    shown = ", ".join(f"{ratio.value:.2f} at batch {batch} ({ratio.span})" for batch, ratio in ratios.items())
    console.stage("quantize", f"times as fast as FP32: {shown}")
    slower = [batch for batch, ratio in ratios.items() if ratio.verdict == "slower"]
    unknown = {batch: ratio.why_undecided for batch, ratio in ratios.items() if ratio.verdict == "cannot tell"}
    if slower:
        remedy = "ship the FP32 program where that batch size counts (`prefer: fastest` in a recipe does by itself)"
        console.warn(f"INT8 is slower than FP32 at batch {' and '.join(slower)}: {remedy}")
    for batch, why in unknown.items():
        console.warn(f"whether INT8 is faster than FP32 at batch {batch} cannot be told: {why}")
    if slower or unknown:
        console.warn(_in_floating_point(floating))
    return mean_of(ratios.values()) > 1


def _measured(line: Line) -> Ratios:
    before = _before(line)
    own = next((options for _, options in line.plan if isinstance(options, BenchOptions)), BenchOptions())
    asked = next(options for _, options in line.plan if isinstance(options, QuantizeOptions))
    sizes = asked.timed_batches if "timed_batches" in asked.model_fields_set else own.batch_sizes[:BATCHES]
    wanted = {"batch_sizes": sizes, "blocks": BLOCKS, "budget_s": BUDGET_S}
    options = own.model_copy(update=wanted)
    pair = {name: line.graph(name) for name in (before, "quantize")}

    def _make(place: Place) -> Artifact:
        found = measure.compare(line, pair, options)
        return measure.save_ratios(place, {str(batch): run.ratio_of("quantize") for batch, run in found.items()})

    return measure.ratios_in(
        line.measure("gate", options, list(pair.values()), _make, {"speed": "int8"}, "quantize-gate")
    )


def _in_floating_point(nodes: Sequence[Mapping[str, str]]) -> str:
    """The layers that are not INT8, each with its reason; what takes the time was not measured here."""
    if not nodes:
        return "all layers are INT8"
    shown = [f"{node['layer']} stays in floating point ({node['reason']})" for node in nodes[:_SHOWN]]
    rest = len(nodes) - _SHOWN
    return "; ".join(shown) + (f"; and {rest} more layers" if rest > 0 else "")
