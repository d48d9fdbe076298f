"""The suite of ONNX's own node tests: a sample of it is right through import, program, export and ONNX Runtime."""

from __future__ import annotations

import numpy as np

from retort.benchmarks.suites import onnx_node_tests as suite
from retort.benchmarks.suites.onnx_node_cases import node_tests

SAMPLE = ("test_sinh", "test_hardmax_axis_1", "test_gather_negative_indices", "test_averagepool_2d_same_upper")


def test_a_sample_is_right_in_one_file() -> None:
    """Operators of several kinds, side by side in one graph, give what ONNX expects after export."""
    rows = suite.measure_together(node_tests(SAMPLE))
    assert [row["verdict"] for row in rows] == ["right"] * len(SAMPLE)


def test_operators_that_sample_where_another_tensor_says() -> None:
    """Deformable convolution with all its inputs, means over regions in both frames, and running products."""
    names = ("deform_conv_with_mask_bias", "roialign_aligned_false", "roialign_aligned_true", "cumprod_2d_axis_1")
    rows = [suite.measure(test) for test in node_tests([f"test_{name}" for name in names])]
    assert [row["verdict"] for row in rows] == ["right"] * len(names)


def test_what_is_refused_is_named() -> None:
    """An operator whose results depend on data is refused with its name and a remedy."""
    (test,) = node_tests(["test_nonzero_example"])
    row = suite.measure(test)
    assert row["verdict"] == "refused"
    assert row["reason"].startswith("NonZero")
    assert "\n  → " in row["reason"]


def test_wrong_values_and_shapes_are_faults() -> None:
    """A difference is seen in values, shapes and types of numbers."""
    ones = np.ones((2, 3), np.float32)
    assert suite._fault(ones, ones) == ""
    assert "off by" in suite._fault(ones, ones * 1.01)
    assert "shape" in suite._fault(ones, ones[0])
    assert suite._fault(ones, None) == "is missing"
