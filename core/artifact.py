"""Artifacts: folders of files with a manifest. They are written atomically, so a partial one is never used."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any, Literal, get_args

from pydantic import BaseModel

from .context import Place
from .errors import ArtifactError, MissingFileError, StorageError
from .system.streams import write_steadily

Kind = Literal["program", "graph", "engine", "archive", "bundle", "measurement", "report"]
MANIFEST = "manifest.json"
MAIN_FILE: dict[str, str] = {
    "program": "model.pt2",
    "graph": "model.onnx",
    "engine": "model.plan",
    "archive": "model.mar",
    "bundle": "bundle.json",
    "measurement": "measurement.json",
    "report": "report.html",
}
SUFFIX_KIND: dict[str, Kind] = {
    ".pt2": "program",
    ".onnx": "graph",
    ".plan": "engine",
    ".mar": "archive",
    ".html": "report",
}


@dataclass(frozen=True)
class FileEntry:
    """One file of an artifact: SHA-256 in hex, size in bytes."""

    sha256: str
    size_bytes: int


@dataclass(frozen=True)
class Manifest:
    """What an artifact is and where it came from.

    Attributes:
        kind: the kind of its main file.
        stage: the stage that wrote it (``train``, ``prune`` …).
        key: hash of everything that determined the content: options, parents, data, code version.
        parents: keys of the artifacts it was made from.
        options: the stage's options, JSON-ready.
        files: every file but the manifest itself.
        facts: measured facts about the artifact (parameters, MACs, proof error …), JSON-ready.
        tools: versions of the packages that made it.
    """

    kind: Kind
    stage: str
    key: str
    parents: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    files: dict[str, FileEntry] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    tools: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Artifact:
    """A finished artifact on disk, or a bare model file given by the user."""

    path: Path
    manifest: Manifest

    @property
    def kind(self) -> Kind:
        """The kind of the main file."""
        return self.manifest.kind

    @property
    def key(self) -> str:
        """Hash of everything that determined the content."""
        return self.manifest.key

    @property
    def facts(self) -> dict[str, Any]:
        """Measured facts, JSON-ready."""
        return self.manifest.facts

    @property
    def main(self) -> Path:
        """The main file, such as ``model.onnx``."""
        return self.path if self.path.is_file() else self.file(MAIN_FILE[self.kind])

    def file(self, name: str) -> Path:
        """Path of one of the artifact's files.

        Raises:
            ArtifactError: the manifest lists no such file.
        """
        if name not in self.manifest.files:
            raise ArtifactError(f"{self.path} has no file '{name}'", f"it has {', '.join(sorted(self.manifest.files))}")
        return self.path / name


def sha256_file(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def stable_hash(value: object) -> str:
    """SHA-256 of a JSON-ready value, independent of key order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":"), default=str).encode()).hexdigest()


_UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR}


@contextmanager
def storage_errors(what: str, *more: int) -> Iterator[None]:
    """Turn errors of a full or read-only disk, and the codes ``more``, into a :class:`StorageError` naming the path."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        code = getattr(error, "errno", None)
        text = str(error)
        if code not in {*_UNWRITABLE, *more} and "No space left" not in text:
            raise
        remedy = "free some space or choose another folder with --out or --runs; finished stages are kept"
        raise StorageError(f"cannot write {what}: {os.strerror(code) if code else text}", remedy) from error


@contextmanager
def new_artifact(
    place: Place,
    kind: Kind,
    stage: str,
    options: BaseModel | None = None,
    facts: dict[str, Any] | None = None,
    tools: dict[str, str] | None = None,
) -> Iterator[Path]:
    """Write an artifact atomically. Yields a scratch folder, which becomes the folder of ``place`` on success.

    The hashes of all files in the scratch folder go into the manifest, which is written last; then the folder is
    renamed. ``facts`` may be filled in meanwhile. After an exception the folder is deleted. Without a key in ``place``
    the hash of the content is the key.

    Raises:
        StorageError: the disk is full or not writable.
    """
    directory = place.directory
    scratch = directory.parent / f".{directory.name}.{uuid.uuid4().hex[:8]}.tmp"
    with storage_errors(str(directory)):
        try:
            with storage_errors(str(directory), errno.ENOENT):  # a file system such as /proc reports ENOENT
                scratch.mkdir(parents=True)
            yield scratch
            files = _entries(scratch)
            key = place.key or stable_hash({name: entry.sha256 for name, entry in files.items()})
            given = options.model_dump(mode="json") if options is not None else {}
            manifest = Manifest(kind, stage, key, place.parents, given, files, facts or {}, tools or {})
            write_atomically(scratch / MANIFEST, json.dumps(asdict(manifest), indent=1, sort_keys=True).encode())
            settle(scratch, directory)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def _entries(folder: Path) -> dict[str, FileEntry]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): FileEntry(sha256_file(path), path.stat().st_size) for path in paths}


def settle(scratch: Path, directory: Path) -> None:
    """Move a finished folder to its place and delete a folder that was there before."""
    old = directory.parent / f".{directory.name}.{uuid.uuid4().hex[:8]}.old"
    if directory.exists():
        directory.rename(old)
    scratch.rename(directory)
    shutil.rmtree(old, ignore_errors=True)


def write_atomically(path: Path, content: bytes | Callable[[IO[bytes]], None]) -> None:
    """Write a file atomically: a reader sees the old content or the new content, never a part of it.

    Raises:
        StorageError: the disk is full or not writable.
    """
    scratch = path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}.tmp"
    with storage_errors(str(path)):
        try:
            with scratch.open("wb") as stream:
                stream.write(content) if isinstance(content, bytes) else write_steadily(stream, content)
                stream.flush()
                os.fsync(stream.fileno())
            scratch.replace(path)
        finally:
            scratch.unlink(missing_ok=True)


def is_finished(directory: Path) -> bool:
    """Whether ``directory`` contains a finished artifact."""
    return (directory / MANIFEST).is_file()


def load_artifact(path: Path, verify: bool = True) -> Artifact:
    """Open an artifact folder, or wrap a bare model file.

    Args:
        verify: compare the hash of every file with the manifest.

    Raises:
        MissingFileError: the path does not exist.
        ArtifactError: the artifact is unfinished, truncated or altered.
    """
    if not path.exists():
        raise MissingFileError(f"no such artifact or model: {path}", "check the path, or run the stage that writes it")
    if path.is_file():
        return _bare(path)
    manifest = _read_manifest(path)
    if verify:
        _verify(path, manifest)
    return Artifact(path, manifest)


def _bare(path: Path) -> Artifact:
    if path.name == MANIFEST:
        return load_artifact(path.parent)
    kind = SUFFIX_KIND.get(path.suffix)
    if kind is None:
        raise ArtifactError(
            f"{path} is not a kind of file that Retort reads",
            f"give a stage folder or one of {', '.join(SUFFIX_KIND)}",
        )
    entry = FileEntry(sha256_file(path), path.stat().st_size)
    return Artifact(path, Manifest(kind, "file", entry.sha256, files={path.name: entry}))


def _read_manifest(folder: Path) -> Manifest:
    path = folder / MANIFEST
    if not path.is_file():
        raise ArtifactError(f"{folder} has no {MANIFEST}: not an artifact, or an unfinished one", "run its stage again")
    try:
        raw = json.loads(path.read_text())
        if raw["kind"] not in get_args(Kind):
            raise ValueError(f"unknown kind {raw['kind']!r}")
        files = {name: FileEntry(**entry) for name, entry in raw.pop("files").items()}
        return Manifest(**{**raw, "parents": tuple(raw["parents"])}, files=files)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(f"{path} cannot be read: {error}", "delete the folder and run its stage again") from error


def _verify(folder: Path, manifest: Manifest) -> None:
    for name, entry in manifest.files.items():
        path = folder / name
        if not path.is_file():
            raise ArtifactError(f"{folder} has lost its file '{name}'", "delete the folder and run its stage again")
        found = sha256_file(path)
        if found != entry.sha256:
            raise ArtifactError(
                f"{path} was altered or truncated: its hash is {found[:12]}, the manifest says {entry.sha256[:12]}",
                "delete the folder and run its stage again",
            )


def raise_if_not(artifact: Artifact, *kinds: Kind) -> None:
    """Raise an error for an artifact of the wrong kind; its remedy names the stage that makes the right kind.

    Raises:
        ArtifactError: ``artifact`` is of another kind.
    """
    if artifact.kind not in kinds:
        makes = {"program": "capture", "graph": "export", "engine": "engine", "archive": "pack", "bundle": "pack"}
        remedy = f"make one with `retort {makes.get(kinds[0], 'run')}`"
        raise ArtifactError(f"{artifact.path} is a {artifact.kind}; this needs a {' or '.join(kinds)}", remedy)


__all__ = [
    "Artifact",
    "FileEntry",
    "Kind",
    "Manifest",
    "is_finished",
    "load_artifact",
    "new_artifact",
    "raise_if_not",
    "sha256_file",
    "stable_hash",
    "storage_errors",
    "write_atomically",
]
