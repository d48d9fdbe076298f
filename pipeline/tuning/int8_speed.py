"""INT8 that is never slower: it is timed against FP32, and layers that are faster in FP32 stay in FP32.

`retort quantize`, recipes and scripts all use this loop. Results of the search and of measurements are stored next to
the program with its key, so that later calls reuse them.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from ...core.artifact import Artifact, is_finished, load_artifact, stable_hash
from ...core.console import Console
from ...core.context import Context, Place
from ...core.counts import counted
from ...core.cpu_targets import can_be_timed, why_not_timed
from ...core.data.model_inputs import fit_to
from ...core.errors import RetortError
from ...core.facts.measurement_facts import PlacementFacts, RatioFacts
from ...core.facts.quantize_facts import FloatNode, QuantizeFacts
from ...core.metrics.ratio import Ratio, mean_of
from ...core.options.stage_options import BenchOptions, QuantizeOptions, Target
from ...core.system.atomic_files import write_atomically
from ...core.system.owned_folders import remove_artifact, settle
from ..measurements import ratios_in, save_facts, save_ratios
from . import mixed_precision
from .fitting_batches import fitting_batches, note_on, rows_fitting
from .timed_files import compared, file_of, opened

BLOCKS, BUDGET_S = 12, 3.0
_SHOWN = 3

Ratios = dict[str, Ratio]
"""Speedup over FP32, by batch size."""
NOTHING_FOUND = PlacementFacts(float={}, tried=(), doubts=())


class Stage(Protocol):
    """Quantizes a program once, without timing it."""

    def __call__(self, options: QuantizeOptions, parent: Artifact, place: Place, context: Context, /) -> Artifact:
        """See :func:`retort.pipeline.stages.quantize`."""
        ...


def never_slower(stage: Stage, options: QuantizeOptions, parent: Artifact, place: Place, context: Context) -> Artifact:
    """Quantize; if INT8 is slower than FP32, quantize again with the layers that are faster in FP32 left in FP32.

    With ``qat`` the search is done before the training, because a training must not run twice and must resume on the
    same program.

    Args:
        stage: quantizes once.
        parent: an FP32 program.

    Returns:
        The program; :func:`speed_of` returns its measured speed.
    """
    if not options.timed or not can_be_timed(context.target, options.timer):
        return stage(options, parent, place, context)
    if options.plan is not None or options.float_layers:
        return _timed(stage(options, parent, place, context), options, parent, place, context)
    if options.qat is not None:
        found = _searched_before_training(parent, options, place, context)
        return _timed(stage(found.applied_to(options), parent, place, context), options, parent, place, context)
    # in a hidden folder until it is final, because a killed run must not leave it as the finished program
    first = stage(options, parent, replace(place, directory=_first(place.directory)), context)
    ratios = _measured(options, parent, first, place, context)
    found = _searched(parent, options, place, context) if is_slower(ratios) else NOTHING_FOUND
    if not found.changes_something:
        settle(first.path, place.directory)
        return load_artifact(place.directory)
    remove_artifact(_place_for(place, "", "speed").directory)
    made = stage(found.applied_to(options), parent, place, context)
    remove_artifact(first.path)
    return _timed(made, options, parent, place, context)


def speed_of(options: QuantizeOptions, parent: Artifact, made: Artifact, context: Context) -> Ratios:
    """The speedup of a quantized program over FP32, measured unless it was measured before; the result is printed.

    Args:
        options: the options with which it was quantized.
        parent: the FP32 program, or the graph that was imported.
        made: the quantized program, or the graph that was exported from it.

    Returns:
        The speedup by batch size; empty for targets that are not timed on this machine, which is said for ``arm``, or,
        with a warning, if one of the two does not run.
    """
    if not can_be_timed(context.target, options.timer):
        if why := why_not_timed(context.target, options.timer):
            context.console.stage("quantize", why)
        return {}
    program = _stored_program(made)
    ratios = _measured(options, parent, program, Place(program.path, program.key), context)
    if ratios:
        _report_speed(ratios, _float_nodes(program), context.console)
    return ratios


def stored_speed(made: Artifact, target: Target) -> Ratios | None:
    """The speedup that :func:`speed_of` would return without a measurement; None if it has to be measured."""
    program = _stored_program(made)
    if not can_be_timed(target, program.manifest.options.get("timer")):
        return {}
    stored = _stored(_place_for(Place(program.path, program.key), program.key, "speed"))
    ratios = dict(stored.facts_as(RatioFacts).ratios) if stored is not None else {}
    return None if stored is None or any(ratio.doubts for ratio in ratios.values()) else ratios


def _float_nodes(program: Artifact) -> Sequence[FloatNode]:
    """The operators of a quantized program that stay in floating point; none of another artifact."""
    return program.facts_as(QuantizeFacts).float_nodes if program.manifest.stage == "quantize" else ()


def is_slower(ratios: Ratios) -> bool:
    """Whether INT8 is not certainly faster than FP32 at every batch size.

    If there were too few rounds for an interval, the value decides.
    """
    return any((ratio.value if ratio.low is None else ratio.low) <= 1 for ratio in ratios.values())


def is_faster(ratios: Ratios) -> bool:
    """Whether INT8 is faster on average over the batch sizes, or could not be timed."""
    return not ratios or mean_of(ratios.values()) > 1


def look_for_faster(program: Artifact, options: QuantizeOptions, context: Context) -> PlacementFacts | None:
    """Search for layers to leave in floating point for speed (:func:`.mixed_precision.search`), and report the trials.

    Returns:
        The result of the search; None, with a warning, if a form of the program cannot be made or timed.
    """
    try:
        batches = fitting_batches(options, rows_fitting(options, program))
        fitting = options.model_copy(update={"timed_batches": batches})
        found = mixed_precision.search(program, fitting, context.data, context.console, context.target)
    except RetortError as error:  # the quantized program is valid without the search
        context.console.warn(f"no faster placement was searched for: {error.message}")
        return None
    _report_tried(found, context.console)
    return found


def _timed(made: Artifact, options: QuantizeOptions, parent: Artifact, place: Place, context: Context) -> Artifact:
    """Measure the speed of the program, and return the program."""
    _measured(options, parent, made, place, context)
    return made


def _measured(options: QuantizeOptions, parent: Artifact, made: Artifact, place: Place, context: Context) -> Ratios:
    """The speedup over FP32, which is stored; empty, with a warning and not stored, if one of the two does not run."""
    store = _place_for(place, made.key, "speed")
    stored = _stored(store)
    if stored is not None:
        return ratios_in(stored)
    try:
        found = _compared(options, parent, made, context)
    except RetortError as error:  # the quantized program is valid without the measurement
        context.console.warn(f"INT8 was not timed against FP32: {error.message}")
        return {}
    save_ratios(store, found)
    return found


def _searched(parent: Artifact, options: QuantizeOptions, place: Place, context: Context) -> PlacementFacts:
    """The placement to use; stored, unless the search failed or the machine was too noisy to decide."""
    store = _place_for(place, place.key, "placement")
    stored = _stored(store) if place.key else None
    if stored is not None:
        return stored.facts_as(PlacementFacts)
    found = look_for_faster(parent, options, context)
    if found is None:
        return NOTHING_FOUND
    if not found.doubts:
        save_facts(store, found)
    return found


def _searched_before_training(
    parent: Artifact, options: QuantizeOptions, place: Place, context: Context
) -> PlacementFacts:
    """The placement with which a training started; a resumed training must use the same one, so no search runs."""
    path = None if context.scratch is None else context.scratch / "placement.json"
    if path is not None and path.is_file():
        stored = json.loads(path.read_text())
        if stored["key"] == place.key:
            return NOTHING_FOUND.model_copy(
                update={"float": stored["float"], "first_layer": stored.get("first_layer", "auto")}
            )
    found = _searched(parent, options, place, context)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        known = {"key": place.key, "float": found.float, "first_layer": found.first_layer}
        write_atomically(path, json.dumps(known).encode())
    return found


def _first(directory: Path) -> Path:
    return directory.with_name(f".{directory.name}-first")


def _place_for(place: Place, key: str, what: str) -> Place:
    """The place of a measurement next to the program, with its own key."""
    return Place(place.directory.with_name(f"{place.directory.name}-{what}"), stable_hash([what, key]))


def _stored(place: Place) -> Artifact | None:
    """The stored measurement with this key, or None."""
    found = load_artifact(place.directory) if is_finished(place.directory) else None
    return found if found is not None and found.key == place.key else None


def _stored_program(made: Artifact) -> Artifact:
    """The INT8 program from which a graph was exported, if it is stored next to it; else the artifact itself."""
    folder = made.path.with_name(f"{made.path.name}-program")
    return load_artifact(folder) if made.kind == "graph" and is_finished(folder) else made


def _compared(options: QuantizeOptions, parent: Artifact, made: Artifact, context: Context) -> Ratios:
    batches = fitting_batches(options, rows_fitting(options, parent))
    note = note_on(options, batches)
    if note is not None:
        context.console.say(note)
    with tempfile.TemporaryDirectory() as name:
        exact = file_of(parent, Path(name), target=context.target)
        session = opened(exact)
        split = fit_to(context.data, session.signature).calibration
        session.close()
        wanted = BenchOptions(batch_sizes=batches, blocks=BLOCKS, budget_s=BUDGET_S, timer=options.timer)
        samples = split.read(range(min(max(wanted.batch_sizes), len(split))))[0]
        files = {"fp32": exact, "int8": file_of(made, Path(name), samples, context.target)}
        found = compared(files, samples, wanted, context.console)
    return {str(batch): one.ratio_of("int8") for batch, one in found.items()}


def _report_speed(ratios: Ratios, floating: Sequence[FloatNode], console: Console) -> None:
    """Print the ratios; if INT8 is not faster, also warn and list the layers that are not INT8."""
    shown = ", ".join(f"{ratio.value:.2f}× at batch {batch} ({ratio.span})" for batch, ratio in ratios.items())
    console.stage("quantize", f"speedup over FP32: {shown}")
    slower = [batch for batch, ratio in ratios.items() if ratio.verdict == "slower"]
    unknown = {batch: ratio.why_undecided for batch, ratio in ratios.items() if ratio.verdict == "cannot tell"}
    if slower:
        remedy = "ship the FP32 program if that batch size matters (`prefer: fastest` in a recipe does this)"
        console.warn(f"INT8 is slower than FP32 at batch {' and '.join(slower)}: {remedy}")
    for batch, why in unknown.items():
        console.warn(f"whether INT8 is faster than FP32 at batch {batch} is unknown: {why}")
    if slower or any(ratio.bounded and not ratio.doubts for batch, ratio in ratios.items() if batch in unknown):
        console.warn(_in_floating_point(floating))  # no layer is the cause of a measurement that says nothing


def _report_tried(found: PlacementFacts, console: Console) -> None:
    for item in found.tried:
        same = set(item.float) == set(found.float) and item.first_layer == found.first_layer
        kept = "kept" if found.changes_something and same else "tried"
        shown = ", ".join(f"{ratio.value:.2f}× at batch {batch}" for batch, ratio in item.speed.items())
        what = (
            f"{counted(item.float, 'layer or operator', 'layers and operators')} in floating point"
            if item.float
            else "all in INT8"
        )
        what += ", and the first layers in INT8" if item.first_layer == "int8" else ""
        console.say(f"            {kept}: {what}: {shown}")
    if found.doubts:
        doubts = "; ".join(found.doubts)
        console.warn(f"placements could not be compared, so all layers stay INT8: {doubts}")
    elif not found.changes_something:
        console.say("            no placement is faster than FP32 on average and not slower at any batch size")


def _in_floating_point(nodes: Sequence[FloatNode]) -> str:
    """The layers that are not INT8, each with its reason."""
    if not nodes:
        return "all layers are INT8"
    shown = [f"{node.layer} stays in floating point ({node.reason})" for node in nodes[:_SHOWN]]
    rest = len(nodes) - _SHOWN
    return "; ".join(shown) + (f"; and {rest} more layers" if rest > 0 else "")
