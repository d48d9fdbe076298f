"""The second half of the proof: the ONNX file of a pruned program computes the same as the masked program."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ....core.errors import CaptureError, VerificationError
from ....core.tensors import Array, Signature
from ...graph.devices import as_array, as_tensor
from ...program import Program, device_of, evaluating, reexport
from .prove import Proof

if TYPE_CHECKING:
    from torch.export import ExportedProgram

Outputs = tuple[Mapping[str, Array], Sequence[Array]]
FileCheck = Callable[["ExportedProgram", Signature, Sequence[Outputs]], float | None]
"""Writes a program as a file, runs it on the inputs of every case and compares it with the outputs of that case.

Gives the largest relative error, or None where the file's numbers cannot be judged in this way (INT8). Raises
VerificationError when it is too large, CaptureError when the program cannot be written.
"""


@dataclass(frozen=True)
class FileProof:
    """What came of the comparison.

    Attributes:
        error: largest relative error of an output of the file; None when there was no comparison.
        reason: why there was none.
    """

    error: float | None
    reason: str = ""


NOT_ASKED = FileProof(None, "not asked for")


def prove_file(before: Callable[[], Program], after: Program, proof: Proof, check: FileCheck | None) -> FileProof:
    """Compare the file made of a pruned program with the masked program, at both batch sizes of its proof.

    A model of which no file can be made, cut or uncut, is not refused: the reason is given instead. Where outputs hang
    on rounding (a score and a mask of -1e10 in one sum), double precision says nothing of the file: then it has to give
    what the pruned program, proven to be the masked one, gives in its own precision.

    Args:
        before: reads the uncut program, which only a failure asks for.
        check: how to write, run and compare; None not to.

    Raises:
        VerificationError: the file is off, or the cut is what makes it impossible to write one.
    """
    if check is None:
        return NOT_ASKED
    cases = [(case.feeds, case.outputs) for case in proof.cases]
    try:
        return _compared(after, proof, cases, check)
    except CaptureError as refused:
        if _can_be_written(before(), check):
            raise VerificationError(
                "the cut is rejected: the program can be written as an ONNX file before the cut but not after it: "
                f"{refused.message}",
                "the original program is unchanged; exclude the layer that the message names, and please report it",
            ) from refused
        return FileProof(None, refused.message)


def _compared(after: Program, proof: Proof, cases: Sequence[Outputs], check: FileCheck) -> FileProof:
    exported = reexport(after)
    try:
        error = check(exported, after.signature, cases)
    except VerificationError:
        own = [(feeds, _outputs(after, feeds)) for feeds, _ in cases]
        if proof.dtype != "float64" or not own:
            raise
        return FileProof(
            check(exported, after.signature, own),
            "outputs depend on rounding, so they were compared in the program's own precision",
        )
    return FileProof(error, "" if error is not None else "the program is quantized, so the export stage compares it")


def _outputs(program: Program, feeds: Mapping[str, Array]) -> list[Array]:
    device = device_of(program)
    with evaluating(program), torch.inference_mode():
        values = program.module(*(as_tensor(feeds[spec.name], device) for spec in program.signature.inputs))
    return [as_array(value) for value in values]


def _can_be_written(program: Program, check: FileCheck) -> bool:
    try:
        check(reexport(program), program.signature, [])
    except CaptureError:
        return False
    return True


__all__ = ["FileCheck", "FileProof", "prove_file"]
