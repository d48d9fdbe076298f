"""INT8 in the file: stored codes, correct axes, one program for both targets, integer kernels for heavy nodes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, numpy_helper
from torch import nn
from torch.nn import functional

from retort.compress.capture.capture_program import capture
from retort.compress.program import predict, reexport
from retort.compress.quantization import quantize_program
from retort.core.backends.fake_quantize import qdq
from retort.core.backends.ort import exact_settings
from retort.core.data.splits import ArraySplit
from retort.core.errors import ArtifactError
from retort.core.grid import Grid
from retort.core.metrics.task_metrics import sqnr_db
from retort.core.options.stage_options import QuantizeOptions
from retort.core.session import open_session
from retort.core.signature import Signature
from retort.core.tensors import TensorSpec
from retort.export.lint import lint
from retort.export.ort.kernels import integer_kernels
from retort.export.qdq.grids import convert
from retort.export.qdq.retarget import is_quantized, retarget, without_quantization
from retort.export.translate import to_onnx


class Activation(nn.Module):
    """A fake-quantize of an activation on a fixed grid."""

    scale: torch.Tensor
    zero: torch.Tensor

    def __init__(self, scale: float = 0.05, zero: int = 128, qmin: int = 0, qmax: int = 255) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor(scale))
        self.register_buffer("zero", torch.tensor(zero))
        self.limits = (qmin, qmax)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``x`` on the grid."""
        return qdq(x, self.scale, self.zero, -1, *self.limits)


class Weight(nn.Module):
    """A fake-quantized weight, symmetric per output channel."""

    scale: torch.Tensor
    zero: torch.Tensor

    def __init__(self, *shape: int, axis: int = 0) -> None:
        super().__init__()
        self.value = nn.Parameter(
            torch.randn(*shape)
            * torch.linspace(0.5, 2, shape[axis]).reshape([-1 if dim == axis else 1 for dim in range(len(shape))])
        )
        self.axis = axis
        largest = self.value.detach().abs().amax([dim for dim in range(len(shape)) if dim != axis])
        self.register_buffer("scale", largest / 127)
        self.register_buffer("zero", torch.zeros(shape[axis], dtype=torch.int64))

    def forward(self) -> torch.Tensor:
        """The weight on its grid."""
        return qdq(self.value, self.scale, self.zero, self.axis, -127, 127)


def program_of(net: nn.Module, *shape: int) -> tuple[torch.export.ExportedProgram, Signature]:
    """A network with one input and one output, with a dynamic batch."""
    example = torch.randn(4, *shape)
    exported = torch.export.export(net.eval(), (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    with torch.no_grad():
        result = net(example)
    output = TensorSpec("y", "float32", ("batch", *result.shape[1:]))
    return exported, Signature((TensorSpec("x", "float32", ("batch", *shape)),), (output,))


def save(model: onnx.ModelProto, folder: Path) -> Path:
    """Check and write a model."""
    onnx.checker.check_model(model, full_check=True)
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def dequantized(model: onnx.ModelProto) -> dict[str, tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], int, str, int]]:
    """For each dequantized weight: codes, scales, axis, the operator that reads it, and the input's index."""
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    found = {}
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in stored:
            axis = next((int(item.i) for item in node.attribute if item.name == "axis"), -1)
            reader = next((other for other in model.graph.node if node.output[0] in other.input), None)
            place = list(reader.input).index(node.output[0]) if reader is not None else -1
            arrays = [numpy_helper.to_array(stored[name]) for name in node.input[:2]]
            found[node.input[0]] = (arrays[0], arrays[1], axis, reader.op_type if reader is not None else "", place)
    return found


def distance(program: torch.export.ExportedProgram, model: onnx.ModelProto, x: torch.Tensor) -> float:
    """Root mean square of the difference between program and file, relative to that of the output."""
    options = exact_settings(onnxruntime)
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    (actual,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    with torch.no_grad():
        result = program.module(check_guards=False)(x)
    expected = (result[0] if isinstance(result, tuple) else result).numpy()
    return float(np.sqrt(np.mean((actual - expected) ** 2) / np.mean(expected**2)))


def kinds(model: onnx.ModelProto) -> list[str]:
    """Operators in order."""
    return [node.op_type for node in model.graph.node]


def quantized_types(model: onnx.ModelProto) -> set[int]:
    """Element types of the activations' zero points."""
    stored = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    return {stored[node.input[2]] for node in model.graph.node if node.op_type == "QuantizeLinear"}


class Block(nn.Module):
    """A small residual CNN that is quantized below."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1))
        self.depth = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.ReLU6())
        self.head = nn.Linear(32, 16)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Scores."""
        stem = self.stem(image)
        joined = functional.relu(stem + self.body(stem))
        both = torch.cat([joined, self.depth(joined)], 1)
        return self.head(functional.adaptive_avg_pool2d(functional.max_pool2d(both, 2), 1).flatten(1))


@pytest.fixture(scope="module")
def block() -> tuple[torch.export.ExportedProgram, Signature]:
    """A CNN quantized for the CPU."""
    torch.manual_seed(0)
    images = np.random.default_rng(0).normal(size=(16, 3, 12, 12)).astype(np.float32)
    program = capture(Block(), {"image": images[:2]})
    done = quantize_program(
        program,
        QuantizeOptions(samples=16, first_layer="int8", correction=("none",)),
        ArraySplit({"image": images}),
        "cpu",
    )
    return reexport(done), done.signature


@pytest.fixture(scope="module")
def files(block: tuple[torch.export.ExportedProgram, Signature]) -> dict[str, onnx.ModelProto]:
    """The same program written for both targets."""
    return {"cpu": to_onnx(*block, "cpu"), "tensorrt": to_onnx(*block, "tensorrt")}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def test_every_heavy_node_of_a_quantized_cnn_runs_in_an_integer_kernel(
    files: dict[str, onnx.ModelProto], tmp_path: Path
) -> None:
    """ONNX Runtime fuses all convolutions, the classifier, the residual add, the concatenation and the pool."""
    kernels = integer_kernels(save(files["cpu"], tmp_path))
    assert kernels.floating == {}
    assert kernels.floating_names == ()
    assert kernels.integer == {"QGemm": 1, "QLinearConv": 4}
    assert kernels.integer_heavy == 5
    assert {"QLinearAdd", "QLinearConcat", "QLinearGlobalAveragePool"} <= set(kernels.integer_light)


def test_weights_are_stored_as_codes_and_biases_in_fp32(files: dict[str, onnx.ModelProto]) -> None:
    """Every weight is INT8 in [-127, 127] with one DequantizeLinear; none is FP32; zero points are written."""
    model = files["cpu"]
    weights = dequantized(model)
    assert len(weights) == 5
    for codes, scales, axis, operator, place in weights.values():
        assert codes.dtype == np.int8
        assert np.abs(codes.astype(int)).max() == 127
        assert (axis, scales.shape) == (0, (codes.shape[0],))
        assert (operator, place) in {("Conv", 1), ("Gemm", 1)}
    large = [t.name for t in model.graph.initializer if t.data_type == TensorProto.FLOAT and len(t.dims) > 1]
    assert large == []
    assert all(len(node.input) == 3 for node in model.graph.node if "uantizeLinear" in node.op_type)
    assert quantized_types(model) == {TensorProto.UINT8}


def test_one_program_is_written_for_both_targets(files: dict[str, onnx.ModelProto]) -> None:
    """For TensorRT, the same program has symmetric INT8 activations and breaks no rule; for the CPU it does."""
    model = files["tensorrt"]
    onnx.checker.check_model(model, full_check=True)
    assert quantized_types(model) == {TensorProto.INT8}
    assert [finding for finding in lint(model) if finding.verdict != "advice"] == []
    assert {finding.rule for finding in lint(files["cpu"])} >= {"Q01", "Q02"}


def test_retargeting_leaves_the_given_program_alone(block: tuple[torch.export.ExportedProgram, Signature]) -> None:
    """The given program still computes the same; one in the target's form is returned unchanged."""
    program, _ = block
    image = torch.randn(2, 3, 12, 12)
    with torch.no_grad():
        before = program.module(check_guards=False)(image)[0]
        other = retarget(program, "tensorrt")
        after, moved, plain = (
            item.module(check_guards=False)(image)[0] for item in (program, other, without_quantization(program))
        )
    assert torch.equal(before, after)
    assert not torch.equal(before, moved)
    assert float((before - moved).abs().max()) < 0.1 * float(before.abs().max())
    assert float((before - plain).abs().max()) < 0.1 * float(before.abs().max())
    assert retarget(program, "cpu") is program
    assert is_quantized(program)
    assert not is_quantized(without_quantization(program))


@given(
    scale=st.floats(1e-6, 1e3),
    zero=st.integers(-128, 127),
    target=st.sampled_from(["cpu", "tensorrt"]),
    signed=st.booleans(),
)
@settings(max_examples=200, deadline=None)
def test_a_retargeted_grid_covers_the_same_range(scale: float, zero: int, target: Any, signed: bool) -> None:
    """The new grid has the target's form and contains every value of the old one to within a step."""
    scale = float(np.float32(scale))
    old = Grid(scale, zero, -128, 127) if signed else Grid(scale, zero + 128, 0, 255)
    new = convert(old, target)
    assert new.scale > 0
    if target == "cpu":
        assert (new.qmin, new.qmax) == (0, 255)
        assert (new.low, new.high) == (old.low, old.high)
    else:
        assert (new.zero_point, new.qmin, new.qmax) == (0, -128, 127)
        assert new.high >= max(abs(old.low), abs(old.high)) * (1 - 1e-6) or old == new
    assert convert(new, target) == new


@pytest.mark.parametrize(
    ("old", "target", "non_negative", "new"),
    [
        (Grid(0.5, 0, -128, 127), "cpu", False, Grid(0.5, 128, 0, 255)),
        (Grid(0.5, 0, -127, 127), "cpu", False, Grid(0.5, 128, 0, 255)),
        (Grid(0.5, -128, -128, 127), "cpu", False, Grid(0.5, 0, 0, 255)),
        (Grid(0.5, 0, 0, 255), "tensorrt", False, Grid(float(np.float32(127.5 / 127)), 0, -128, 127)),
        (Grid(0.5, 0, -8, 7), "cpu", False, Grid(float(np.float32(7.5 / 255)), 136, 0, 255)),
    ],
)
def test_the_rule_of_retargeting(old: Grid, target: Any, non_negative: bool, new: Grid) -> None:
    """A grid of 256 codes is shifted and represents the same numbers; others are spread over the same range."""
    assert convert(old, target, non_negative) == new


def test_a_symmetric_grid_behind_a_relu_becomes_twice_as_fine() -> None:
    """Non-negative values lose the unused half of a symmetric grid, and never exceed its end."""
    new = convert(Grid(0.5, 0, -128, 127), "cpu", non_negative=True)
    assert (new.zero_point, new.qmin, new.qmax) == (0, 0, 255)
    assert new.high == pytest.approx(63.5)
    assert new.high <= 63.5


class Symmetric(nn.Module):
    """Quantized in the form that TensorRT requires."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = Activation(0.03, 0, -128, 127), Activation(0.5, 0, -128, 127)
        self.weight, self.bias = Weight(8, 3, 3, 3), nn.Parameter(torch.randn(8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """A convolution with ReLU between two grids."""
        return self.leave(functional.relu(functional.conv2d(self.enter(x), self.weight(), self.bias)))


class Unfused(nn.Module):
    """A convolution whose output is not quantized: ONNX Runtime has no integer kernel for it."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.weight = Activation(), Weight(8, 3, 3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Half a quantized layer."""
        return functional.conv2d(self.enter(x), self.weight())


def test_a_layer_that_does_not_fuse_is_named(tmp_path: Path) -> None:
    """The count has the name of the heavy node that dequantizes its weight on every run."""
    kernels = integer_kernels(save(to_onnx(*program_of(Unfused(), 3, 8, 8), "cpu"), tmp_path))
    assert kernels.floating == {"Conv": 1}
    assert kernels.unfused_names == kernels.floating_names
    assert len(kernels.unfused_names) == 1


def test_a_program_with_symmetric_activations_runs_in_integers_on_the_cpu(tmp_path: Path) -> None:
    """Exported for the CPU, symmetric INT8 becomes UINT8 and the ReLU after the convolution is fused."""
    program, signature = program_of(Symmetric(), 3, 8, 8)
    model = to_onnx(program, signature, "cpu")
    assert quantized_types(model) == {TensorProto.UINT8}
    kernels = integer_kernels(save(model, tmp_path))
    assert (kernels.integer, kernels.floating) == ({"QLinearConv": 1}, {})
    assert distance(retarget(program, "cpu"), model, torch.randn(3, 3, 8, 8)) < 0.01


class Products(nn.Module):
    """Linear layers in every form: rank 2 and 3, with and without bias, transposed, sliced, after a reshape."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.middle, self.last = Activation(), Activation(0.2), Activation(0.4)
        self.first, self.bias = Weight(16, 24), nn.Parameter(torch.randn(16))
        self.packed, self.across = Weight(48, 16), Weight(16, 12, axis=1)
        self.scores = Weight(5, 5 * 12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``x`` is ``[N, 5, 24]``."""
        y = self.middle(functional.gelu(functional.linear(self.enter(x), self.first(), self.bias)))
        parts = [functional.linear(y, part) for part in self.packed().chunk(3)]
        z = torch.matmul(self.last(parts[0] + parts[1] * parts[2]), self.across())
        return functional.linear(self.enter(z).flatten(1), self.scores(), torch.ones(5))


def test_linear_layers_end_as_codes_without_any_movement(tmp_path: Path) -> None:
    """Transposes and slices of a weight are applied to its codes and scales, and all products are integer."""
    program, signature = program_of(Products(), 5, 24)
    for_gpu = to_onnx(program, signature, "tensorrt")
    weights = dequantized(for_gpu)
    assert len(weights) == 6
    for codes, scales, axis, operator, _ in weights.values():
        assert codes.dtype == np.int8
        assert scales.shape == (codes.shape[axis],)
        assert axis == (1 if operator == "MatMul" else 0)
    assert [finding for finding in lint(for_gpu) if finding.verdict != "advice"] == []
    assert distance(retarget(program, "tensorrt"), for_gpu, torch.randn(3, 5, 24)) < 0.01
    model = to_onnx(program, signature, "cpu")
    matrices = [item for item in model.graph.initializer if len(item.dims) == 2]
    assert [item.data_type for item in matrices] == [TensorProto.INT8] * 6
    for either in (model, for_gpu):
        assert "Transpose" not in kinds(either)
    kernels = integer_kernels(save(model, tmp_path))
    assert (kernels.floating, kernels.integer_heavy) == ({}, 6)
    assert distance(program, model, torch.randn(3, 5, 24)) < 0.01


def test_a_transposed_convolution_has_its_scales_on_axis_one() -> None:
    """ConvTranspose has its output channels on axis 1."""

    class Up(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.weight = Activation(), Weight(4, 6, 2, 2, axis=1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return functional.conv_transpose2d(self.enter(x), self.weight())

    program, signature = program_of(Up(), 4, 5, 5)
    for target in ("cpu", "tensorrt"):
        model = to_onnx(program, signature, target)
        ((_, scales, axis, operator, place),) = dequantized(model).values()
        assert (scales.shape, axis, operator, place) == ((6,), 1, "ConvTranspose", 1)
        assert distance(retarget(program, target), model, torch.randn(3, 4, 5, 5)) < 1e-5
    assert lint(model) == []


class Repeated(nn.Module):
    """The same grid twice in a row, and a pool whose Q comes after a reshape."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.pooled = Activation(), Activation(), Activation(0.01)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``x`` is ``[N, C, H, W]``."""
        return self.pooled(self.two(self.one(x)).mean((2, 3)))


def test_repeated_grids_merge_and_pools_are_integer(tmp_path: Path) -> None:
    """A second equal grid is removed, and the Q after the reshape moves to the pool, which is then integer."""
    model = to_onnx(*program_of(Repeated(), 4, 6, 6), "cpu")
    assert kinds(model).count("QuantizeLinear") == 2
    assert kinds(model).index("QuantizeLinear", 2) < kinds(model).index("Reshape")
    kernels = integer_kernels(save(model, tmp_path))
    assert kernels.integer_light == {"QLinearGlobalAveragePool": 1}


class Addend(nn.Module):
    """A quantized constant that is not a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.table, self.leave = Activation(), Activation(0.02, 100), Activation(0.1)
        self.value = nn.Parameter(torch.randn(4, 6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Adds it."""
        return self.leave(self.enter(x) + self.table(self.value))


def test_a_quantized_addend_takes_the_form_of_the_activations(tmp_path: Path) -> None:
    """A constant that is added is stored in the type of the activations, so that the add is integer too."""
    program, signature = program_of(Addend(), 4, 6)
    model = to_onnx(program, signature, "cpu")
    ((codes, scales, axis, _, _),) = dequantized(model).values()
    assert (codes.dtype, scales.shape, axis) == (np.uint8, (), -1)
    assert integer_kernels(save(model, tmp_path)).integer_light == {"QLinearAdd": 1}
    assert lint(to_onnx(program, signature, "tensorrt")) == []


class Faulty(nn.Module):
    """A fake-quantize that no target supports."""

    scale: torch.Tensor
    zero: torch.Tensor

    def __init__(
        self, scale: list[float], zero: list[int], axis: int, limits: tuple[int, int], of_weight: bool
    ) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor(scale))
        self.register_buffer("zero", torch.tensor(zero))
        self.weight, self.rest = nn.Parameter(torch.randn(2, 2)), (axis, *limits)
        self.of_weight = of_weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Quantizes the weight or the input."""
        if self.of_weight:
            return functional.linear(x, qdq(self.weight, self.scale, self.zero, *self.rest))
        return qdq(x, self.scale, self.zero, *self.rest)


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (Faulty([0.1, 0.1], [3, 3], 0, (-127, 127), True), "is not symmetric INT8"),
        (Faulty([0.1, 0.2], [0, 0], 1, (-128, 127), False), "quantized per channel"),
        (Faulty([0.0], [0], -1, (-128, 127), False), "not positive and finite"),
        (Faulty([float("nan"), 1.0], [0, 0], 0, (-127, 127), True), "not positive and finite"),
        (Faulty([0.1], [0], -1, (-32768, 32767), False), "more than 8 bits"),
    ],
)
def test_grids_that_no_target_runs_are_refused(net: nn.Module, message: str) -> None:
    """Asymmetric weights, activations per channel, bad scales and wide codes are rejected with a remedy."""
    program, _ = program_of(net, 2)
    with pytest.raises(ArtifactError, match=message) as caught:
        retarget(program, "cpu")
    assert caught.value.remedy


class Positions(nn.Module):
    """A small network computes a bias from constant coordinates, as in Swin v2."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("places", torch.linspace(-1, 3, 64).reshape(8, 8))
        self.small = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 16, bias=False))
        self.layer, self.side = nn.Linear(16, 16), nn.Parameter(torch.randn(16, 16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[N, 8, 16]`` to the same."""
        return self.layer(x) + self.small(self.places) @ self.side


@pytest.mark.parametrize("made_for", ["cpu", "tensorrt"])
@pytest.mark.parametrize("target", ["cpu", "tensorrt"])
def test_constants_that_layers_work_on_are_no_weights(made_for: Any, target: Any) -> None:
    """A constant that is a layer's data input has the grid of an activation, for both targets."""
    torch.manual_seed(0)
    samples = {"x": np.random.default_rng(0).normal(size=(16, 8, 16)).astype(np.float32)}
    program = capture(Positions(), {"x": torch.from_numpy(samples["x"][:2])})
    options = QuantizeOptions(method="minmax", correction=("none",))
    coded = quantize_program(program, options, ArraySplit(samples, None), made_for)
    model = to_onnx(reexport(coded), coded.signature, target)
    onnx.checker.check_model(model, full_check=True)
    found = open_session(model.SerializeToString(), signature=coded.signature).run(samples)
    wanted = predict(program, ArraySplit(samples, None))
    one, two = (np.asarray(next(iter(values.values()))) for values in (wanted, found))
    assert sqnr_db(one, two) > 25
