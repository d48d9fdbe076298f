"""The model of the conformance suite: every dtype goes through it unchanged, and an index can be out of range."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...core.tensors import Array

if TYPE_CHECKING:
    from onnx import ValueInfoProto

ROWS = 256
"""Largest number of rows in one request: the default of `retort pack`."""
TABLE_ROWS = 10
SHAPES: dict[str, tuple[str, tuple[int | str, ...]]] = {
    "f32": ("float32", ("batch", 4)),
    "f64": ("float64", ("batch", 2)),
    "i8": ("int8", ("batch", 2)),
    "i16": ("int16", ("batch", 2)),
    "i32": ("int32", ("batch", 2)),
    "i64": ("int64", ("batch", "length")),
    "u8": ("uint8", ("batch", 2, 2)),
    "u16": ("uint16", ("batch", 2)),
    "u32": ("uint32", ("batch", 2)),
    "u64": ("uint64", ("batch", 2)),
    "flag": ("bool", ("batch", 2)),
    "index": ("int32", ("batch", 1)),
}
"""The inputs, each of which is also an output `out_NAME`; FP16 is not here, because Triton has no JSON form of it."""


def write_model(path: Path) -> None:
    """Write the ONNX file: the inputs as outputs, a sum over `f32`, and the row of a table that `index` chooses."""
    import onnx
    from onnx import helper, numpy_helper

    inputs = [_port(name, dtype, shape) for name, (dtype, shape) in SHAPES.items()]
    outputs = [_port(f"out_{name}", dtype, shape) for name, (dtype, shape) in SHAPES.items()]
    nodes = [helper.make_node("Identity", [name], [f"out_{name}"]) for name in SHAPES]
    nodes += [
        helper.make_node("ReduceSum", ["f32", "one"], ["sum"], keepdims=1),
        helper.make_node("Gather", ["table", "index"], ["chosen"], axis=0),
    ]
    weights = [
        numpy_helper.from_array(np.array([1], np.int64), "one"),
        numpy_helper.from_array(np.arange(TABLE_ROWS * 3, dtype=np.float32).reshape(TABLE_ROWS, 3), "table"),
    ]
    outputs += [_port("sum", "float32", ("batch", 1)), _port("chosen", "float32", ("batch", 1, 3))]
    graph = helper.make_graph(nodes, "conformance", inputs, outputs, weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)


def _port(name: str, dtype: str, shape: tuple[int | str, ...]) -> ValueInfoProto:
    from onnx import helper

    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    return helper.make_tensor_value_info(name, kind, list(shape))


def sample(rows: int, seed: int, length: int = 3) -> dict[str, Array]:
    """Random inputs of so many rows."""
    draw = np.random.default_rng(seed)
    found: dict[str, Array] = {}
    for name, (dtype, shape) in SHAPES.items():
        sizes = [rows if axis == "batch" else length if isinstance(axis, str) else axis for axis in shape]
        high = TABLE_ROWS if name == "index" else 100
        drawn = draw.integers(0, high, sizes)
        # eighths have few digits: not every server reads those of an FP64 to the last bit
        found[name] = (drawn > 50 if dtype == "bool" else drawn / 8 if dtype.startswith("f") else drawn).astype(dtype)
    return found
