"""Images and manifests: what is generated for Docker and KServe, read by the models of KServe itself, and run."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from other_servers import ask, free_port, home, linear, process
from served_models import graph

from retort.core.artifact import Artifact
from retort.core.context import Context, Place
from retort.core.errors import UserError
from retort.core.options.stage_options import PackOptions
from retort.core.session import open_session
from retort.pipeline.live.documented import checked
from retort.serve.bundles.bundled import check_bundle
from retort.serve.requests.wire import NPY, write_npy
from retort.serve.signing.private_key import make_pair
from retort.serve.targets.kserve import service_name
from retort.serve.targets.stage import bundle_of, commands_of, deploy

CONTEXT = Context(None)  # type: ignore[arg-type]  # it reads no data
CHECK = """
import importlib.metadata, json, sys, types

for name in ("kubernetes", "kserve"):  # their own __init__ imports servers and logins that are not needed here
    package = sys.modules[name] = types.ModuleType(name)
    package.__path__ = [str(importlib.metadata.distribution(name).locate_file(name))]
from kserve import models
from kubernetes import client

PLAIN = {"str": str, "int": int, "bool": bool, "float": float, "object": object}

def check(value, kind, where):
    if kind.startswith(("list[", "List[")):
        assert isinstance(value, list), where
        for item in value:
            check(item, kind[5:-1], f"{where}[]")
    elif kind.startswith(("dict(", "Dict[")):
        assert isinstance(value, dict), where
    elif kind in PLAIN:
        assert isinstance(value, PLAIN[kind]), where
    else:
        model = getattr(models, kind, None) or getattr(client, kind)
        names = {given: name for name, given in model.attribute_map.items()}
        for key, item in value.items():
            assert key in names, f"{where} has no {key}"
            check(item, model.openapi_types[names[key]], f"{where}.{key}")

for value in json.load(sys.stdin):
    kind = {"ServingRuntime": "V1alpha1ServingRuntime", "InferenceService": "V1beta1InferenceService"}[value["kind"]]
    check(value, kind, value["kind"])
print("checked")
"""
"""Compares keys and types with the classes that KServe and Kubernetes generate from their schemas, at every depth."""


def _deployed(parent: Artifact, folder: Path, **options: Any) -> Artifact:
    return deploy(PackOptions(**options), parent, Place(folder), CONTEXT)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A linear model for KServe, which has all that Docker has, too."""
    folder = tmp_path_factory.mktemp("kserve")
    options = {"workers": 2, "threads": 3, "response_timeout_s": 40, "storage": "s3://models/My-Net"}
    return _deployed(linear(folder), folder / "made", target="kserve", name="My_Net", **options)


def _documents(made: Artifact, name: str) -> list[Any]:
    return list(yaml.safe_load_all((made.path / name).read_text()))


def test_an_image_has_what_it_copies(made: Artifact) -> None:
    """Every file that the Dockerfile copies is there and not ignored, and the process is no root."""
    text = (made.path / "Dockerfile").read_text()
    ignored = (made.path / ".dockerignore").read_text().splitlines()
    copied = [name for line in re.findall(r"^COPY (.*)$", text, re.M) for name in line.split()[:-1]]
    assert copied == ["requirements.txt", "app.py", "deployment.json", "bundle"]
    assert all((made.path / name).exists() and name not in ignored for name in copied)
    lines = text.splitlines()
    assert lines.index("USER 10001") < next(index for index, line in enumerate(lines) if line.startswith("CMD"))
    command = json.loads(next(line for line in lines if line.startswith("CMD ["))[4:])
    assert command[command.index("--workers") + 1] == "2"
    assert command[command.index("--timeout-graceful-shutdown") + 1] == "40"
    assert check_bundle(bundle_of(made))["name"] == "My_Net"


def test_names_are_those_that_images_and_kubernetes_allow(tmp_path: Path) -> None:
    """Names become lower case with hyphens; an image and a storage may be named, and others are refused."""
    assert [service_name(name) for name in ("My_Net", "9", "__", "a" * 60)] == ["my-net", "9", "model", "a" * 40]
    plain = _deployed(linear(tmp_path), tmp_path / "a", target="docker", name="Net")
    assert next(iter(commands_of(plain).values())).endswith("docker build -t net:1.0 .")
    named = _deployed(linear(tmp_path), tmp_path / "b", target="docker", image="reg.example.com:5000/x/net:2")
    assert "docker build -t reg.example.com:5000/x/net:2 ." in next(iter(commands_of(named).values()))
    for wrong in ({"image": "a b"}, {"image": "$(rm)"}, {"storage": "/tmp/x"}, {"storage": "s3://a b"}):
        with pytest.raises(UserError):
            checked("pack", PackOptions, wrong)


def test_manifests_fit_each_other(made: Artifact) -> None:
    """A service names its runtime, its format and where its files are; probes ask V2's health."""
    for file, kind, part in (("kserve-own.yaml", "retort", "bundle"), ("kserve-triton.yaml", "triton", "onnx-backend")):
        runtime, service = _documents(made, file)
        model = service["spec"]["predictor"]["model"]
        assert runtime["metadata"]["name"] == model["runtime"] == f"{kind}-my-net"
        (form,) = runtime["spec"]["supportedModelFormats"]
        assert (form["name"], form["version"]) == (model["modelFormat"]["name"], model["modelFormat"]["version"])
        assert model["storageUri"] == f"s3://models/My-Net/{part}"
        assert (made.path / part).is_dir()
        (container,) = runtime["spec"]["containers"]
        assert container["readinessProbe"]["httpGet"] == {"path": "/v2/health/ready", "port": 8080}
        assert container["resources"]["requests"]["cpu"] == "6"
        assert service["spec"]["predictor"]["terminationGracePeriodSeconds"] > 40
    assert (made.path / "onnx-backend" / "My_Net" / "config.pbtxt").is_file()


def test_a_model_that_triton_cannot_name_has_no_manifest_for_it(tmp_path: Path) -> None:
    """A model with a tensor without axes has only the manifest of the image of our own."""
    number = _deployed(graph("number", tmp_path), tmp_path / "n", target="kserve")
    assert (number.path / "kserve-own.yaml").is_file()
    assert not (number.path / "kserve-triton.yaml").exists()
    assert not any("Triton" in what for what in commands_of(number))


@pytest.mark.slow
@pytest.mark.servers
@pytest.mark.parametrize("file", ["kserve-own.yaml", "kserve-triton.yaml"])
def test_kserves_own_models_know_every_key(made: Artifact, file: str) -> None:
    """Every key of the manifests, at every depth, is one of KServe's and Kubernetes' schemas, with its type."""
    python = str(home("kserve") / "bin" / "python")
    given = json.dumps(_documents(made, file))
    done = _checked(python, given)
    assert done.stdout.strip() == "checked", done.stderr[-2000:]
    assert "has no storageUrl" in _checked(python, given.replace('"storageUri"', '"storageUrl"')).stderr


def _checked(python: str, given: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([python, "-c", CHECK], input=given, capture_output=True, text=True)


@pytest.mark.slow
@pytest.mark.servers
def test_the_command_of_the_image_serves_the_bundle(made: Artifact, tmp_path: Path) -> None:
    """The container's own command, run beside a copy of its files, answers as a local session, on two processes."""
    python = home("ray") / "bin" / "python"  # it has uvicorn, numpy and onnxruntime
    for name in ("app.py", "deployment.json"):
        shutil.copy(made.path / name, tmp_path)
    text = next(line for line in (made.path / "Dockerfile").read_text().splitlines() if line.startswith("CMD ["))
    port = str(free_port())
    command = [str(python), *json.loads(text[4:])[1:]]
    command[command.index("8080")] = port
    command[command.index("0.0.0.0")] = "127.0.0.1"
    environment = {**os.environ, "RETORT_BUNDLE": str(bundle_of(made)), "PYTHONPATH": str(tmp_path)}
    url = f"http://127.0.0.1:{port}"
    x = np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32)
    right = open_session(bundle_of(made) / "model.onnx").run({"x": x})["y"]
    with process(command, tmp_path / "log", environment, f"{url}/v2/health/ready"):
        for _ in range(20):
            assert ask(f"{url}/predictions/My_Net", write_npy(x), Content_Type=NPY).body == write_npy(right)
        assert ask(f"{url}/predictions/My_Net", bytes(1 << 20)).status == 413
        assert ask(f"{url}/predictions/My_Net", b"[[1]]").status == 400
        assert ask(f"{url}/v2/models/My_Net").status == 200
    assert shlex.join(command).count("--workers 2") == 1
    assert check_bundle(bundle_of(made))["name"] == "My_Net"


def test_the_image_runs_no_code_of_a_bundle_that_nobody_signed(made: Artifact, tmp_path: Path) -> None:
    """With trusted keys the code is that of the image, and a foreign bundle in the storage is refused by it."""
    for name in ("app.py", "deployment.json"):
        shutil.copy(made.path / name, tmp_path)
    for name in ("bundle", "storage"):
        shutil.copytree(bundle_of(made), tmp_path / name)
    (tmp_path / "storage" / "retort_runtime" / "__init__.py").write_text("open('ran', 'w')\n")
    _, public, _ = make_pair(tmp_path, "signing")
    environment = {**os.environ, "RETORT_BUNDLE": str(tmp_path / "storage"), "RETORT_TRUST": str(public)}
    command = [sys.executable, "-c", "import app"]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "is not signed" in done.stderr
    assert not (tmp_path / "ran").exists()
