"""Forms in which files are written: computed constants, branches, loops, functions, sparse weights, shared values."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from retort.compress.onnx_import import import_onnx
from retort.compress.onnx_import.module import KNOWN, Imported
from retort.compress.onnx_import.reader import read_graph
from retort.core.errors import ArtifactError, ModelError, UserError

Array = NDArray[Any]
FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL


def floats(*shape: int, seed: int = 0) -> Array:
    """Random float32 numbers."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def node(kind: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    """A node; ``_`` omits an input."""
    return helper.make_node(
        kind, ["" if name == "_" else name for name in inputs.split()], outputs.split(), **attributes
    )


def port(name: str, kind: int = FLOAT, shape: Any = None) -> onnx.ValueInfoProto:
    """An input or an output."""
    return helper.make_tensor_value_info(name, kind, shape)


def body(nodes: list[onnx.NodeProto], inputs: list[onnx.ValueInfoProto], outputs: list[onnx.ValueInfoProto]) -> Any:
    """A graph inside a node."""
    return helper.make_graph(nodes, "body", inputs, outputs)


def saved(
    path: Path,
    nodes: list[onnx.NodeProto],
    constants: Mapping[str, Any],
    shape: Any = ("N", 4),
    outputs: Mapping[str, int] | None = None,
    opset: int = 17,
) -> Path:
    """A file with the input ``x`` and the outputs ``y``, or others with their types."""
    ports = [port(name, kind) for name, kind in (outputs or {"y": FLOAT}).items()]
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "g", [port("x", shape=shape)], ports, initializers)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9), str(path))
    return path


def assert_imported(path: Path, **feeds: Array) -> Imported:
    """The module, after a comparison of all its outputs and their types with ONNX Runtime."""
    expected = onnxruntime.InferenceSession(str(path)).run(None, feeds)
    graph = read_graph(path, KNOWN)
    module = Imported(graph).eval()
    with torch.no_grad():
        found = module(*(torch.from_numpy(feeds[spec.name]) for spec in graph.inputs))
    for wanted, value in zip(expected, found.values(), strict=True):
        assert value.detach().numpy().dtype == wanted.dtype
        np.testing.assert_allclose(value.detach().numpy(), wanted, rtol=2e-4, atol=2e-5)
    return module


class Recurrent(nn.Module):
    """Two layers in both directions."""

    def __init__(self, kind: type[nn.LSTM] | type[nn.GRU]) -> None:
        super().__init__()
        self.layer = kind(6, 8, 2, batch_first=True, bidirectional=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The outputs of all steps."""
        result: torch.Tensor = self.layer(x)[0]
        return result


@pytest.mark.parametrize("dynamo", [True, False])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_recurrent_nets_of_the_exporters_are_imported(
    kind: type[nn.LSTM] | type[nn.GRU], dynamo: bool, tmp_path: Path
) -> None:
    """Weights that both exporters of PyTorch cut and join in the file become the weights of one layer."""
    path = tmp_path / "m.onnx"
    legacy = {"do_constant_folding": False, "opset_version": 16, "dynamic_axes": {"x": {0: "b", 1: "t"}}}
    extra: dict[str, Any] = {} if dynamo else legacy
    torch.onnx.export(
        Recurrent(kind).eval(), (torch.randn(2, 5, 6),), str(path), input_names=["x"], dynamo=dynamo, **extra
    )
    module = assert_imported(path, x=floats(2, 5, 6))
    assert sum(node.operator.startswith("Recurrent.") for node in module._nodes) == 2


class Padded(nn.Module):
    """Pads an upsampled image to the size of the input, by sizes that the graph computes."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(3, 8, 3, 2, 1)
        self.up = nn.ConvTranspose2d(8, 3, 2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The sum of both images."""
        y = self.up(self.down(x))
        high, wide = x.size(2) - y.size(2), x.size(3) - y.size(3)
        return x + nn.functional.pad(y, [wide // 2, wide - wide // 2, high // 2, high - high // 2])


@pytest.mark.parametrize("opset", [11, 17])
def test_widths_of_a_padding_may_come_from_a_chain_of_sizes(opset: int, tmp_path: Path) -> None:
    """ConstantOfShape, Concat, Reshape to two axes, backward Slice, Transpose and Cast of sizes are computed."""
    path = tmp_path / "m.onnx"
    torch.onnx.export(
        Padded().eval(), (torch.randn(2, 3, 15, 17),), str(path), dynamo=False, opset_version=opset,
        input_names=["x"], dynamic_axes={"x": {0: "n"}},
    )  # fmt: skip
    assert_imported(path, x=floats(3, 3, 15, 17))


def test_constants_are_folded_through_any_chain_but_do_not_explode(tmp_path: Path) -> None:
    """A weight of Transpose, Cast and Mul is one parameter; a mask of 400 MB that the graph expands is not stored."""
    constants = {
        "w": floats(4, 4).astype(np.float64), "two": np.float32(2).reshape(()), "one": np.ones((1, 1), np.float32),
        "size": np.array([10000, 10000]), "rows": np.array([0]), "zero": np.array([0]), "four": np.array([4]),
        "ax": np.array([1]),
    }  # fmt: skip
    nodes = [
        node("Transpose", "w", "t", perm=[1, 0]), node("Cast", "t", "c", to=1), node("Mul", "c two", "weight"),
        node("MatMul", "x weight", "h"), node("Expand", "one size", "big"), node("Gather", "big rows", "row"),
        node("Slice", "row zero four ax", "part"), node("Add", "h part", "y"),
    ]  # fmt: skip
    module = assert_imported(saved(tmp_path / "m.onnx", nodes, constants), x=floats(3, 4))
    assert sum(value.numel() for value in module.parameters()) <= 32


def test_a_tied_weight_stays_one(tmp_path: Path) -> None:
    """An embedding whose transpose is the matrix of the last layer is stored once."""
    constants = {"e": floats(50, 40), "i": np.array([1, 2])}
    nodes = [
        node("Gather", "e i", "rows"), node("Transpose", "e", "t", perm=[1, 0]), node("MatMul", "x t", "h"),
        node("ReduceSum", "rows _", "s", keepdims=0), node("Add", "h s", "y"),
    ]  # fmt: skip
    module = assert_imported(saved(tmp_path / "m.onnx", nodes, constants, ("N", 40)), x=floats(3, 40))
    assert sum(value.numel() for value in module.parameters()) == 2000


def branches(condition: str) -> onnx.NodeProto:
    """Twice the input, or the input plus one."""
    yes = body([node("Add", "x x", "v")], [], [port("v")])
    no = body([node("Add", "x one", "v")], [], [port("v")])
    return node("If", condition, "y", then_branch=yes, else_branch=no)


@pytest.mark.parametrize("rows", [2, 3])
def test_a_branch_may_depend_on_a_constant_on_sizes_or_on_data(rows: int, tmp_path: Path) -> None:
    """The branch that a constant or a size chooses is taken; of a condition on data both are kept."""
    x = floats(rows, 4)
    one = {"one": np.ones((), np.float32)}
    assert_imported(saved(tmp_path / "a.onnx", [branches("c")], {**one, "c": np.array(rows == 2)}), x=x)
    nodes = [node("Shape", "x", "s"), node("Gather", "s zero", "n"), node("Equal", "n two", "c"), branches("c")]
    sizes = {**one, "zero": np.array(0), "two": np.array(2)}
    assert_imported(saved(tmp_path / "b.onnx", nodes, sizes), x=x)
    nodes = [node("ReduceSum", "x", "s", keepdims=0), node("Less", "s one", "c"), branches("c")]
    for seed in range(4):
        assert_imported(saved(tmp_path / "c.onnx", nodes, one), x=floats(rows, 4, seed=seed))


def test_loops_with_a_known_number_of_steps_are_unrolled(tmp_path: Path) -> None:
    """A Loop carries a value and stacks another; a Scan runs over a fixed axis, forward and backward."""
    step = body(
        [node("Add", "v x", "w"), node("Identity", "c", "d"), node("Mul", "w w", "r")],
        [port("i", INT64, []), port("c", BOOL, []), port("v")], [port("d", BOOL, []), port("w"), port("r")],
    )  # fmt: skip
    constants = {"n": np.array(3), "t": np.array(True)}
    nodes = [node("Loop", "n t x", "last rows", body=step), node("ReduceSum", "rows z", "s", keepdims=0),
             node("Add", "last s", "y")]  # fmt: skip
    assert_imported(saved(tmp_path / "loop.onnx", nodes, {**constants, "z": np.array([0])}), x=floats(2, 4))
    inner = body([node("Add", "s e", "t"), node("Tanh", "t", "o")], [port("s"), port("e")], [port("t"), port("o")])
    scan = node("Scan", "first x", "end y", body=inner, num_scan_inputs=1, scan_input_axes=[1],
                scan_output_axes=[1], scan_input_directions=[1])  # fmt: skip
    first = [node("ReduceSum", "x ax", "first", keepdims=0), scan]
    assert_imported(saved(tmp_path / "scan.onnx", first, {"ax": np.array([1])}), x=floats(3, 4))


def test_a_loop_over_data_is_refused_by_name(tmp_path: Path) -> None:
    """A number of steps that is computed from values is one sentence with a remedy."""
    step = body([node("Add", "v v", "w"), node("Identity", "c", "d")],
                [port("i", INT64, []), port("c", BOOL, []), port("v")], [port("d", BOOL, []), port("w")])  # fmt: skip
    nodes = [
        node("ReduceSum", "x", "s", keepdims=0),
        node("Cast", "s", "n", to=7),
        node("Loop", "n t x", "y", body=step),
    ]
    path = saved(tmp_path / "m.onnx", nodes, {"t": np.array(True)})
    with pytest.raises(ModelError, match=r"Loop .* the number of its steps is computed from data"):
        import_onnx(path, {"x": np.abs(floats(2, 4))})


def test_functions_of_a_file_are_inlined(tmp_path: Path) -> None:
    """A local function of another domain, which calls another, is part of the program."""
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("mine", 1)]
    inner = helper.make_function("mine", "Twice", ["a"], ["b"], [node("Add", "a a", "b")], opsets)
    call = helper.make_node("Twice", ["a"], ["t"], domain="mine")
    outer = helper.make_function("mine", "Net", ["a"], ["b"], [call, node("Tanh", "t", "b")], opsets)
    use = helper.make_node("Net", ["x"], ["y"], domain="mine")
    graph = helper.make_graph([use], "g", [port("x", shape=("N", 4))], [port("y", shape=("N", 4))])
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opsets, functions=[inner, outer], ir_version=9), str(path))
    assert_imported(path, x=floats(3, 4))


def test_outputs_may_be_anything(tmp_path: Path) -> None:
    """An input, a weight, a computed constant, a mask, indices, a second output and one value twice are outputs."""
    constants = {
        "w": floats(4),
        "k": np.array([2]),
        "zero": np.zeros((), np.float32),
        "two": np.full((), 2, np.float32),
    }
    nodes = [
        node("Identity", "x", "same"), node("Identity", "w", "weight"), node("Mul", "w two", "computed"),
        node("Greater", "x zero", "mask"), node("TopK", "x k", "_ places"), node("Tanh", "x", "y"),
        node("Identity", "y", "again"), node("Shape", "x", "size"), node("Cast", "mask", "whole", to=6),
    ]  # fmt: skip
    kinds = {"same": FLOAT, "weight": FLOAT, "computed": FLOAT, "mask": BOOL, "places": INT64,
             "y": FLOAT, "again": FLOAT, "size": INT64, "w": FLOAT, "whole": TensorProto.INT32}  # fmt: skip
    path = saved(tmp_path / "m.onnx", nodes, constants, outputs=kinds)
    assert_imported(path, x=floats(3, 4))
    program = import_onnx(path, {"x": floats(3, 4)})
    assert [spec.name for spec in program.signature.outputs] == list(kinds)


def test_sparse_weights_are_weights(tmp_path: Path) -> None:
    """A sparse initializer is stored densely."""
    dense = np.zeros((4, 4), np.float32)
    dense[[0, 2, 3], [1, 0, 3]] = [1.5, -2, 3]
    flat = np.flatnonzero(dense)
    sparse = helper.make_sparse_tensor(
        numpy_helper.from_array(dense.reshape(-1)[flat], "w"),
        numpy_helper.from_array(flat.astype(np.int64), "i"),
        [4, 4],
    )
    graph = helper.make_graph([node("MatMul", "x w", "y")], "g", [port("x", shape=("N", 4))], [port("y")])
    graph.sparse_initializer.append(sparse)
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), str(path))
    assert_imported(path, x=floats(3, 4))


def test_operators_are_replaced_by_their_definition(tmp_path: Path) -> None:
    """An operator without a form of its own has the one that ONNX defines, with the defaults of its attributes."""
    path = saved(tmp_path / "m.onnx", [node("MeanVarianceNormalization", "x", "y")], {}, (2, 3, 4, 5))
    assert_imported(path, x=floats(2, 3, 4, 5))


def test_what_onnx_runtime_refuses_is_one_sentence(tmp_path: Path) -> None:
    """A file that ONNX Runtime does not load ends in a sentence without its codes."""
    path = saved(tmp_path / "m.onnx", [node("Add", "x w", "y")], {"w": np.ones(4)})
    with pytest.raises((ArtifactError, ModelError)) as raised:
        import_onnx(path, {"x": floats(3, 4)})
    assert "ONNXRuntimeError" not in str(raised.value)
    assert "\n" not in raised.value.message


def test_an_input_can_be_fixed(tmp_path: Path) -> None:
    """A sampling rate that is given becomes a constant, and the branch that it chooses is taken."""
    rate = [node("Equal", "sr sixteen", "c"), branches("c")]
    graph = helper.make_graph(
        rate, "g", [port("x", shape=("N", 4)), port("sr", INT64, [])], [port("y")],
        [numpy_helper.from_array(np.array(16000), "sixteen"), numpy_helper.from_array(np.ones((), np.float32), "one")],
    )  # fmt: skip
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), str(path))
    x = floats(3, 4)
    for value, expected in ((16000, 2 * x), (8000, x + 1)):
        program = import_onnx(path, {"x": x}, {"sr": value})
        assert [spec.name for spec in program.signature.inputs] == ["x"]
        np.testing.assert_allclose(program.module(torch.from_numpy(x))[0].numpy(), expected, atol=1e-6)
    with pytest.raises(UserError, match="no input 'rate'"):
        import_onnx(path, {"x": x}, {"rate": 1})
    for odd in ("abc", None, [1, [2, 3]], {"a": 1}):
        with pytest.raises(UserError, match=r"the input 'sr' cannot be fixed to .*: it takes int64"):
            import_onnx(path, {"x": x}, {"sr": odd})


def test_unread_initializers_that_are_listed_as_inputs_are_no_inputs(tmp_path: Path) -> None:
    """Old files list initializers among the inputs, also those that no node reads, such as counts of batches."""
    path = saved(tmp_path / "m.onnx", [node("Mul", "x w", "y")], {"w": floats(4), "count": np.array(7)})
    model = onnx.load(path)
    model.graph.input.extend([port("w", shape=[4]), port("count", INT64, [])])
    onnx.save(model, path)
    program = import_onnx(path, {"x": floats(3, 4)})
    assert [spec.name for spec in program.signature.inputs] == ["x"]
    x = floats(2, 4, seed=1)
    (expected,) = onnxruntime.InferenceSession(str(path)).run(None, {"x": x})
    np.testing.assert_allclose(program.module(torch.from_numpy(x))[0].detach().numpy(), expected, rtol=1e-6)
