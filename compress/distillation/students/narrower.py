"""A student with fewer channels than its teacher, by a proven cut of coupled channels."""

from __future__ import annotations

from ....core.context import Context
from ....core.errors import UserError
from ....core.options.stage_options import PruneOptions
from ...program import Cost, Program, cost
from ...pruning.goal import Goal
from ...pruning.selection.cost_model import counted
from ...pruning.selection.gradients import Samples
from ...pruning.step import cut_and_prove, measure_of
from ...pruning.trial_cuts import Trial


def narrower(program: Program, whole: Cost, unit: str, share: float, context: Context) -> Program:
    """Cut channels until a program costs a share of its teacher; the given program is not changed.

    Args:
        whole: the cost of the teacher.
        unit: ``macs``, ``parameters`` or ``size``.
        share: the share of the teacher's cost that is kept.

    Raises:
        UserError: the program costs no more than that already, or the share cannot be reached.
        VerificationError: the proof of the cut failed.
    """
    measure = measure_of(PruneOptions.model_validate({unit: share, "recover": None}))
    left = share * counted(whole, measure) / max(counted(cost(program), measure), 1)
    if left >= 1:
        raise UserError(
            f"`{unit}:{share:g}` is reached by leaving out layers alone", f"leave out `{unit}`, or give a smaller share"
        )
    options = PruneOptions.model_validate({unit: left, "recover": None})
    goal, data = Goal.of(program, options, None), context.data
    goal.check(program, options)
    samples = Samples(
        data.calibration, context.task, options.score_batch, options.score_samples, context.seed, context.console
    )
    trial = Trial(data.calibration, context.task, goal.counted(0, options), console=context.console)
    return cut_and_prove(program, options, goal.choose(0, options), samples, trial).program
