"""Where fake-quantize nodes are inserted: whole integer nodes on `cpu`, residual branches on `tensorrt`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from retort.compress.capture.capture_program import capture
from retort.compress.program import Program
from retort.compress.quantization import quantize_program
from retort.compress.quantization.correction.learned_scales import learnable
from retort.compress.quantization.operator_classes import is_qdq, moved, weighted
from retort.compress.quantization.prepare.batch_norm_folding import fold_batch_norms
from retort.compress.quantization.prepare.integer_forms import rewrite
from retort.core.aten_names import name_of
from retort.core.console import Console
from retort.core.data.splits import ArraySplit
from retort.core.errors import UserError
from retort.core.options.stage_options import QuantizeOptions, Target


def quantized(
    model: nn.Module,
    shape: tuple[int, ...],
    target: Target = "cpu",
    exclude: tuple[str, ...] = (),
    integers: int = 0,
    scale: float = 1.0,
) -> Program:
    """The model captured and quantized on random data; with `integers`, its inputs are token ids below that number."""
    torch.manual_seed(0)
    x = torch.randint(0, integers, (16, *shape)) if integers else scale * torch.randn(16, *shape)
    program = capture(model.eval(), {"x": x[:4]})
    options = QuantizeOptions(method="minmax", exclude=exclude, first_layer="int8", correction=("none",))
    return quantize_program(program, options, ArraySplit({"x": x.numpy()}), target)


def calls(program: Program, name: str) -> list[Any]:
    return [node for node in program.module.graph.nodes if name_of(node) == name]


def origin(value: Any) -> Any:
    """The node before all data movements."""
    while (earlier := moved(value)) is not None:
        value = earlier
    return value


def is_integer(node: Any) -> bool:
    """Whether a convolution reads a quantized input and weight and every reader of its output quantizes it."""
    data, weight = node.args[0], node.args[1]
    readers = list(node.users)
    if len(readers) == 1 and name_of(readers[0]) in ("relu", "relu6", "hardtanh"):
        readers = list(readers[0].users)
    return is_qdq(origin(data)) and is_qdq(weight) and len(readers) == 1 and is_qdq(readers[0])


def buffer(program: Program, node: Any) -> Tensor:
    """The scale or zero point that a `get_attr` node reads."""
    return program.module.state_dict()[str(node.target)]


def reasons(program: Program) -> dict[str, str]:
    return {item["layer"]: item["reason"] for item in program.meta["quantization"]["float_nodes"]}


class Residual(nn.Module):
    """Stem, pooling, a block with a projected shortcut, one with an identity, a head."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.a, self.b = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)
        self.short = nn.Conv2d(width, width, 1)
        self.c, self.d = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.max_pool2d(functional.relu(self.norm(self.stem(x))), 2)
        x = functional.relu(self.b(functional.relu(self.a(x))) + self.short(x))
        x = functional.relu(x + self.d(functional.relu(self.c(x))))
        return self.head(functional.adaptive_avg_pool2d(x, 1).flatten(1))


def test_all_of_a_residual_network_is_integer_on_cpu() -> None:
    """Every convolution has a quantized input, weight and output; adds and the pooling read and give codes."""
    program = quantized(Residual(), (3, 16, 16))
    assert all(is_integer(node) for node in calls(program, "conv2d"))
    assert len(calls(program, "conv2d")) == 6
    for node in [*calls(program, "add"), *calls(program, "mean")]:
        inputs = [value for value in node.args if isinstance(value, torch.fx.Node)]
        assert all(is_qdq(origin(value)) for value in inputs)
    scheme = program.meta["quantization"]
    assert scheme["kinds"] == {"add": 2, "conv2d": 6, "linear": 1, "pool": 1}
    assert scheme["integer_macs_percent"] == 100
    assert scheme["float_nodes"] == []


def test_the_last_layer_gives_floating_point() -> None:
    """No node reads the logits as integers, so they are not rounded to 256 values."""
    program = quantized(Residual(), (3, 16, 16))
    outputs: Any = program.module.graph.output_node().args[0]
    output = outputs[0]
    assert name_of(output) == "linear"
    assert is_qdq(output.args[1])


@pytest.mark.parametrize("target", ["cpu", "arm", "tensorrt"])
def test_a_tensor_is_quantized_once(target: Target) -> None:
    """A tensor has one fake-quantize for all its readers, except after a movement of quantized values."""
    program = quantized(Residual(), (3, 16, 16), target)
    sources = [node.args[0] for node in program.module.graph.nodes if is_qdq(node)]
    assert len(sources) == len(set(sources))
    scales = [node.args[1] for node in program.module.graph.nodes if is_qdq(node) and not is_qdq(origin(node.args[0]))]
    assert len({str(scale.target) for scale in scales}) == len(scales)


def test_relu_stands_before_the_q_and_uses_all_its_codes() -> None:
    """No ReLU follows a Q, and each Q after a ReLU has zero point 0."""
    program = quantized(Residual(), (3, 16, 16))
    for node in calls(program, "relu"):
        (reader,) = node.users
        assert is_qdq(reader)
        assert int(buffer(program, reader.args[2])) == 0
        assert not is_qdq(node.args[0])


def test_tensorrt_quantizes_layer_inputs_and_the_identity_side_of_adds_only() -> None:
    """Outputs of convolutions stay in floating point; of a residual add, only the shortcut has Q/DQ."""
    program = quantized(Residual(), (3, 16, 16), "tensorrt")
    for node in calls(program, "conv2d"):
        assert is_qdq(node.args[0])
        assert is_qdq(node.args[1])
    for node in calls(program, "add"):
        sides = [is_qdq(value) for value in node.args[:2]]
        assert sorted(sides) == [False, True]
        fused = node.args[sides.index(False)]
        assert name_of(fused) == "conv2d"
    first = calls(program, "add")[0]
    (shortcut,) = [value for value in first.args[:2] if is_qdq(value)]
    assert str(shortcut.args[0].args[1].args[0].target) == "short.weight"
    assert "too small" in reasons(program)["head"]
    assert not any(is_qdq(value) for value in calls(program, "mean")[0].args[:1])


def test_tensorrt_scales_are_symmetric() -> None:
    """Zero points are all 0 and codes INT8, for activations and weights alike."""
    program = quantized(Residual(), (3, 16, 16), "tensorrt")
    for node in (node for node in program.module.graph.nodes if is_qdq(node)):
        assert not bool(buffer(program, node.args[2]).any())
        assert tuple(node.args[4:6]) in {(-128, 127), (-127, 127)}


def test_an_excluded_layer_is_wholly_floating_point() -> None:
    """Neither its weight nor its output is quantized, and the report has its name and the reason."""
    program = quantized(Residual(), (3, 16, 16), exclude=("c", "head"))
    (node,) = [node for node in calls(program, "conv2d") if str(node.args[1].target) == "c.weight"]
    assert node.args[1].op == "get_attr"
    assert reasons(program) == {"c": "excluded by the recipe", "head": "excluded by the recipe"}


def test_an_exclusion_that_names_nothing_is_an_error_with_the_nearest_name() -> None:
    """A typing error does not quantize the layer silently."""
    with pytest.raises(UserError, match="'sterm'") as caught:
        quantized(Residual(), (3, 16, 16), exclude=("sterm",))
    assert "stem" in caught.value.remedy
    with pytest.raises(UserError, match="'zzz'") as caught:
        quantized(Residual(), (3, 16, 16), exclude=("zzz",))
    assert caught.value.remedy.startswith("the model has stem, ")
    names = caught.value.facts["known"]
    assert isinstance(names, list)
    assert {"stem", "c", "head"} <= set(names)


class Mobile(nn.Module):
    """Expansion, depthwise, squeeze-and-excite, projection with hard-swish, and a residual."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.expand = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 32, 1)
        self.deep, self.norm = nn.Conv2d(32, 32, 3, padding=1, groups=32), nn.BatchNorm2d(32)
        self.down, self.up, self.project = nn.Conv2d(32, 8, 1), nn.Conv2d(8, 32, 1), nn.Conv2d(32, 8, 1)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu6(self.stem(x))
        y = functional.hardswish(self.norm(self.deep(functional.hardswish(self.expand(x)))))
        y = y * functional.hardsigmoid(self.up(functional.relu(self.down(y.mean((2, 3), keepdim=True)))))
        return self.head((x + self.project(y)).mean((2, 3)))


def test_hard_swish_and_squeeze_and_excite_are_integer_on_cpu() -> None:
    """All convolutions, products and poolings are integer; gates have steps of 1/256 or the grid of their input."""
    program = quantized(Mobile(), (3, 16, 16))
    assert all(is_integer(node) for node in calls(program, "conv2d") if "up" not in str(node.args[1].args[0].target))
    scheme = program.meta["quantization"]
    assert scheme["integer_macs_percent"] == 100
    assert scheme["kinds"] == {"add": 1, "conv2d": 6, "hardsigmoid": 2, "linear": 1, "mul": 3, "pool": 2}
    for node in calls(program, "hardsigmoid"):
        (reader,) = node.users
        scale, zero = (float(buffer(program, item)) for item in node.args[0].args[1:3])
        shared = scale * zero == pytest.approx(3)
        assert float(buffer(program, reader.args[1])) == pytest.approx(scale / 6 if shared else 1 / 256)


def test_a_gate_shares_the_codes_of_its_input_and_is_not_rounded() -> None:
    """Hard-sigmoid of every code from -3 upwards is on the gate's grid, also after its scale was learned."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Hardswish(), nn.Conv2d(8, 8, 3))
    program = quantized(model, (3, 8, 8), scale=20.0)
    (gate,) = calls(program, "hardsigmoid")
    (reader,) = gate.users
    for change in (1.0, 0.9, 1.3):
        with learnable(program, weights=False) as scales, torch.no_grad():
            for logarithm in scales:
                logarithm.add_(math.log(change))
        scale, zero, finer = (buffer(program, item) for item in (*gate.args[0].args[1:3], reader.args[1]))
        values = (torch.arange(256) - zero) * scale
        assert float(values[0]) == pytest.approx(-3)
        codes = functional.hardsigmoid(values) / finer
        assert torch.allclose(codes, codes.round(), atol=1e-3)
    assert float(scale) == pytest.approx(3 / round(3 / float(scale)))


def test_a_hard_sigmoid_behind_a_convolution_is_its_clamp() -> None:
    """1/6 is folded into the weight and 1/2 into the bias: the outputs are the same, and the gate is gone."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.Hardsigmoid(), nn.Conv2d(8, 8, 3))
    program = capture(model.eval(), {"x": torch.randn(4, 3, 8, 8)})
    folded = fold_batch_norms(program)
    rewrite(folded, "cpu")
    assert [name_of(node) for node in folded.module.graph.nodes if name_of(node)] == ["conv2d", "clamp", "conv2d"]
    x = torch.randn(3, 3, 8, 8)
    with torch.no_grad():
        assert torch.allclose(folded.module(x)[0], program.module(x)[0], atol=1e-6)


class Inception(nn.Module):
    """Branches of one kind, concatenated."""

    def __init__(self, last: nn.Module) -> None:
        super().__init__()
        self.stem, self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 16, 3, padding=1)
        self.last, self.out = last, nn.Conv2d(32, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.stem(x))
        b = self.last(self.b(x))
        return self.out(torch.cat([functional.relu(self.a(x)), b, functional.max_pool2d(x, 3, 1, 1)], 1))


def scales_of_concatenation(program: Program) -> list[float]:
    (node,) = calls(program, "cat")
    (output,) = node.users
    return [float(buffer(program, origin(item).args[1])) for item in (*node.args[0], output)]


def test_a_concatenation_has_one_scale_for_inputs_and_output() -> None:
    """With equal grids, a concatenation only copies codes."""
    assert len(set(scales_of_concatenation(quantized(Inception(nn.ReLU()), (3, 8, 8))))) == 1


def test_a_concatenation_keeps_its_scales_apart_where_one_would_break_a_clamp() -> None:
    """A shared zero point above 0 would prevent the runtime from removing the ReLU of the other branches."""
    program = quantized(Inception(nn.Identity()), (3, 8, 8))
    assert len(set(scales_of_concatenation(program))) > 1
    for node in calls(program, "relu"):
        (reader,) = node.users
        assert int(buffer(program, reader.args[2])) == 0


class Moves(nn.Module):
    """Quantized values through splits, upsampling, slices and a shuffle."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(8, 4, 3)
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        left, right = functional.relu(self.a(x)).chunk(2, 1)
        left = functional.interpolate(self.b(left)[:, :, ::2, ::2], scale_factor=2.0)
        x = torch.cat([left, right], 1)
        n, c, h, w = x.shape
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        return self.head(functional.max_pool2d(self.c(x), 3).flatten(1))


def test_data_movements_have_no_grid_of_their_own() -> None:
    """The input of an integer node after data movements has the grid of their source."""
    program = quantized(Moves(), (3, 8, 8))
    assert program.meta["quantization"]["integer_macs_percent"] == 100
    assert all(is_integer(node) for node in calls(program, "conv2d"))
    for node in program.module.graph.nodes:
        if is_qdq(node) and node.args[0].op == "call_function" and moved(node.args[0]) is not None:
            source = origin(node.args[0])
            assert source.args[1:3] == node.args[1:3] or not is_qdq(source)
    recorded = program.meta["quantization"]["activations"]
    assert not [name for name in recorded if "view" in name or "slice" in name or "upsample" in name]


class Encoder(nn.Module):
    """A small Transformer encoder over token ids."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 16)
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, activation="gelu")
        self.body, self.head = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.embed(x)).mean(1))


def test_a_transformers_linear_layers_are_integer_and_its_attention_is_named() -> None:
    """Linear layers read codes and write floating point to the residual stream; attention stays, with the reason."""
    program = quantized(Encoder(), (12,), integers=50)
    linear = calls(program, "linear")
    assert all(is_qdq(origin(node.args[0])) and is_qdq(node.args[1]) for node in linear)
    assert not any(is_qdq(user) for node in linear for user in node.users)
    assert program.meta["quantization"]["kinds"] == {"linear": len(linear)}
    assert len(reasons(program)) == 2
    assert all("factors are activations" in reason for reason in reasons(program).values())


class Recurrent(nn.Module):
    """A recurrent layer and a head."""

    def __init__(self, kind: Callable[..., nn.Module]) -> None:
        super().__init__()
        self.body, self.head = kind(8, 16, batch_first=True), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x)[0][:, -1])


@pytest.mark.parametrize(("kind", "name"), [(nn.LSTM, "lstm"), (nn.GRU, "gru")])
def test_narrow_recurrent_layers_compute_in_floating_point_and_are_named(
    kind: Callable[..., nn.Module], name: str
) -> None:
    """Integer kernels are slower for such small layers; the recurrent weights are INT8 in the file anyway."""
    program = quantized(Recurrent(kind), (6, 8))
    assert program.meta["quantization"]["kinds"] == {}
    assert "hidden units" in reasons(program)["body"]
    assert "less time in FP32" in reasons(program)["head"]
    assert {facts["parameter"].rpartition(".")[2] for facts in program.meta["quantization"]["weights"].values()} == {
        "weight_ih_l0",
        "weight_hh_l0",
    }


class Decoder(nn.Module):
    """A transposed convolution between convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.up, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.ConvTranspose2d(8, 8, 2, 2), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(functional.relu(self.up(functional.relu(self.a(x)))))


def test_a_transposed_convolution_is_integer_on_tensorrt_alone() -> None:
    """Its scales are along axis 1; on `cpu` it has no integer kernel, and the runtime must not quantize it."""
    on_cpu = quantized(Decoder(), (3, 8, 8))
    assert "transposed" in reasons(on_cpu)["up"]
    (node,) = calls(on_cpu, "conv_transpose2d")
    assert not is_qdq(node.args[1])
    assert [name_of(user) for user in node.users] == ["maximum"]


class Wide(Decoder):
    """The same with enough channels for TensorRT."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.up, self.b = nn.Conv2d(3, 16, 3, padding=1), nn.ConvTranspose2d(16, 24, 2, 2), nn.Conv2d(24, 16, 1)


def test_a_transposed_convolutions_scales_run_along_axis_one_on_tensorrt() -> None:
    """Its output channels are the second axis of its weight."""
    program = quantized(Wide(), (3, 8, 8), "tensorrt")
    (node,) = calls(program, "conv_transpose2d")
    assert is_qdq(node.args[1])
    assert node.args[1].args[3] == 1
    assert buffer(program, node.args[1].args[1]).shape == (24,)


class Tied(nn.Module):
    """One convolution and one matrix that are used twice, the matrix also transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.lin = nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(functional.relu(self.conv(x))).mean((2, 3))
        return functional.relu(self.lin(y)) @ self.lin.weight


def test_a_weight_used_twice_is_quantized_once() -> None:
    """Both calls of a convolution read one fake-quantized weight; a transposed matrix gets its own axis."""
    program = quantized(Tied(), (4, 8, 8))
    one, two = calls(program, "conv2d")
    assert one.args[1] is two.args[1]
    weights = program.meta["quantization"]["weights"].values()
    assert sorted((item["parameter"], item["axis"]) for item in weights) == [
        ("conv.weight", 0),
        ("lin.weight", 0),
        ("lin.weight", 1),
    ]


@pytest.mark.parametrize("form", ["t", "transpose", "permute", "mm", "addmm"])
def test_matrix_products_with_a_parameter_count_as_linear_layers(form: str) -> None:
    """For every form of the product, the scales are along the output features."""

    class Product(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.bias = nn.Parameter(torch.randn(6, 9)), nn.Parameter(torch.randn(6))

        def forward(self, x: Tensor) -> Tensor:
            ways = {
                "t": lambda: x @ self.weight.t(),
                "transpose": lambda: torch.matmul(x, self.weight.transpose(-1, -2)),
                "permute": lambda: torch.matmul(x, self.weight.permute(1, 0)),
                "mm": lambda: torch.mm(x.reshape(-1, 6), self.weight),
                "addmm": lambda: torch.addmm(self.bias, x, self.weight.t()),
            }
            return ways[form]()

    program = quantized(Product(), (6,) if form == "mm" else (9,))
    assert program.meta["quantization"]["kinds"] == {"linear": 1}
    (found,) = program.meta["quantization"]["weights"].values()
    assert found["axis"] == (1 if form == "mm" else 0)
    assert any(weighted(node) is None and is_qdq(node) for node in program.module.graph.nodes)


def test_narrow_groups_stay_in_floating_point_on_cpu() -> None:
    """ONNX Runtime's grouped integer convolution is slower than FP32 below 16 channels per group; depthwise is not."""
    layers = [nn.Conv2d(8, 8, 3, groups=groups, padding=1) for groups in (1, 2, 8)]
    program = quantized(nn.Sequential(*layers), (8, 6, 6))
    assert list(reasons(program)) == ["1"]
    assert "4 channels per group" in reasons(program)["1"]


def test_operators_that_are_not_known_stay_in_floating_point() -> None:
    """The network around an operator without an integer kernel is quantized."""

    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(torch.cumsum(torch.tanh(self.a(x)), 1))

    program = quantized(Odd(), (3, 9, 9))
    assert all(is_integer(node) for node in calls(program, "conv2d"))
    (node,) = calls(program, "tanh")
    assert not any(is_qdq(user) for user in node.users)


def test_a_concatenation_of_one_tensor_is_a_movement() -> None:
    """It passes its input on, so it has no grid (the first layer of a DenseNet block)."""

    class Single(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(torch.cat([self.a(x)], 1))

    program = quantized(Single(), (3, 9, 9))
    assert program.meta["quantization"]["kinds"] == {"conv2d": 2}
    assert all(is_integer(node) for node in calls(program, "conv2d"))
    assert len(program.meta["quantization"]["activations"]) == 3


def test_double_precision_is_named_as_the_reason(capsys: pytest.CaptureFixture[str]) -> None:
    """A model whose weights are FP64 has no layer in INT8, and the message says how to capture it."""
    torch.manual_seed(0)
    x = torch.randn(8, 16, dtype=torch.float64)
    program = capture(nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 8)).double().eval(), {"x": x})
    quantize_program(program, QuantizeOptions(correction=("none",)), ArraySplit({"x": x.numpy()}), "cpu", Console())
    assert "capture `model.float()`" in " ".join(capsys.readouterr().err.split())
