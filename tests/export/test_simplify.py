"""Graph passes: each works on a small graph, reports it, and changes no value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from retort.core.errors import VerificationError
from retort.core.signature import Signature
from retort.core.tensors import TensorSpec
from retort.export import simplify as passes
from retort.export.finalize import finish

Array = np.ndarray[Any, Any]


def node(op: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any) -> onnx.NodeProto:
    """A node named after its first output."""
    return helper.make_node(op, inputs, outputs, name=f"n_{outputs[0]}", **attributes)


def graph(
    nodes: Sequence[onnx.NodeProto], outputs: Sequence[str], constants: dict[str, Array] | None = None, rank: int = 4
) -> onnx.ModelProto:
    """A model with input ``x`` of this rank, with sizes from ``[batch, 4, 4, 4]``."""
    sizes: list[str | int | None] = ["batch", 4, 4, 4]
    made = helper.make_graph(
        list(nodes),
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, sizes[:rank])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model)


def apply(step: passes.Pass, model: onnx.ModelProto) -> tuple[onnx.ModelProto, bool]:
    """Run a pass; its result computes the same, and a second run changes nothing."""
    held = ir.from_proto(model)
    result, changed = step(held)
    assert result is held
    after = ir.to_proto(held)
    shape = [dim.dim_value or 3 for dim in model.graph.input[0].type.tensor_type.shape.dim]
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    before, now = (ReferenceEvaluator(item).run(None, {"x": x}) for item in (model, after))
    for one, two in zip(before, now, strict=True):
        np.testing.assert_allclose(two, one, rtol=1e-6, atol=1e-6)
    assert step(held)[1] is False
    return after, changed


def kinds(model: onnx.ModelProto) -> list[str]:
    """Operators in order."""
    return [item.op_type for item in model.graph.node]


def test_dead_nodes_and_constants_go() -> None:
    """Nodes that do not affect an output are removed."""
    model = graph([node("Relu", ["x"], ["y"]), node("Add", ["x", "c"], ["z"])], ["y"], {"c": np.ones(4, np.float32)})
    after, changed = apply(passes.remove_dead, model)
    assert changed
    assert kinds(after) == ["Relu"]
    assert not after.graph.initializer


@pytest.mark.parametrize(
    ("op", "constants", "attributes"),
    [
        ("Identity", {}, {}),
        ("Dropout", {}, {}),
        ("Cast", {}, {"to": TensorProto.FLOAT}),
        ("Transpose", {}, {"perm": [0, 1, 2, 3]}),
        ("Reshape", {"c": np.array([-1, 4, 4, 4])}, {}),
        ("Expand", {"c": np.array([1, 1, 1, 4])}, {}),
    ],
)
def test_nodes_that_do_nothing_go(op: str, constants: dict[str, Array], attributes: dict[str, Any]) -> None:
    """Identities, casts to the same type and data movements without effect are removed."""
    model = graph([node(op, ["x", *constants], ["a"], **attributes), node("Relu", ["a"], ["y"])], ["y"], constants)
    if op in ("Reshape", "Expand"):
        next(info for info in model.graph.value_info if info.name == "a").CopyFrom(
            helper.make_tensor_value_info("a", TensorProto.FLOAT, ["batch", 4, 4, 4])
        )
    after, changed = apply(passes.remove_noops, model)
    assert changed
    assert kinds(after) == ["Relu"]


def test_nodes_that_do_something_stay() -> None:
    """A real transpose, and the node between an input and an output, are kept."""
    nodes = [node("Transpose", ["x"], ["y"], perm=[0, 2, 1, 3]), node("Identity", ["x"], ["z"])]
    after, changed = apply(passes.remove_noops, graph(nodes, ["y", "z"]))
    assert not changed
    assert kinds(after) == ["Transpose", "Identity"]


def test_constants_of_any_size_are_folded() -> None:
    """A large weight that is transposed and cast at run time is stored in its final form."""
    weight = np.random.default_rng(1).normal(size=(300, 4)).astype(np.float32)
    nodes = [node("Transpose", ["w"], ["t"], perm=[1, 0]), node("MatMul", ["x", "t"], ["y"])]
    after, changed = apply(passes.fold_constants, graph(nodes, ["y"], {"w": weight}))
    assert changed
    assert kinds(after) == ["MatMul"]


def test_parts_of_a_constant_are_stored_as_they_are_used() -> None:
    """A packed weight that is split and transposed at run time becomes the weights that are read."""
    weight = np.random.default_rng(1).normal(size=(8, 4)).astype(np.float32)
    nodes = [
        node("Split", ["w", "parts"], ["p", "q"], axis=0),
        node("Transpose", ["p"], ["pt"], perm=[1, 0]),
        node("Transpose", ["q"], ["qt"], perm=[1, 0]),
        node("MatMul", ["x", "pt"], ["a"]),
        node("MatMul", ["a", "qt"], ["y"]),
    ]
    model = graph(nodes, ["y"], {"w": weight, "parts": np.array([4, 4])})
    after, changed = apply(lambda held: passes.simplify(held, (passes.fold_constants, passes.remove_dead)), model)
    assert changed
    assert kinds(after) == ["MatMul", "MatMul"]
    assert sorted(list(tensor.dims) for tensor in after.graph.initializer) == [[4, 4], [4, 4]]


def test_constants_are_not_folded_where_the_file_would_grow() -> None:
    """A constant that is broadcast to a large shape is not folded."""
    nodes = [node("Expand", ["c", "s"], ["t"]), node("Add", ["x", "t"], ["y"])]
    constants = {"c": np.ones(4, np.float32), "s": np.array([64, 4, 4, 4])}
    held = ir.from_proto(graph(nodes, ["y"], constants))
    assert passes.fold_constants(held)[1] is False
    assert [item.op_type for item in held.graph] == ["Expand", "Add"]


@pytest.mark.parametrize(("keep", "last"), [(1, ["GlobalAveragePool"]), (0, ["GlobalAveragePool", "Reshape"])])
def test_spatial_means_become_global_pools(keep: int, last: list[str]) -> None:
    """A mean over all spatial axes is a GlobalAveragePool, with a reshape if the axes are removed."""
    model = graph([node("ReduceMean", ["x", "axes"], ["y"], keepdims=keep)], ["y"], {"axes": np.array([-1, 2])})
    after, changed = apply(passes.pool_globally, model)
    assert changed
    assert kinds(after) == last


@pytest.mark.parametrize(("axes", "rank"), [([1, 2], 4), ([2], 3), ([3], 4)])
def test_other_means_stay(axes: list[int], rank: int) -> None:
    """Means over channels, over some of the axes, or over a possible feature axis are not changed."""
    model = graph([node("ReduceMean", ["x", "axes"], ["y"])], ["y"], {"axes": np.array(axes)}, rank)
    assert apply(passes.pool_globally, model)[1] is False


def test_equal_nodes_and_constants_merge() -> None:
    """Two nodes with the same operator and inputs become one."""
    nodes = [node("Add", ["x", "a"], ["p"]), node("Add", ["x", "b"], ["q"]), node("Mul", ["p", "q"], ["y"])]
    model = graph(nodes, ["y"], {"a": np.ones(4, np.float32), "b": np.ones(4, np.float32)})
    after, changed = apply(passes.merge_equal, model)
    assert changed
    assert kinds(after) == ["Add", "Mul"]


def test_all_passes_together_stop() -> None:
    """The passes run until nothing changes, and return whether anything did."""
    nodes = [node("Identity", ["x"], ["a"]), node("Relu", ["a"], ["b"]), node("Dropout", ["b"], ["y"])]
    after, changed = apply(passes.simplify, graph(nodes, ["y"]))
    assert changed
    assert kinds(after) == ["Relu"]


def test_the_finished_graph_is_sorted_named_and_stripped() -> None:
    """Names come from the signature, symbols become axis names, and metadata and documentation are removed."""
    model = graph([node("Relu", ["x"], ["y"]), node("Neg", ["y"], ["z"])], ["z"])
    model.doc_string = model.graph.node[0].doc_string = "from /home/somebody/net.py"
    held = ir.from_proto(model)
    for value in (held.graph.inputs[0], *(out for item in held.graph for out in item.outputs)):
        value.shape, value.metadata_props["source"] = ir.Shape(["s7", 4, 4, 4]), "/home/somebody"
    shape = ("batch", 4, 4, 4)
    signature = Signature((TensorSpec("image", "float32", shape),), (TensorSpec("y", "float32", shape),))
    after = ir.to_proto(finish(held, signature, {"s7": "batch"}, 21))
    onnx.checker.check_model(after, full_check=True)
    assert [(item.name, item.type.tensor_type.shape.dim[0].dim_param) for item in after.graph.output] == [
        ("y", "batch")
    ]
    assert [item.name for item in after.graph.input] == ["image"]
    assert after.graph.node[0].output[0] != "y"
    assert b"somebody" not in after.SerializeToString()


def test_a_graph_that_does_not_fit_its_signature_is_refused() -> None:
    """A number of outputs that differs from the signature's is rejected."""
    held = ir.from_proto(graph([node("Relu", ["x"], ["y"])], ["y"]))
    spec = TensorSpec("x", "float32", ("batch", 4, 4, 4))
    with pytest.raises(VerificationError, match="has 1 outputs, but the signature has 2"):
        finish(held, Signature((spec,), (spec, spec)), {}, 21)


@pytest.mark.parametrize(("window", "ceil", "last"), [(4, 0, "GlobalAveragePool"), (9, 1, "GlobalAveragePool")])
def test_a_window_over_everything_is_a_global_pool(window: int, ceil: int, last: str) -> None:
    """An average over a window that covers its whole input is a global pool, also if the window is larger."""
    sizes = {"kernel_shape": [window, window], "ceil_mode": ceil, "strides": [window, window]}
    pooled = graph([node("AveragePool", ["x"], ["y"], **sizes)], ["y"])
    if window > 4:  # ONNX's inference has no size for it
        pooled.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4, 1, 1]))
    held = ir.from_proto(pooled)
    result, changed = passes.pool_globally(held)
    assert changed
    assert kinds(ir.to_proto(result)) == [last]


def test_a_smaller_window_stays() -> None:
    """A window that is smaller than the input, or is padded, is not a global pool."""
    for more in ({"kernel_shape": [3, 3]}, {"kernel_shape": [4, 4], "pads": [1, 1, 1, 1]}):
        assert not passes.pool_globally(ir.from_proto(graph([node("AveragePool", ["x"], ["y"], **more)], ["y"])))[1]
