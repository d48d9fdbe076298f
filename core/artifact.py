"""Artifacts: folders of files with a manifest. They are written atomically, so a partial one is never used."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from .context import Place
from .counts import with_article
from .errors import ArtifactError, MissingFileError
from .facts.record import Record
from .formats.archive_file import require_whole
from .formats.weight_files import require_model_file
from .kinds import KINDS, Kind, kind_of_suffix
from .system.atomic_files import storage_errors, write_atomically
from .system.folder_locks import held
from .system.owned_folders import MANIFEST, require_free, settle, sha256_file

Found = TypeVar("Found", bound=Record)


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
        inputs: a short hash of each input of the key, by which a changed one is found: options, parents, data, code …
        seconds: duration of the work, without that of interrupted runs before; None in files of earlier versions.
    """

    kind: Kind
    stage: str
    key: str
    parents: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    files: dict[str, FileEntry] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    tools: dict[str, str] = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)
    seconds: float | None = None


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
        """The facts of its stage as values for JSON; :meth:`facts_as` gives the typed object."""
        return self.manifest.facts

    def facts_as(self, kind: type[Found]) -> Found:
        """The facts of its stage as an object of the stage's class, or of a class with fewer fields.

        Raises:
            ArtifactError: the manifest does not have these facts.
        """
        try:
            return kind.model_validate(self.facts)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise ArtifactError(
                f"{self.path} does not have the required facts: {where}: {first['msg']}",
                "run its stage again",
            ) from error

    @property
    def main(self) -> Path:
        """The main file, such as ``model.onnx``."""
        if self.path.is_file():
            return self.path
        entry = KINDS[self.kind]
        return self.file(entry.or_file if entry.or_file in self.manifest.files else entry.main_file)

    def file(self, name: str) -> Path:
        """Path of one of the artifact's files.

        Raises:
            ArtifactError: the manifest lists no such file.
        """
        if name not in self.manifest.files:
            raise ArtifactError(f"{self.path} has no file '{name}'", f"it has {', '.join(sorted(self.manifest.files))}")
        return self.path / name


@dataclass
class Draft:
    """An artifact that is being written.

    Attributes:
        folder: the scratch folder for its files.
        facts: the facts of the stage; set before the end.
    """

    folder: Path
    facts: Record = field(default_factory=Record)


def stable_hash(value: object) -> str:
    """SHA-256 of a JSON-ready value, independent of key order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":"), default=str).encode()).hexdigest()


@contextmanager
def new_artifact(
    place: Place,
    kind: Kind,
    stage: str,
    options: BaseModel | None = None,
    tools: dict[str, str] | None = None,
) -> Iterator[Draft]:
    """Write an artifact atomically. Yields a draft, whose scratch folder becomes the folder of ``place`` on success.

    The hashes of all files in the scratch folder and the facts of the draft go into the manifest, which is written
    last; then the folder is renamed. After an exception the folder is deleted. Without a key in ``place`` the hash of
    the content is the key.

    Raises:
        StorageError: the disk is full or not writable, or there is something at the place that Retort did not write.
    """
    directory = place.directory
    require_free(directory)
    scratch = directory.parent / f".{directory.name}.{uuid.uuid4().hex[:8]}.tmp"
    with storage_errors(str(directory)):
        try:
            with held(scratch):
                draft = Draft(scratch)
                yield draft
                files = _entries(scratch)
                key = place.key or stable_hash({name: entry.sha256 for name, entry in files.items()})
                given = options.model_dump(mode="json") if options is not None else {}
                facts = draft.facts.to_json()
                seconds = round(time.monotonic() - place.started, 3)
                made_by = (given, files, facts, tools or {}, dict(place.inputs), seconds)
                manifest = Manifest(kind, stage, key, place.parents, *made_by)
                write_atomically(scratch / MANIFEST, json.dumps(asdict(manifest), indent=1, sort_keys=True).encode())
                settle(scratch, directory)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def _entries(folder: Path) -> dict[str, FileEntry]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): FileEntry(sha256_file(path), path.stat().st_size) for path in paths}


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
    kind = kind_of_suffix(path.suffix)
    if kind is None:
        require_model_file(path)
        raise ArtifactError(
            f"{path} is not a kind of file that Retort reads",
            f"give a stage folder or one of {', '.join(entry.suffix for entry in KINDS.values() if entry.suffix)}",
        )
    entry = FileEntry(sha256_file(path), path.stat().st_size)
    require_unaltered(path, entry.sha256)
    if kind == "archive":
        require_whole(path)
    return Artifact(path, Manifest(kind, "file", entry.sha256, files={path.name: entry}))


def require_unaltered(path: Path, found: str) -> None:
    """Fail if a file lies in the folder of an artifact whose manifest has another hash for it than ``found``.

    Raises:
        ArtifactError: the manifest has another one.
    """
    file = path.resolve()
    # files lie in the artifact's folder or in one below it, such as bundle
    for folder in (near for near in file.parents[:2] if (near / MANIFEST).is_file()):
        try:
            manifest = _read_manifest(folder)
        except ArtifactError:
            continue  # another program's manifest.json
        entry = manifest.files.get(file.relative_to(folder).as_posix())
        if entry is not None and entry.sha256 != found:
            remedy = "run its stage again; if you changed the file on purpose, copy it to another folder"
            raise _altered(path, found, entry, remedy)


def _altered(path: Path, found: str, entry: FileEntry, remedy: str) -> ArtifactError:
    hashes = f"its hash is {found[:12]}, the manifest says {entry.sha256[:12]}"
    return ArtifactError(f"{path} was altered or truncated: {hashes}", remedy)


def _read_manifest(folder: Path) -> Manifest:
    path = folder / MANIFEST
    if not path.is_file():
        inner = sorted(entry.parent for entry in folder.glob(f"*/{MANIFEST}"))
        remedy = f"give one of the artifacts in it, such as {inner[-1]}" if inner else "run its stage again"
        raise ArtifactError(f"{folder} has no {MANIFEST}: not an artifact, or an unfinished one", remedy)
    try:
        raw = json.loads(path.read_text())
        if raw["kind"] not in KINDS:
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
            raise _altered(path, found, entry, "delete the folder and run its stage again")


def raise_if_not(artifact: Artifact, *kinds: Kind) -> None:
    """Raise an error for an artifact of the wrong kind; its remedy names the stage that makes the right kind.

    Raises:
        ArtifactError: ``artifact`` is of another kind.
    """
    if artifact.kind not in kinds:
        remedy = f"make one with `retort {KINDS[kinds[0]].made_by}`"
        needed = " or ".join(map(with_article, kinds))
        raise ArtifactError(f"{artifact.path} is {with_article(artifact.kind)}; this needs {needed}", remedy)


__all__ = [
    "MANIFEST",
    "Artifact",
    "Draft",
    "FileEntry",
    "Manifest",
    "is_finished",
    "load_artifact",
    "new_artifact",
    "raise_if_not",
    "sha256_file",
    "stable_hash",
]
