"""INT8 that is not slower: timed against FP32, and quantized again without the layers that slow it down."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from ..core.artifact import Artifact, is_finished, load_artifact, settle, write_atomically
from ..core.context import Context, Place
from ..core.options.stage_options import QuantizeOptions
from .dispatch import program_beside, program_of, run_stage
from .requantize import for_target
from .tuning import int8_speed


def quantize(
    options: QuantizeOptions, parent: Artifact, place: Place, context: Context
) -> tuple[Artifact, int8_speed.Ratios]:
    """Quantize, time it against FP32, and where it is slower quantize again without what is faster in FP32.

    A training is not done twice: with ``qat`` the search comes first.

    Returns:
        The artifact, and how many times as fast as FP32 it is; empty where it was not timed.
    """
    origin = for_target("quantize", options, parent, place, context)
    parent, place = origin, place if origin is parent else replace(place, parents=(origin.key,))
    batches = options.timed_batches
    slow: Mapping[str, str] = {}
    if not options.timed or context.target != "cpu" or options.plan is not None:
        made = run_stage("quantize", options, parent, place, context)
        return made, int8_speed.tell(parent, made, context, batches) if options.timed else {}
    if options.qat is not None:
        slow = _kept(parent, options, place, context)
        made = run_stage("quantize", _without(options, slow), parent, place, context)
        return made, int8_speed.tell(parent, made, context, batches)
    # beside, until it is known to stay: a run that is killed must not leave it for the finished one
    first = run_stage("quantize", options, parent, replace(place, directory=_first(place.directory)), context)
    ratios = int8_speed.tell(parent, first, context, batches)
    slow = (
        int8_speed.look_for_faster(program_of(parent, context), options, context)
        if int8_speed.is_slower(ratios)
        else {}
    )
    if not slow:
        return _settled(first, place.directory), ratios
    made = run_stage("quantize", _without(options, slow), parent, place, context)
    for folder in (first.path, program_beside(first.path)):
        shutil.rmtree(folder, ignore_errors=True)
    return made, int8_speed.tell(parent, made, context, batches)


def _without(options: QuantizeOptions, slow: Mapping[str, str]) -> QuantizeOptions:
    return options.model_copy(update={"float_layers": {**options.float_layers, **slow}})


def _first(directory: Path) -> Path:
    return directory.with_name(f".{directory.name}-first")


def _settled(first: Artifact, directory: Path) -> Artifact:
    if is_finished(program_beside(first.path)):
        settle(program_beside(first.path), program_beside(directory))
    settle(first.path, directory)
    return load_artifact(directory)


def _kept(parent: Artifact, options: QuantizeOptions, place: Place, context: Context) -> Mapping[str, str]:
    """The placement of a training, kept until the training is done: resumed, it must meet the same program."""
    if context.scratch is None:
        return int8_speed.look_for_faster(program_of(parent, context), options, context)
    path = context.scratch / "placement.json"
    stored = json.loads(path.read_text()) if path.is_file() else {}
    if stored.get("key") != place.key:
        slow = int8_speed.look_for_faster(program_of(parent, context), options, context)
        stored = {"key": place.key, "slow": dict(slow)}
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(stored).encode())
    found: Mapping[str, str] = stored["slow"]
    return found
