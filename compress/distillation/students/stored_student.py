"""A finished student in the scratch folder, so that a run that is interrupted later does not make it again."""

from __future__ import annotations

from pathlib import Path

from ....core.artifact import stable_hash
from ....core.context import Context
from ....core.options.student_form import StudentForm
from ...program import Program
from ...training.checkpoint import state_hash

NOTES = "student"
"""Key in :attr:`Program.meta` of how a student was made from its teacher."""
_FILE = "student.{hash}.pt2"


def stored_student(teacher: Program, form: StudentForm, context: Context) -> Path | None:
    """Where the student of this teacher, form, data and seed is stored; None without a scratch folder."""
    if context.scratch is None:
        return None
    given = [repr(form), teacher.module.code, state_hash(teacher.module.state_dict()), context.data.fingerprint()]
    return context.scratch / _FILE.format(hash=stable_hash([*given, context.task, context.seed])[:16])


def forget(scratch: Path | None) -> None:
    """Delete a student that was stored for an interrupted run."""
    for path in scratch.glob(_FILE.format(hash="*")) if scratch is not None else ():
        path.unlink(missing_ok=True)
