"""A student gets the dynamic axes of its teacher, so that it can be served in the teacher's place."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeVar

from ..core.console import Console
from ..core.errors import RetortError
from ..core.signature import Signature
from ..core.tensors import BATCH

Axes = dict[str, dict[int, str]]
Made = TypeVar("Made")


def missing_axes(teacher: Signature, student: Signature) -> Axes:
    """The axes that are dynamic in the teacher and fixed in the student, with their names, by the student's inputs.

    Inputs belong together by their names, or in order if there are as many; an axis has the same place in both.
    """
    given = {spec.name: spec for spec in teacher.inputs}
    in_order = list(teacher.inputs) if len(teacher.inputs) == len(student.inputs) else []
    found: Axes = {}
    missing = False
    for index, spec in enumerate(student.inputs):
        like = given.get(spec.name, in_order[index] if in_order else None)
        if like is None or len(like.shape) != len(spec.shape):
            continue
        named = {
            axis: word.group()
            for axis, size in enumerate(like.shape)
            if isinstance(size, str) and size != BATCH and (word := re.search(r"[A-Za-z_]\w*", size))
        }
        if named:
            found[spec.name] = named
            missing |= any(isinstance(spec.shape[axis], int) for axis in named)
    return found if missing else {}


def captured_like(
    teacher: Signature, make: Callable[[Axes], Made], signature_of: Callable[[Made], Signature], console: Console
) -> Made:
    """Capture a student, again with the teacher's dynamic axes if it has fixed ones in their place.

    Args:
        make: captures the student with the given axes.
        signature_of: the signature of what ``make`` returns.
        console: is told if the student's code does not allow these axes, or if it is a file that was captured without
            them.
    """
    student = make({})
    axes = missing_axes(teacher, signature_of(student))
    if not axes:
        return student
    names = ", ".join(sorted({name for item in axes.values() for name in item.values()}))
    told = f"the student keeps a fixed size for {names}, which is dynamic in its teacher"
    try:
        student = make(axes)
    except RetortError as error:
        console.warn(f"{told}: {error.message}")
        return student
    if missing_axes(teacher, signature_of(student)):
        flags = (f"--set dynamic.{name}.{axis}={word}" for name, item in axes.items() for axis, word in item.items())
        console.warn(f"{told}: its file was captured so; capture it with {' '.join(flags)}")
    return student
