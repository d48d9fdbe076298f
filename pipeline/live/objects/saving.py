"""Saves the files of an artifact elsewhere: whole or not at all, and never over files that Retort did not write."""

from __future__ import annotations

import errno
import filecmp
import shutil
import uuid
from pathlib import Path

from ....core.artifact import MANIFEST, Artifact, is_finished, load_artifact
from ....core.counts import with_article
from ....core.errors import ArtifactError, MissingFileError, UserError
from ....core.formats.onnx_weights import external_files, rename_external
from ....core.system.atomic_files import storage_errors, write_atomically
from ....core.system.folder_locks import held
from ....core.system.owned_folders import settle, why_kept

_UNUSABLE = (errno.EEXIST, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENOENT)


def save_artifact(artifact: Artifact, path: Path, suffix: str, otherwise: str) -> Path:
    """Copy an artifact's main file and its external weights, or the whole folder if the path has no suffix.

    What is a folder by nature, such as a bundle, is copied whole whatever the path.

    An artifact that is saved to its own place stays as it is.

    Args:
        suffix: the suffix of its main file; empty for what is a folder by nature.
        otherwise: what to do for another suffix, for the message.

    Raises:
        UserError: the suffix is wrong, or the path holds files that Retort did not write or that belong to another
            model.
        MissingFileError: the file was deleted.
        StorageError: the disk is full or not writable.
    """
    whole = not suffix or not path.suffix
    if not whole and path.suffix != suffix:
        raise UserError(
            f"cannot save {with_article(artifact.kind)} as '{path.name}'",
            f"give the path of a {suffix} file or a folder; {otherwise}",
        )
    if not artifact.path.exists():
        raise MissingFileError(f"{artifact.path} was deleted", "make it again")
    if whole and not artifact.path.is_dir():
        raise UserError(f"{artifact.path} is a plain file without facts", f"give the path of a {suffix} file")
    with storage_errors(str(path), *_UNUSABLE):
        if whole:
            _save_folder(artifact, path)
        else:
            _save_file(artifact.main, path)
    return path


def _save_file(source: Path, path: Path) -> None:
    target = path.resolve()
    if target.is_dir():
        raise UserError(f"{path} is a folder", f"give the path of a file, such as {path / source.name}")
    if target.exists() and target.samefile(source):
        return
    owner = _artifact_in(target.parent)
    if owner is not None and target.name in owner.manifest.files:
        raise UserError(f"{path} is a file of the artifact in {owner.path}", "choose a path in another folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.suffix == ".onnx":
        _copy_graph(source, target)
    else:
        _copy(source, target)


def _copy(source: Path, target: Path) -> None:
    with source.open("rb") as stream:
        write_atomically(target, lambda out: shutil.copyfileobj(stream, out, 1 << 20))


def _copy_graph(source: Path, target: Path) -> None:
    """Copy an ONNX file; its external weights get its new name, because several files may lie in one folder."""
    from ....export.files import read_graph

    model = read_graph(source)
    names = sorted(external_files(model))
    if not names:
        _copy(source, target)
        return
    single = len(names) == 1
    renamed = {name: f"{target.name}{'' if single else f'.{index}'}.data" for index, name in enumerate(names)}
    own = _weights_of(target)
    for old, new in renamed.items():
        _copy_weights(source.parent / old, target.with_name(new), new in own)
    rename_external(model, renamed)
    write_atomically(target, model.SerializeToString(deterministic=True))


def _weights_of(path: Path) -> set[str]:
    """The names of the files in which an existing ONNX file stores its weights."""
    from ....export.files import read_graph

    try:
        return external_files(read_graph(path)) if path.is_file() else set()
    except (ArtifactError, MissingFileError):
        return set()


def _copy_weights(source: Path, target: Path, own: bool) -> None:
    """Copy a file of weights, but not over one that another ONNX file may need."""
    if target.exists() and (target.samefile(source) or filecmp.cmp(source, target, shallow=False)):
        return
    if target.exists() and not own:
        raise UserError(
            f"{target} exists, and may contain the weights of another model", "choose another name, or delete it"
        )
    _copy(source, target)


def _save_folder(artifact: Artifact, path: Path) -> None:
    source, target = artifact.path.resolve(), path.resolve()
    if target.exists() and target.samefile(source):
        return
    if source in target.parents or target in source.parents:
        raise UserError(f"{path} is inside the artifact {source}, or contains it", "choose another folder")
    reason = why_kept(target)
    if reason:
        raise UserError(f"{path} {reason}; it is kept", "move it, or choose another folder")
    scratch = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with held(scratch):
            for name in (*artifact.manifest.files, MANIFEST):
                (scratch / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source / name, scratch / name)
            settle(scratch, target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _artifact_in(folder: Path) -> Artifact | None:
    """The artifact in a folder; None if there is none, or if another program wrote its manifest."""
    try:
        return load_artifact(folder, verify=False) if is_finished(folder) else None
    except ArtifactError:
        return None
