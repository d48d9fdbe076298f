"""The length of the queue: from the time of the model, so that what is accepted is answered in time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from served_models import archive

from retort.core.artifact import load_artifact
from retort.core.console import Console
from retort.core.context import Place
from retort.core.options.stage_options import PackOptions
from retort.serve.settings import Settings
from retort.serve.torchserve.archive import Mar, open_mar, write_archive
from retort.serve.torchserve.queue_length import batch_time_ms, length_for, queue_length, time_of_request_ms


@pytest.mark.parametrize("request_ms", [0.01, 1.0, 7.5, 60.0])
@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("p99_ms", [50, 500, 5000])
def test_the_last_request_of_a_full_queue_is_in_time(request_ms: float, workers: int, p99_ms: int) -> None:
    """Whoever comes last waits for the running batch and all before its own, which fits the goal if two batches do."""
    settings = Settings(batch_size=8, workers=workers)
    length, batch_ms = queue_length(request_ms, settings, p99_ms), batch_time_ms(request_ms, settings)
    assert length % (8 * workers) == 0 or length == 10_000
    assert length >= 8 * workers
    if 2 * batch_ms <= p99_ms:
        waves = length / (8 * workers)
        assert batch_ms + waves * batch_ms <= p99_ms
        assert batch_ms + (waves + 1) * batch_ms > p99_ms or length == 10_000


def test_a_slower_model_gets_a_shorter_queue() -> None:
    """At the default goal, 60 ms for each request allow one batch to wait, and a light model some hundred requests."""
    assert queue_length(60.0, Settings(), 500) == 8
    assert queue_length(0.05, Settings(), 500) > 500
    assert queue_length(0.0, Settings(workers=4), 10**9) == 10_000


@pytest.mark.parametrize("kind", ["vector", "image", "number"])
def test_every_kind_of_model_is_timed(kind: str, tmp_path: Path) -> None:
    """Batches, pictures, and models whose requests cannot be combined all have a time."""
    mar = open_mar(archive(kind, tmp_path))
    assert 0 < time_of_request_ms(mar) < 60_000


def test_a_model_with_weights_outside_its_file_is_timed(tmp_path: Path) -> None:
    """Its files are unpacked for the measurement."""
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 64]) for name in "xy"]
    weights = numpy_helper.from_array(np.eye(64, dtype=np.float32), "w")
    made = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", ports[:1], ports[1:], [weights])
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, tmp_path / "own.onnx", save_as_external_data=True, location="own.data", size_threshold=0)
    packed = write_archive(PackOptions(), load_artifact(tmp_path / "own.onnx"), Place(tmp_path / "packed"))
    assert open_mar(packed).settings.external == ("own.data",)
    assert time_of_request_ms(open_mar(packed)) > 0


def test_what_cannot_be_kept_or_timed_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A goal shorter than two batches is told with a remedy, and a model that does not open leaves the default."""
    mar = open_mar(archive("vector", tmp_path))
    assert length_for(mar, 1, Console("text")) == 8
    told = " ".join("".join(capsys.readouterr()).split())
    assert "1 ms cannot be kept" in told
    assert "--p99-ms" in told
    elsewhere = Mar(mar.path, "x", "1", Settings(providers=("NoSuchExecutionProvider",)), {})
    assert length_for(elsewhere, 500, Console("text")) == 100
    assert "cannot be timed here" in " ".join("".join(capsys.readouterr()).split())
