"""Small convolutional networks and random inputs, for measurements that need any model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..core.signature import Signature
from ..core.tensors import BATCH, Array

if TYPE_CHECKING:
    import onnx

NETS = {"wide": 24, "narrow": 12}
UNKNOWN_AXIS = 8


def random_feeds(signature: Signature, rows: int) -> dict[str, Array]:
    """Normal numbers in the inputs' shapes, and zeros for whole numbers; other dynamic axes have size 8.

    Args:
        rows: size of the batch axis.
    """
    random = np.random.default_rng(0)
    feeds = {}
    for spec in signature.inputs:
        shape = [rows if size == BATCH else size if isinstance(size, int) else UNKNOWN_AXIS for size in spec.shape]
        values = random.standard_normal(shape) if np.dtype(spec.dtype).kind == "f" else np.zeros(shape)
        feeds[spec.name] = values.astype(spec.dtype)
    return feeds


def make_nets(folder: Path) -> list[Path]:
    """Two convolutional networks of different width, as ONNX files for images of 3×32×32."""
    import onnx

    paths = []
    for name, width in NETS.items():
        paths.append(folder / f"{name}.onnx")
        onnx.save(_net(width), paths[-1])
    return paths


def _net(width: int) -> onnx.ModelProto:
    from onnx import TensorProto, helper, numpy_helper

    random, shapes = np.random.default_rng(0), [(width, 3), (2 * width, width), (2 * width, 2 * width)]
    nodes, weights, value = [], [], "image"
    for index, shape in enumerate(shapes):
        kernel = random.standard_normal((*shape, 3, 3)).astype(np.float32)
        weights.append(numpy_helper.from_array(kernel, f"kernel{index}"))
        names = [value, f"kernel{index}"]
        nodes.append(helper.make_node("Conv", names, [f"conv{index}"], pads=[1] * 4, strides=[1 + (index < 2)] * 2))
        nodes.append(helper.make_node("Relu", [f"conv{index}"], [f"relu{index}"]))
        value = f"relu{index}"
    nodes.append(helper.make_node("GlobalAveragePool", [value], ["output"]))
    ports = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [BATCH, *rest])
        for name, rest in (("image", (3, 32, 32)), ("output", (2 * width, 1, 1)))
    ]
    graph = helper.make_graph(nodes, "net", ports[:1], ports[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
