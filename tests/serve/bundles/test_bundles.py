"""Bundles: whole, with a runtime of their own under a private name, and refused if anything in them is off."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper
from served_models import VECTOR, graph

import retort
from retort.core.artifact import Artifact, load_artifact
from retort.core.context import Context, Place
from retort.core.errors import ArtifactError, MissingFileError, UserError
from retort.core.options.serving_options import BundleOptions
from retort.serve.bundles.bundled import RUNTIME, check_bundle, open_bundle
from retort.serve.bundles.stage import bundle
from retort.serve.engine import Engine
from retort.serve.integrity import SUMS, format_sums, read_sums

CONTEXT = Context(None)  # type: ignore[arg-type]  # it reads no data


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """The bundle of a small model."""
    folder = tmp_path_factory.mktemp("bundles")
    return bundle(BundleOptions(name="vector"), graph("vector", folder), Place(folder / "bundle"), CONTEXT)


@pytest.fixture
def copy(made: Artifact, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return shutil.copytree(made.path, tmp_path / "copy", ignore=shutil.ignore_patterns("__pycache__"))


def test_a_bundle_has_all_that_a_server_needs(made: Artifact) -> None:
    """Model, signature, golden vectors, settings, runtime and checksums, which `sha256sum -c` accepts."""
    names = {path.name for path in made.path.iterdir()} - {"manifest.json"}
    assert names == {
        *("bundle.json", "model.onnx", "signature.json", "golden.npz", "serving.json"),
        *(SUMS, RUNTIME),
    }
    subprocess.run(["sha256sum", "--status", "-c", SUMS], cwd=made.path, check=True)
    told = check_bundle(made.path)
    assert (told["name"], told["version"], told["runtime"]) == ("vector", "1.0", RUNTIME)
    assert told["inputs"] == ["x: float32[batch, 2]"]
    assert made.facts["golden_error"] == 0.0
    assert made.facts["size_bytes"] == sum(
        entry.size_bytes for name, entry in made.manifest.files.items() if name != "manifest.json"
    )


def test_equal_input_gives_equal_bytes(made: Artifact, tmp_path: Path) -> None:
    """A bundle that is made again elsewhere has the same files."""
    again = bundle(BundleOptions(name="vector"), graph("vector", tmp_path), Place(tmp_path / "again"), CONTEXT)
    assert again.manifest.files == made.manifest.files
    assert again.key == made.key


def test_a_bundle_opens_as_an_engine(made: Artifact) -> None:
    """`open_bundle` and `Engine.load` open a bundle, and the answers are those of the model."""
    engines = [open_bundle(made.path), Engine.load(made.path)]
    inputs, expected = engines[0].golden
    for engine in engines:
        assert engine.session.run(inputs)["total"].tobytes() == expected["total"].tobytes()
        engine.close()


def _alone(folder: Path, code: str, *paths: Path) -> str:
    """The output of a Python that has numpy and onnxruntime, and of other packages only those in ``paths``."""
    site = folder / "site"
    for package in (np, onnxruntime):
        home = Path(package.__file__ or "").parent
        for found in (home, home.with_name(f"{home.name}.libs")):
            if found.exists() and not (site / found.name).exists():
                site.mkdir(exist_ok=True)
                os.symlink(found, site / found.name)
    start = f"import sys; sys.path[:0] = {[str(path) for path in (*paths, site)]!r}\n"
    done = subprocess.run([sys.executable, "-I", "-S", "-B", "-c", start + code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_bundle_needs_no_toolkit(copy: Path, tmp_path: Path) -> None:
    """A host that has numpy and onnxruntime only opens a bundle with the runtime in it."""
    code = f"""
from retort_runtime import Incoming, open_bundle
engine = open_bundle({str(copy)!r})
answer = engine.answer([Incoming({{"body": b'{{"x": [[1, 2], [3, 4]]}}'}})])[0]
print(answer.status, answer.body.decode(), sorted(name for name in sys.modules if name.split(".")[0] == "retort"))
"""
    assert _alone(tmp_path, code, copy) == '200 {"total":[3.0,7.0]} []'
    assert check_bundle(copy)["name"] == "vector"


def test_the_runtime_is_no_other_package(copy: Path, tmp_path: Path) -> None:
    """With another version of the toolkit before it on the path, a bundle still runs its own code."""
    (tmp_path / "elsewhere" / "retort" / "serve").mkdir(parents=True)
    for name in ("__init__.py", "serve/__init__.py", "serve/engine.py"):
        (tmp_path / "elsewhere" / "retort" / name).write_text("raise RuntimeError('the wrong code')\n")
    code = f"""
from retort_runtime import open_bundle
engine = open_bundle({str(copy)!r})
files = {{m.__file__ for n, m in sys.modules.items() if n.startswith("retort_runtime.") and m.__file__}}
print(len(files) > 10, all(file.startswith({str(copy)!r}) for file in files))
"""
    assert _alone(tmp_path, code, tmp_path / "elsewhere", copy) == "True True"


def _flip(folder: Path, name: str) -> None:
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(bytes(content))


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "an altered model": (lambda folder: _flip(folder, "model.onnx"), r"model\.onnx has SHA-256"),
    "altered code": (lambda folder: _flip(folder, f"{RUNTIME}/serve/engine.py"), "engine.py has SHA-256"),
    "a missing file": (lambda folder: (folder / "golden.npz").unlink(), "golden.npz cannot be read"),
    "a foreign file": (lambda folder: (folder / RUNTIME / "extra.py").write_text(""), "extra.py', which is not listed"),
    "a link": (lambda folder: (folder / "more").symlink_to("/etc"), "'more', which is not listed"),
    "no checksums": (lambda folder: (folder / SUMS).unlink(), f"{SUMS} cannot be read"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_bundle_is_refused(copy: Path, damage: str) -> None:
    """Anything altered, missing or foreign is told by name before the model is opened."""
    change, told = DAMAGES[damage]
    change(copy)
    with pytest.raises(ArtifactError, match=told) as caught:
        open_bundle(copy)
    assert caught.value.remedy


def test_another_format_and_no_folder_are_told(copy: Path, tmp_path: Path) -> None:
    """A bundle of another format, or a path without one, is refused in one sentence."""
    value = json.loads((copy / "bundle.json").read_bytes())
    (copy / "bundle.json").write_text(json.dumps({**value, "format": 2}))
    sums = read_sums(copy)
    sums["bundle.json"] = hashlib.sha256((copy / "bundle.json").read_bytes()).hexdigest()
    (copy / SUMS).write_bytes(format_sums(sums))
    with pytest.raises(ArtifactError, match="format 2, but this runtime has format 1"):
        open_bundle(copy)
    with pytest.raises(MissingFileError, match="no such bundle"):
        open_bundle(tmp_path / "nowhere")


def test_only_graphs_become_bundles(made: Artifact, tmp_path: Path) -> None:
    """Other artifacts, and settings that refuse the model's own data, are told."""
    with pytest.raises(ArtifactError, match="is a bundle; this needs a graph"):
        bundle(BundleOptions(), made, Place(tmp_path / "a"), CONTEXT)
    with pytest.raises(UserError, match="reject even the golden request"):
        bundle(BundleOptions(max_request_bytes=10), graph("vector", tmp_path), Place(tmp_path / "b"), CONTEXT)
    assert not (tmp_path / "b").exists()


def test_weights_in_files_of_their_own_are_carried(tmp_path: Path) -> None:
    """External weights are in the bundle and in its checksums."""
    ports = [helper.make_tensor_value_info(name, 1, ["batch", size]) for name, size in (("x", 2), ("total", 3))]
    weights = numpy_helper.from_array(np.ones((2, 3), np.float32), "w")
    made = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["total"])], "g", ports[:1], ports[1:], [weights])
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, tmp_path / "own.onnx", save_as_external_data=True, location="own.data", size_threshold=0)
    carried = bundle(BundleOptions(), load_artifact(tmp_path / "own.onnx"), Place(tmp_path / "c"), CONTEXT)
    assert "own.data" in read_sums(carried.path)
    engine = open_bundle(carried.path)
    assert engine.session.run(VECTOR)["total"].shape == (3, 3)
    engine.close()
    _flip(carried.path, "own.data")
    with pytest.raises(ArtifactError, match=r"own\.data has SHA-256"):
        open_bundle(carried.path)


def test_python_makes_saves_and_opens_bundles(tmp_path: Path) -> None:
    """`retort.bundle` gives an object with the folder's path, which can be copied and loaded."""
    whole = graph("vector", tmp_path)
    live = retort.bundle(whole.path, tmp_path / "net-1.0", name="vector", folder=tmp_path / "work")
    assert live.path == tmp_path / "net-1.0"
    assert "vector 1.0" in repr(live)
    assert check_bundle(live.path)["name"] == "vector"
    again = retort.load(live.path)
    assert isinstance(again, retort.Bundle)
    assert again.path == live.path
    assert "net-1.0" in again._repr_html_()
