"""Largest magnitude of each value of a graph on real samples, measured in one run of ONNX Runtime."""

from __future__ import annotations

from collections.abc import Iterable

import onnx
from onnx import TensorProto, helper

from ...core.errors import VerificationError
from ...core.faults import first_line, raise_if_defect
from ...core.session import SessionOptions, open_session
from ...core.signature import Signature
from ...core.tensors import Feeds, TensorSpec

_SUFFIX = "__largest"


def largest_magnitudes(
    model: onnx.ModelProto, names: Iterable[str], signature: Signature, feeds: Feeds
) -> dict[str, float]:
    """The largest absolute value of each named FP32 value.

    Args:
        model: an FP32 or INT8 graph that ONNX Runtime runs.
        names: names of computed values or inputs.
        signature: the model's inputs.
        feeds: the calibration samples, one batch.

    Returns:
        Magnitudes by name; infinite or NaN where the samples already overflow in FP32.

    Raises:
        VerificationError: ONNX Runtime does not run the graph.
    """
    probed = onnx.ModelProto()
    probed.CopyFrom(model)
    wanted = list(dict.fromkeys(names))
    for number, name in enumerate(wanted):
        probed.graph.node.append(helper.make_node("Abs", [name], [f"abs{number}{_SUFFIX}"]))
        reduce = helper.make_node("ReduceMax", [f"abs{number}{_SUFFIX}"], [f"{number}{_SUFFIX}"], keepdims=0)
        probed.graph.node.append(reduce)
        probed.graph.output.append(helper.make_tensor_value_info(f"{number}{_SUFFIX}", TensorProto.FLOAT, []))
    outputs = [TensorSpec(f"{number}{_SUFFIX}", "float32", ()) for number in range(len(wanted))]
    own = Signature(signature.inputs, tuple(outputs))
    try:
        session = open_session(probed.SerializeToString(), SessionOptions(threads=0), own)
        found = session.run(feeds)
        session.close()
    except Exception as error:  # exceptions of ONNX Runtime during a run have no common base class
        raise_if_defect(error)
        text = first_line(error)
        raise VerificationError(f"ONNX Runtime does not run the graph: {text}", "export the model again") from error
    return {name: float(found[f"{number}{_SUFFIX}"]) for number, name in enumerate(wanted)}
