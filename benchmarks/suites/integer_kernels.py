"""Measures which layers ONNX Runtime's integer kernels compute more slowly than its FP32 kernels on this machine.

    python -m retort.benchmarks.suites.integer_kernels

INT8 placement for `cpu` leaves a few kinds of layers in FP32 before anything is timed
(`compress/quantization/placement/kernel_limits.py`). Those limits were measured on one machine. This suite compares
them with measurements on the machine on which it runs: for each case, a chain of integer layers with the tested layer
in INT8 is compared with the same chain with that layer in FP32, on one thread, interleaved, with the interval of the
ratio. It prints a table and one JSON line. A row that contradicts the limits is marked; check such layers before you
draw conclusions about INT8 on that machine.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ...core.console import Console
from ...core.metrics.ratio import Ratio
from ...core.options.stage_options import BenchOptions
from ...core.session import SessionOptions, open_session
from ...core.tensors import BATCH, Array
from ..machine import describe, fingerprint
from ..timing.latency import compare_sessions

if TYPE_CHECKING:
    import onnx

Place = Literal["int8", "fp32"]
SIDE, SCALE, ZERO = 28, 0.05, 0
"""With a zero point of 0, quantization replaces the ReLU before it, as in the files that Retort writes."""
BUDGET_S, QUANTIZED = 10.0, "_float"


@dataclass(frozen=True)
class Layer:
    """A convolution (``weight`` is ``[O, I/groups, k, k]``) or a linear layer (``[O, I]``); ReLU follows."""

    weight: tuple[int, ...]
    groups: int = 1
    stride: int = 1


@dataclass(frozen=True)
class Case:
    """A chain of layers, one of which is tested.

    Attributes:
        layers: all layers; all except the tested one are INT8.
        tested: position of the tested layer.
        placed: the type in which Retort places that layer.
        batch: rows.
        side: height and width of the images.
    """

    name: str
    layers: tuple[Layer, ...]
    tested: int
    placed: Place
    batch: int = 1
    side: int = SIDE


def _first(outputs: int, placed: Place, kernel: int = 3, stride: int = 1) -> Case:
    layers = (Layer((outputs, 3, kernel, kernel), stride=stride), Layer((outputs, outputs, 3, 3), stride=2))
    name = f"first layer 3 to {outputs}, {kernel}x{kernel}, stride {stride}"
    return Case(name, layers, 0, placed, side=112)


def _grouped(per_group: int, kernel: int, placed: Place) -> Case:
    width, groups = 8 * per_group, 8
    if per_group == 1:
        width = groups = 64
    outer = Layer((width, width, 1, 1))
    name = f"{'depthwise' if per_group == 1 else f'{per_group} channels per group'}, {kernel}x{kernel}"
    return Case(name, (outer, Layer((width, per_group, kernel, kernel), groups), outer), 1, placed)


def _linear(inputs: int, outputs: int, batch: int, placed: Place) -> Case:
    return Case(f"linear {inputs} to {outputs}, batch {batch}", (Layer((outputs, inputs)),), 0, placed, batch)


CASES = (
    *(_first(16, "fp32"), _first(32, "fp32"), _first(64, "int8"), _first(64, "int8", 7, 2)),
    *(_grouped(1, 3, "int8"), _grouped(4, 3, "fp32"), _grouped(8, 3, "fp32"), _grouped(16, 3, "int8")),
    *(_grouped(32, 3, "int8"), _grouped(8, 1, "fp32"), _grouped(16, 1, "fp32"), _grouped(32, 1, "int8")),
    *(_linear(512, 10, 1, "fp32"), _linear(512, 10, 32, "fp32"), _linear(64, 64, 32, "fp32")),
    *(_linear(256, 256, 1, "int8"), _linear(256, 256, 32, "int8"), _linear(1024, 1024, 1, "int8")),
)


def chain(case: Case, place: Place) -> onnx.ModelProto:
    """The chain with the tested layer in INT8 or in FP32."""
    from onnx import TensorProto, helper

    random = np.random.default_rng(0)
    nodes: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = [_constant("scale", np.float32(SCALE)), _constant("zero", np.uint8(ZERO))]
    weights.append(_constant("lowest", np.float32(0)))
    value = "x"
    for index, layer in enumerate(case.layers):
        integer = index != case.tested or place == "int8"
        value = _add(nodes, weights, layer, index, value, integer, random)
    first = case.layers[0].weight
    shape: list[str | int | None] = [BATCH, first[1], *[case.side] * (len(first) - 2)]
    ports = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, shape),
        helper.make_tensor_value_info(value, TensorProto.FLOAT, [BATCH, *[None] * (len(shape) - 1)]),
    ]
    graph = helper.make_graph(nodes, "chain", ports[:1], ports[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def _add(
    nodes: list[Any],
    weights: list[Any],
    layer: Layer,
    index: int,
    value: str,
    integer: bool,
    random: np.random.Generator,
) -> str:
    """Append a layer to the graph; return the name of its output."""
    from onnx import helper

    name, source = f"layer{index}", value
    if integer:
        source = value if value.endswith(QUANTIZED) else _fake_quantized(nodes, f"{name}_in", value)
        codes = random.integers(-127, 128, layer.weight).astype(np.int8)
        weights += [_constant(f"{name}_codes", codes)]
        weights += [_constant(f"{name}_scales", np.full(layer.weight[0], 1e-3, np.float32))]
        weights += [_constant(f"{name}_zeros", np.zeros(layer.weight[0], np.int8))]
        inputs = [f"{name}_codes", f"{name}_scales", f"{name}_zeros"]
        nodes.append(helper.make_node("DequantizeLinear", inputs, [f"{name}_weight"], axis=0))
    else:
        weights.append(_constant(f"{name}_weight", random.standard_normal(layer.weight).astype(np.float32) * 0.05))
    if len(layer.weight) == 2:
        nodes.append(helper.make_node("Gemm", [source, f"{name}_weight"], [f"{name}_sum"], transB=1))
    else:
        pads, stride = [layer.weight[2] // 2] * 4, [layer.stride] * 2
        attributes: dict[str, Any] = {"pads": pads, "strides": stride, "group": layer.groups}
        nodes.append(helper.make_node("Conv", [source, f"{name}_weight"], [f"{name}_sum"], **attributes))
    # before a Relu, ONNX Runtime would quantize the FP32 weights itself
    end = ("Relu", [f"{name}_sum"]) if integer else ("Max", [f"{name}_sum", "lowest"])
    nodes.append(helper.make_node(*end, [f"{name}_out"]))
    return _fake_quantized(nodes, f"{name}_q", f"{name}_out") if integer else f"{name}_out"


def _fake_quantized(nodes: list[Any], name: str, value: str) -> str:
    from onnx import helper

    nodes.append(helper.make_node("QuantizeLinear", [value, "scale", "zero"], [f"{name}_int"]))
    nodes.append(helper.make_node("DequantizeLinear", [f"{name}_int", "scale", "zero"], [name + QUANTIZED]))
    return name + QUANTIZED


def _constant(name: str, value: Any) -> onnx.TensorProto:
    from onnx import numpy_helper

    return numpy_helper.from_array(np.asarray(value), name)


def measure(case: Case, budget_s: float = BUDGET_S) -> Ratio:
    """The speedup of the chain with the tested layer in INT8 over the chain with it in FP32."""
    sessions = {
        place: open_session(chain(case, place).SerializeToString(), SessionOptions(threads=1))
        for place in ("fp32", "int8")
    }
    shape = [size if isinstance(size, int) else case.batch for size in sessions["fp32"].signature.inputs[0].shape]
    samples: dict[str, Array] = {"x": np.random.default_rng(0).standard_normal(shape).astype(np.float32)}
    options = BenchOptions(batch_sizes=(case.batch,), budget_s=budget_s)
    try:
        return compare_sessions(sessions, samples, options)[case.batch].ratio_of("int8")
    finally:
        for session in sessions.values():
            session.close()


def contradicts(case: Case, ratio: Ratio) -> bool:
    """Whether the layer is significantly faster on this machine in the type that Retort does not choose."""
    return ratio.verdict == ("faster" if case.placed == "fp32" else "slower")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the suite and print its table, then one JSON line."""
    parser = argparse.ArgumentParser(
        prog="retort.benchmarks.suites.integer_kernels", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--budget", type=float, default=BUDGET_S, help="seconds for one comparison")
    given = parser.parse_args(arguments)
    console, machine = Console("text"), describe(fingerprint())
    found = {case: measure(case, given.budget) for case in console.track(CASES, "layers")}
    rows = [
        [case.name, ratio.text, case.placed, "differs" if contradicts(case, ratio) else ""]
        for case, ratio in found.items()
    ]
    console.table(f"INT8 against FP32 on {machine}", ["layer", "times faster", "placed in", "here"], rows)
    entries = [
        {"layer": case.name, "placed": case.placed, "contradicts": contradicts(case, ratio), **ratio.to_dict()}
        for case, ratio in found.items()
    ]
    console.result({}, json.dumps({"machine": machine, "rows": entries}, allow_nan=False))


if __name__ == "__main__":
    main()
