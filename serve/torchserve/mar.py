"""The ``.mar`` file: a zip that is written with the same bytes each time, and verified before use."""

from __future__ import annotations

import hashlib
import shutil
import struct
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from ...core.artifact import sha256_file
from ...core.errors import ArtifactError, MissingFileError
from ..integrity import SUMS, compare, format_sums, parse_sums

_EPOCH = (1980, 1, 1, 0, 0, 0)
_LOCAL = struct.Struct("<4s5H3L2H")
_ZIP64 = 0xFFFFFFFF
_REMEDY = "the archive was altered or truncated; pack the model again"
# what a TorchServe worker imports in addition to the standard library; PYTHONPATH puts the archive before both
WORKER_PACKAGES = frozenset({"numpy", "onnxruntime", "torch", "ts", "yaml", "psutil", "packaging", "PIL", "requests"})
_UNWELCOME = (".pkl", ".pickle", ".pt", ".pth", ".joblib", ".so", ".pyd", ".pyc")


def write_mar(path: Path, members: Mapping[str, bytes | Path]) -> None:
    """Write members, and the checksums of all of them, sorted, stored, with fixed times and modes (serve.md H4).

    Raises:
        ArtifactError: a name is not allowed in an archive.
    """
    if faults := lint_names([*members]):
        raise ArtifactError(f"the archive cannot contain {faults[0]}", "rename or remove that file")
    hashes = {name: _digest(content) for name, content in members.items()}
    everything: dict[str, bytes | Path] = {**members, SUMS: format_sums(hashes)}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, content in sorted(everything.items()):
            info = zipfile.ZipInfo(name, _EPOCH)
            info.create_system, info.external_attr = 3, 0o644 << 16
            info.file_size = content.stat().st_size if isinstance(content, Path) else len(content)
            if isinstance(content, bytes):
                archive.writestr(info, content)
                continue
            with content.open("rb") as source, archive.open(info, "w") as target:
                shutil.copyfileobj(source, target, 1 << 20)


def _digest(content: bytes | Path) -> str:
    return hashlib.sha256(content).hexdigest() if isinstance(content, bytes) else sha256_file(content)


def lint_names(names: list[str]) -> list[str]:
    """What is wrong with the names of members, one phrase each.

    A worker's PYTHONPATH starts with the archive, so a file such as ``json.py`` in it would hide the
    standard library's module and kill the worker.
    """
    faults = []
    hidden = sys.stdlib_module_names | WORKER_PACKAGES
    for name in names:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\\" in name or str(path) != name:
            faults.append(f"'{name}': it points outside")
        elif path.name.startswith("requirements") and path.suffix == ".txt":
            faults.append(f"'{name}': packages belong in the serving image")
        elif path.suffix.lower() in _UNWELCOME:
            faults.append(f"'{name}': {path.suffix} files can run code when they are loaded")
        elif (len(path.parts) > 1 or path.suffix == ".py") and path.parts[0].removesuffix(".py") in hidden:
            faults.append(f"'{name}': it hides the module '{path.parts[0].removesuffix('.py')}'")
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
            _check_layout(path, archive)
            sums = parse_sums(archive.read(SUMS))
            _check_listing(path, archive.namelist(), sums)
            for name in sums:
                with archive.open(name) as stream:
                    digest = hashlib.sha256()
                    while chunk := stream.read(1 << 20):
                        digest.update(chunk)
                compare(name, digest.hexdigest(), sums)
    except ArtifactError as error:
        raise ArtifactError(f"{path.name}: {error.message}", _REMEDY) from error
    except Exception as error:  # zipfile raises six unrelated classes on damaged files
        raise ArtifactError(f"{path.name} cannot be read as an archive: {error}", _REMEDY) from error
    return sums


def _check_listing(path: Path, names: list[str], sums: Mapping[str, str]) -> None:
    if sorted(names) != sorted([*sums, SUMS]):
        odd = sorted(set(names).symmetric_difference([*sums, SUMS])) or ["a member listed twice"]
        raise ArtifactError(f"the members do not match {SUMS}: {odd[0]}")
    if faults := lint_names(names):
        raise ArtifactError(f"it contains {faults[0]}")


def _check_layout(path: Path, archive: zipfile.ZipFile) -> None:
    # TorchServe reads the local headers and this code the central directory, so both must agree
    position = 0
    with path.open("rb") as stream:
        for info in sorted(archive.infolist(), key=lambda item: item.header_offset):
            stream.seek(info.header_offset)
            fields = _LOCAL.unpack(stream.read(_LOCAL.size))
            flags, method, crc, packed, size, name_size, extra_size = (fields[i] for i in (2, 3, 6, 7, 8, 9, 10))
            plain = info.header_offset == position and method == info.compress_type == zipfile.ZIP_STORED
            sizes = {packed, size} <= {info.file_size, _ZIP64} and info.compress_size == info.file_size
            name = stream.read(name_size)
            if not plain or not sizes or flags & 0x09 or crc != info.CRC or name != info.filename.encode():
                raise ArtifactError(f"'{info.filename}' has contradicting headers")
            position += _LOCAL.size + name_size + extra_size + info.file_size
    if position != archive.start_dir:
        raise ArtifactError("there are bytes between its members")


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
