"""Which kernels run the recurrent layers of a file: integer ones only if they are accurate enough.

``DynamicQuantizeLSTM`` and ``DynamicQuantizeMatMul`` quantize their input and, at every step, their state to 8 bits,
which the program does not do. That error adds up over time and layers, and no calibration can lower it. So the file is
measured on real samples: it must be as close to the FP32 program as the same file with FP32 kernels, within 3 dB, or
have 30 dB.
"""

from __future__ import annotations

import onnx_ir as ir
from torch.export import ExportedProgram

from ..core.backends.eager import EagerSession
from ..core.errors import VerificationError
from ..core.metrics.all_outputs import floating, sqnr_of_all_db
from ..core.options.stage_options import ExportOptions, Target
from ..core.session import SessionOptions, open_session
from ..core.signature import Signature
from ..core.tensors import Feeds
from .finalize import with_batch_dependence
from .qdq.retarget import without_quantization
from .translate import build
from .verify.bounds import POOL_ROWS
from .verify.parity import check, rows

NEAR_DB, GOOD_DB = 3.0, 30.0


def build_accurate(
    program: ExportedProgram, signature: Signature, options: ExportOptions, opset: int, samples: Feeds
) -> tuple[ir.Model, str]:
    """The model, and why its recurrent layers use FP32 kernels although integer ones are faster.

    Args:
        program: in the form of the target.
        signature: of the program.
        options: ``recurrent`` and the target; batch sizes and tolerance of the parity check that the file must pass.
        opset: of the file.
        samples: real inputs.

    Returns:
        The model, and the reason; it is empty if integer kernels are used, are not faster or are not allowed.
    """
    target = options.target or "cpu"
    model = build(program, signature, target, opset, options.recurrent)
    decides = options.recurrent == "auto" and signature.batch_invariant
    if not decides or with_batch_dependence(model, signature).batch_invariant:
        return model, ""
    plain = build(program, signature, target, opset, "weights")
    reason = _why_not(program, signature, (model, plain), samples, options)
    return (plain, reason) if reason else (model, "")


def plainer(program: ExportedProgram, signature: Signature, target: Target, opset: int) -> bytes | None:
    """For a program whose integer scales depend on the batch, its file with those layers in FP32; None for others."""
    if signature.batch_invariant:
        return None
    model = build(program, signature, target, opset, "weights")
    made: bytes = ir.to_proto(model).SerializeToString()
    return made


def _why_not(
    program: ExportedProgram,
    signature: Signature,
    models: tuple[ir.Model, ir.Model],
    samples: Feeds,
    options: ExportOptions,
) -> str:
    """Why the first model, with integer kernels, is not used instead of the second, with FP32 kernels."""
    forms = without_quantization(program), program
    exact, rounded = (EagerSession(item.module(check_guards=False), signature, "cpu", 0) for item in forms)
    feeds = rows(signature, samples, POOL_ROWS)
    wanted = floating(exact.run(feeds))
    sessions = [open_session(ir.to_proto(model).SerializeToString(), SessionOptions(threads=1)) for model in models]
    integer, plain = (sqnr_of_all_db(wanted, floating(session.run(feeds))) for session in sessions)
    accurate = integer >= min(GOOD_DB, plain - NEAR_DB)
    try:
        check(rounded, sessions[0], samples, options.batch_sizes, options.tolerance, exact, "dynamic")
    except VerificationError:
        accurate = False
    for session in sessions:
        session.close()
    return (
        ""
        if accurate
        else (
            f"recurrent layers use FP32 kernels with INT8 weights: their outputs have {plain:.1f} dB of centred SQNR, "
            f"with integer kernels {integer:.1f} dB (`export.recurrent: integer` uses these anyway)"
        )
    )
