"""Archives, the zip files of ``retort pack``: whether one is whole."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

from ..errors import ArtifactError


def require_whole(path: Path) -> None:
    """Fail if an archive is truncated, or one of its files was altered.

    Raises:
        ArtifactError: it is.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError) as error:
        raise ArtifactError(f"{path} is truncated, or is no archive: {error}", "pack it again") from error
    except RuntimeError as error:  # an encrypted file, or a compression that zipfile does not know
        raise ArtifactError(f"{path} was not written by Retort: {error}", "pack it again") from error
    if damaged is not None:
        raise ArtifactError(f"{path} is damaged: its file '{damaged}' was altered", "pack it again")
