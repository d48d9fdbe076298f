"""What a user got wrong is told in one plain sentence, which names his option and no internals, before any work."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from retort.__main__ import main
from retort.benchmarks.timing import latency

KEPT = Path(__file__).resolve().parents[1] / "old_files" / "fabcb72"
INTERNALS = ("Value error", "Input should", "parse string", "Field required", "codec", "pattern", "internal error")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with an exported file, its data, a Python file and JSON that is no result."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(KEPT / "int8-onnx", "graph")
    draw = np.random.default_rng(0)
    splits = {f"x_{name}": draw.normal(size=(8, 1, 8, 8)).astype("f4") for name in ("train", "validation", "test")}
    labels = {f"y_{name}": np.arange(8) % 10 for name in ("train", "validation", "test")}
    np.savez("data.npz", allow_pickle=False, **splits, **labels)
    Path("net.py").write_text("def build(): ...\n")
    Path("empty.json").write_text("{}")
    Path("folder").mkdir()
    return tmp_path


WRONG = {
    "data data.npz --data-arg target": "--data-arg target has no '='\n  → write --data-arg key=value",
    "data data.npz --data-arg features=[a": "--data-arg features=[a: the value is not valid YAML",
    "predict graph --input net.py": "net.py holds no arrays of numbers\n  → write it with numpy.save",
    "serve graph --port 80a": "--port: must be a whole number, not '80a'",
    "serve graph --host 0.0.0.0": "--host: '0.0.0.0' is not one of '127.0.0.1'",
    "quantize graph --target gpu": "--target: 'gpu' is not one of 'cpu', 'arm', 'tensorrt'",
    "bench graph --data data.npz --metric nice": "Invalid value for '--metric': 'nice' is no metric",
    "predict graph --input x.npy --timeout 0": "--timeout: must be at least 0.001, not 0",
    "predict graph --data data.npz --rows 0": "--rows: must be at least 1, not 0",
    "bench graph --data data.npz --batch-sizes 0": "--batch-sizes: must be at least 1, not 0\n",
    "pack graph --name a/b": "--name: must consist of letters A to Z, digits, _ and -, not 'a/b'",
    "predict htp://x --input x.npy": "htp://x: an address begins with http:// or https://, not with htp://",
    "report graph": "graph is a graph; this needs a measurement",
    "report graph/model.onnx": "is a binary file, and no result of Retort",
    "report empty.json": "empty.json is JSON, but no result of Retort",
    "report empty.json --out mine": "mine has no ending that says the form of the result",
    "capture net.py": "net.py is a Python file, and does not say which function makes the model\n  → give its function",
    "capture folder": "folder is a folder, and no model that save_pretrained wrote",
    "capture data.npz": "data.npz is not a kind of file that contains a model",
    "capture no/such": "no such model: no/such",
    "doctor nosuch.pt2": "no such artifact or model: nosuch.pt2",
    "bench nosuch.onnx --data digits": "no such artifact or model: nosuch.onnx",
    "predict nosuch.onnx --data digits": "no such artifact or model: nosuch.onnx",
    "quantise graph": "No such command 'quantise'. Did you mean 'quantize'?\n",
}


@pytest.mark.parametrize("command", WRONG)
def test_what_is_wrong(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The message names the fault in plain words, once, and nothing is read or measured before."""
    with pytest.raises(SystemExit) as stop:
        main(command.split())
    told = capsys.readouterr().err
    assert stop.value.code in (2, 3, 4)
    assert WRONG[command] in told
    assert told.count("not 0") <= 1
    assert told.lower().count("did you mean") <= 1
    assert not [word for word in INTERNALS if word in told]
    assert "      data  " not in told


def test_only_the_splits_of_a_source_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """Samples that stand for missing splits are no splits, and a source may give the same samples several times."""
    np.savez("only.npz", x_test=np.zeros((4, 2), "f4"), y_test=np.arange(4) % 2)
    with pytest.raises(SystemExit):
        main(["data", "only.npz", "--json"])
    assert list(json.loads(capsys.readouterr().out)["splits"]) == ["test"]
    Path("same.py").write_text(
        "import numpy as np\nfrom retort.core.data.splits import ArraySplit, Splits\n"
        "PART = ArraySplit({'x': np.zeros((4, 2), np.float32)}, np.arange(4) % 2)\n"
        "def make(): return Splits(PART, PART, PART, PART)\n"
    )
    with pytest.raises(SystemExit):
        main(["data", "same:make", "--json"])
    assert len(json.loads(capsys.readouterr().out)["splits"]) == 4


def test_a_metric_that_does_not_fit_is_told_before_the_timing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mean squared error of classes is refused after the predictions, and nothing is timed."""
    monkeypatch.setattr(latency, "compare_sessions", lambda *_, **__: pytest.fail("timed"))
    with pytest.raises(SystemExit) as stop:
        main(["bench", "graph", "--data", "data.npz", "--metric", "mse"])
    assert stop.value.code == 2
    assert "differ in shape" in capsys.readouterr().err


def test_nan_in_the_only_input_has_no_invented_name(capsys: pytest.CaptureFixture[str]) -> None:
    """An array that the user named `x` is not called by the name that Retort gives it."""
    np.savez("nan.npz", x=np.full((8, 1, 8, 8), np.nan, "f4"), y=np.arange(8), allow_pickle=False)
    with pytest.raises(SystemExit):
        main(["bench", "graph", "--data", "nan.npz"])
    told = capsys.readouterr().err
    assert "the input has NaN or infinite values, first in sample 0" in told
