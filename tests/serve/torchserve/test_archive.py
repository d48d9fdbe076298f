"""The archive: always the same bytes, complete without Retort, and rejected if a bit is wrong."""

from __future__ import annotations

import json
import random
import socket
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import yaml
from onnx import TensorProto, helper, numpy_helper

from retort.core.artifact import Artifact, load_artifact, new_artifact
from retort.core.context import Place
from retort.core.errors import ArtifactError, MachineError, MissingFileError, UserError
from retort.core.options.serving_options import PackOptions
from retort.core.session import open_session
from retort.core.signature import Signature
from retort.core.system.installation import install_command
from retort.core.tensors import TensorSpec
from retort.serve.engine import Engine
from retort.serve.requests.wire import write_npz
from retort.serve.settings import Limits, Settings
from retort.serve.torchserve.archives.archive import Policy, open_mar, write_archive
from retort.serve.torchserve.archives.mar import lint_names, verify_mar, write_mar
from retort.serve.torchserve.config import FrontEnd, config_properties, format_properties, log4j_config, model_config
from retort.serve.torchserve.ports import pick_ports
from retort.serve.torchserve.process import clean_environment, torchserve_home

SIGNATURE = Signature((TensorSpec("x", "float32", ("batch", 6)),), (TensorSpec("y", "float32", ("batch", 3)),))


def _model(path: Path) -> Path:
    weights = numpy_helper.from_array(np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32), "w")
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 6])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3])
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", [x], [y], [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    helper.set_model_props(model, {"retort.signature": SIGNATURE.to_json()})
    onnx.save(model, path)
    return path


def _graph(folder: Path, change: Callable[[dict[str, Any]], object] | None = None) -> Artifact:
    with new_artifact(Place(folder), "graph", "export") as draft:
        scratch = draft.folder
        session = open_session(_model(scratch / "model.onnx"))
        x = np.random.default_rng(1).normal(size=(4, 6)).astype(np.float32)
        golden = {"in.x": x, "out.y": session.run({"x": x})["y"]}
        if change:
            change(golden)
        (scratch / "signature.json").write_text(SIGNATURE.to_json())
        (scratch / "golden.npz").write_bytes(write_npz(golden))
    return load_artifact(folder)


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A small linear model, packed."""
    folder = tmp_path_factory.mktemp("packed")
    return write_archive(PackOptions(name="linear"), _graph(folder / "graph"), Place(folder / "archive"))


def test_packing_twice_gives_the_same_bytes(packed: Artifact, tmp_path: Path) -> None:
    """Equal input gives a byte-identical archive, at any place and time."""
    again = write_archive(PackOptions(name="linear"), _graph(tmp_path / "elsewhere"), Place(tmp_path / "again"))
    assert again.main.read_bytes() == packed.main.read_bytes()
    other = write_archive(
        PackOptions(name="linear", batch_size=4), _graph(tmp_path / "elsewhere"), Place(tmp_path / "other")
    )
    assert other.main.read_bytes() != packed.main.read_bytes()


def test_members_are_sorted_stored_and_summed(packed: Artifact) -> None:
    """Sorted names, no compression, fixed times and modes, and a checksum for each member."""
    sums = verify_mar(packed.main)
    with zipfile.ZipFile(packed.main) as archive:
        members = archive.infolist()
    assert [member.filename for member in members] == sorted([*sums, "SHA256SUMS"])
    assert {member.compress_type for member in members} == {zipfile.ZIP_STORED}
    assert {member.date_time for member in members} == {(1980, 1, 1, 0, 0, 0)}
    assert {member.external_attr >> 16 for member in members} == {0o644}
    assert {"model.onnx", "signature.json", "golden.npz", "serving.json", "tensor.py"} <= set(sums)
    done = subprocess.run(
        [sys.executable, "-m", "zipfile", "-t", packed.main], capture_output=True, text=True, check=True
    )
    assert "Done testing" in done.stdout


def test_the_bundle_lies_beside_the_archive(packed: Artifact) -> None:
    """The neutral bundle is kept, with checksums that `sha256sum -c` accepts, and facts with units."""
    bundle = packed.path / "bundle"
    names = {path.name for path in bundle.iterdir()}
    assert names == {"model.onnx", "signature.json", "golden.npz", "serving.json", "SHA256SUMS"}
    subprocess.run(["sha256sum", "--status", "-c", "SHA256SUMS"], cwd=bundle, check=True)
    assert packed.facts["size_bytes"] == packed.main.stat().st_size
    assert packed.facts["golden_error"] == 0.0


def test_torchserve_finds_what_it_wants(packed: Artifact) -> None:
    """Manifest and model-config have names of real members, and keys that TorchServe reads."""
    with zipfile.ZipFile(packed.main) as archive:
        manifest = json.loads(archive.read("MAR-INF/MANIFEST.json"))
        names = set(archive.namelist())
        config = yaml.safe_load(archive.read(manifest["model"]["configFile"]))
    assert {manifest["model"][key] for key in ("handler", "serializedFile", "configFile")} <= names
    assert manifest["model"]["modelName"] == "linear"
    known = {
        "minWorkers",
        "maxWorkers",
        "batchSize",
        "maxBatchDelay",
        "responseTimeout",
        "startupTimeout",
        "deviceType",
    }
    assert set(config) == known
    assert config["maxBatchDelay"] >= 1
    assert config["startupTimeout"] >= 60
    assert yaml.safe_load(model_config(Settings(), PackOptions(), 40.0))["startupTimeout"] >= 160


@pytest.mark.parametrize("name", ["json", "-a", "--help", "ALL", "_", "9", "a" * 60])
def test_any_valid_name_packs(tmp_path: Path, name: str) -> None:
    """A model may have the name of a module, an option or a keyword of TorchServe."""
    options = PackOptions(name=name, version="1.0.0-rc.1")
    assert open_mar(write_archive(options, _graph(tmp_path / "g"), Place(tmp_path / "a"))).name == name


@pytest.mark.parametrize("keep", [0, 10, 0.3, 0.9, 0.999])
def test_truncated_archives_are_refused(packed: Artifact, tmp_path: Path, keep: float) -> None:
    """A truncated archive is rejected before a server loads it."""
    content = packed.main.read_bytes()
    cut = tmp_path / "model.mar"
    cut.write_bytes(content[: int(keep if keep >= 1 else keep * len(content))])
    with pytest.raises(ArtifactError, match=r"model\.mar"):
        open_mar(load_artifact(cut))
    with pytest.raises(MissingFileError):
        verify_mar(tmp_path / "absent.mar")


def test_flipped_bits_in_any_member_are_found(packed: Artifact, tmp_path: Path) -> None:
    """A single flipped bit anywhere in the data of any member, or in its name, is found."""
    content = packed.main.read_bytes()
    generator = random.Random(0)
    with zipfile.ZipFile(packed.main) as archive:
        spans = [(member.header_offset + 30, len(member.filename) + member.file_size) for member in archive.infolist()]
    for start, length in spans:
        for _ in range(3):
            if length:
                altered = bytearray(content)
                altered[start + generator.randrange(length)] ^= 1 << generator.randrange(8)
                (tmp_path / "model.mar").write_bytes(altered)
                with pytest.raises(ArtifactError):
                    verify_mar(tmp_path / "model.mar")


def test_hidden_and_extra_members_are_refused(packed: Artifact, tmp_path: Path) -> None:
    """A member without checksum, a duplicate, and one that only a streaming reader finds are rejected."""
    path = tmp_path / "model.mar"
    path.write_bytes(packed.main.read_bytes())
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("extra.txt", "x")
    with pytest.raises(ArtifactError, match=r"extra\.txt"):
        verify_mar(path)
    path.write_bytes(packed.main.read_bytes())
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(path, "a") as archive:
        archive.writestr("tensor.py", "import os")
    with pytest.raises(ArtifactError, match="members"):
        verify_mar(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("evil.py", "import os")
    hidden = path.read_bytes()[: 30 + 7 + 9]
    path.write_bytes(hidden + packed.main.read_bytes())
    with pytest.raises(ArtifactError):
        verify_mar(path)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("json.py", "hides the module 'json'"),
        ("queue/x.txt", "hides the module 'queue'"),
        ("numpy/__init__.py", "hides the module 'numpy'"),
        ("weights.pkl", "can run code"),
        ("model.pt", "can run code"),
        ("requirements.txt", "serving image"),
        ("../x", "outside"),
        ("/x", "outside"),
        ("a//b", "outside"),
    ],
)
def test_names_that_would_harm_are_refused(tmp_path: Path, name: str, said: str) -> None:
    """Names that hide modules, run code, install packages or leave the folder are rejected."""
    assert said in lint_names(["tensor.py", name])[0]
    with pytest.raises(ArtifactError, match="cannot contain"):
        write_mar(tmp_path / "x.mar", {name: b""})


def test_golden_vectors_must_belong_to_the_model(tmp_path: Path) -> None:
    """Missing golden vectors, or of another model or shape, stop the packing."""
    for number, change in enumerate(
        (
            lambda golden: golden.pop("out.y"),
            lambda golden: golden.update({"out.y": golden["out.y"] * 5}),
            lambda golden: golden.update({"out.y": golden["out.y"][:, :2]}),
        )
    ):
        with pytest.raises(ArtifactError, match="golden"):
            write_archive(PackOptions(), _graph(tmp_path / f"g{number}", change), Place(tmp_path / "a"))
        assert not (tmp_path / "a").exists()


def test_limits_that_refuse_the_golden_request_are_refused(tmp_path: Path) -> None:
    """An archive that could not answer its own golden request is not written."""
    with pytest.raises(UserError, match="golden request"):
        write_archive(PackOptions(max_request_bytes=10), _graph(tmp_path / "g"), Place(tmp_path / "a"))
    assert not (tmp_path / "a").exists()


def test_a_bare_onnx_file_packs(tmp_path: Path) -> None:
    """A model file of the user gets golden inputs from its signature; another kind of file is rejected."""
    bare = _model(tmp_path / "own.onnx")
    packed = write_archive(PackOptions(), load_artifact(bare), Place(tmp_path / "a"))
    assert packed.facts["golden_error"] == 0.0
    with pytest.raises(ArtifactError, match="needs a graph"):
        write_archive(PackOptions(), packed, Place(tmp_path / "b"))
    bare.write_bytes(bare.read_bytes()[:50])
    with pytest.raises(ArtifactError, match=r"own\.onnx"):
        write_archive(PackOptions(), load_artifact(bare), Place(tmp_path / "c"))


def test_external_weights_travel_along_and_are_checked(tmp_path: Path) -> None:
    """A model with a file of weights is packed with it, and an altered file is rejected."""
    model = onnx.load(_model(tmp_path / "inner.onnx"))
    onnx.save(model, tmp_path / "own.onnx", save_as_external_data=True, location="own.data", size_threshold=0)
    packed = write_archive(PackOptions(), load_artifact(tmp_path / "own.onnx"), Place(tmp_path / "a"))
    assert "own.data" in verify_mar(packed.main)
    data = packed.path / "bundle" / "own.data"
    data.write_bytes(bytes(len(data.read_bytes())))
    with pytest.raises(ArtifactError, match=r"own\.data"):
        Engine.load(packed.path / "bundle")
    (tmp_path / "own.data").unlink()
    with pytest.raises(ArtifactError, match=r"own\.data"):
        write_archive(PackOptions(), load_artifact(tmp_path / "own.onnx"), Place(tmp_path / "b"))


def test_policy_reaches_the_settings(tmp_path: Path) -> None:
    """The caller's choices about batching and NaN are in the archive."""
    policy = Policy(batching="off", allow_nan=True)
    mar = open_mar(
        write_archive(PackOptions(workers=2, threads=3), _graph(tmp_path / "g"), Place(tmp_path / "a"), policy=policy)
    )
    assert (mar.settings.batching, mar.settings.allow_nan, mar.settings.workers) == ("off", True, 2)


def test_the_archives_copy_runs_alone(packed: Artifact, tmp_path: Path) -> None:
    """With only the archive, numpy and onnxruntime, its handler answers with its own copy of the runtime."""
    with zipfile.ZipFile(packed.main) as archive:
        archive.extractall(tmp_path / "model")
    site = Path(np.__file__).parent.parent
    needs = tmp_path / "site"
    needs.mkdir()
    for path in site.iterdir():
        if path.name.split(".")[0].split("-")[0] in {"numpy", "onnxruntime", "flatbuffers", "google", "packaging"}:
            (needs / path.name).symlink_to(path)
    code = (
        "import sys, json; sys.path[:0] = sys.argv[1:3]\n"
        "import tensor, retort.serve.inference as i\n"
        "from types import SimpleNamespace as N\n"
        "c = N(system_properties={'model_dir': sys.argv[1]}, get_all_request_header=lambda i: {}, get_request_id=str,\n"
        "      set_response_status=lambda *a: print(a[0]), set_response_content_type=lambda *a: 0,\n"
        "      set_response_header=lambda *a: 0)\n"
        "tensor.handle(None, c)\n"
        "print(len(json.loads(tensor.handle([{'body': b'[[1,2,3,4,5,6]]'}], c)[0])[0]), i.__file__)\n"
        "assert not {'torch', 'pydantic', 'rich', 'onnx', 'yaml'} & set(sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, tmp_path / "model", needs], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    status, last = done.stdout.splitlines()
    assert status == "200"
    assert last == f"3 {tmp_path / 'model' / 'retort' / 'serve' / 'inference.py'}"


def test_configuration_is_loopback_and_closed(tmp_path: Path) -> None:
    """Every address is loopback or unreachable, no URL is allowed, and model API and installation are off."""
    ports = pick_ports("127.0.0.1", 0)
    models = {"m~1.mar": Settings(name="m", limits=Limits(request_bytes=9)), "n~2.mar": Settings(name="n")}
    for grpc, wanted in ((False, "224.0.0.0"), (True, "127.0.0.1")):
        front = FrontEnd(2, "unix:/x", "unix:/y", grpc)
        text = config_properties(models, ports, "127.0.0.1", tmp_path, front).decode("ascii")
        values = dict(line.split("=", 1) for line in text.splitlines())
        assert {key: value for key, value in values.items() if key.endswith("_address")} == {
            "inference_address": f"http://127.0.0.1:{ports.inference}",
            "metrics_address": "unix:/y",
            "management_address": "unix:/x",
            "grpc_inference_address": wanted,
            "grpc_management_address": "224.0.0.0",
        }
    assert values["load_models"] == "m=m~1.mar,n=n~2.mar"
    assert values["max_request_size"] == str(Limits().request_bytes)
    assert values["allowed_urls"] == "(?!)"
    assert values["enable_model_api"] == "false"
    assert values["install_py_dep_per_model"] == "false"
    assert values["decode_input_request"] == "false"
    numbers = [ports.inference, ports.management, ports.metrics, ports.grpc_inference, ports.grpc_management]
    assert len(set(numbers)) == 5
    assert format_properties({"k": "a\\b ü😀\n"}) == b"k=a\\\\b \\u00fc\\ud83d\\ude00\\u000a\n"
    assert b'fileName="/a &amp; $$b/worker.log"' in log4j_config(Path("/a & $b"))


def test_a_taken_port_is_named_with_the_remedy() -> None:
    """The message has the port and how to choose another; IPv6, which TorchServe lacks, is rejected."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(MachineError, match=str(port)) as caught:
            pick_ports("127.0.0.1", port)
    assert "--port" in caught.value.remedy
    with pytest.raises(MachineError, match="IPv6"):
        pick_ports("::1", 0)


def test_a_missing_torchserve_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without TorchServe, the message has the extra that installs it."""
    monkeypatch.setattr("retort.serve.torchserve.process.find_spec", lambda name: None)
    with pytest.raises(MachineError, match="TorchServe is not installed") as caught:
        torchserve_home()
    assert caught.value.remedy == install_command("serve")


def test_foreign_settings_do_not_reach_the_server(tmp_path: Path) -> None:
    """Variables of other TorchServes, and paths with another retort, are removed from the environment."""
    (tmp_path / "a" / "retort").mkdir(parents=True)
    (tmp_path / "a" / "retort" / "__init__.py").touch()
    (tmp_path / "b").mkdir()
    given = {"TS_CONFIG_FILE": "x", "LOG_LOCATION": "y", "HOME": "h", "PYTHONPATH": f"{tmp_path}/a:{tmp_path}/b"}
    cleaned = clean_environment(given)
    assert cleaned["PYTHONPATH"] == f"{tmp_path}/b"
    assert cleaned["HOME"] == "h"
    assert not {"TS_CONFIG_FILE", "LOG_LOCATION"} & set(cleaned)
    assert cleaned["OMP_NUM_THREADS"] == "1"
