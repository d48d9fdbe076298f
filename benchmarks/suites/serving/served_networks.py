"""Networks of the suites of serving, and their archives and bundles, written by the commands that users call."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ....core.errors import ServingError
from ....core.tensors import BATCH

if TYPE_CHECKING:
    import onnx

SIDE = 32
WIDTHS = {"light": 34, "heavy": 64}
"""Width of the first convolution: about 1 ms for an image, and about 25 ms for a batch of eight, on one core."""


def convolutions(path: Path, width: int, side: int = SIDE, seed: int = 0) -> Path:
    """Write three convolutions over images ``[batch, 3, side, side]`` with ten scores as output."""
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(seed)
    nodes, weights, value = [], [], "image"
    for index, (out, into) in enumerate(((width, 3), (2 * width, width), (2 * width, 2 * width))):
        kernel = random.normal(size=(out, into, 3, 3)) / np.sqrt(9 * into)
        weights.append(numpy_helper.from_array(kernel.astype(np.float32), f"kernel{index}"))
        nodes.append(helper.make_node("Conv", [value, f"kernel{index}"], [f"conv{index}"], pads=[1] * 4))
        nodes.append(helper.make_node("Relu", [f"conv{index}"], [f"relu{index}"]))
        value = f"relu{index}"
    head = random.normal(size=(2 * width, 10)).astype(np.float32)
    weights.append(numpy_helper.from_array(head, "head"))
    nodes += [
        helper.make_node("GlobalAveragePool", [value], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "head"], ["scores"]),
    ]
    inputs = [helper.make_tensor_value_info("image", TensorProto.FLOAT, [BATCH, 3, side, side])]
    outputs = [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [BATCH, 10])]
    return _save(path, helper.make_graph(nodes, "convolutions", inputs, outputs, weights))


def tokens(path: Path) -> Path:
    """Write a network of two inputs, ``input_ids`` and ``attention_mask``, with a free length and two outputs."""
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(1)
    weights = [
        numpy_helper.from_array(random.normal(size=(300, 4)).astype(np.float32), "table"),
        numpy_helper.from_array(np.array([1]), "one"),
        numpy_helper.from_array(np.array([2]), "two"),
    ]
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["embedded"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "two"], ["column"]),
        helper.make_node("Mul", ["embedded", "column"], ["kept"]),
        helper.make_node("ReduceSum", ["kept", "one"], ["sum"], keepdims=0),
        helper.make_node("ReduceSum", ["mask", "one"], ["count"], keepdims=0),
    ]
    names = ("input_ids", "attention_mask")
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, [BATCH, "length"]) for name in names]
    outputs = [
        helper.make_tensor_value_info("sum", TensorProto.FLOAT, [BATCH, 4]),
        helper.make_tensor_value_info("count", TensorProto.FLOAT, [BATCH]),
    ]
    return _save(path, helper.make_graph(nodes, "tokens", inputs, outputs, weights))


def sums(path: Path, name: str, shape: Sequence[int], kind: str = "float32") -> Path:
    """Write a network with one input of this name and shape per sample, whose output is the sum of each sample."""
    from onnx import TensorProto, helper, numpy_helper

    into = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    axes = numpy_helper.from_array(np.arange(1, len(shape) + 1), "axes")
    nodes = [
        helper.make_node("Cast", [name], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["floats", "axes"], ["total"], keepdims=0),
    ]
    inputs = [helper.make_tensor_value_info(name, into, [BATCH, *shape])]
    outputs = [helper.make_tensor_value_info("total", TensorProto.FLOAT, [BATCH])]
    return _save(path, helper.make_graph(nodes, "sums", inputs, outputs, [axes]))


def _save(path: Path, graph: onnx.GraphProto) -> Path:
    import onnx
    from onnx import helper

    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


HOSTILE: Mapping[str, tuple[str, ...]] = {
    "vector": (),
    "flags": (),
    "tokens": (),
    "picture": ("--set", "pixels.size=[8,8]"),
    "text": ("--vocabulary", "bytes"),
    "sound": ("--set", "sound.sample_rate=16000", "--set", "sound.seconds=0.01"),
}
"""Networks to which hostile requests are sent, one for every kind of sample, with the options that pack them."""


def hostile_network(kind: str, folder: Path) -> Path:
    """Write one of :data:`HOSTILE`."""
    path = folder / f"{kind}.onnx"
    if kind == "tokens":
        return tokens(path)
    if kind == "picture":
        return convolutions(path, 2, 8)
    if kind == "text":
        return sums(path, "input_ids", [16], "int64")
    if kind == "sound":
        return sums(path, "audio", [160])
    return sums(path, kind, [2] if kind == "vector" else [4], "float32" if kind == "vector" else "uint8")


def packed(model: Path, out: Path, *options: str, command: str = "pack") -> Path:
    """The archive of an ONNX file, or its bundle with ``command="bundle"``; its name is that of the file.

    Raises:
        ServingError: the command fails.
    """
    folder = retort(command, str(model), "--name", model.stem, "--out", str(out), *options)["path"]
    return Path(folder) / "model.mar" if command == "pack" else Path(folder)


def retort(*arguments: str, timeout_s: float = 600) -> dict[str, Any]:
    """What a command prints with ``--json``.

    Raises:
        ServingError: it fails; the message has the end of what it said.
    """
    command = [sys.executable, "-m", "retort", arguments[0], "--json", *arguments[1:]]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=timeout_s)
    if done.returncode:
        told = (done.stderr.strip() or done.stdout)[-500:]
        raise ServingError(f"`retort {arguments[0]}` failed: {told}", "see what it says")
    return dict(json.loads(done.stdout.splitlines()[-1]))
