"""ONNX files with a fixed batch size: `bench` and `predict` run them in pieces of that size."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from retort.__main__ import main

ROWS = 11


def write_file(path: Path, batch: int | str) -> None:
    """A linear classifier of 3 classes."""
    weight = numpy_helper.from_array(np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32), "w")
    ports = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, size]) for name, size in (("x", 6), ("y", 3))
    ]
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    graph = helper.make_graph([node], "net", ports[:1], ports[1:], [weight])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), path)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    """JSON of a command that succeeds."""
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--json"])
    told = capsys.readouterr()
    assert not ended.value.code, told.err
    return dict(json.loads(told.out))


@pytest.mark.parametrize("batch", [1, 4])
def test_a_fixed_file_is_compared_with_a_free_one(
    tmp_path: Path, batch: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All samples are compared, also if the batch size does not divide their number; times are those of that size."""
    monkeypatch.chdir(tmp_path)
    write_file(Path("fixed.onnx"), batch)
    write_file(Path("free.onnx"), "batch")
    rng = np.random.default_rng(1)
    values, labels = rng.normal(size=(ROWS, 6)).astype(np.float32), rng.integers(0, 3, ROWS)
    np.savez("data.npz", x_train=values, y_train=labels, x_test=values, y_test=labels)
    given = ("--data", "data.npz", "--budget-s", "0.2", "--blocks", "4")
    for order in (["fixed.onnx", "free.onnx"], ["free.onnx", "fixed.onnx"]):
        told = run(capsys, "bench", *order, *given)
        first, second = told["stages"]
        assert first["metric"]["n"] == second["metric"]["n"] == ROWS
        assert second["agreement"]["value"] == 1
        assert list(first["latency"]) == list(second["latency"]) == [str(batch)]
        assert any(f"only at batch size {batch}, for which 'fixed' was made" in note for note in told["notes"])
    one, other = (run(capsys, "predict", f"{name}.onnx", "--data", "data.npz") for name in ("fixed", "free"))
    assert one == other
