"""Signed archives and bundles: accepted with a trusted key, and refused otherwise wherever a server could take them."""

from __future__ import annotations

import base64
import json
import shutil
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from served_models import archive, graph

from retort.__main__ import main
from retort.core.artifact import Artifact, load_artifact
from retort.core.console import SILENT, Console
from retort.core.context import Context, Place
from retort.core.errors import ArtifactError, UserError
from retort.core.options.serving_options import BundleOptions, PackOptions
from retort.core.options.stage_options import ServeOptions
from retort.serve.bundles.bundled import open_bundle, sign_bundle
from retort.serve.bundles.stage import bundle
from retort.serve.inference import Endpoint
from retort.serve.integrity import SUMS, SUMS_SIGNATURE
from retort.serve.known_servers import KnownServer
from retort.serve.signing.private_key import make_pair, read_private_key
from retort.serve.signing.trust import SIGNATURES, TRUST, Signer, Trust
from retort.serve.targets.stage import bundle_of, deploy
from retort.serve.torchserve.archives.archive import open_mar
from retort.serve.torchserve.archives.mar import read_member, sign_mar, verify_mar, write_mar
from retort.serve.torchserve.deployment import Deployment
from retort.serve.torchserve.server import serve
from retort.serve.torchserve.swap import swap

CONTEXT = Context(None)  # type: ignore[arg-type]  # it reads no data


class Made(SimpleNamespace):
    """A signed and an unsigned archive of one model, a signed bundle, and two key pairs: ``own`` and ``other``."""

    signed: Artifact
    plain: Artifact
    bundle: Artifact
    trust: Trust
    foreign: Trust
    folder: Path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Everything once; tests change copies."""
    folder = tmp_path_factory.mktemp("signed")
    for name in ("own", "other"):
        make_pair(folder, name)
    key = str(folder / "own.key")
    return Made(
        folder=folder,
        signed=archive("vector", folder / "a", sign=key),
        plain=archive("vector", folder / "b"),
        bundle=bundle(
            BundleOptions(name="vector", sign=key), graph("vector", folder / "c"), Place(folder / "bundle"), CONTEXT
        ),
        trust=Trust.chosen([folder / "own.pub"]),
        foreign=Trust.chosen([folder / "other.pub"]),
    )


def members(path: Path) -> dict[str, bytes]:
    """All files of an archive but its checksums."""
    with zipfile.ZipFile(path) as opened:
        return {name: opened.read(name) for name in opened.namelist() if name not in (SUMS, SUMS_SIGNATURE)}


def test_a_signed_archive_is_accepted_and_names_its_signer(made: Made, tmp_path: Path) -> None:
    """Packed twice it has the same bytes, and without its signature those of the unsigned one."""
    key_id = made.trust.keys[0].key_id
    assert open_mar(made.signed, made.trust).signer == Signer(key_id, verified=True)
    assert open_mar(made.signed).signer == Signer(key_id, verified=False)
    assert open_mar(made.plain).signer is None
    assert (made.signed.facts.get("key_id"), made.plain.facts.get("key_id")) == (key_id, None)
    again = archive("vector", tmp_path, sign=str(made.folder / "own.key"))
    assert again.main.read_bytes() == made.signed.main.read_bytes()
    assert members(made.signed.main) == members(made.plain.main)
    key = read_private_key(made.folder / "own.key")
    sign_mar(made.plain.main, tmp_path / "later.mar", verify_mar(made.plain.main), key.sign)
    assert (tmp_path / "later.mar").read_bytes() == made.signed.main.read_bytes()
    with pytest.raises(UserError, match="exists, and nothing is replaced"):
        sign_mar(made.plain.main, tmp_path / "later.mar", verify_mar(made.plain.main), key.sign)


def test_the_private_key_is_in_no_result(made: Made) -> None:
    """Neither as bytes nor in hex or base64."""
    seed = read_private_key(made.folder / "own.key").seed
    forms = (seed, seed.hex().encode(), base64.b64encode(seed), base64.b64encode(bytes(16) + seed)[24:-4])
    for result in (made.signed, made.bundle):
        for path in (path for path in result.path.rglob("*") if path.is_file()):
            content = path.read_bytes()
            assert not [form for form in forms if form in content], path


def _rehashed(made: Made, path: Path) -> None:
    """An archive with other code and new checksums, and the old signature."""
    changed = {**members(made.signed.main), "retort/serve/engine.py": b"import os\n"}
    line = read_member(made.signed.main, SUMS_SIGNATURE)
    write_mar(path, changed, lambda sums: line)


def _damaged(made: Made, path: Path, line: bytes) -> None:
    write_mar(path, members(made.signed.main), lambda sums: line)


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("unsigned", "is not signed, and only [0-9a-f]{16} is trusted"),
        ("foreign", "is signed with the key [0-9a-f]{16}, and only [0-9a-f]{16} is trusted"),
        ("rehashed", "was altered after it was signed"),
        ("empty", "has a damaged signature"),
        ("cut", "has a damaged signature"),
        ("long", "has a damaged signature"),
    ],
)
def test_what_no_trusted_key_has_signed_is_refused(made: Made, tmp_path: Path, case: str, said: str) -> None:
    """In one sentence with a remedy; a damaged signature is refused without any trusted key as well."""
    path, line = tmp_path / "model.mar", read_member(made.signed.main, SUMS_SIGNATURE)
    if case == "rehashed":
        _rehashed(made, path)
        verify_mar(path)
    elif case in ("unsigned", "foreign"):
        shutil.copyfile((made.plain if case == "unsigned" else made.signed).main, path)
    else:
        _damaged(made, path, {"empty": b"", "cut": line[:-2] + b"\n", "long": line + bytes(1000)}[case])
        with pytest.raises(ArtifactError, match=said):
            open_mar(load_artifact(path), Trust())
    with pytest.raises(ArtifactError, match=said) as caught:
        open_mar(load_artifact(path), made.foreign if case == "foreign" else made.trust)
    assert caught.value.remedy
    assert "\n" not in caught.value.message


def test_signatures_can_only_warn(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    """In this mode each kind is taken, and told once."""
    for artifact, keys, verified in (
        (made.signed, made.trust, True),
        (made.signed, made.foreign, False),
        (made.plain, made.trust, None),
    ):
        signer = open_mar(artifact, Trust(keys.keys, "warn"), Console("text")).signer
        assert (signer.verified if signer else None) is verified
        told = " ".join(capsys.readouterr().err.split())
        assert told.count("it is taken because signatures only warn here") == (0 if verified else 1)


@pytest.mark.parametrize("name", ["SHA256SUMS.sig.old", "retort/SHA256SUMS.sig", "SHA256SUMS2"])
def test_exactly_one_member_is_outside_the_checksums(made: Made, tmp_path: Path, name: str) -> None:
    """Any other file that they do not list is refused, signed or not."""
    with zipfile.ZipFile(made.signed.main) as source, zipfile.ZipFile(tmp_path / "m.mar", "w") as target:
        everything = {info.filename: source.read(info) for info in source.infolist()} | {name: b""}
        for member, content in sorted(everything.items()):
            target.writestr(zipfile.ZipInfo(member), content)
    with pytest.raises(ArtifactError, match="do not match SHA256SUMS"):
        open_mar(load_artifact(tmp_path / "m.mar"), made.trust)


def test_an_archive_that_is_exchanged_after_its_check_does_not_start(made: Made, tmp_path: Path) -> None:
    """What goes into the server's store is compared again as it is copied."""
    path = tmp_path / "model.mar"
    shutil.copyfile(made.signed.main, path)
    mar = open_mar(load_artifact(path), made.trust)
    Deployment(mar, 8).write(tmp_path)
    (tmp_path / Deployment(mar, 8).file).unlink()
    _rehashed(made, path)
    with pytest.raises(ArtifactError, match=r"engine\.py has SHA-256"):
        Deployment(mar, 8).write(tmp_path)


def test_the_worker_looks_again(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the keys that the server gives it, and its description names the signer."""
    for name, artifact in (("signed", made.signed), ("plain", made.plain)):
        with zipfile.ZipFile(artifact.main) as opened:
            opened.extractall(tmp_path / name)
    (tmp_path / "trusted.pem").write_bytes(made.trust.to_pem())
    for name, value in made.trust.environment(tmp_path / "trusted.pem").items():
        monkeypatch.setenv(name, value)
    endpoint = Endpoint("1")
    endpoint.initialize(SimpleNamespace(system_properties={"model_dir": str(tmp_path / "signed")}))
    assert endpoint.engine is not None
    assert endpoint.engine.describe()["signer"] == {"key_id": made.trust.keys[0].key_id, "verified": True}
    endpoint.engine.close()
    with pytest.raises(RuntimeError, match="is not signed"):
        Endpoint("1").initialize(SimpleNamespace(system_properties={"model_dir": str(tmp_path / "plain")}))


def test_servers_and_swaps_refuse_before_they_do_anything(made: Made, tmp_path: Path) -> None:
    """`serve` with its own keys, and `swap` with those of the running server."""
    keys = tuple(key.content.hex() for key in made.trust.keys)
    running = KnownServer("http://127.0.0.1:1", ("vector",), "unix:/nowhere", trusted=keys, signatures="require")
    assert running.trust == made.trust
    with pytest.raises(ArtifactError, match="is not signed"):
        swap(running, made.plain, SILENT, force=False, keep=True)
    with (
        pytest.raises(ArtifactError, match="is not signed"),
        serve(ServeOptions(trust=(str(made.folder / "own.pub"),)), made.plain, logs=tmp_path / "logs"),
    ):
        pass
    assert not (tmp_path / "logs").exists()


def test_a_bundle_is_opened_with_a_trusted_key(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given in the call or by the environment, as servers of bundles have it."""
    own, other = made.folder / "own.pub", made.folder / "other.pub"
    engine = open_bundle(made.bundle.path, [own])
    assert engine.signer == Signer(made.trust.keys[0].key_id, verified=True)
    engine.close()
    with pytest.raises(ArtifactError, match="is signed with the key"):
        open_bundle(made.bundle.path, [other])
    monkeypatch.setenv(TRUST, str(other))
    with pytest.raises(ArtifactError, match="is signed with the key"):
        open_bundle(made.bundle.path)
    monkeypatch.setenv(SIGNATURES, "off")
    open_bundle(made.bundle.path).close()
    copy = shutil.copytree(made.bundle.path, tmp_path / "copy", ignore=shutil.ignore_patterns("__pycache__"))
    (copy / SUMS_SIGNATURE).unlink()
    with pytest.raises(ArtifactError, match="is not signed"):
        open_bundle(copy, [own])
    assert (
        sign_bundle(copy, read_private_key(made.folder / "own.key").sign).read_bytes()
        == (made.bundle.path / SUMS_SIGNATURE).read_bytes()
    )
    with pytest.raises(UserError, match="is signed already"):
        sign_bundle(copy, read_private_key(made.folder / "own.key").sign)
    open_bundle(copy, [own]).close()


def test_a_deployment_has_a_signature_of_its_own(made: Made, tmp_path: Path) -> None:
    """A packed bundle is signed only with the key that `pack` is given, and its own options do not count as another."""
    options = PackOptions(target="ray", sign=str(made.folder / "other.key"))
    found = bundle_of(deploy(options, made.bundle, Place(tmp_path / "other"), CONTEXT))
    open_bundle(found, made.foreign).close()
    found = bundle_of(deploy(PackOptions(target="ray"), made.bundle, Place(tmp_path / "none"), CONTEXT))
    assert not (found / SUMS_SIGNATURE).exists()


def test_the_commands_sign_and_verify(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`sign` writes a new archive, `verify` and `show` name its key, and another key is refused with exit code 3."""
    monkeypatch.chdir(tmp_path)

    def _run(*arguments: str | Path) -> tuple[int, Any]:
        with pytest.raises(SystemExit) as ended:
            main([*map(str, arguments), "--json"])
        return int(ended.value.code or 0), json.loads(capsys.readouterr().out or "{}")

    own, key_id = made.folder / "own.pub", made.trust.keys[0].key_id
    assert _run("sign", made.plain.path, "--key", made.folder / "own.key") == (
        0,
        {"path": "signed.mar", "key_id": key_id},
    )
    for what in ("signed.mar", made.bundle.path):
        code, told = _run("verify", what, "--trust", own)
        assert (code, told["signer"], told["same_runtime"]) == (0, {"key_id": key_id, "verified": True}, True)
        assert _run("verify", what, "--trust", made.folder / "other.pub")[0] == 3
        assert _run("show", what)[1]["artifacts"][0]["signer"] == {"key_id": key_id, "verified": False}
    assert _run("sign", made.bundle.path, "--key", made.folder / "own.key")[0] == 2
    assert _run("serve", "signed.mar", "--trust", made.folder / "own.key")[0] == 2
