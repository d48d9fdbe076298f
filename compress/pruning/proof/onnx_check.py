"""The second half of the proof: the ONNX file of a pruned program computes the same as the masked program."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from ....core.errors import CaptureError, VerificationError
from ....core.facts.prune_facts import FileProof
from ....core.signature import Signature
from ....core.tensors import Array
from ...graph.devices import as_array, as_tensor
from ...program import Program, device_of, evaluating, reexport
from .prove import Proof

if TYPE_CHECKING:
    from torch.export import ExportedProgram

Outputs = tuple[Mapping[str, Array], Sequence[Array]]
FileCheck = Callable[["ExportedProgram", Signature, Sequence[Outputs]], float | None]
"""Writes a program as a file, runs the file on the inputs of every case and compares the outputs with the case.

Returns the largest relative error, or None if the outputs cannot be compared in this way (INT8). Raises
VerificationError if the error is too large, CaptureError if the program cannot be written.
"""


NOT_ASKED = FileProof(error=None, reason="not asked for")


def prove_file(before: Callable[[], Program], after: Program, proof: Proof, check: FileCheck | None) -> FileProof:
    """Compare the ONNX file of a pruned program with the masked program, at both batch sizes of its proof.

    A model that cannot be written as a file, before and after the cut, is not rejected; the reason is recorded. If
    outputs depend on rounding (a score and a mask of -1e10 in one sum), they cannot be compared with double precision.
    Then the file must agree with the pruned program, which is proven to equal the masked one, in its own precision.

    Args:
        before: loads the program before the cut; it is called only after a failure.
        check: writes, runs and compares the file; None to skip the comparison.

    Raises:
        VerificationError: the outputs of the file differ, or the program can be written only before the cut.
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
        return FileProof(error=None, reason=refused.message)


def _compared(after: Program, proof: Proof, cases: Sequence[Outputs], check: FileCheck) -> FileProof:
    exported = reexport(after)
    try:
        error = check(exported, after.signature, cases)
    except VerificationError:
        own = [(feeds, _outputs(after, feeds)) for feeds, _ in cases]
        if proof.dtype != "float64" or not own:
            raise
        return FileProof(
            error=check(exported, after.signature, own),
            reason="outputs depend on rounding, so they were compared in the program's own precision",
        )
    reason = "" if error is not None else "the program is quantized, so the export stage compares it"
    return FileProof(error=error, reason=reason)


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


__all__ = ["NOT_ASKED", "FileCheck", "prove_file"]
