"""The effect of fixes on the outputs: the model before and after them on the same random inputs in ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnx

from ...core.errors import RetortError, VerificationError
from ...core.faults import first_line, raise_if_defect
from ...core.metrics.relative_error import error_by_largest
from ...core.session import SessionOptions, open_session
from ...core.signature import Signature
from ...core.tensors import Array

ROWS, OTHER = 2, 16


def measure_change(before: onnx.ModelProto, after: onnx.ModelProto) -> tuple[dict[str, float], str]:
    """Largest difference of each output, relative to its largest value.

    Returns:
        The differences by output, and the reason if they could not be measured (then there are none).

    Raises:
        VerificationError: ONNX Runtime runs the original, but not the fixed model.
    """
    outputs: list[dict[str, Array]] = []
    for name, model in (("the original file", before), ("the fixed file", after)):
        try:
            session = open_session(model.SerializeToString(), SessionOptions(threads=0))
            outputs.append(session.run(random_feeds(session.signature)))
            session.close()
        except Exception as error:  # exceptions of ONNX Runtime during a run have no common base class
            if not isinstance(error, RetortError | ValueError):
                raise_if_defect(error)
            obstacle = f"{name} does not run in ONNX Runtime: {getattr(error, 'message', first_line(error))}"
            if not outputs:
                return {}, obstacle
            remedy = "export the program again for its target: `retort export PROGRAM --target tensorrt`"
            raise VerificationError(f"the faults cannot be fixed in this file: {obstacle}", remedy) from error
    first, second = outputs
    return {name: error_by_largest(first[name], second[name]) for name in first}, ""


def random_feeds(signature: Signature) -> dict[str, Array]:
    """Inputs that fit a signature: normal numbers, and zeros and ones for integers."""
    rng = np.random.default_rng(0)
    feeds: dict[str, Array] = {}
    for spec in signature.inputs:
        shape = [size if isinstance(size, int) else ROWS if size == "batch" else OTHER for size in spec.shape]
        kind = np.dtype(spec.dtype)
        drawn = rng.normal(size=shape) if kind.kind == "f" else rng.integers(0, 2, shape)
        feeds[spec.name] = drawn.astype(kind)
    return feeds
