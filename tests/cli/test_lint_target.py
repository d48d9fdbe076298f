"""`retort lint` says first if a file was made for the cpu."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from typer.testing import CliRunner

from retort.cli import engines
from retort.cli.app import app
from retort.core.artifact import new_artifact
from retort.core.context import Place
from retort.core.facts.record import Record
from retort.core.options.stage_options import Target

TARGETS = ("cpu", "arm", "tensorrt")


class AnyTarget(Record):
    """The target among the facts of an export."""

    target: Target


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


@pytest.mark.parametrize("target", TARGETS)
def test_the_target_of_an_export_is_the_default(tmp_path: Path, target: Target) -> None:
    """The folder of an export and the file in it are checked for the target that it was made for."""
    with new_artifact(Place(tmp_path / "made", "1"), "graph", "export") as draft:
        written(np.int8, draft.folder / "model.onnx")
        draft.facts = AnyTarget(target=target)
    shutil.copy(tmp_path / "made" / "model.onnx", tmp_path / "copy.onnx")
    (tmp_path / "manifest.json").write_text("{}")
    for path, wanted in (
        (tmp_path / "made", target),
        (tmp_path / "made/model.onnx", target),
        (tmp_path / "copy.onnx", ""),
    ):
        shown = CliRunner().invoke(app, ["lint", str(path), "--json"])
        asked = CliRunner().invoke(app, ["lint", str(path), "--json", "--target", wanted or "tensorrt"])
        assert shown.output == asked.output
    other = [CliRunner().invoke(app, ["lint", str(tmp_path / "made"), "--target", name]).output for name in TARGETS]
    assert len(set(other)) > 1
