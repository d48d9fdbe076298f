"""The ``.mar`` file: a zip that is written with the same bytes each time, and verified before use."""

from __future__ import annotations

import hashlib
import os
import sys
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath

from ....core.artifact import sha256_file
from ....core.errors import ArtifactError, MissingFileError, UserError
from ...integrity import SUMS, SUMS_SIGNATURE, compare, format_sums, parse_sums
from ...signing.trust import LARGEST_LINE
from .zip_layout import append, check_layout, check_members, chunks_of

_REMEDY = "the archive was altered or truncated; pack the model again"
# what a TorchServe worker imports in addition to the standard library; PYTHONPATH puts the archive before both
WORKER_PACKAGES = frozenset(
    ("numpy", "onnxruntime", "openvino", "torch", "ts", "yaml", "psutil", "packaging", "PIL", "requests")
)
# what every Python imports as it starts
_AT_START = frozenset({"sitecustomize", "usercustomize"})
STAND_IN = "torch.py"
"""The only member that hides a package: :mod:`.without_torch` in place of PyTorch."""
BESIDE = (SUMS, SUMS_SIGNATURE)
"""The members that the checksums do not list; the second is only in a signed archive."""
_UNWELCOME = (".pkl", ".pickle", ".pt", ".pth", ".joblib", ".so", ".pyd", ".pyc")


def write_mar(path: Path, members: Mapping[str, bytes | Path], sign: Callable[[bytes], bytes] | None = None) -> None:
    """Write members, and the checksums of all of them, sorted, stored, with fixed times and modes (serve.md H4).

    Args:
        sign: makes the signature file of the checksums; None leaves the archive without.

    Raises:
        ArtifactError: a name is not allowed in an archive.
    """
    if faults := lint_names([*members]):
        raise ArtifactError(f"the archive cannot contain {faults[0]}", "rename or remove that file")
    hashes = {name: _digest(content) for name, content in members.items()}
    sums = format_sums(hashes)
    everything: dict[str, bytes | Path] = {**members, SUMS: sums}
    if sign is not None:
        everything[SUMS_SIGNATURE] = sign(sums)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, content in sorted(everything.items()):
            if isinstance(content, bytes):
                append(archive, name, len(content), [content])
                continue
            with content.open("rb") as source:
                size = os.fstat(source.fileno()).st_size
                append(archive, name, size, chunks_of(source, size))


def _digest(content: bytes | Path) -> str:
    return hashlib.sha256(content).hexdigest() if isinstance(content, bytes) else sha256_file(content)


def lint_names(names: Sequence[str]) -> list[str]:
    """What is wrong with the names of members, one phrase each.

    A worker's PYTHONPATH starts with the archive, so a file such as ``json.py`` in it would hide the
    standard library's module and kill the worker.
    """
    faults = []
    hidden = sys.stdlib_module_names | WORKER_PACKAGES
    for name in names:
        path = PurePosixPath(name)
        module = path.parts[0].removesuffix(".py") if path.parts else ""
        if path.is_absolute() or ".." in path.parts or "\\" in name or str(path) != name:
            faults.append(f"'{name}': it points outside")
        elif path.name.startswith("requirements") and path.suffix == ".txt":
            faults.append(f"'{name}': packages belong in the serving image")
        elif path.suffix.lower() in _UNWELCOME:
            faults.append(f"'{name}': {path.suffix} files can run code when they are loaded")
        elif module in _AT_START:
            faults.append(f"'{name}': every Python runs it as it starts")
        elif (len(path.parts) > 1 or path.suffix == ".py") and module in hidden and name != STAND_IN:
            faults.append(f"'{name}': it hides the module '{module}'")
    return faults


def verify_mar(path: Path) -> dict[str, str]:
    """Compare every member with ``SHA256SUMS``, and reject anything that is not listed there.

    Returns:
        The SHA-256 of each member, in hex.

    Raises:
        MissingFileError: the file does not exist.
        ArtifactError: the archive is truncated or altered, or has bytes that belong to no listed member.
    """
    if not path.is_file():
        raise MissingFileError(f"no such archive: {path}", "check the path, or run `retort pack`")
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            check_members(members, archive.comment)
            sums = parse_sums(archive.read(SUMS))
        _check_listing([member.filename for member in members], sums)
        for name, digest in check_layout(path, members).items():
            if name not in BESIDE:
                compare(name, digest, sums)
    except ArtifactError as error:
        raise ArtifactError(f"{path.name}: {error.message}", _REMEDY) from error
    except Exception as error:  # zipfile raises six unrelated classes on damaged files
        raise ArtifactError(f"{path.name} cannot be read as an archive: {error}", _REMEDY) from error
    return sums


def _check_listing(names: Sequence[str], sums: Mapping[str, str]) -> None:
    if faults := lint_names(names):
        raise ArtifactError(f"it contains {faults[0]}")
    listed = [name for name in names if name != SUMS_SIGNATURE]
    if odd := sorted(set(listed).symmetric_difference([*sums, SUMS])):
        raise ArtifactError(f"the members do not match {SUMS}: {odd[0]}")
    if [*names] != sorted(names):
        raise ArtifactError("its members are not in order")


def read_member(path: Path, name: str) -> bytes:
    """One member of an archive that was verified.

    Raises:
        ArtifactError: it has no such member.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.read(name)
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise ArtifactError(f"{path.name} has no readable {name}", _REMEDY) from error


def read_signature_of(path: Path) -> bytes | None:
    """The signature file of an archive that was verified, or the start of it if it is too long; None without.

    Raises:
        ArtifactError: the archive cannot be read any more.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if SUMS_SIGNATURE not in archive.namelist():
                return None
            with archive.open(SUMS_SIGNATURE) as stream:
                return stream.read(LARGEST_LINE)
    except (OSError, zipfile.BadZipFile) as error:
        raise ArtifactError(f"{path.name} cannot be read as an archive: {error}", _REMEDY) from error


def sign_mar(path: Path, target: Path, sums: Mapping[str, str], sign: Callable[[bytes], bytes]) -> None:
    """Write a copy of an archive with another signature, or with a first one: what `retort pack` would have written.

    Args:
        sums: its checksums, which were verified.

    Raises:
        ArtifactError: the archive was changed meanwhile.
        UserError: the target exists.
    """
    line = sign(format_sums(sums))
    try:
        with zipfile.ZipFile(path) as source, zipfile.ZipFile(target, "x", zipfile.ZIP_STORED) as archive:
            for name in sorted({*source.namelist(), SUMS_SIGNATURE}):
                if name == SUMS_SIGNATURE:
                    append(archive, name, len(line), [line])
                    continue
                with source.open(name) as stream:
                    size = source.getinfo(name).file_size
                    append(archive, name, size, chunks_of(stream, size))
    except FileExistsError as error:
        raise UserError(f"{target} exists, and nothing is replaced", "give another --out") from error
    verify_mar(target)
