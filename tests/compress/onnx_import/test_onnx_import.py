"""ONNX files as programs: single operators, whole networks after a round trip, and clear errors."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
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

from retort.__main__ import main
from retort.compress.capture.capture_program import capture
from retort.compress.onnx_import import import_onnx
from retort.compress.onnx_import.module import KNOWN, Imported
from retort.compress.onnx_import.reader import read_graph
from retort.compress.program import reexport
from retort.core.errors import ArtifactError, CaptureError, InputError, MissingFileError, ModelError
from retort.export.translate import to_onnx

Arrays = Mapping[str, NDArray[Any]]
IMAGE = {"x": (2, 4, 6, 8)}


def model_of(
    nodes: list[onnx.NodeProto], inputs: Mapping[str, tuple[int | str, ...]], constants: Arrays, opset: int = 21
) -> onnx.ModelProto:
    """A model whose output is the first output of the last node."""
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_empty_tensor_value_info(nodes[-1].output[0])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )  # fmt: skip
    graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def node(kind: str, inputs: str, outputs: str = "y", **attributes: Any) -> onnx.NodeProto:
    """A node; ``_`` omits an input."""
    names = ["" if name == "_" else name for name in inputs.split()]
    return helper.make_node(kind, names, outputs.split(), name=f"the_{kind}_{outputs.split()[0]}", **attributes)


def ints(*values: int) -> NDArray[np.int64]:
    """An int64 vector."""
    return np.array(values, np.int64)


def floats(*shape: int) -> NDArray[np.float32]:
    """Random float32 values."""
    return np.random.default_rng(7).standard_normal(shape).astype(np.float32)


CASES: dict[str, tuple[list[onnx.NodeProto], Arrays, int]] = {
    "conv with uneven padding": (
        [node("Conv", "x w b", pads=[0, 1, 2, 1], strides=[2, 1])],
        {"w": floats(5, 4, 3, 3), "b": floats(5)},
        21,
    ),
    "conv padded to the same size": (
        [node("Conv", "x w", auto_pad="SAME_UPPER", strides=[2, 2], group=2)],
        {"w": floats(6, 2, 3, 2)},
        21,
    ),
    "transposed conv": (
        [node("ConvTranspose", "x w b", strides=[2, 2], pads=[1, 1, 1, 1], output_padding=[1, 1])],
        {"w": floats(4, 3, 3, 3), "b": floats(3)},
        21,
    ),
    "transposed conv cropped at the end": (
        [node("ConvTranspose", "x w", strides=[2, 2], pads=[0, 0, 1, 1])],
        {"w": floats(4, 3, 3, 3)},
        21,
    ),
    "max pool": ([node("MaxPool", "x", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], ceil_mode=1)], {}, 21),
    "average pool": ([node("AveragePool", "x", kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1)], {}, 21),
    "global pools": (
        [node("GlobalAveragePool", "x", "a"), node("GlobalMaxPool", "x", "b"), node("Add", "a b")],
        {},
        21,
    ),
    "batch norm": (
        [node("BatchNormalization", "x s b m v", epsilon=1e-3)],
        {"s": floats(4), "b": floats(4), "m": floats(4), "v": floats(4) ** 2 + 1},
        21,
    ),
    "batch norm with shared constants": (
        [node("BatchNormalization", "x one zero zero one", "n"), node("BatchNormalization", "n one zero zero one")],
        {"one": np.ones(4, np.float32), "zero": np.zeros(4, np.float32)},
        21,
    ),
    "instance norm": ([node("InstanceNormalization", "x s b")], {"s": floats(4), "b": floats(4)}, 21),
    "group norm": ([node("GroupNormalization", "x s b", num_groups=2)], {"s": floats(4), "b": floats(4)}, 21),
    "layer norm": ([node("LayerNormalization", "x s b", axis=-1)], {"s": floats(8), "b": floats(8)}, 21),
    "response norm": ([node("LRN", "x", size=3)], {}, 21),
    "gemm": (
        [node("Flatten", "x", "f"), node("Gemm", "f w b", alpha=0.5, transB=1)],
        {"w": floats(5, 192), "b": floats(5)},
        21,
    ),
    "product and bias": ([node("MatMul", "x w", "p"), node("Add", "b p")], {"w": floats(8, 5), "b": floats(5)}, 21),
    "einsum": ([node("Einsum", "x w", equation="nchw,wk->nchk")], {"w": floats(8, 3)}, 21),
    "activations": (
        [
            node("HardSwish", "x", "a"),
            node("HardSigmoid", "a", "b", alpha=1 / 6),
            node("Elu", "b", "c"),
            node("Gelu", "c"),
        ],
        {},
        21,
    ),
    "learned slopes": ([node("PRelu", "x s")], {"s": floats(4, 1, 1)}, 21),
    "clip of old": ([node("Clip", "x", "a", min=0.0, max=6.0), node("LeakyRelu", "a")], {}, 9),
    "clip of new": ([node("Clip", "x _ high")], {"high": np.array(0.5, np.float32)}, 21),
    "softmax of old": ([node("Softmax", "x", axis=1)], {}, 9),
    "softmax of new": ([node("Softmax", "x", "s", axis=1), node("LogSoftmax", "s", axis=-1)], {}, 21),
    "reductions of old": ([node("ReduceSum", "x", "a", axes=[2], keepdims=0), node("ReduceL2", "a", axes=[1])], {}, 11),
    "reductions of new": (
        [node("ReduceSum", "x axes", "a"), node("ReduceLogSumExp", "a axes2")],
        {"axes": ints(2), "axes2": ints(-1)},
        21,
    ),
    "mean over all": ([node("ReduceMean", "x", "m"), node("Sub", "x m")], {}, 17),
    "flattened by its shape": (
        [
            node("Shape", "x", "s"),
            node("Gather", "s i", "n"),
            node("Unsqueeze", "n z", "u"),
            node("Concat", "u m", "t", axis=0),
            node("Reshape", "x t"),
        ],
        {"i": np.array(0), "z": ints(0), "m": ints(-1)},
        21,
    ),
    "halved by its shape": (
        [
            node("Shape", "x", "s", start=3),
            node("Div", "s two", "h"),
            node("Slice", "x zero h three", "a"),
            node("Slice", "x h full three", "b"),
            node("Mul", "a b"),
        ],
        {"two": ints(2), "zero": ints(0), "three": ints(3), "full": ints(2**62)},
        21,
    ),
    "slices of old": ([node("Slice", "x", starts=[1, 0], ends=[4, -1], axes=[1, 3])], {}, 9),
    "a flip": ([node("Slice", "x s e a t")], {"s": ints(-1), "e": ints(-(2**63) + 1), "a": ints(3), "t": ints(-1)}, 21),
    "splits": (
        [
            node("Split", "x sizes", "a b", axis=1),
            node("Split", "b", "c d", axis=1, num_outputs=2),
            node("Concat", "d a c", axis=1),
        ],
        {"sizes": ints(2, 2)},
        21,
    ),
    "gathers": (
        [node("Gather", "x i", "g", axis=3), node("Gather", "g j", axis=2)],
        {"i": np.array([[0, -1], [2, 2]]), "j": np.array(1)},
        21,
    ),
    "gathered by an index of two axes": (
        [
            node("Transpose", "x", "turned", perm=[2, 0, 1, 3]),
            node("GatherND", "turned one", "last"),
            node("Gather", "last one", axis=3),
        ],
        {"one": np.asarray([[-1]])},
        21,
    ),
    "gathered elements": (
        [node("GatherElements", "x i", axis=1)],
        {"i": np.tile(np.array([[[[0]]], [[[3]]]]), (1, 4, 6, 8))},
        21,
    ),
    "padding": (
        [node("Pad", "x p v", "a"), node("Pad", "a q _ axes", mode="reflect")],
        {"p": ints(0, 0, 1, 0, 0, 1, 0, 2), "v": np.array(0.5, np.float32), "q": ints(1, 1), "axes": ints(3)},
        21,
    ),
    "tiles": ([node("Tile", "x r")], {"r": ints(1, 2, 1, 3)}, 21),
    "expanded": ([node("ReduceMax", "x a", "m"), node("Shape", "x", "s"), node("Expand", "m s")], {"a": ints(1)}, 21),
    "depth to space": ([node("DepthToSpace", "x", "d", blocksize=2), node("SpaceToDepth", "d", blocksize=2)], {}, 21),
    "pixel shuffle": ([node("DepthToSpace", "x", blocksize=2, mode="CRD")], {}, 21),
    "enlarged to the nearest": (
        [node("Resize", "x _ s", mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor")],
        {"s": np.array([1, 1, 2, 3], np.float32)},
        21,
    ),
    "enlarged by interpolation": ([node("Resize", "x _ _ z", mode="linear")], {"z": ints(2, 4, 12, 11)}, 21),
    "enlarged with aligned corners": (
        [node("Resize", "x _ _ z", mode="linear", coordinate_transformation_mode="align_corners")],
        {"z": ints(2, 4, 11, 12)},
        21,
    ),
    "masked": (
        [node("Greater", "x zero", "c"), node("Where", "c x low")],
        {"zero": np.array(0, np.float32), "low": np.array(-9, np.float32)},
        21,
    ),
    "triangle": ([node("Trilu", "x k", upper=0)], {"k": np.array(1)}, 21),
    "running sums": ([node("CumSum", "x a")], {"a": np.array(3)}, 21),
    "the largest": ([node("TopK", "x k", "y i", axis=3)], {"k": ints(3)}, 21),
    "powers": (
        [node("Abs", "x", "a"), node("Pow", "a p", "b"), node("Max", "b x", "m"), node("Mean", "m x")],
        {"p": np.array(0.5, np.float32)},
        21,
    ),
    "filled by a shape": (
        [
            node("Shape", "x", "s"),
            node("ConstantOfShape", "s", "f", value=numpy_helper.from_array(np.array([2.0], np.float32))),
            node("Mul", "x f"),
        ],
        {},
        21,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_operators_give_what_onnx_runtime_gives(name: str, tmp_path: Path) -> None:
    """Every operator in its old and new form computes the same as ONNX Runtime, with the file's weights."""
    nodes, constants, opset = CASES[name]
    path = tmp_path / "m.onnx"
    onnx.save(model_of(nodes, IMAGE, constants, opset), path)
    feeds = {"x": floats(*IMAGE["x"])}
    (expected,) = onnxruntime.InferenceSession(path).run(None, feeds)
    found = Imported(read_graph(path, KNOWN)).eval()(torch.from_numpy(feeds["x"]))
    torch.testing.assert_close(next(iter(found.values())), torch.from_numpy(expected), rtol=2e-4, atol=2e-5)


def recurrent(kind: str, ways: int, **attributes: Any) -> tuple[list[onnx.NodeProto], Arrays]:
    """A recurrent layer of 5 units over 3 features."""
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[kind]
    constants = {"w": floats(ways, gates * 5, 3), "r": floats(ways, gates * 5, 5), "b": floats(ways, gates * 10)}
    way = "bidirectional" if ways == 2 else "forward"
    return [node(kind, "x w r b", "y h", hidden_size=5, direction=way, **attributes)], constants


@pytest.mark.parametrize("ways", [1, 2])
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_recurrent_layers_keep_their_gates(kind: str, ways: int, tmp_path: Path) -> None:
    """Gates are reordered to PyTorch's order, in both directions."""
    nodes, constants = recurrent(kind, ways, **({"linear_before_reset": 1} if kind == "GRU" else {}))
    path = tmp_path / "m.onnx"
    onnx.save(model_of(nodes, {"x": (7, 2, 3)}, constants), path)
    feeds = {"x": floats(7, 2, 3)}
    (expected,) = onnxruntime.InferenceSession(path).run(["y"], feeds)
    found = Imported(read_graph(path, KNOWN)).eval()(torch.from_numpy(feeds["x"]))["y"]
    torch.testing.assert_close(found, torch.from_numpy(expected), rtol=1e-4, atol=1e-5)


def residual() -> nn.Module:
    """A CNN with batch norm, a residual sum, a gate and a flatten."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU6())
            self.body = nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1, groups=8), nn.Hardswish())
            self.head = nn.Linear(8 * 36, 5)

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            value = self.stem(image)
            return self.head((value + self.body(value)).flatten(1))

    return Net()


def encoder() -> nn.Module:
    """A Transformer layer over embedded tokens."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = nn.Embedding(30, 16)
            self.layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, activation="gelu")

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            return self.layer(self.words(tokens)).mean(1)

    return Net()


NETS: dict[str, tuple[Callable[[], nn.Module], torch.Tensor, dict[str, dict[int, str]], str]] = {
    "residual": (residual, torch.randn(4, 3, 12, 12), {}, "stem.0.weight"),
    "encoder": (encoder, torch.randint(0, 30, (4, 9)), {"tokens": {1: "time"}}, "words.weight"),
}


@pytest.mark.parametrize("name", NETS)
def test_a_net_comes_back_from_its_file(name: str, tmp_path: Path) -> None:
    """After a round trip: equal outputs at another batch and length, and trainable weights with their names."""
    build, example, dynamic, weight = NETS[name]
    torch.manual_seed(0)
    net = build().eval()
    key = "tokens" if dynamic else "image"
    program = capture(net, {key: example}, dynamic=dynamic)
    onnx.save(to_onnx(reexport(program), program.signature), tmp_path / "m.onnx")
    back = import_onnx(tmp_path / "m.onnx", {key: example.numpy()})
    assert back.signature.inputs == program.signature.inputs
    assert weight in dict(back.module.named_parameters())
    other = example[:3, :5] if dynamic else example[:3]
    with torch.no_grad():
        torch.testing.assert_close(back.module(other)[0], net(other), rtol=1e-4, atol=1e-5)
    back.module(other)[0].sum().backward()
    assert all(parameter.grad is not None for parameter in back.module.parameters())


def test_a_file_of_one_batch_size_is_freed_from_it(tmp_path: Path) -> None:
    """A graph written for batch 1, with its reshapes, becomes a program for any batch."""
    nodes = [node("Conv", "x w", "c"), node("Reshape", "c s", "f"), node("MatMul", "f m")]
    constants: Arrays = {"w": floats(2, 4, 3, 3), "s": ints(1, 48), "m": floats(48, 3)}
    onnx.save(model_of(nodes, {"x": (1, 4, 6, 8)}, constants), tmp_path / "m.onnx")
    samples = floats(3, 4, 6, 8)
    program = import_onnx(tmp_path / "m.onnx", {"x": samples})
    assert program.signature.inputs[0].shape == ("batch", 4, 6, 8)
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx")
    expected = np.concatenate([session.run(None, {"x": row[None]})[0] for row in samples])
    with torch.no_grad():
        torch.testing.assert_close(program.module(torch.from_numpy(samples))[0], torch.from_numpy(expected))


def test_what_cannot_be_imported_is_named(tmp_path: Path) -> None:
    """Quantized, fused, unknown, unusual and damaged files are rejected in one sentence with the operator."""
    path = tmp_path / "m.onnx"

    def refused(error: type[Exception], match: str, nodes: list[onnx.NodeProto], constants: Arrays) -> None:
        onnx.save(model_of(nodes, {"x": ("n", 2, 3)}, constants), path)
        with pytest.raises(error, match=match):
            import_onnx(path, {"x": floats(4, 2, 3)})

    refused(ModelError, "already quantized", [node("QuantizeLinear", "x s")], {"s": np.array(1, np.float32)})
    fused = helper.make_node("FusedConv", ["x"], ["y"], name="f", domain="com.microsoft")
    refused(ModelError, "not a standard ONNX operator", [fused], {})
    refused(ModelError, "NonZero 'the_NonZero_i'", [node("NonZero", "x", "i"), node("Cast", "i", to=1)], {})
    nodes, constants = recurrent("LSTM", 1, clip=1.0)
    refused(ModelError, "clipping", nodes, constants)
    nodes, constants = recurrent("GRU", 1)
    refused(ModelError, "reset gate", nodes, constants)
    with pytest.raises(MissingFileError, match="no such model"):
        import_onnx(tmp_path / "none.onnx", {})
    onnx.save(model_of([node("Relu", "x")], {"x": ("n", 3)}, {}), path)
    with pytest.raises(InputError, match="the model takes x"):
        import_onnx(path, {"a": floats(2, 3), "b": floats(2, 3)})
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(ArtifactError, match=r"cannot be read as ONNX|contains no graph"):
        import_onnx(path, {"x": floats(2, 3)})


def test_an_import_that_disagrees_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If an operator is read wrongly, the comparison with ONNX Runtime fails and there is no program."""
    from retort.compress.onnx_import import module

    monkeypatch.setitem(module.OPERATORS, "Relu", lambda call: call.tensor(0).abs())
    onnx.save(
        model_of([node("Relu", "x", "r"), node("Add", "r b")], {"x": ("n", 3)}, {"b": floats(3)}), tmp_path / "m.onnx"
    )
    with pytest.raises(CaptureError, match="differs from ONNX Runtime"):
        import_onnx(tmp_path / "m.onnx", {"x": floats(4, 3)})


def test_quantize_takes_and_gives_an_onnx_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`retort quantize model.onnx` writes an INT8 file with Q/DQ whose outputs are close to the original's."""
    program = capture(
        nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10)),
        {"image": torch.randn(2, 1, 8, 8)},
    )
    onnx.save(to_onnx(reexport(program), program.signature), tmp_path / "m.onnx")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        with pytest.raises(SystemExit) as stopped:
            main(["quantize", "m.onnx", "--data", "digits", "--out", "int8", "--json", "--set", "timed=false"])
    assert stopped.value.code == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["kind"] == "graph"
    written = onnx.load(tmp_path / "int8" / "model.onnx")
    assert {"QuantizeLinear", "DequantizeLinear"} <= {item.op_type for item in written.graph.node}
    image = floats(5, 1, 8, 8)
    before, after = (
        onnxruntime.InferenceSession(path).run(None, {"image": image})[0]
        for path in (tmp_path / "m.onnx", tmp_path / "int8" / "model.onnx")
    )
    assert np.corrcoef(before.ravel(), after.ravel())[0, 1] > 0.98
