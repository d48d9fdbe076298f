"""Models, bundles and devices for tests of measurements elsewhere: a run on this machine, and an ssh that is none."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from retort.benchmarks.edge.device_bundle import PROGRAM, write_device_bundle
from retort.core.artifact import Artifact, load_artifact
from retort.core.console import SILENT
from retort.core.context import Place
from retort.core.data.splits import ArraySplit, Splits
from retort.core.options.edge_options import EdgeOptions

RANDOM = np.random.default_rng(0)
QUICK: dict[str, Any] = {"seconds": 0.4, "starts": 1, "cold_file_starts": 1, "block_ms": 2.0, "precision": 0.0,
    "noise": "off"}  # fmt: skip
"""Options of a run that takes a few seconds."""
SSH = """#!/bin/sh
# an ssh that runs the line here: options are dropped, and the link may be cut after some bytes of stdin
while [ $# -gt 2 ]; do shift; done
[ -n "$FAKE_SSH_FAILS" ] && { echo "$FAKE_SSH_FAILS" >&2; exit 255; }
case "$2" in *"cat >"*)
  if [ -n "$FAKE_SSH_CUT" ]; then
    head -c "$FAKE_SSH_CUT" | sh -c "${2%%&& mv*}"; echo "send disconnect: Broken pipe" >&2; exit 255
  fi;;
esac
exec sh -c "$2"
"""


def dense(path: Path, width: int, classes: int = 3, fails_at: float | None = None, inputs: int = 8) -> Artifact:
    """A net of two layers, as wide as asked; with ``fails_at`` a sample whose first value it is has no answer."""
    weights = [RANDOM.normal(size=size).astype(np.float32) for size in ((inputs, width), (width, classes))]
    nodes = [helper.make_node("MatMul", ["x", "a"], ["h"]), helper.make_node("Relu", ["h"], ["r"])]
    nodes.append(helper.make_node("MatMul", ["r", "b"], ["y" if fails_at is None else "scores"]))
    given = [numpy_helper.from_array(array, name) for array, name in zip(weights, "ab")]
    if fails_at is not None:  # a table is read at an index that only the other samples have
        given += [numpy_helper.from_array(np.array(value), name) for value, name in ((0, "zero"), (1, "one"))]
        given += [numpy_helper.from_array(np.array([fails_at], np.float32), "bad")]
        given += [
            numpy_helper.from_array(np.array([[0]]), "first"),
            numpy_helper.from_array(np.zeros(1, np.float32), "t"),
        ]
        nodes += [
            helper.make_node("Gather", ["x", "zero"], ["column"], axis=1),
            helper.make_node("Equal", ["column", "bad"], ["is_bad"]),
            helper.make_node("Cast", ["is_bad"], ["index"], to=TensorProto.INT64),
            helper.make_node("Gather", ["t", "index"], ["nothing"]),
            helper.make_node("Unsqueeze", ["nothing", "one"], ["column_of_zeros"]),
            helper.make_node("Add", ["scores", "column_of_zeros"], ["y"]),
        ]
    ports = [helper.make_tensor_value_info(name, 1, ["batch", size]) for name, size in (("x", inputs), ("y", classes))]
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], given)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return load_artifact(path)


def splits(rows: int = 40) -> Splits:
    """Samples with classes; sample 7 begins with 9, and no other one does."""
    values = RANDOM.uniform(-1, 1, (rows, 8)).astype(np.float32)
    values[7, 0] = 9
    split = ArraySplit({"x": values}, RANDOM.integers(0, 3, rows))
    return Splits(split, split, split, split, ("a", "b", "c"))


def bundle(folder: Path, models: dict[str, Artifact], **options: Any) -> Artifact:
    """The bundle of models, with a run that takes seconds."""
    return write_device_bundle(models, splits(), EdgeOptions(**{**QUICK, **options}), Place(folder), SILENT)


def run_here(made: Artifact, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a bundle in its folder, as on a device that this machine is."""
    command = [sys.executable, "-m", PROGRAM, *arguments]
    return subprocess.run(
        command, cwd=made.path, capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )


def fake_ssh(folder: Path) -> Path:
    """A folder with a program `ssh` that runs what it is told here."""
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / "ssh"
    program.write_text(SSH)
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return folder
