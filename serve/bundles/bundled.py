"""A bundle on the host that serves it: every file is compared with its checksum before the model is opened.

Part of the runtime half: standard library only.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ...core.errors import ArtifactError, MissingFileError, UserError
from ..engine import Engine
from ..integrity import SUMS, SUMS_SIGNATURE, check_file, format_sums, read_checked, read_sums, read_trusted_sums
from ..signing.trust import Signer, Trust

BUNDLE = "bundle.json"
RUNTIME = "retort_runtime"
"""Name of the package in a bundle: private, so that it cannot be mistaken for an installed toolkit."""
FORMAT = 1
_BESIDE = (SUMS, SUMS_SIGNATURE, "manifest.json")
_REMEDY = "the bundle was altered; copy it again, or make it again with `retort bundle`"


def open_bundle(
    folder: str | Path, trust: Trust | Path | Sequence[str | Path] | None = None, device: int = 0
) -> Engine:
    """Verify a bundle and open its model, which must reproduce its golden outputs on this machine.

    Args:
        trust: files of public keys, one of which must have signed the bundle. None takes those that the environment
            variable ``RETORT_TRUST`` names; without it a bundle needs no signature.
        device: number of the GPU, for a model that needs one.

    Raises:
        MissingFileError: there is no such folder, or no such key.
        ArtifactError: a file is missing, altered or unknown, the bundle has another format, or is not signed by one of
            the keys.
        UserError: a file has no public key.
        MachineError: the runtime or the required provider is missing.
        VerificationError: the golden outputs are not reproduced.
    """
    if not isinstance(trust, Trust):
        trust = Trust.chosen([trust] if isinstance(trust, str | Path) else trust or ())
    check_bundle(Path(folder), trust)
    return Engine.load(Path(folder), device, trust=trust)


def check_bundle(folder: Path, trust: Trust | None = None) -> dict[str, Any]:
    """Compare every file of a bundle with ``SHA256SUMS``, and refuse any that is not listed there.

    Compiled modules in ``__pycache__``, which Python writes beside the runtime, are left alone.

    Args:
        trust: the keys to trust; None takes those of the environment.

    Returns:
        The content of ``bundle.json``.

    Raises:
        MissingFileError: there is no such folder.
        ArtifactError: as :func:`open_bundle`.
    """
    if not folder.is_dir():
        raise MissingFileError(f"no such bundle: {folder}", "check the path, or run `retort bundle`")
    sums, _ = read_trusted_sums(folder, Trust.chosen() if trust is None else trust)
    if odd := sorted(set(_files(folder)).difference(sums)):
        raise ArtifactError(f"{folder} contains '{odd[0][:80]}', which is not listed in {SUMS}", _REMEDY)
    for name in sums:
        check_file(folder, name, sums)
    return _described(read_checked(folder, BUNDLE, sums))


def verified_signer(folder: Path, trust: Trust) -> Signer | None:
    """Who signed a bundle, after :func:`check_bundle`; None if nobody did.

    Raises:
        RetortError: as :func:`check_bundle`.
    """
    check_bundle(folder, Trust())
    return read_trusted_sums(folder, trust)[1]


def sign_bundle(folder: Path, sign: Callable[[bytes], bytes]) -> Path:
    """Write the signature file of a bundle, after a check that it is whole.

    Returns:
        Its path.

    Raises:
        ArtifactError: as :func:`check_bundle`.
        UserError: the bundle has a signature.
    """
    check_bundle(folder, Trust())
    path = folder / SUMS_SIGNATURE
    try:
        with path.open("xb") as stream:
            stream.write(sign(format_sums(read_sums(folder))))
    except FileExistsError as error:
        raise UserError(f"{folder} is signed already, and nothing is replaced", f"delete {path} first") from error
    return path


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
