"""Never slower: INT8 is timed against the program it was made of, and what keeps it slow is named."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from . import measuring, placing
from .core.artifact import Artifact, is_finished, load_artifact, new_artifact
from .core.console import Console
from .core.context import Context, Place
from .core.errors import RetortError
from .core.options import BenchOptions, QuantizeOptions
from .core.session import Session, SessionOptions, open_session
from .core.sources import fit_to
from .core.stage_table import PROGRAM_STAGES

if TYPE_CHECKING:
    from .line import Line

BLOCKS, BUDGET_S, BATCHES = 12, 3.0, 2
_SHOWN = 3

Ratios = dict[str, dict[str, Any]]
"""Times as fast as FP32, by batch size: value, low, high; no high where too few rounds fitted to have one."""


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
    return any((item["low"] if item["low"] > 0 else item["value"]) <= 1 for item in ratios.values())


def look_for_faster(program: Artifact, options: QuantizeOptions, context: Context) -> dict[str, str]:
    """What to leave in floating point for speed, with the measured reason; what was tried is told.

    Nothing is left where that gains nothing, or where a form of the program cannot be timed, which is said.
    """
    try:
        found = placing.search(program, options, context.data, context.console)
    except RetortError as error:  # what is made is good all the same
        context.console.warn(f"no faster placement was looked for: {error.message}")
        return {}
    _tell_tried(found, context.console)
    slow: dict[str, str] = found["float"]
    return slow


def _tell_tried(found: Mapping[str, Any], console: Console) -> None:
    for item in found["tried"]:
        kept = "kept" if found["float"] and set(item["float"]) == set(found["float"]) else "tried"
        shown = ", ".join(f"{ratio[0]:.2f}x at batch {batch}" for batch, ratio in item["speed"].items())
        what = f"{len(item['float'])} layers and operators in floating point" if item["float"] else "all in INT8"
        console.say(f"            {kept}: {what}: {shown}")
    if not found["float"]:
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
    from .benchmarks.latency import compare_sessions

    sessions = {name: _session(item) for name, item in (("fp32", parent), ("int8", made))}
    options = BenchOptions(batch_sizes=tuple(batches), blocks=BLOCKS, budget_s=BUDGET_S)
    split = fit_to(context.data, sessions["fp32"].signature).calibration
    samples = split.read(range(min(max(options.batch_sizes), len(split))))[0]
    found: Ratios = {}
    for batch, compared in compare_sessions(sessions, samples, options, reference="fp32").items():
        ratio = compared.candidates["int8"].ratio
        assert ratio is not None
        high = ratio.high if math.isfinite(ratio.high) else None
        found[str(batch)] = {"value": ratio.value, "low": ratio.low, "high": high}
    return found


def _session(artifact: Artifact) -> Session:
    """As it is exported for the CPU."""
    from .export.onnx_graph import to_onnx

    if artifact.kind == "graph":
        return open_session(artifact.main, SessionOptions(threads=1))
    return open_session(to_onnx(artifact.main, None, "cpu").SerializeToString(), SessionOptions(threads=1))


def _say(ratios: Ratios, floating: Sequence[Mapping[str, str]], console: Console) -> bool:
    """The ratios, and why INT8 is not faster where it is not; whether it is on average."""
    parts = [
        f"{item['value']:.2f} at batch {batch} ({item['low']:.2f} to {_open_end(item['high'])})"
        for batch, item in ratios.items()
    ]
    console.stage("quantize", f"times as fast as FP32: {', '.join(parts)}")
    slow = [batch for batch, item in ratios.items() if item["low"] <= 1]
    if slow:
        console.warn(f"INT8 is not surely faster than FP32 at batch {' and '.join(slow)}: {_reasons(floating)}")
    beaten = [batch for batch, item in ratios.items() if item["value"] < 1]
    if beaten:
        remedy = "ship the FP32 program where that batch size counts (`prefer: fastest` in a recipe does by itself)"
        console.warn(f"FP32 is the faster at batch {' and '.join(beaten)}: {remedy}")
    return sum(math.log(item["value"]) for item in ratios.values()) > 0


def _open_end(high: float | None) -> str:
    return "…" if high is None or not math.isfinite(high) else f"{high:.2f}"


def _measured(line: Line) -> Ratios:
    before = _before(line)
    own = next((options for _, options in line.plan if isinstance(options, BenchOptions)), BenchOptions())
    asked = next(options for _, options in line.plan if isinstance(options, QuantizeOptions))
    sizes = asked.timed_batches if "timed_batches" in asked.model_fields_set else own.batch_sizes[:BATCHES]
    wanted = {"batch_sizes": sizes, "blocks": BLOCKS, "budget_s": BUDGET_S}
    options = own.model_copy(update=wanted)
    pair = {name: line.graph(name) for name in (before, "quantize")}

    def _make(place: Place) -> Artifact:
        facts: dict[str, Any] = {}
        for batch, compared in measuring.compare(line, pair, options).items():
            ratio = compared.candidates["quantize"].ratio
            assert ratio is not None
            facts[str(batch)] = {"value": ratio.value, "low": ratio.low, "high": ratio.high}
        with new_artifact(place, "measurement", "gate", facts=facts) as folder:
            (folder / "measurement.json").write_text(json.dumps(facts))
        return load_artifact(place.directory)

    facts = line.measure("gate", options, list(pair.values()), _make, {"speed": "int8"}, "quantize-gate").facts
    return {batch: facts[batch] for batch in map(str, options.batch_sizes)}


def _reasons(nodes: Sequence[Mapping[str, str]]) -> str:
    """The layers in floating point, with why; or what else takes the time."""
    if not nodes:
        return "all layers are integer, and so small that conversions and calls take the time"
    shown = [f"{node['layer']} stays in floating point ({node['reason']})" for node in nodes[:_SHOWN]]
    rest = len(nodes) - _SHOWN
    return "; ".join(shown) + (f"; and {rest} more layers" if rest > 0 else "")
