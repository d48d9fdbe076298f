"""A bundle as one file, to be carried to a device that no connection reaches."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import IO

from ...core.artifact import Artifact
from ...core.errors import UserError
from ...core.system.atomic_files import write_atomically
from ...core.system.owned_folders import MANIFEST

SUFFIX = ".tar.gz"


def require_archive_name(path: Path) -> None:
    """Fail before any work if the name of an archive is not that of one.

    Raises:
        UserError: it does not end with ``.tar.gz``.
    """
    if not path.name.endswith(SUFFIX):
        raise UserError(f"{path} is not the name of an archive", f"give a name that ends with {SUFFIX}")


def write_archive(made: Artifact, path: Path) -> None:
    """Write a bundle, with its instructions, as one archive with a folder of the archive's name.

    What a run on this machine left in the bundle is not part of it.

    Raises:
        StorageError: the disk is full or not writable.
    """
    top, listed = path.name.removesuffix(SUFFIX), [made.path / name for name in (MANIFEST, *made.manifest.files)]

    def _write(stream: IO[bytes]) -> None:
        with tarfile.open(fileobj=stream, mode="w:gz") as archive:
            for file in sorted(listed):
                archive.add(file, f"{top}/{file.relative_to(made.path).as_posix()}")

    write_atomically(path, _write)
