"""Key files: a pair belongs to its owner, is never replaced, and what is no key is told in one sentence."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from retort.__main__ import main
from retort.core.artifact import load_artifact
from retort.core.console import Console
from retort.core.context import Context
from retort.core.errors import MissingFileError, UserError
from retort.core.options.serving_options import PackOptions
from retort.pipeline.cache_key import identity_of
from retort.serve.signing.private_key import make_pair, read_private_key
from retort.serve.signing.public_key import read_public_keys
from retort.serve.signing.trust import SIGNATURES, TRUST, Trust

PUBLIC = """-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=
-----END PUBLIC KEY-----
"""
PRIVATE = """-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC
-----END PRIVATE KEY-----
"""
SMALL = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA{}=\n-----END PUBLIC KEY-----\n".format("AQ" + "A" * 41)


def file(folder: Path, name: str, text: str) -> Path:
    """A file that its owner alone can read."""
    path = folder / name
    path.write_text(text)
    path.chmod(0o600)
    return path


def test_the_command_makes_a_pair_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The private key has mode 600; a second call and an existing half replace nothing."""
    with pytest.raises(SystemExit, match="0"):
        main(["keys", "--out", str(tmp_path / "keys"), "--json"])
    told = json.loads(capsys.readouterr().out)
    private, public = Path(told["private_key"]), Path(told["public_key"])
    assert private.stat().st_mode & 0o777 == 0o600
    assert read_public_keys(public)[0].key_id == told["key_id"] == read_private_key(private).public.key_id
    assert public.read_text().startswith(f"Key id: {told['key_id']}\n")
    before = private.read_bytes(), public.read_bytes()
    private.unlink()
    with pytest.raises(UserError, match="exists, and keys are never replaced"):
        make_pair(tmp_path / "keys", "signing")
    assert not private.exists()
    private.write_bytes(before[0])
    with pytest.raises(UserError, match="never replaced"):
        make_pair(tmp_path / "keys", "signing")
    assert (private.read_bytes(), public.read_bytes()) == before
    assert "seed" not in repr(read_private_key(private))


def test_keys_are_those_of_openssl(tmp_path: Path) -> None:
    """The examples of RFC 8410, section 10, are a pair; a file may have several public keys."""
    key = read_private_key(file(tmp_path, "a.key", PRIVATE))
    assert read_public_keys(file(tmp_path, "a.pub", PUBLIC)) == (key.public,)
    assert key.public.to_pem().endswith(PUBLIC)
    _, other, public = make_pair(tmp_path, "b")
    assert read_public_keys(file(tmp_path, "both.pub", PUBLIC + other.read_text())) == (key.public, public)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (PRIVATE, "is a private key, and a server needs only the public one"),
        (PRIVATE.replace("PRIVATE", "ENCRYPTED PRIVATE"), "is a private key"),
        (PUBLIC + PRIVATE, "is a private key"),
        ("", "is no public key of Ed25519"),
        ("ssh-ed25519 AAAA", "is no public key of Ed25519"),
        (PUBLIC.replace("MCow", "MCoz"), "is no public key of Ed25519"),
        (PUBLIC.replace("ZuE=", "Zu"), "is no public key of Ed25519"),
        (PUBLIC + PUBLIC.replace("PUBLIC KEY", "CERTIFICATE"), "is no public key of Ed25519"),
        (SMALL, "is no public key of Ed25519"),
    ],
)
def test_what_is_no_public_key_is_refused(tmp_path: Path, text: str, said: str) -> None:
    """Files without one, with something else as well, and with a key of small order."""
    with pytest.raises(UserError, match=said) as caught:
        Trust.chosen([file(tmp_path, "some.pub", text)])
    assert caught.value.remedy
    assert "MC4C" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (PUBLIC, "is a public key, and only the private one can sign"),
        (PRIVATE.replace("PRIVATE", "ENCRYPTED PRIVATE"), "is encrypted or has an old form"),
        (PRIVATE + PRIVATE, "is no private key of Ed25519"),
        (PRIVATE.replace("MC4C", "MC4D"), "is no private key of Ed25519"),
        ("secret", "is no private key of Ed25519"),
    ],
)
def test_what_is_no_private_key_is_refused(tmp_path: Path, text: str, said: str) -> None:
    """With the file to give instead; the content of the file is not told."""
    with pytest.raises(UserError, match=said) as caught:
        read_private_key(file(tmp_path, "some.key", text))
    assert caught.value.remedy
    assert "secret" not in str(caught.value)


def test_missing_and_unreadable_files_are_told(tmp_path: Path) -> None:
    """A path without a file, and a folder."""
    for read in (read_private_key, read_public_keys):
        with pytest.raises(MissingFileError, match="no such key"):
            read(tmp_path / "none")
        with pytest.raises(UserError, match="cannot be read"):
            read(tmp_path)


@pytest.mark.skipif(os.name != "posix", reason="files have no mode here")
def test_a_key_that_others_can_read_is_warned_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is used, with the command that closes it."""
    path = file(tmp_path, "open.key", PRIVATE)
    read_private_key(path, Console("text"))
    assert capsys.readouterr().err == ""
    path.chmod(0o644)
    read_private_key(path, Console("text"))
    said = " ".join(capsys.readouterr().err.split())
    assert "other users can read the private key" in said
    assert f"chmod 600 {path}" in said


def test_what_was_given_comes_before_the_environment(tmp_path: Path) -> None:
    """Keys require signatures unless something else is said, and signatures without keys are refused."""
    own, other = (make_pair(tmp_path, name)[1] for name in ("own", "other"))
    (key,), (foreign,) = read_public_keys(own), read_public_keys(other)
    both = {TRUST: f"{own}{os.pathsep}{other}"}
    assert Trust.chosen(environment={}) == Trust()
    assert Trust.chosen(environment={TRUST: ""}) == Trust()
    assert Trust.chosen([own], environment={}) == Trust((key,), "require")
    assert Trust.chosen(environment=both) == Trust((key, foreign), "require")
    assert Trust.chosen(environment={**both, SIGNATURES: "warn"}).mode == "warn"
    assert Trust.chosen([own], environment={**both, SIGNATURES: "off"}) == Trust((key,), "require")
    assert Trust.chosen(mode="off", environment=both).mode == "off"
    for environment in ({SIGNATURES: "require"}, {SIGNATURES: "warn", TRUST: ""}):
        with pytest.raises(UserError, match="no key is trusted"):
            Trust.chosen(environment=environment)
    with pytest.raises(UserError, match="RETORT_SIGNATURES is 'requires'"):
        Trust.chosen(environment={**both, SIGNATURES: "requires"})
    (tmp_path / "all.pem").write_bytes(Trust((key, foreign), "warn").to_pem())
    again = Trust((key, foreign), "warn").environment(tmp_path / "all.pem")
    assert Trust.chosen(environment=again) == Trust((key, foreign), "warn")


def test_another_key_makes_another_result(tmp_path: Path) -> None:
    """The key of a result depends on the id of the key and not on the private part or on its file's first lines."""
    model = tmp_path / "model.onnx"
    model.write_bytes(b"\x08\x09")
    context = Context(None, tmp_path)  # type: ignore[arg-type]  # it reads no data

    def _key(text: str) -> str:
        file(tmp_path, "signing.key", text)
        options = PackOptions(sign="signing.key")
        return identity_of("pack", options, [load_artifact(model)], context).key

    make_pair(tmp_path, "b")
    first = _key(PRIVATE)
    assert _key(f"a comment\n{PRIVATE}") == first
    assert _key((tmp_path / "b.key").read_text()) != first
