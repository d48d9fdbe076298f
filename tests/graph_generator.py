"""Random ONNX graphs, valid ones and ones with one fault, for comparing two checkers on the same file."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Fault = Callable[["Graph", random.Random], bool]
FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16
Q, DQ = "QuantizeLinear", "DequantizeLinear"


class Graph:
    """A graph under construction: nodes, constants, and the value that the next block reads."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.half = rng.random() < 0.25
        self.dtype = np.float16 if self.half else np.float32
        self.opset = rng.choice((20, 21, 22, 23) if self.half else (17, 18, 19, 20, 21, 22, 23))
        self.int8 = rng.random() < 0.6
        self.nodes: list[onnx.NodeProto] = []
        self.values: dict[str, np.ndarray[Any, Any]] = {}
        self.domains: dict[str, int] = {}
        self.count = 0
        channels = rng.choice((4, 8, 16))
        self.channels = channels
        self.input_shape: list[Any] = ["batch", channels, 8, 8]
        self.input_type = HALF if self.half else FLOAT
        self.x = "x"
        self.outputs: list[str] = []

    def name(self, stem: str) -> str:
        """A name that is not used yet."""
        self.count += 1
        return f"{stem}_{self.count}"

    def node(self, op: str, inputs: list[str], outputs: int = 1, **attributes: Any) -> str:
        """Add a node and return its first output."""
        name = self.name(op)
        made = [f"{name}_y{index}" for index in range(outputs)]
        self.nodes.append(helper.make_node(op, inputs, made, name=name, **attributes))
        return made[0]

    def constant(self, array: Any, stem: str = "c") -> str:
        """A stored value."""
        name = self.name(stem)
        self.values[name] = np.asarray(array)
        return name

    def weight(self, *shape: int) -> np.ndarray[Any, Any]:
        """Random numbers in the graph's type."""
        return np.random.default_rng(self.rng.randrange(1 << 30)).normal(size=shape).astype(self.dtype)

    def quantized(self, x: str) -> str:
        """``x`` after a Q/DQ pair, in graphs with Q/DQ."""
        if not self.int8:
            return x
        grid = [self.constant(self.dtype(0.05), "scale"), self.constant(np.int8(0), "zero")]
        return self.node(DQ, [self.node(Q, [x, *grid]), *grid])

    def stored_weight(self, array: np.ndarray[Any, Any], axis: int) -> str:
        """A weight, as codes with a DequantizeLinear in graphs with Q/DQ."""
        if not self.int8:
            return self.constant(array, "w")
        codes = np.clip(np.rint(array.astype(np.float32) * 40), -127, 127).astype(np.int8)
        if self.rng.random() < 0.2:
            grid = [self.constant(self.dtype(0.02), "scale"), self.constant(np.int8(0), "zero")]
            return self.node(DQ, [self.constant(codes, "w"), *grid])
        count = array.shape[axis]
        grid = [
            self.constant(np.full(count, 0.02, self.dtype), "scale"),
            self.constant(np.zeros(count, np.int8), "zero"),
        ]
        return self.node(DQ, [self.constant(codes, "w"), *grid], axis=axis)

    def model(self) -> onnx.ModelProto:
        """The finished model."""
        ports = [helper.make_tensor_value_info("x", self.input_type, self.input_shape)]
        outs = [onnx.ValueInfoProto(name=name) for name in self.outputs]
        for out in outs:
            out.type.tensor_type.elem_type = self.input_type
        stored = [numpy_helper.from_array(array, name) for name, array in self.values.items()]
        graph = helper.make_graph(self.nodes, "generated", ports, outs, stored)
        domains = [helper.make_opsetid(name, version) for name, version in self.domains.items()]
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset), *domains], ir_version=9)


def _conv(g: Graph) -> None:
    group, out = 1, g.rng.choice((g.channels, 8, 16))
    if g.rng.random() < 0.2:
        group, out = g.channels, g.channels
    kernel = g.rng.choice((1, 3))
    weight = g.stored_weight(g.weight(out, g.channels // group, kernel, kernel), 0)
    inputs = [g.quantized(g.x), weight] + ([g.constant(g.weight(out), "b")] if g.rng.random() < 0.5 else [])
    g.x = g.node("Conv", inputs, pads=[kernel // 2] * 4, group=group)
    g.channels = out


def _transposed(g: Graph) -> None:
    weight = g.stored_weight(g.weight(g.channels, 8, 3, 3), 1)
    g.x = g.node("ConvTranspose", [g.quantized(g.x), weight], pads=[1] * 4)
    g.channels = 8


def _unary(g: Graph) -> None:
    g.x = g.node(
        g.rng.choice(("Relu", "Sigmoid", "Tanh", "HardSwish", "LeakyRelu", "Softplus", "Elu", "Erf", "Abs")), [g.x]
    )


def _clip(g: Graph) -> None:
    g.x = g.node("Clip", [g.x, g.constant(g.dtype(0)), g.constant(g.dtype(6))])


def _residual(g: Graph) -> None:
    before, channels = g.x, g.channels
    weight = g.stored_weight(g.weight(channels, channels, 3, 3), 0)
    inside = g.node("Conv", [g.quantized(before), weight], pads=[1] * 4)
    g.x = g.node("Add", [inside, before if g.rng.random() < 0.5 else g.quantized(before)])


def _scale(g: Graph) -> None:
    op = g.rng.choice(("Mul", "Add", "Sub", "Div", "Max", "Min", "PRelu"))
    g.x = g.node(op, [g.x, g.constant(np.abs(g.weight(g.channels, 1, 1)) + g.dtype(0.5))])


def _concat(g: Graph) -> None:
    other = g.node("Sigmoid", [g.x])
    g.x = g.node("Concat", [g.quantized(g.x), g.quantized(other)], axis=1)
    g.channels *= 2


def _pool(g: Graph) -> None:
    op = g.rng.choice(("MaxPool", "AveragePool"))
    g.x = g.node(op, [g.x], kernel_shape=[3, 3], pads=[1] * 4)


def _norm(g: Graph) -> None:
    parts = [g.constant(np.abs(g.weight(g.channels)) + g.dtype(0.5)) for _ in range(4)]
    if g.rng.random() < 0.5:
        g.x = g.node("BatchNormalization", [g.x, *parts])
    else:
        g.x = g.node("InstanceNormalization", [g.x, *parts[:2]])


def _split(g: Graph) -> None:
    first = g.node("Split", [g.x, g.constant(np.array([g.channels // 2, g.channels - g.channels // 2]))], 2, axis=1)
    g.x = g.node("Concat", [first.removesuffix("0") + "1", first], axis=1)


def _move(g: Graph) -> None:
    perm = [0, 1, 3, 2]
    g.x = g.node("Transpose", [g.x], perm=perm)


def _pad(g: Graph) -> None:
    padded = g.node("Pad", [g.x, g.constant(np.array([0, 0, 1, 1, 0, 0, 1, 1])), g.constant(g.dtype(0))])
    starts, ends, axes = (g.constant(np.array(item)) for item in ([1, 1], [-1, -1], [2, 3]))
    g.x = g.node("Slice", [padded, starts, ends, axes])


def _squeeze_excite(g: Graph) -> None:
    pooled = g.node("GlobalAveragePool", [g.x])
    weight = g.stored_weight(g.weight(g.channels, g.channels, 1, 1), 0)
    gate = g.node("Sigmoid", [g.node("Conv", [g.quantized(pooled), weight])])
    g.x = g.node("Mul", [g.x, gate])


def _where(g: Graph) -> None:
    mask = g.node("Greater", [g.x, g.constant(g.dtype(0))])
    g.x = g.node("Where", [mask, g.x, g.constant(g.dtype(0.1))])


def _cast(g: Graph) -> None:
    other, own = (FLOAT, HALF) if g.half else (HALF, FLOAT)
    g.x = g.node("Cast", [g.node("Relu", [g.node("Cast", [g.x], to=other)])], to=own)


def _softmax(g: Graph) -> None:
    g.x = g.node("Softmax", [g.x], axis=g.rng.choice((1, -1)))


BLOCKS = (
    *(_conv, _conv, _conv, _transposed, _unary, _unary, _clip, _residual, _residual, _scale, _concat, _pool, _norm),
    *(_split, _move, _pad, _squeeze_excite, _where, _cast, _softmax),
)


def _head(g: Graph) -> None:
    g.x = g.node("GlobalAveragePool", [g.x])
    g.x = g.node("Flatten", [g.x]) if g.rng.random() < 0.5 else g.node("Reshape", [g.x, g.constant(np.array([0, -1]))])
    for _ in range(g.rng.randint(1, 3)):
        out = g.rng.choice((4, 8, 16))
        if g.rng.random() < 0.5:
            transposed = g.rng.choice((0, 1))
            shape = (out, g.channels) if transposed else (g.channels, out)
            weight = g.stored_weight(g.weight(*shape), 0 if transposed else 1)
            g.x = g.node("Gemm", [g.quantized(g.x), weight, g.constant(g.weight(out), "b")], transB=transposed)
        else:
            weight = g.stored_weight(g.weight(g.channels, out), 1)
            g.x = g.node("Add", [g.node("MatMul", [g.quantized(g.x), weight]), g.constant(g.weight(out), "b")])
        g.channels = out
        if g.rng.random() < 0.4:
            g.x = g.node("LayerNormalization", [g.x, g.constant(g.weight(out)), g.constant(g.weight(out))], axis=-1)
        if g.rng.random() < 0.4 and g.opset >= 20:
            g.x = g.node("Gelu", [g.x])


def generate(seed: int) -> Graph:
    """A valid graph."""
    g = Graph(random.Random(seed))
    for _ in range(g.rng.randint(1, 5)):
        if g.channels <= 64:
            g.rng.choice(BLOCKS)(g)
    if g.rng.random() < 0.7:
        _head(g)
    g.outputs = [g.x]
    return g


def _of(g: Graph, *ops: str) -> list[onnx.NodeProto]:
    return [node for node in g.nodes if node.op_type in ops]


def _pick(g: Graph, rng: random.Random, *ops: str) -> onnx.NodeProto | None:
    found = _of(g, *ops)
    return rng.choice(found) if found else None


def _activation(g: Graph, rng: random.Random) -> tuple[onnx.NodeProto, onnx.NodeProto] | None:
    """A Q/DQ pair of an activation."""
    found = [(q, dq) for q in _of(g, Q) for dq in _of(g, DQ) if dq.input[0] == q.output[0]]
    return rng.choice(found) if found else None


def _coded(g: Graph, rng: random.Random, channels: bool = True) -> onnx.NodeProto | None:
    """The DequantizeLinear of a weight, optionally with scales per channel."""
    found = [n for n in _of(g, DQ) if n.input[0] in g.values and (g.values[n.input[1]].ndim == 1 or not channels)]
    return rng.choice(found) if found else None


def _set_grid(g: Graph, node: onnx.NodeProto, index: int, array: Any) -> None:
    for other in _of(g, Q, DQ):
        if other.input[index] == node.input[index] and other is not node:
            other.input[index] = node.input[index]
    g.values[node.input[index]] = np.asarray(array)


def _on_pair(change: Callable[[Graph, onnx.NodeProto, onnx.NodeProto, random.Random], None]) -> Fault:
    def fault(g: Graph, rng: random.Random) -> bool:
        found = _activation(g, rng)
        if found is None:
            return False
        change(g, *found, rng)
        return True

    return fault


def _on_weight(change: Callable[[Graph, onnx.NodeProto, random.Random], bool | None]) -> Fault:
    def fault(g: Graph, rng: random.Random) -> bool:
        found = _coded(g, rng)
        return found is not None and change(g, found, rng) is not False

    return fault


def _zero_point(value: Any) -> Fault:
    return _on_pair(lambda g, q, dq, rng: _set_grid(g, q, 2, value))


def _no_zero_point(g: Graph, q: onnx.NodeProto, dq: onnx.NodeProto, rng: random.Random) -> None:
    del q.input[2]
    if rng.random() < 0.5:
        del dq.input[2]


def _bad_scale(g: Graph, rng: random.Random) -> bool:
    node = _pick(g, rng, Q, DQ)
    if node is None:
        return False
    scale = np.array(g.values[node.input[1]])
    scale.reshape(-1)[rng.randrange(scale.size)] = rng.choice((0, -0.1, np.nan))
    g.values[node.input[1]] = scale
    return True


def _infinite_scale(g: Graph, rng: random.Random) -> bool:
    node = _pick(g, rng, Q, DQ)
    if node is None:
        return False
    g.values[node.input[1]] = np.full_like(g.values[node.input[1]], np.inf)
    return True


def _per_channel(g: Graph, q: onnx.NodeProto, dq: onnx.NodeProto, rng: random.Random) -> None:
    """As many scales as the model's input has channels: they are valid only for the pair on the input."""
    count = int(g.input_shape[1])
    for node in (q, dq):
        node.input[0] = "x" if node is q else node.input[0]
    g.values[q.input[1]], g.values[q.input[2]] = np.full(count, 0.1, g.dtype), np.zeros(count, np.int8)


def _per_channel_on_input(g: Graph, rng: random.Random) -> bool:
    pairs = [(q, dq) for q in _of(g, Q) for dq in _of(g, DQ) if dq.input[0] == q.output[0] and q.input[0] == "x"]
    if not pairs:
        return False
    _per_channel(g, *pairs[0], rng)
    return True


def _wrong_axis(g: Graph, node: onnx.NodeProto, rng: random.Random) -> bool:
    shape = g.values[node.input[0]].shape
    axis = next(item.i for item in node.attribute if item.name == "axis")
    others = [i for i in range(min(len(shape), 2)) if i != axis and shape[i] == shape[axis]]
    if not others:
        return False
    next(item for item in node.attribute if item.name == "axis").i = others[0]
    return True


def _wrong_length(g: Graph, node: onnx.NodeProto, rng: random.Random) -> bool:
    count = len(g.values[node.input[1]]) + rng.choice((-1, 1, 3))
    if count < 2:
        return False
    g.values[node.input[1]], g.values[node.input[2]] = np.full(count, 0.1, g.dtype), np.zeros(count, np.int8)
    return True


def _rank_two(g: Graph, node: onnx.NodeProto, rng: random.Random) -> None:
    for index in (1, 2):
        g.values[node.input[index]] = g.values[node.input[index]].reshape(-1, 1)


def _integer_bias(kind: Any) -> Fault:
    def fault(g: Graph, rng: random.Random) -> bool:
        node = _pick(g, rng, "Conv", "Gemm")
        if node is None or len(node.input) < 3:
            return False
        size = g.values[node.input[2]].size
        inputs = [g.constant(np.zeros(size, kind)), g.constant(np.full(size, 0.01, g.dtype))]
        inputs += [g.constant(np.zeros(size, kind))] if rng.random() < 0.5 else []
        made = helper.make_node(DQ, inputs, [g.name("bias")], name=g.name("bias_dq"), axis=0)
        g.nodes.insert(g.nodes.index(node), made)
        node.input[2] = made.output[0]
        return True

    return fault


def _computed_scale(g: Graph, q: onnx.NodeProto, dq: onnx.NodeProto, rng: random.Random) -> None:
    made = helper.make_node("Abs", [q.input[1]], [g.name("computed")], name=g.name("abs"))
    g.nodes.insert(0, made)
    q.input[1] = made.output[0]


def _volumes(g: Graph, node: onnx.NodeProto, rng: random.Random) -> None:
    g.values[node.input[2]] = np.zeros(len(g.values[node.input[1]]) + 1, np.int8)


def _operator(op: str, inputs: int = 1, outputs: int = 1, domain: str = "", **attributes: Any) -> Fault:
    def fault(g: Graph, rng: random.Random) -> bool:
        name = g.name(op)
        made = [f"{name}_y{index}" for index in range(outputs)]
        g.nodes.append(helper.make_node(op, [g.x] * inputs, made, name=name, domain=domain, **attributes))
        if domain:
            g.domains[domain] = 1
        if rng.random() < 0.5:
            g.outputs = [made[0]]
        return True

    return fault


def _integer_product(g: Graph, rng: random.Random) -> bool:
    found = _activation(g, rng)
    if found is None:
        return False
    g.node("MatMulInteger", [found[0].output[0], found[0].output[0]])
    return True


def _foreign_type(kind: Any) -> Fault:
    def fault(g: Graph, rng: random.Random) -> bool:
        g.node("Identity", [g.constant(np.zeros(3, kind))])
        return True

    return fault


def _half_scale(g: Graph, q: onnx.NodeProto, dq: onnx.NodeProto, rng: random.Random) -> None:
    other = np.float32 if g.half else np.float16
    fresh = g.constant(g.values[q.input[1]].astype(other))
    q.input[1] = fresh
    dq.input[1] = fresh


def _half_operand(g: Graph, rng: random.Random) -> bool:
    nodes = [n for n in g.nodes if n.op_type in ("Conv", "Gemm", "MatMul", "Add", "Mul", "LayerNormalization", "PRelu")]
    choices = [(n, i) for n in nodes for i, name in enumerate(n.input) if i and name in g.values]
    choices = [(n, i) for n, i in choices if g.values[n.input[i]].dtype == g.dtype]
    if not choices:
        return False
    node, index = rng.choice(choices)
    node.input[index] = g.constant(g.values[node.input[index]].astype(np.float32 if g.half else np.float16))
    return True


def _half_branch(g: Graph, rng: random.Random) -> bool:
    node = _pick(g, rng, "Add", "Mul", "Concat", "Where", "Max")
    if node is None:
        return False
    index = len(node.input) - 1
    cast = helper.make_node(
        "Cast", [node.input[index]], [g.name("cast")], name=g.name("cast_n"), to=FLOAT if g.half else HALF
    )
    g.nodes.insert(g.nodes.index(node), cast)
    node.input[index] = cast.output[0]
    return True


def _scalar(g: Graph, rng: random.Random) -> bool:
    g.int8 = True
    value = g.quantized(g.constant(g.dtype(2)))
    g.x = g.node("Mul", [g.x, value])
    g.outputs = [g.x]
    return True


def _unsorted(g: Graph, rng: random.Random) -> bool:
    if len(g.nodes) < 2 or not set(g.nodes[-1].input) & {o for n in g.nodes[:-1] for o in n.output}:
        return False
    g.nodes.insert(0, g.nodes.pop())
    return True


def _twice(g: Graph, rng: random.Random) -> bool:
    node = rng.choice(g.nodes)
    g.nodes.append(helper.make_node("Relu", [g.x], [node.output[0]], name=g.name("again")))
    return True


def _unmade(g: Graph, rng: random.Random) -> bool:
    rng.choice(g.nodes).input[0] = "nowhere"
    return True


def _cycle(g: Graph, rng: random.Random) -> bool:
    first, last = g.nodes[0], g.nodes[-1]
    if first is last or "x" not in first.input:
        return False
    first.input[list(first.input).index("x")] = last.output[0]
    return g.x == last.output[0]


def _lost_output(g: Graph, rng: random.Random) -> bool:
    g.outputs = ["nothing"]
    return True


def _bad_shape(g: Graph, rng: random.Random) -> bool:
    nodes = [n for n in _of(g, "Conv", "Gemm", "MatMul") if n.input[1] in g.values]
    if not nodes:
        return False
    node = rng.choice(nodes)
    array = g.values[node.input[1]]
    transposed = any(item.name == "transB" and item.i for item in node.attribute)
    axis = 1 if node.op_type == "Conv" or transposed else 0
    node.input[1] = g.constant(np.concatenate([array, array], axis))
    return True


def _bad_broadcast(g: Graph, rng: random.Random) -> bool:
    g.x = g.node("Add", [g.x, g.constant(g.weight(7, 1, 5, 3))])
    g.outputs = [g.x]
    return True


def _bad_reshape(g: Graph, rng: random.Random) -> bool:
    g.x = g.node("Reshape", [g.constant(g.weight(2, 3)), g.constant(np.array([4, 2]))])
    g.outputs = [g.x]
    return True


def _bad_perm(g: Graph, rng: random.Random) -> bool:
    g.x = g.node("Transpose", [g.constant(g.weight(2, 3))], perm=[0, 2])
    g.outputs = [g.x]
    return True


def _dilated(g: Graph, rng: random.Random) -> bool:
    g.x = g.node("MaxPool", [g.constant(g.weight(1, 3, 9, 9))], kernel_shape=[2, 2], dilations=[2, rng.choice((1, 2))])
    g.outputs = [g.x]
    return True


def _wide_window(g: Graph, rng: random.Random) -> bool:
    op, size = rng.choice(("MaxPool", "AveragePool")), rng.choice((5, 320))
    g.x = g.node(op, [g.constant(g.weight(1, 2, 3, 4))], kernel_shape=[size, size], ceil_mode=1)
    g.outputs = [g.x]
    return True


def _integer_math(g: Graph, rng: random.Random) -> bool:
    op = rng.choice(("Relu", "Sigmoid", "Softmax", "MatMul"))
    whole = g.node("Cast", [g.x], to=rng.choice((TensorProto.INT32, TensorProto.INT64)))
    g.node(op, [whole, whole] if op == "MatMul" else [whole])
    return True


def _microsoft_pair(g: Graph, q: onnx.NodeProto, dq: onnx.NodeProto, rng: random.Random) -> None:
    q.domain = dq.domain = "com.microsoft"
    g.domains["com.microsoft"] = 1


def _code_minus_128(g: Graph, node: onnx.NodeProto, rng: random.Random) -> None:
    codes = g.values[node.input[0]].copy()
    codes.reshape(-1)[0] = -128
    g.values[node.input[0]] = codes


def _wide_codes(g: Graph, rng: random.Random) -> bool:
    return _zero_point(np.array(0, rng.choice((np.int16, np.uint16))))(g, rng)


def _quantized_at_run_time(g: Graph, node: onnx.NodeProto, rng: random.Random) -> None:
    """The weight in floating point, with the QuantizeLinear that computes the codes."""
    codes, scale = g.values.pop(node.input[0]), g.values[node.input[1]]
    axis = next((item.i for item in node.attribute if item.name == "axis"), 0)
    shape = [-1 if index == axis else 1 for index in range(codes.ndim)] if scale.ndim else []
    weight = g.constant((codes * scale.reshape(shape)).astype(g.dtype), "w")
    made = helper.make_node(Q, [weight, *node.input[1:]], [g.name("codes")], name=g.name("weight_q"), axis=axis)
    g.nodes.insert(g.nodes.index(node), made)
    node.input[0] = made.output[0]


_AGELESS = {"Conv", "ConvTranspose", "Relu", "Sigmoid", "Tanh", "Add", "Mul", "Concat", "MaxPool", "AveragePool"}
_AGELESS |= {"GlobalAveragePool", "Flatten", "Gemm", "MatMul", "Transpose", "Reshape", "Abs", "Erf", "Elu", "Softplus"}


def _old_opset(g: Graph, node: onnx.NodeProto, rng: random.Random) -> bool:
    """Scales per channel in an opset that supports only one scale; its operators have not changed since."""
    g.opset = rng.choice((10, 11, 12))
    return {item.op_type for item in g.nodes} <= _AGELESS | {Q, DQ} and not g.half


def _half_scales_too_early(g: Graph, rng: random.Random) -> bool:
    """FP16 scales in an opset that does not support them."""
    g.opset = rng.choice((17, 18))
    return g.half and bool(_of(g, Q, DQ)) and not _of(g, "Gelu")


def _ancient_opset(g: Graph, rng: random.Random) -> bool:
    g.opset = rng.choice((7, 8))
    return {item.op_type for item in g.nodes} <= _AGELESS - {"Erf"} and not g.half


def _quantized_twice(g: Graph, q: onnx.NodeProto, dq: onnx.NodeProto, rng: random.Random) -> None:
    """A second pair on the same value, with another reader."""
    again = helper.make_node(Q, list(q.input), [g.name("again")], name=g.name("again_q"))
    back = helper.make_node(DQ, [again.output[0], *dq.input[1:]], [g.name("back")], name=g.name("again_dq"))
    place = g.nodes.index(q)
    g.nodes[place + 1 : place + 1] = [again, back]
    g.outputs.append(g.node("Relu", [back.output[0]]))


FAULTS: dict[str, tuple[str, Fault]] = {
    "asymmetric": ("Q01", _zero_point(np.int8(3))),
    "asymmetric uint8": ("Q01", _zero_point(np.uint8(128))),
    "uint8": ("Q02", _zero_point(np.uint8(0))),
    "no zero point": ("Q03", _on_pair(_no_zero_point)),
    "scale not positive": ("Q04", _bad_scale),
    "scale infinite": ("Q04", _infinite_scale),
    "activation per channel": ("Q05", _per_channel_on_input),
    "wrong axis": ("Q06", _on_weight(_wrong_axis)),
    "wrong number of scales": ("Q06", _on_weight(_wrong_length)),
    "scales of rank two": ("Q06", _on_weight(_rank_two)),
    "int32 bias": ("Q07", _integer_bias(np.int32)),
    "int8 bias": ("Q08", _integer_bias(np.int8)),
    "weight quantized at run time": ("Q09", _on_weight(_quantized_at_run_time)),
    "computed scale": ("Q10", _on_pair(_computed_scale)),
    "unequal volumes": ("Q11", _on_weight(_volumes)),
    "integer operator": ("Q12", _integer_product),
    "dynamic quantization": ("Q12", _operator("DynamicQuantizeLinear", 1, 3)),
    "wide codes": ("Q13", _wide_codes),
    "foreign domain": ("Q14", _on_pair(_microsoft_pair)),
    "old opset": ("Q15", _on_weight(_old_opset)),
    "ancient opset": ("Q15", _ancient_opset),
    "half scales too early": ("Q15", _half_scales_too_early),
    "scale of another type": ("Q16", _on_pair(_half_scale)),
    "operand of another type": ("Q17", _half_operand),
    "branch of another type": ("Q17", _half_branch),
    "code -128": ("Q18", _on_weight(_code_minus_128)),
    "quantized twice": ("Q19", _on_pair(_quantized_twice)),
    "scalar": ("Q20", _scalar),
    "custom operator": ("Q21", _operator("Foo", domain="my.domain")),
    "unknown operator": ("Q21", _operator("Nonsense")),
    "foreign operator": ("Q21", _operator("FusedConv", 2, domain="com.microsoft")),
    "unsupported operator": ("Q21", _operator("Det")),
    "unsorted": ("Q22", _unsorted),
    "made twice": ("Q22", _twice),
    "read but not made": ("Q22", _unmade),
    "cycle": ("Q22", _cycle),
    "lost output": ("Q22", _lost_output),
    "shapes": ("S01", _bad_shape),
    "broadcast": ("S01", _bad_broadcast),
    "transpose": ("S01", _bad_perm),
    "reshape": ("S02", _bad_reshape),
    "dilated pooling": ("S04", _dilated),
    "wide window": ("S04", _wide_window),
    "int16 constant": ("T01", _foreign_type(np.int16)),
    "uint32 constant": ("T01", _foreign_type(np.uint32)),
    "integer arithmetic": ("T02", _integer_math),
}


def faulty(seed: int, fault: str) -> onnx.ModelProto | None:
    """A graph with one fault; None if the graph of that seed has no place for it."""
    g = generate(seed)
    return g.model() if FAULTS[fault][1](g, random.Random(seed)) else None
