"""The rules for Arm: a sound file has no finding, and each wrong form is found with its reason and its remedy."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from retort.export.lint import lint

Codes = NDArray[np.int8] | NDArray[np.uint8]


def product(
    activation: type[np.generic] = np.int8, weight: Codes | None = None, zero: int = 0, kind: int = TensorProto.FLOAT
) -> onnx.ModelProto:
    """A quantized product of 4 by 4."""
    codes = np.full((4, 4), 3, np.int8) if weight is None else weight
    arrays = {
        "s": np.array(0.1, helper.tensor_dtype_to_np_dtype(kind)),
        "z": np.array(0, activation),
        "w": codes,
        "ws": np.array(0.01, helper.tensor_dtype_to_np_dtype(kind)),
        "wz": np.array(zero, codes.dtype),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], name="q"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"], name="d"),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wd"], name="weight"),
        helper.make_node("MatMul", ["d", "wd"], ["y"], name="product"),
    ]
    ports = [helper.make_tensor_value_info(name, kind, ["batch", 4]) for name in ("x", "y")]
    constants = [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()]
    graph = helper.make_graph(nodes, "test", ports[:1], ports[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def test_a_sound_file_has_no_finding() -> None:
    """INT8 activations and symmetric weights in -127 … 127 are what Arm's kernels take."""
    assert lint(product(), "arm") == []


@pytest.mark.parametrize(
    ("model", "rule", "verdict", "word"),
    [
        (product(np.uint8), "A01", "advice", "--target arm"),
        (product(weight=np.full((4, 4), -128, np.int8)), "A02", "silent", "overflow"),
        (product(zero=1), "A03", "advice", "symmetric"),
        (product(weight=np.full((4, 4), 3, np.uint8)), "A03", "advice", "symmetric"),
        (product(kind=TensorProto.FLOAT16), "C02", "advice", "FP32"),
    ],
)
def test_a_wrong_form_is_found(model: onnx.ModelProto, rule: str, verdict: str, word: str) -> None:
    """Each wrong form has one finding, with a reason and a remedy."""
    (found,) = lint(model, "arm")
    assert (found.rule, found.verdict) == (rule, verdict)
    assert word in f"{found.message} {found.remedy}"


def test_one_weight_of_minus_128_cannot_overflow() -> None:
    """-128 times -128 and -128 times -127 fit into 16 bits; only two products of the first kind do not."""
    weight = np.full((4, 4), -127, np.int8)
    weight[0, 0] = -128
    assert lint(product(weight=weight), "arm") == []


def test_the_form_of_arm_is_wrong_on_x86() -> None:
    """A file for Arm has a finding for `cpu` that names the target to export for."""
    (found,) = lint(product(), "cpu")
    assert found.rule == "C01"
    assert "--target cpu" in found.remedy
