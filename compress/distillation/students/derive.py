"""A student made from its teacher: fewer layers or blocks, then fewer channels, with inherited weights."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ....core.context import Context
from ....core.counts import counted
from ....core.errors import ModelError, UserError
from ....core.options.student_form import Depth, StudentForm
from ...program import Cost, Program, clone, cost, load_program, save_program
from .block_importance import least_important
from .narrower import narrower
from .parts import all_stacks
from .recurrent_depth import keep_layers
from .removable_blocks import Block, without
from .residual_blocks import residual_blocks
from .stored_student import NOTES, stored_student


def derive(teacher: Program, form: StudentForm, context: Context) -> Program:
    """A smaller copy of a teacher, whose weights are the teacher's.

    The layers are kept evenly spread, with the first and the last of each stack (DistilBERT; Sanh et al., 2019). Blocks
    are kept by importance: those are left out whose absence changes the outputs least on calibration samples. The width
    is that of a proven cut of coupled channels. Shares of the width are shares of the teacher's cost.

    Args:
        context: its calibration samples measure importance; its scratch folder keeps a finished student for a run that
            is interrupted later.

    Returns:
        The student, in evaluation mode, with what was done in ``meta["student"]``. It shares no memory.

    Raises:
        ModelError: the teacher has no layers or blocks that can be left out.
        UserError: it has fewer than are asked for, or the width cannot be reached.
        DataError: there are no calibration samples.
        VerificationError: the proof of the cut failed.
    """
    stored = stored_student(teacher, form, context)
    if stored is not None and stored.is_file():
        return load_program(stored, context.data)
    whole = cost(teacher)
    student, told = clone(teacher), list[str]()
    if form.layers is not None:
        student, notes = _with_layers(student, form.layers)
        told += notes
    if form.blocks is not None:
        student, notes = _with_blocks(student, form.blocks, context)
        told += notes
    if form.width is not None:
        student = narrower(student, whole, *form.width, context)
        told.append(f"{form.width[0]} cut to {form.width[1]:.0%} of the teacher's")
    told.append(_change(whole, cost(student)))
    for line in told:
        context.console.stage("student", line)
    student = clone(student)
    student.meta[NOTES] = told
    if stored is not None:
        stored.parent.mkdir(parents=True, exist_ok=True)
        save_program(student, stored)
    return student


def _with_layers(program: Program, asked: Depth) -> tuple[Program, list[str]]:
    stacks = all_stacks(program)
    if not stacks:
        raise ModelError(
            "the teacher has no stack of equal layers, so that none can be left out",
            "give `blocks:0.5` to leave out residual blocks, or `macs:0.5` for fewer channels",
        )
    kept = _shared_out(asked, [stack.size for stack in stacks])
    if all(count == stack.size for stack, count in zip(stacks, kept)):
        raise UserError(
            f"`layers:{asked.share:g}` leaves nothing out: the largest stack has "
            f"{counted(max(stack.size for stack in stacks), 'layer')}",
            "give a smaller share",
        )
    told, dropped = [], list[Block]()
    for stack, count in zip(stacks, kept):
        places = _spread(stack.size, count)
        dropped += [layer for place, layer in enumerate(stack.layers) if place not in places]
        listed = ", ".join(str(place + 1) for place in places)
        told.append(f"{stack.name}: {counted(count, 'layer')} of {stack.size} kept: {listed}")
    result = without(program, dropped)
    for stack, count in zip(stacks, kept):
        if stack.recurrent is not None and count < stack.size:
            keep_layers(result, stack.recurrent, _spread(stack.size, count))
    return without(result, []), told


def _shared_out(asked: Depth, sizes: Sequence[int]) -> list[int]:
    """Layers that each stack keeps: its share, or its part of a number for all stacks, at least one of each.

    Raises:
        UserError: there are not as many layers, or not one for each stack.
    """
    total = sum(sizes)
    if asked.count is None:
        return [asked.of(size) for size in sizes]
    if not len(sizes) <= asked.count < total:
        stacks = counted(sizes, "stack")
        raise UserError(
            f"`layers:{asked.count}` does not fit a teacher with {counted(total, 'equal layer')} in {stacks}",
            f"give a number from {len(sizes)} to {total - 1}, or a share such as `layers:0.5`",
        )
    spare, rooms = asked.count - len(sizes), [size - 1 for size in sizes]
    exact = [spare * room / max(sum(rooms), 1) for room in rooms]
    kept = [1 + int(value) for value in exact]
    by_rest = sorted(range(len(sizes)), key=lambda place: int(exact[place]) - exact[place])
    for place in by_rest[: asked.count - sum(kept)]:
        kept[place] += 1
    return kept


def _spread(size: int, count: int) -> list[int]:
    """Indices of ``count`` of ``size`` layers, evenly spread, with the first and the last."""
    return [int(place) for place in np.linspace(0, size - 1, count).round()]


def _with_blocks(program: Program, asked: Depth, context: Context) -> tuple[Program, list[str]]:
    blocks = residual_blocks(program)
    if not blocks:
        raise ModelError(
            "the teacher has no residual block that can be left out",
            "give `layers:0.5` for a stack of equal layers, or `macs:0.5` for fewer channels",
        )
    kept = asked.of(len(blocks))
    if asked.count is not None and asked.count >= len(blocks):
        raise UserError(
            f"`blocks:{asked.count}` leaves nothing out: the teacher has {counted(blocks, 'residual block')}",
            f"give a number from 1 to {len(blocks) - 1}, or a share such as `blocks:0.5`",
        )
    gone = least_important(program, blocks, len(blocks) - kept, context)
    told = [f"{item.block.name} left out: the outputs change by {item.distance:.3g}" for item in gone]
    return without(program, [block for block in blocks if block in [item.block for item in gone]]), told


def _change(whole: Cost, left: Cost) -> str:
    macs, parameters = left.macs / max(whole.macs, 1), left.parameters / max(whole.parameters, 1)
    return f"{macs:.1%} of the teacher's MACs, {parameters:.1%} of its parameters"
