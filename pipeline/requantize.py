"""INT8 programs for another target: they are quantized again from their FP32 program, or rejected."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from ..core.artifact import MANIFEST, Artifact, is_finished, load_artifact
from ..core.context import Context, Place
from ..core.errors import UserError
from ..core.facts.quantize_facts import QuantizeFacts
from ..core.formats.program_file import stored_target
from ..core.options.stage_options import Options, QuantizeOptions, Target
from .stages import quantize


def for_target(name: str, options: Options, parent: Artifact, place: Place, context: Context) -> Artifact:
    """The artifact that a stage uses instead of an INT8 program that was quantized for another target.

    Each target needs QuantizeLinear nodes at other places (compress.md 3); on another target, a file is rejected or
    slower than FP32. So the FP32 program from which it was made is quantized for that target with the same options.

    Args:
        name: name of the stage; only ``quantize`` and ``export`` need this.
        options: options of the stage, which may set a target.
        place: place of the stage's result; the new program is written next to it.
        context: its calibration split sets the ranges again.

    Raises:
        UserError: the program is already quantized for this target, its FP32 program is missing, or it was trained.
    """
    made_for = quantized_for(parent) if name in ("quantize", "export") and parent.kind == "program" else None
    wanted: Target = getattr(options, "target", None) or context.target
    if made_for is None or (name == "export" and made_for == wanted):
        return parent
    origin = origin_of(parent)
    if name == "quantize" and (made_for == wanted or origin is None):
        raise _refused(f"{parent.path} is already quantized for {made_for}", origin, wanted)
    if origin is None:
        raise _refused(f"{parent.path} was quantized for {made_for}, not for {wanted}", origin, wanted)
    if name == "quantize":
        context.console.stage(
            "quantize", f"{parent.path} is for {made_for}, so {origin.path} is quantized for {wanted}"
        )
        return origin
    return _requantized(parent, origin, made_for, wanted, place, context)


def _requantized(
    parent: Artifact, origin: Artifact, made_for: str, wanted: Target, place: Place, context: Context
) -> Artifact:
    given = QuantizeOptions.model_validate(parent.manifest.options)
    if given.qat is not None:
        raise _refused(f"{parent.path} was trained in INT8 for {made_for}, not for {wanted}", origin, wanted)
    context.console.stage(
        "export",
        f"{parent.path} was quantized for {made_for}, so {origin.path} is quantized for {wanted} with the same options",
    )
    folder = place.directory.with_name(f"{place.directory.name}-for-{wanted}")
    return quantize(given, origin, Place(folder, "", (origin.key,)), replace(context, target=wanted))


def _refused(what: str, origin: Artifact | None, wanted: str) -> UserError:
    source = "FP32_PROGRAM" if origin is None else origin.path
    return UserError(
        what,
        f"quantize the program from which it was made with `retort quantize {source} --data … --target {wanted}`, and "
        "export the result",
    )


def quantized_for(program: Artifact) -> Target | None:
    """The target that a program is quantized for; None if it is in floating point. It is read without torch."""
    if program.manifest.stage == "quantize":
        return program.facts_as(QuantizeFacts).target
    return stored_target(program.main)


def origin_of(program: Artifact) -> Artifact | None:
    """The program from which an INT8 program was made, if it is still next to it."""
    if not program.path.is_dir():
        return None
    for folder in sorted(program.path.resolve().parent.iterdir()):
        if folder.is_dir() and is_finished(folder) and _key(folder) in program.manifest.parents:
            found = load_artifact(folder)
            if found.kind == "program" and quantized_for(found) is None:
                return found
    return None


def _key(folder: Path) -> str:
    try:
        key: str = json.loads((folder / MANIFEST).read_text())["key"]
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    return key
