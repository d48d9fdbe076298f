"""BentoML: what is generated, and how a real BentoML answers."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from other_servers import ask, free_port, home, linear, process

from retort.core.artifact import Artifact
from retort.core.context import Context, Place
from retort.core.options.stage_options import PackOptions
from retort.core.session import open_session
from retort.serve.bundles.bundled import check_bundle
from retort.serve.requests.wire import NPY, write_npy
from retort.serve.targets.stage import bundle_of, commands_of, deploy


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A linear model for BentoML."""
    folder = tmp_path_factory.mktemp("bento")
    context = Context(None)  # type: ignore[arg-type]  # it reads no data
    return deploy(PackOptions(target="bentoml", name="linear"), linear(folder), Place(folder / "made"), context)


def test_a_bento_has_what_it_includes(made: Artifact) -> None:
    """The service, its settings and the bundle are there and included, and the commands name them."""
    described = yaml.safe_load((made.path / "bentofile.yaml").read_text())
    assert described["service"] == "service:Service"
    assert all((made.path / name.removesuffix("/**")).exists() for name in described["include"])
    assert described["python"]["packages"] == (made.path / "requirements.txt").read_text().split()
    assert [command.partition("&& ")[2].split()[:2] for command in commands_of(made).values()] == [
        ["bentoml", "serve"],
        ["bentoml", "build"],
    ]


@pytest.mark.slow
@pytest.mark.servers
def test_bentoml_answers_what_the_session_computes(made: Artifact, tmp_path: Path) -> None:
    """Good requests get the outputs of a local session bit for bit, bad ones a refusal, and the bundle stays whole."""
    port = free_port()
    program = home("bentoml") / "bin" / "bentoml"
    command = [str(program), "serve", "service:Service", "--host", "127.0.0.1", "--port", str(port)]
    x = np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32)
    right = open_session(bundle_of(made) / "model.onnx").run({"x": x})["y"]
    url, log = f"http://127.0.0.1:{port}", tmp_path / "log"
    command += ["--working-dir", str(made.path)]
    with process(command, log, _environment(tmp_path), f"{url}/v2/health/ready"):
        assert ask(f"{url}/predictions/linear", write_npy(x), Content_Type=NPY).body == write_npy(right)
        assert ask(f"{url}/v2/models/linear").status == 200
        assert b"retort_handler_seconds_count" in ask(f"{url}/v2/metrics").body
        assert ask(f"{url}/predictions/linear", b"[[1]]").status == 400
        assert ask(f"{url}/predictions/linear", bytes(1 << 20)).status == 413
    assert check_bundle(bundle_of(made))["name"] == "linear"


@pytest.mark.slow
@pytest.mark.servers
def test_a_bento_is_built(made: Artifact, tmp_path: Path) -> None:
    """`bentoml build` takes the folder as it is."""
    program = home("bentoml") / "bin" / "bentoml"
    done = subprocess.run(
        [str(program), "build"], cwd=made.path, env=_environment(tmp_path), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert list((tmp_path / "home").glob("bentos/*/*/src/bundle/model.onnx"))


def _environment(folder: Path) -> dict[str, Any]:
    return {**os.environ, "BENTOML_HOME": str(folder / "home"), "BENTOML_DO_NOT_TRACK": "True"}
