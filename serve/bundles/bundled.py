"""A bundle on the host that serves it: every file is compared with its checksum before the model is opened.

Part of the runtime half: standard library only.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...core.errors import ArtifactError, MissingFileError
from ..engine import Engine
from ..integrity import SUMS, check_file, read_checked, read_sums

BUNDLE = "bundle.json"
RUNTIME = "retort_runtime"
"""Name of the package in a bundle: private, so that it cannot be mistaken for an installed toolkit."""
FORMAT = 1
_BESIDE = (SUMS, "manifest.json")
_REMEDY = "the bundle was altered; copy it again, or make it again with `retort bundle`"


def open_bundle(folder: str | Path) -> Engine:
    """Verify a bundle and open its model, which must reproduce its golden outputs on this machine.

    Raises:
        MissingFileError: there is no such folder.
        ArtifactError: a file is missing, altered or unknown, or the bundle has another format.
        MachineError: the runtime or the required provider is missing.
        VerificationError: the golden outputs are not reproduced.
    """
    check_bundle(Path(folder))
    return Engine.load(Path(folder))


def check_bundle(folder: Path) -> dict[str, Any]:
    """Compare every file of a bundle with ``SHA256SUMS``, and refuse any that is not listed there.

    Compiled modules in ``__pycache__``, which Python writes beside the runtime, are left alone.

    Returns:
        The content of ``bundle.json``.

    Raises:
        MissingFileError: there is no such folder.
        ArtifactError: as :func:`open_bundle`.
    """
    if not folder.is_dir():
        raise MissingFileError(f"no such bundle: {folder}", "check the path, or run `retort bundle`")
    sums = read_sums(folder)
    if odd := sorted(set(_files(folder)).difference(sums)):
        raise ArtifactError(f"{folder} contains '{odd[0][:80]}', which is not listed in {SUMS}", _REMEDY)
    for name in sums:
        check_file(folder, name, sums)
    return _described(read_checked(folder, BUNDLE, sums))


def _files(folder: Path) -> Iterator[str]:
    """Names of all files and links in a bundle, besides those that its checksums cannot list."""
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if (path.is_symlink() or not path.is_dir()) and name not in _BESIDE and "__pycache__" not in path.parts:
            yield name


def _described(content: bytes) -> dict[str, Any]:
    try:
        found = json.loads(content)
        number = found["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{BUNDLE} cannot be read: {error}", _REMEDY) from error
    if number != FORMAT:
        message = f"{BUNDLE} has format {str(number)[:40]}, but this runtime has format {FORMAT}"
        raise ArtifactError(message, "open it with the version of Retort that wrote it")
    return dict(found)
