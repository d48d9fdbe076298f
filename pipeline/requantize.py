"""INT8 programs and other targets than theirs: placed anew from the FP32 program they were made of, or refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from ..core.artifact import MANIFEST, Artifact, is_finished, load_artifact
from ..core.context import Context, Place
from ..core.errors import UserError
from ..core.options.stage_options import Options, QuantizeOptions, Target
from ..core.program_file import stored_target
from .stages import quantize


def for_target(name: str, options: Options, parent: Artifact, place: Place, context: Context) -> Artifact:
    """What a stage shall work on in place of an INT8 program that was placed for another target.

    Each target wants its Qs elsewhere (compress.md 3): moved to another, a file is refused or slower than FP32. So the
    FP32 program beside it, which it was made from, is quantized for the target with the same options.

    Args:
        name: of the stage; only ``quantize`` and ``export`` mind.
        options: of the stage, which may name a target.
        place: of the stage's result; a program that is made anew lies beside it.
        context: its calibration split sets the ranges again.

    Raises:
        UserError: a program is quantized twice for one target, or its FP32 program is not there, or it was trained.
    """
    made_for = quantized_for(parent) if name in ("quantize", "export") and parent.kind == "program" else None
    wanted: Target = getattr(options, "target", None) or context.target
    if made_for is None or (name == "export" and made_for == wanted):
        return parent
    origin = origin_of(parent)
    if name == "quantize" and (made_for == wanted or origin is None):
        raise _refused(f"{parent.path} is quantized already, for {made_for}", origin, wanted)
    if origin is None:
        raise _refused(f"{parent.path} was quantized for {made_for}, not for {wanted}", origin, wanted)
    if name == "quantize":
        context.console.stage("quantize", f"{parent.path} is for {made_for}: {origin.path} is quantized for {wanted}")
        return origin
    return _placed_anew(parent, origin, made_for, wanted, place, context)


def _placed_anew(
    parent: Artifact, origin: Artifact, made_for: str, wanted: Target, place: Place, context: Context
) -> Artifact:
    given = QuantizeOptions.model_validate(parent.manifest.options)
    if given.qat is not None:
        raise _refused(f"{parent.path} was trained in INT8 for {made_for}, not for {wanted}", origin, wanted)
    context.console.stage(
        "export", f"{parent.path} was quantized for {made_for}: {origin.path} is quantized for {wanted}, as it was"
    )
    beside = place.directory.with_name(f"{place.directory.name}-for-{wanted}")
    return quantize(given, origin, Place(beside, "", (origin.key,)), replace(context, target=wanted))


def _refused(what: str, origin: Artifact | None, wanted: str) -> UserError:
    source = "FP32_PROGRAM" if origin is None else origin.path
    return UserError(
        what, f"quantize what it was made from: `retort quantize {source} --data … --target {wanted}`, and export that"
    )


def quantized_for(program: Artifact) -> Target | None:
    """The target that a program is quantized for; None for one in floating point. Read without torch."""
    if program.manifest.stage == "quantize":
        target: Target | None = program.facts.get("target")
        return target
    return stored_target(program.main)


def origin_of(program: Artifact) -> Artifact | None:
    """The program that an INT8 program was made from, when it still lies beside it."""
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
