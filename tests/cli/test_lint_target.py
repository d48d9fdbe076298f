"""`retort lint` says first if a file was made for the cpu."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper
from typer.testing import CliRunner

from retort.cli import engines
from retort.cli.app import app


def written(kind: type, path: Path) -> Path:
    """A file with one quantized activation."""
    zero = numpy_helper.from_array(np.zeros((), kind), "zero")
    scale = numpy_helper.from_array(np.ones((), np.float32), "scale")
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"]),
    ]
    ports = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", 4]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], [scale, zero])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]), str(path))
    return path


def test_a_file_for_the_cpu_is_recognised(tmp_path: Path) -> None:
    """UINT8 activations are a sign of it; INT8 ones are not, and with --target cpu nothing is said."""
    assert engines.__doc__  # importing it registers the command
    unsigned, signed = written(np.uint8, tmp_path / "u.onnx"), written(np.int8, tmp_path / "s.onnx")
    shown = [
        CliRunner().invoke(app, ["lint", str(path), *more]).output
        for path, more in ((unsigned, []), (signed, []), (unsigned, ["--target", "cpu"]))
    ]
    assert ["made for the cpu" in " ".join(text.split()) for text in shown] == [True, False, False]
