"""What `predict` writes and says: no file is lost, and no class is made up."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from retort.__main__ import main
from retort.core.errors import InputError
from retort.core.signature import Signature
from retort.core.tensors import TensorSpec
from retort.serve.client import Client
from retort.serve.requests.replies import CLASSES_HEADER, encode
from retort.serve.requests.request import Request
from retort.serve.settings import Settings

SCORES = Signature(
    (TensorSpec("x", "float32", ("batch", 2)),), (TensorSpec("y", "float32", ("batch", 2)),), classes=("ant", "bee")
)


def call(*arguments: object) -> int:
    """The exit code of a command."""
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return int(ended.value.code or 0)


def saved(path: Path, nodes: list[onnx.NodeProto], weights: list[onnx.TensorProto], kind: int, size: int) -> Path:
    """A model with the input x and the output y."""
    ports = [
        helper.make_tensor_value_info("x", kind, ["batch", size]),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, None),
    ]
    made = helper.make_graph(nodes, "g", ports[:1], ports[1:], weights)
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model that subtracts the mean of a row, so that infinite values give NaN, with names of its classes."""
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["m"], axes=[1]),
        helper.make_node("Sub", ["x", "m"], ["y"]),
    ]
    path = saved(tmp_path / "m.onnx", nodes, [], TensorProto.FLOAT, 2)
    loaded = onnx.load(path)
    loaded.metadata_props.add(key="retort.signature", value=SCORES.to_json())
    onnx.save(loaded, path)
    return path


def test_outputs_are_written_to_the_named_file_alone(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A name without .npz is refused: numpy would add the ending, and replace a file that nobody named."""
    np.savez(tmp_path / "o.npz", precious=np.arange(3))
    np.save(tmp_path / "x.npy", np.ones((1, 2), np.float32))
    command = ("predict", model, "--input", tmp_path / "x.npy", "--output")
    assert call(*command, tmp_path / "o") == 2
    told = capsys.readouterr().err
    assert "does not end in .npz" in told
    assert "o.npz" in told
    assert list(np.load(tmp_path / "o.npz")) == ["precious"]
    assert call(*command, tmp_path / "new.npz") == 0
    assert list(np.load(tmp_path / "new.npz")) == ["classes", "y"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.onnx", "new.npz", "o.npz", "x.npy"]


def test_a_full_disk_leaves_no_half_of_a_file(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The message names the file."""
    np.save(tmp_path / "x.npy", np.ones((1, 2), np.float32))
    monkeypatch.setattr("os.fsync", lambda descriptor: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    assert call("predict", model, "--input", tmp_path / "x.npy", "--output", tmp_path / "o.npz") not in (0, 1)
    assert "o.npz" in capsys.readouterr().err
    assert not (tmp_path / "o.npz").exists()


def test_scores_of_nan_have_no_class(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A row whose scores are NaN is told as such, in words, in JSON, in a file and in a served answer."""
    np.save(tmp_path / "x.npy", np.array([[1, 2], [np.inf, 1]], np.float32))
    assert call("predict", model, "--input", tmp_path / "x.npy") == 0
    told = capsys.readouterr().out
    assert "predicted: 'bee' 1×, no class 1× (NaN)" in told
    assert "classes: bee, none (NaN)" in told
    assert call("predict", model, "--input", tmp_path / "x.npy", "--json") == 0
    assert json.loads(capsys.readouterr().out)["classes"] == ["bee", None]
    assert call("predict", model, "--input", tmp_path / "x.npy", "--output", tmp_path / "o.npz") == 0
    assert np.load(tmp_path / "o.npz")["classes"].tolist() == ["bee", ""]
    scores = {"y": np.array([[0, 1], [np.nan, 1]], np.float32)}
    request = Request({}, 2, "application/json", "tensors", ("y",))
    answer = encode(scores, request, SCORES, Settings())
    assert json.loads(answer.body) == {"y": [[0.0, 1.0], [None, 1.0]], "classes": ["bee", None]}
    assert json.loads(answer.headers[CLASSES_HEADER]) == ["bee", None]


def test_values_beyond_the_type_are_refused(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """1e39 is no float32; it would become infinite. Infinite values stay what they are."""
    (tmp_path / "x.json").write_text('{"x": [[1e39, 1]]}')
    assert call("predict", model, "--input", tmp_path / "x.json") == 2
    assert "input 'x' has values that float32 cannot represent" in capsys.readouterr().err
    with pytest.raises(InputError, match="float16 cannot represent"):
        TensorSpec("x", "float16", (1,)).cast(np.array([1e6], np.float32))
    infinite = np.array([np.inf, -np.inf])
    assert TensorSpec("x", "float32", (2,)).cast(infinite).tolist() == infinite.tolist()


def test_what_a_model_cannot_compute_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An index outside of a table, and a shape that does not fit, are faults of the values and no defects."""
    table = numpy_helper.from_array(np.ones((4, 2), np.float32), "table")
    rows = saved(
        tmp_path / "rows.onnx", [helper.make_node("Gather", ["table", "x"], ["y"])], [table], TensorProto.INT64, 3
    )
    shape = numpy_helper.from_array(np.array([2, 5], np.int64), "shape")
    fixed = saved(
        tmp_path / "fixed.onnx", [helper.make_node("Reshape", ["x", "shape"], ["y"])], [shape], TensorProto.FLOAT, 3
    )
    np.save(tmp_path / "rows.npy", np.array([[1, 2, 98]]))
    np.save(tmp_path / "fixed.npy", np.ones((1, 3), np.float32))
    np.savez(tmp_path / "rows.npz", x_test=np.full((8, 3), 98), x_train=np.full((8, 3), 98))
    for arguments in (
        (rows, "--input", tmp_path / "rows.npy"),
        (fixed, "--input", tmp_path / "fixed.npy"),
        (rows, "--data", tmp_path / "rows.npz"),
    ):
        assert call("predict", *arguments) == 2
        told = capsys.readouterr().err
        assert "cannot compute these inputs" in told
        assert "check their values and shapes" in told


def test_a_client_reads_classes_that_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row without a class stays one in Python."""
    request = Request({}, 2, "application/x-npy", "tensors", ("y",))
    answer = encode({"y": np.array([[0, 1], [np.nan, 1]], np.float32)}, request, SCORES, Settings())
    headers = {**answer.headers, "content-type": answer.content_type}
    monkeypatch.setattr(Client, "request", lambda *_: (200, headers, answer.body))
    _, names = Client("http://127.0.0.1:1", "m").classify({"x": np.zeros((2, 2), np.float32)})
    assert names == ["bee", None]


def test_three_models_are_each_compared_with_the_first(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The title does not say that the second is compared with the third."""
    paths = [Path(shutil.copyfile(model, tmp_path / f"{name}.onnx")) for name in ("one", "two", "three")]
    np.savez(tmp_path / "d.npz", x_train=np.ones((8, 2), np.float32), x_test=np.eye(2, dtype=np.float32))
    timing = ("--set", "blocks=3", "--set", "block_ms=1", "--set", "budget_s=0.2")
    assert call("bench", *paths, "--data", tmp_path / "d.npz", *timing) == 0
    assert "two and three against one" in capsys.readouterr().out
