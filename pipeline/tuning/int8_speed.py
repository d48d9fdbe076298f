"""Never slower: INT8 is timed against FP32, and quantized again without the layers that are faster in floating point.

The one loop behind `retort quantize`, recipes and scripts. What was searched and measured lies beside the program,
under its key, so that whoever asks next finds the same.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from ...core.artifact import Artifact, is_finished, load_artifact, settle, stable_hash, write_atomically
from ...core.console import Console
from ...core.context import Context, Place
from ...core.data.data_sources import fit_to
from ...core.errors import RetortError
from ...core.metrics.ratio import Ratio, mean_of
from ...core.options.stage_options import BenchOptions, QuantizeOptions
from ...core.session import Session, SessionOptions, open_session
from ..measurements import ratios_in, save_facts, save_ratios
from . import mixed_precision

BLOCKS, BUDGET_S = 12, 3.0
_SHOWN = 3

Ratios = dict[str, Ratio]
"""Times as fast as FP32, by batch size."""
Floats = Mapping[str, str]
"""Layers and operators that stay in floating point for speed, each with the measured reason."""


class Stage(Protocol):
    """Quantizes a program once, without a look at the clock."""

    def __call__(self, options: QuantizeOptions, parent: Artifact, place: Place, context: Context, /) -> Artifact:
        """As any stage."""
        ...


def never_slower(stage: Stage, options: QuantizeOptions, parent: Artifact, place: Place, context: Context) -> Artifact:
    """Quantize; where INT8 is slower than FP32, quantize again without what is faster in FP32.

    A training is not done twice, and is resumed on the same program: with ``qat`` the search comes before it.

    Args:
        stage: quantizes once.
        parent: an FP32 program.

    Returns:
        The program; what was measured of it is what :func:`speed_of` tells.
    """
    if not options.timed or context.target != "cpu":
        return stage(options, parent, place, context)
    if options.plan is not None or options.float_layers:
        return _timed(stage(options, parent, place, context), options, parent, place, context)
    if options.qat is not None:
        slow = _begun(parent, options, place, context)
        return _timed(stage(_without(options, slow), parent, place, context), options, parent, place, context)
    # beside, until it is known to stay: a run that is killed must not leave it for the finished one
    first = stage(options, parent, replace(place, directory=_first(place.directory)), context)
    ratios = _measured(options, parent, first, place, context)
    slow = _searched(parent, options, place, context) if is_slower(ratios) else {}
    if not slow:
        settle(first.path, place.directory)
        return load_artifact(place.directory)
    shutil.rmtree(_beside(place, "", "speed").directory, ignore_errors=True)
    made = stage(_without(options, slow), parent, place, context)
    shutil.rmtree(first.path, ignore_errors=True)
    return _timed(made, options, parent, place, context)


def speed_of(options: QuantizeOptions, parent: Artifact, made: Artifact, context: Context) -> Ratios:
    """How many times as fast as FP32 a quantized program is, as it was measured or measured now; says what came out.

    Args:
        options: that it was made with.
        parent: the FP32 program, or the graph that was imported.
        made: the quantized program, or the graph it was exported as.

    Returns:
        By batch size; empty for other targets than ``cpu``, and where one of the two cannot be run, which is said.
    """
    if context.target != "cpu":
        return {}
    program = _program_beside(made)
    ratios = _measured(options, parent, program, Place(program.path, program.key), context)
    if ratios:
        _say(ratios, program.facts.get("float_nodes", []), context.console)
    return ratios


def is_slower(ratios: Ratios) -> bool:
    """Whether INT8 is slower than FP32 at a batch size, or cannot be told from it.

    After too few rounds for an interval the value decides.
    """
    return any((ratio.value if ratio.low is None else ratio.low) <= 1 for ratio in ratios.values())


def is_faster(ratios: Ratios) -> bool:
    """Whether INT8 is faster on average over the batch sizes; also where it could not be timed."""
    return not ratios or mean_of(ratios.values()) > 1


def look_for_faster(program: Artifact, options: QuantizeOptions, context: Context) -> Mapping[str, Any] | None:
    """What to leave in floating point for speed, see :func:`.mixed_precision.search`; what was tried is told.

    Returns:
        None where a form of the program cannot be made or timed, which is said.
    """
    try:
        found = mixed_precision.search(program, options, context.data, context.console)
    except RetortError as error:  # what is made is good all the same
        context.console.warn(f"no faster placement was looked for: {error.message}")
        return None
    _tell_tried(found, context.console)
    return found


def _timed(made: Artifact, options: QuantizeOptions, parent: Artifact, place: Place, context: Context) -> Artifact:
    """The program, once its speed is measured."""
    _measured(options, parent, made, place, context)
    return made


def _measured(options: QuantizeOptions, parent: Artifact, made: Artifact, place: Place, context: Context) -> Ratios:
    """Times as fast as FP32, stored; empty where one of the two cannot be run, which is said and not stored."""
    beside = _beside(place, made.key, "speed")
    stored = _stored(beside)
    if stored is not None:
        return ratios_in(stored)
    try:
        found = _compared(options, parent, made, context)
    except RetortError as error:  # what was made is good all the same
        context.console.warn(f"INT8 was not timed against FP32: {error.message}")
        return {}
    save_ratios(beside, found)
    return found


def _searched(parent: Artifact, options: QuantizeOptions, place: Place, context: Context) -> Floats:
    """What stays in floating point; stored, unless the search failed or the machine was too noisy to decide."""
    beside = _beside(place, place.key, "placement")
    stored = _stored(beside) if place.key else None
    if stored is not None:
        kept: Floats = stored.facts["float"]
        return kept
    found = look_for_faster(parent, options, context)
    if found is None:
        return {}
    if not found["doubts"]:
        save_facts(beside, found)
    slow: Floats = found["float"]
    return slow


def _begun(parent: Artifact, options: QuantizeOptions, place: Place, context: Context) -> Floats:
    """What a training began with, whatever a search says since: resumed, it must meet the same program."""
    path = None if context.scratch is None else context.scratch / "placement.json"
    if path is not None and path.is_file():
        stored = json.loads(path.read_text())
        if stored["key"] == place.key:
            begun: Floats = stored["float"]
            return begun
    slow = _searched(parent, options, place, context)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps({"key": place.key, "float": dict(slow)}).encode())
    return slow


def _without(options: QuantizeOptions, slow: Floats) -> QuantizeOptions:
    return options.model_copy(update={"float_layers": {**options.float_layers, **slow}})


def _first(directory: Path) -> Path:
    return directory.with_name(f".{directory.name}-first")


def _beside(place: Place, key: str, what: str) -> Place:
    """Where what was measured lies: under the program's own name, with a key of its own."""
    return Place(place.directory.with_name(f"{place.directory.name}-{what}"), stable_hash([what, key]))


def _stored(place: Place) -> Artifact | None:
    """What was measured before under this key."""
    found = load_artifact(place.directory) if is_finished(place.directory) else None
    return found if found is not None and found.key == place.key else None


def _program_beside(made: Artifact) -> Artifact:
    """The INT8 program that a graph was exported from, where it lies beside it."""
    beside = made.path.with_name(f"{made.path.name}-program")
    return load_artifact(beside) if made.kind == "graph" and is_finished(beside) else made


def _compared(options: QuantizeOptions, parent: Artifact, made: Artifact, context: Context) -> Ratios:
    from ...benchmarks.timing.latency import compare_sessions

    openers = {name: _opener(item) for name, item in (("fp32", parent), ("int8", made))}
    session = openers["fp32"]()
    split = fit_to(context.data, session.signature).calibration
    session.close()
    wanted = BenchOptions(batch_sizes=options.timed_batches, blocks=BLOCKS, budget_s=BUDGET_S)
    samples = split.read(range(min(max(wanted.batch_sizes), len(split))))[0]
    found = compare_sessions(openers, samples, wanted, context.console, reference="fp32")
    return {str(batch): compared.ratio_of("int8") for batch, compared in found.items()}


def _opener(artifact: Artifact) -> Callable[[], Session]:
    """Opens it as it is exported for the CPU."""
    from ...export.translate import to_onnx

    graph: Path | bytes = artifact.main
    if artifact.kind != "graph":
        graph = to_onnx(artifact.main, None, "cpu").SerializeToString()
    return lambda: open_session(graph, SessionOptions(threads=1))


def _say(ratios: Ratios, floating: Sequence[Mapping[str, str]], console: Console) -> None:
    """The ratios, the verdict where INT8 is not faster, and which layers are not INT8."""
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


def _in_floating_point(nodes: Sequence[Mapping[str, str]]) -> str:
    """The layers that are not INT8, each with its reason; what takes the time was not measured here."""
    if not nodes:
        return "all layers are INT8"
    shown = [f"{node['layer']} stays in floating point ({node['reason']})" for node in nodes[:_SHOWN]]
    rest = len(nodes) - _SHOWN
    return "; ".join(shown) + (f"; and {rest} more layers" if rest > 0 else "")
