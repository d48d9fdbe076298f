"""Names the sample on which a model itself fails, after a stage failed: such as an index outside a table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..core.artifact import Artifact
from ..core.context import Context
from ..core.data.model_inputs import fit_to
from ..core.data.splits import Split, Subset
from ..core.errors import DataError, RetortError
from ..core.faults import first_line

if TYPE_CHECKING:
    from ..compress.program import Program

_ROWS = 32
_OF_VALUES = (IndexError, RuntimeError, ValueError)


def raise_if_samples_fail(error: Exception, parent: Artifact, context: Context) -> None:
    """Raise an error that names the first sample on which a program does not run; do nothing if all of them run.

    Args:
        error: what a stage raised.
        parent: the program that the stage read; nothing is done for other kinds.

    Raises:
        DataError: the program does not run on one of the samples.
    """
    if not isinstance(error, _OF_VALUES) or parent.kind != "program" or context.data is None:
        return
    try:
        found = next(_faults(parent, context), None)
    except RetortError:  # the samples do not fit: the first error says more
        return
    if found is None:
        return
    where, index, fault = found
    raise DataError(
        f"the model does not run on sample {index} of the {where} split: {first_line(fault)}",
        "check the values of that sample, such as an index that the model has no entry for",
    ) from error


def _faults(parent: Artifact, context: Context) -> Iterator[tuple[str, int, Exception]]:
    from ..compress.program import load_program

    program = load_program(parent.main)
    data = fit_to(context.data, program.signature)
    for where in ("calibration", "validation", "train"):
        split = getattr(data, where)
        for start in range(0, len(split), _ROWS):
            rows = range(start, min(start + _ROWS, len(split)))
            if _fault(program, split, rows) is None:
                continue
            for index in rows:
                fault = _fault(program, split, [index, index])  # two rows, because a program may need more than one
                if fault is not None:
                    yield where, index, fault


def _fault(program: Program, split: Split, rows: Sequence[int]) -> Exception | None:
    """What running a program on some samples raises."""
    from ..compress.program import predict

    try:
        predict(program, Subset(split, np.asarray(rows)), len(rows))
    except _OF_VALUES as error:
        return error
    return None
