"""Archives as arguments: `predict` runs the model in one, and `serve` finds the one of a run."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from served_models import VECTOR, archive, graph

from retort.__main__ import main
from retort.cli.serving.servers import packed_last
from retort.core.artifact import Artifact, load_artifact
from retort.core.context import Place
from retort.core.errors import MachineError
from retort.core.options.serving_options import PackOptions
from retort.pipeline.runs.run_record import RunRecord, record_file
from retort.serve.torchserve.archives.archive import Policy, write_archive


def _call(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return int(ended.value.code or 0)


def test_predict_runs_the_model_of_an_archive(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The folder and the .mar file give the outputs of the model in them."""
    made = archive("vector", tmp_path)
    np.save(tmp_path / "x.npy", VECTOR["x"])
    for path in (made.path, made.main):
        assert _call("predict", str(path), "--input", str(tmp_path / "x.npy"), "--json") == 0
        values = json.loads(capsys.readouterr().out)["values"]["total"]
        np.testing.assert_allclose(values, VECTOR["x"].sum(1), rtol=1e-5)


def test_predict_runs_an_archive_with_files_of_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Weights in files of their own are unpacked while the model is opened."""
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 2]) for name in "xy"]
    weights = numpy_helper.from_array(2 * np.eye(2, dtype=np.float32), "w")
    made = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", ports[:1], ports[1:], [weights])
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, tmp_path / "own.onnx", save_as_external_data=True, location="own.data", size_threshold=0)
    packed = write_archive(PackOptions(), load_artifact(tmp_path / "own.onnx"), Place(tmp_path / "packed"))
    np.save(tmp_path / "x.npy", VECTOR["x"])
    assert _call("predict", str(packed.main), "--input", str(tmp_path / "x.npy"), "--json") == 0
    np.testing.assert_allclose(json.loads(capsys.readouterr().out)["values"]["y"], 2 * VECTOR["x"], rtol=1e-5)


def test_predict_refuses_nan_as_a_server_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """NaN in an input file is refused in one sentence, unless the archive allows it."""
    values = VECTOR["x"].copy()
    values[0, 0] = np.nan
    np.save(tmp_path / "x.npy", values)
    strict = archive("vector", tmp_path / "strict")
    assert _call("predict", str(strict.main), "--input", str(tmp_path / "x.npy")) != 0
    told = capsys.readouterr().err
    assert "input 'x' has NaN values" in told
    assert "whose answer would mean nothing" in " ".join(told.split())
    place, policy = Place(tmp_path / "lenient-mar"), Policy(allow_nan=True)
    lenient = write_archive(PackOptions(name="vector"), graph("vector", tmp_path / "lenient"), place, policy=policy)
    assert _call("predict", str(lenient.main), "--input", str(tmp_path / "x.npy")) == 0


def test_serve_takes_the_folder_of_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The archive of the latest run, or the newest one; a folder without one is refused, with what is in it."""
    made = archive("vector", tmp_path / "made")
    run = tmp_path / "run"
    new, old, unfinished = ("07-pack-aaaaaaaaaaaa", "05-pack-bbbbbbbbbbbb", "09-pack-cccccccccccc")
    for time_s, name in ((100, new), (99, old), (900, unfinished)):
        shutil.copytree(made.path, run / name)
        os.utime(run / name / "manifest.json", (time_s, time_s))
    (run / unfinished / "manifest.json").unlink()
    assert packed_last(run) == run / new
    assert packed_last(made.path) == made.path
    assert packed_last(tmp_path / "none") == tmp_path / "none"
    record = RunRecord("/r.yaml", ("capture", "pack"), "finished", folders=(old,))
    record_file(run, record.recipe).write_text(json.dumps(asdict(record)))
    assert packed_last(run) == run / old
    asked: list[Path] = []

    def refuse(options: Any, *artifacts: Artifact, **_: Any) -> Any:
        asked.extend(artifact.path for artifact in artifacts)
        raise MachineError("no Java", "none")

    monkeypatch.setattr("retort.serve.torchserve.server.serve", refuse)
    assert _call("serve", str(run)) == 7
    assert asked == [run / old]
    (tmp_path / "other").mkdir()
    shutil.copytree(made.path, tmp_path / "other" / "01-train")
    capsys.readouterr()
    assert _call("serve", str(tmp_path / "other")) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert f"{tmp_path / 'other'} contains no archive" in told
    assert "run a recipe with a `pack` stage to its end" in told
