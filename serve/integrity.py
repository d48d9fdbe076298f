"""Checksums of the served files: they are written with the files and compared before use (serve.md H5).

Part of the runtime half: standard library only.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

from ..core.errors import ArtifactError
from .signing.trust import LARGEST_LINE, Signer, Trust

SUMS = "SHA256SUMS"
SUMS_SIGNATURE = f"{SUMS}.sig"
"""The only file that the checksums do not list: the signature of them."""
_LINE = re.compile(r"([0-9a-f]{64})  (\S.*)")
_REMEDY = "the file was altered or truncated; pack the model again"


def format_sums(hashes: Mapping[str, str]) -> bytes:
    """The content of ``SHA256SUMS`` for a mapping from file name to hex digest, as ``sha256sum -c`` reads it."""
    return "".join(f"{digest}  {name}\n" for name, digest in sorted(hashes.items())).encode()


def parse_sums(content: bytes) -> dict[str, str]:
    """Inverse of :func:`format_sums`.

    Raises:
        ArtifactError: a line is not a digest and a name.
    """
    hashes: dict[str, str] = {}
    for line in content.decode("utf-8", "replace").splitlines():
        match = _LINE.fullmatch(line)
        if match is None or match[2] in hashes:
            raise ArtifactError(f"{SUMS} cannot be read", _REMEDY)
        hashes[match[2]] = match[1]
    return hashes


def read_sums(folder: Path) -> dict[str, str]:
    """The checksums of a bundle or of an unpacked archive.

    Raises:
        ArtifactError: there is no such file, or it cannot be read.
    """
    return parse_sums(_read(folder, SUMS))


def read_trusted_sums(folder: Path, trust: Trust) -> tuple[dict[str, str], Signer | None]:
    """The checksums of a bundle or of an unpacked archive, and who signed them.

    Raises:
        ArtifactError: as :func:`read_sums`, and as :meth:`retort.serve.signing.trust.Trust.check`.
    """
    content = _read(folder, SUMS)
    return parse_sums(content), trust.check(str(folder), content, read_signature(folder))


def read_signature(folder: Path) -> bytes | None:
    """The signature file of a bundle or of an unpacked archive, or the start of it if it is too long; None without.

    Raises:
        ArtifactError: it cannot be read.
    """
    path = folder / SUMS_SIGNATURE
    try:
        with path.open("rb") as stream:
            return stream.read(LARGEST_LINE)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ArtifactError(f"{SUMS_SIGNATURE} cannot be read: {error.strerror}", _REMEDY) from error


def read_checked(folder: Path, name: str, sums: Mapping[str, str]) -> bytes:
    """The bytes of a file, after a comparison with their checksum, so that exactly the hashed bytes are used.

    Raises:
        ArtifactError: the file is missing, has no checksum, or does not match it.
    """
    content = _read(folder, name)
    compare(name, hashlib.sha256(content).hexdigest(), sums)
    return content


def check_file(folder: Path, name: str, sums: Mapping[str, str]) -> None:
    """Compare a file that is too large to hold in memory with its checksum.

    Raises:
        ArtifactError: as :func:`read_checked`.
    """
    digest = hashlib.sha256()
    try:
        with (folder / name).open("rb") as stream:
            while chunk := stream.read(1 << 22):
                digest.update(chunk)
    except OSError as error:
        raise ArtifactError(f"{name} cannot be read: {error.strerror}", _REMEDY) from error
    compare(name, digest.hexdigest(), sums)


def compare(name: str, found: str, sums: Mapping[str, str]) -> None:
    """Reject a digest that differs from the recorded one.

    Raises:
        ArtifactError: they differ; the message has both.
    """
    expected = sums.get(name)
    if expected is None:
        raise ArtifactError(f"{name} is not listed in {SUMS}", _REMEDY)
    if found != expected:
        raise ArtifactError(f"{name} has SHA-256 {found[:12]}, {SUMS} says {expected[:12]}", _REMEDY)


def _read(folder: Path, name: str) -> bytes:
    try:
        return (folder / name).read_bytes()
    except OSError as error:
        raise ArtifactError(f"{name} cannot be read: {error.strerror}", _REMEDY) from error
