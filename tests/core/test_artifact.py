"""Artifacts are complete or absent, and alterations are detected."""

from __future__ import annotations

import errno
import zipfile
from pathlib import Path

import pytest

from retort.core import artifact as module
from retort.core.artifact import is_finished, load_artifact, new_artifact, raise_if_not
from retort.core.context import Place
from retort.core.errors import ArtifactError, MissingFileError, StorageError
from retort.core.facts.record import Record


def write(folder: Path, content: bytes = b"weights") -> Path:
    """A finished artifact of one file."""
    with new_artifact(Place(folder, "k"), "graph", "export") as draft:
        draft.facts = Record.model_validate({"n": 1})
        (draft.folder / "model.onnx").write_bytes(content)
    return folder


def test_round_trip(tmp_path: Path) -> None:
    """Kind, key, facts and the main file are read as they were written."""
    found = load_artifact(write(tmp_path / "a"))
    assert (found.kind, found.key, found.facts, found.main.read_bytes()) == ("graph", "k", {"n": 1}, b"weights")


def test_failure_leaves_nothing(tmp_path: Path) -> None:
    """An exception while writing leaves neither an artifact nor a scratch folder."""
    with pytest.raises(KeyboardInterrupt), new_artifact(Place(tmp_path / "a"), "graph", "export") as draft:
        (draft.folder / "model.onnx").write_bytes(b"half")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_damaged_archives_are_named(tmp_path: Path) -> None:
    """A model archive by itself is checked when it is opened: cut, altered, or no archive at all."""
    whole = tmp_path / "whole.mar"
    with zipfile.ZipFile(whole, "w") as archive:
        archive.writestr("model.onnx", bytes(range(256)) * 40)
    assert load_artifact(whole).kind == "archive"
    content = bytearray(whole.read_bytes())
    (tmp_path / "cut.mar").write_bytes(content[:3000])
    content[200] ^= 1
    (tmp_path / "altered.mar").write_bytes(content)
    (tmp_path / "text.mar").write_text("not an archive")
    for name, words in (("cut", "truncated"), ("altered", "'model.onnx' was altered"), ("text", "no archive")):
        with pytest.raises(ArtifactError, match=words):
            load_artifact(tmp_path / f"{name}.mar")


def test_kinds_have_their_article(tmp_path: Path) -> None:
    """`a graph`, but `an engine` and `an archive`."""
    with pytest.raises(ArtifactError, match="is a graph; this needs an engine or an archive"):
        raise_if_not(load_artifact(write(tmp_path / "a")), "engine", "archive")


def test_rewriting_replaces_the_whole(tmp_path: Path) -> None:
    """Writing an artifact again replaces it and leaves no old file."""
    write(tmp_path / "a", b"one")
    write(tmp_path / "a", b"two")
    assert load_artifact(tmp_path / "a").main.read_bytes() == b"two"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_full_disk_is_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that becomes full while an artifact is written gives a storage error and leaves nothing incomplete."""

    def full(path: Path) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "sha256_file", full)
    with pytest.raises(StorageError, match=r"No space left on device[\s\S]*free some space"):
        write(tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_altered_file_is_refused(tmp_path: Path) -> None:
    """For a file whose hash differs from the manifest's, the message has the name and both hashes."""
    folder = write(tmp_path / "a")
    (folder / "model.onnx").write_bytes(b"other")
    with pytest.raises(ArtifactError, match="altered or truncated"):
        load_artifact(folder)


def test_neighbours_of_a_file_are_not_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file in a folder of many others, such as a home, is opened without a walk through its neighbours."""
    (tmp_path / "model.onnx").write_bytes(b"weights")

    def refuse(*given: object) -> None:
        raise AssertionError(f"looked for {given}")

    monkeypatch.setattr(Path, "glob", refuse)
    module.require_unaltered(tmp_path / "model.onnx", "0" * 64)
    with pytest.raises(ArtifactError, match="altered"):
        module.require_unaltered(write(tmp_path / "a") / "model.onnx", "0" * 64)


def test_unfinished_folder_is_refused(tmp_path: Path) -> None:
    """A folder without a manifest is not an artifact."""
    (tmp_path / "a").mkdir()
    assert not is_finished(tmp_path / "a")
    with pytest.raises(ArtifactError, match="unfinished"):
        load_artifact(tmp_path / "a")


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"kind": "cake"}', '{"kind": "graph", "files": {"a": 1}}'])
def test_damaged_manifest_is_one_clear_error(tmp_path: Path, text: str) -> None:
    """For any damage of a manifest, loading reports it with a remedy."""
    folder = write(tmp_path / "a")
    (folder / "manifest.json").write_text(text)
    with pytest.raises(ArtifactError, match="run its stage again"):
        load_artifact(folder)


def test_bare_file_is_wrapped(tmp_path: Path) -> None:
    """A single model file is an artifact whose key is its hash."""
    path = tmp_path / "net.onnx"
    path.write_bytes(b"x")
    found = load_artifact(path)
    assert (found.kind, found.main) == ("graph", path)
    assert found.key == module.sha256_file(path)


def test_missing_and_foreign_paths(tmp_path: Path) -> None:
    """A missing path, and a file of an unknown kind, give different errors."""
    with pytest.raises(MissingFileError):
        load_artifact(tmp_path / "none")
    (tmp_path / "a.txt").write_text("hello")
    with pytest.raises(ArtifactError, match="not a kind of file"):
        load_artifact(tmp_path / "a.txt")
