"""Measures the time of a lint on a quantized graph of 1,000 nodes and 100 MB.

Run it with `python -m retort.export.lint.speed`.
"""

from __future__ import annotations

import json
import time

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from . import lint

CHANNELS, BLOCKS, FILLER = 160, 200, 15_000_000


def large_graph() -> onnx.ModelProto:
    """200 quantized convolutions of five nodes each, and a large constant."""
    rng = np.random.default_rng(0)
    nodes: list[onnx.NodeProto] = []
    stored: list[onnx.TensorProto] = [numpy_helper.from_array(rng.normal(size=FILLER).astype(np.float32), "filler")]
    value = "x"
    for number in range(BLOCKS):
        names = {stem: f"{stem}{number}" for stem in ("s", "z", "w", "ws", "wz", "q", "d", "wd", "c", "r")}
        codes = rng.integers(-127, 128, size=(CHANNELS, CHANNELS, 3, 3)).astype(np.int8)
        scales, zeros = np.full(CHANNELS, 0.01, np.float32), np.zeros(CHANNELS, np.int8)
        arrays = {"s": np.float32(0.1), "z": np.int8(0), "w": codes, "ws": scales, "wz": zeros}
        stored += [numpy_helper.from_array(np.asarray(array), names[stem]) for stem, array in arrays.items()]
        grid = [names["s"], names["z"]]
        nodes += [helper.make_node("QuantizeLinear", [value, *grid], [names["q"]], name=names["q"])]
        nodes += [helper.make_node("DequantizeLinear", [names["q"], *grid], [names["d"]], name=names["d"])]
        weight = [names["w"], names["ws"], names["wz"]]
        nodes += [helper.make_node("DequantizeLinear", weight, [names["wd"]], name=names["wd"], axis=0)]
        nodes += [helper.make_node("Conv", [names["d"], names["wd"]], [names["c"]], name=names["c"], pads=[1] * 4)]
        nodes += [helper.make_node("Relu", [names["c"]], [names["r"]], name=names["r"])]
        value = names["r"]
    ports = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", CHANNELS, 16, 16])]
    graph = helper.make_graph(
        nodes, "large", ports, [helper.make_tensor_value_info(value, TensorProto.FLOAT, None)], stored
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def main() -> None:
    """Print one JSON line: nodes, bytes, seconds of each lint."""
    model = large_graph()
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        findings = lint(model)
        seconds.append(round(time.perf_counter() - started, 3))
    facts = {"nodes": len(model.graph.node), "bytes": model.ByteSize(), "seconds": seconds, "findings": len(findings)}
    print(json.dumps(facts))  # noqa: T201


if __name__ == "__main__":
    main()
