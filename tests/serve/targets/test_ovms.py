"""OpenVINO Model Server: a repository whose model is the bundle's, and a configuration of known keys."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from other_servers import linear
from served_models import graph

from retort.core.artifact import Artifact, load_artifact
from retort.core.console import Console
from retort.core.context import Context, Place
from retort.core.options.serving_options import PackOptions
from retort.pipeline.live.documented import checked
from retort.serve.bundles.bundled import check_bundle
from retort.serve.targets.stage import bundle_of, commands_of, deploy

CONTEXT = Context(None, console=Console("text"))  # type: ignore[arg-type]  # it reads no data

KEYS = {
    "name",
    "base_path",
    "batch_size",
    "model_version_policy",
    "shape",
    "nireq",
    "target_device",
    "plugin_config",
    "stateful",
    "idle_sequence_cleanup",
    "low_latency_transformation",
    "max_sequence_number",
    "custom_loader_options",
}
"""Keys of a model in the schema of the server's configuration; others make it refuse the whole file."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A linear model for two streams of three threads."""
    folder = tmp_path_factory.mktemp("ovms")
    options = PackOptions(target="ovms", name="My_Net", workers=2, threads=3)
    return deploy(options, linear(folder), Place(folder / "made"), CONTEXT)


def _config(made: Artifact) -> dict[str, Any]:
    (only,) = json.loads((made.path / "config.json").read_text())["model_config_list"]
    assert set(only) == {"config"}
    return dict(only["config"])


def test_the_configuration_names_the_packed_model(made: Artifact) -> None:
    """Keys are those of the server's schema, the path leads to the model, and its numbers are those of the options."""
    config = _config(made)
    assert {"name", "base_path"} <= set(config) <= KEYS
    assert config["name"] == "My_Net"
    assert config["nireq"] == 2
    exact = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}
    assert config["plugin_config"] == {**exact, "NUM_STREAMS": "2", "INFERENCE_NUM_THREADS": "6"}
    (version,) = config["model_version_policy"]["specific"]["versions"]
    model = made.path / config["base_path"] / str(version) / "model.onnx"
    assert model.read_bytes() == (bundle_of(made) / "model.onnx").read_bytes()
    assert check_bundle(bundle_of(made))["name"] == "My_Net"


def test_commands_listen_on_this_machine_alone(made: Artifact) -> None:
    """Neither form listens on other addresses than loopback, and the image cannot write."""
    installed, image = commands_of(made).values()
    assert "--config_path config.json" in installed
    assert "--rest_bind_address 127.0.0.1" in installed
    assert "-p 127.0.0.1:" in image
    assert "--read-only" in image
    assert ":/srv:ro" in image


def test_weights_beside_the_model_come_along(tmp_path: Path) -> None:
    """A model whose weights are in a file of their own is opened from the repository alone."""
    model = onnx.load(linear(tmp_path).main)
    onnx.save(model, tmp_path / "own.onnx", save_as_external_data=True, location="own.data", size_threshold=0)
    parent = load_artifact(tmp_path / "own.onnx")
    made = deploy(PackOptions(target="ovms"), parent, Place(tmp_path / "made"), CONTEXT)
    folder = made.path / _config(made)["base_path"] / "1"
    golden = np.load(bundle_of(made) / "golden.npz")
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    feeds = {spec.name: golden[f"in.{spec.name}"] for spec in session.get_inputs()}
    assert len(list(folder.iterdir())) == 2
    np.testing.assert_allclose(session.run(None, feeds)[0], golden[f"out.{session.get_outputs()[0].name}"])


def test_a_model_of_pictures_says_that_only_arrays_are_taken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What other targets read themselves, clients of this server must make into arrays."""
    options = checked("pack", PackOptions, {"target": "ovms", "handler": "image", "pixels": {"size": [12, 12]}})
    deploy(options, graph("image", tmp_path), Place(tmp_path / "made"), CONTEXT)
    told = " ".join(capsys.readouterr().err.split())
    assert "OpenVINO Model Server takes only arrays, so clients must make them of images (image: float32" in told
