"""The bytes of a zip file that ``retort pack`` writes: its headers follow from names and contents, and are compared."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import zipfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import IO, BinaryIO

from ....core.counts import counted
from ....core.errors import ArtifactError

_EPOCH = (1980, 1, 1, 0, 0, 0)
_CHUNK = 1 << 20
_ENCRYPTED = 0x41


def append(archive: zipfile.ZipFile, name: str, size_bytes: int, chunks: Iterable[bytes]) -> None:
    """Add a member, stored, with a fixed time and mode, so that its headers follow from its name and content alone."""
    info = zipfile.ZipInfo(name, _EPOCH)
    info.create_system, info.external_attr, info.file_size = 3, 0o644 << 16, size_bytes
    with archive.open(info, "w") as target:
        for chunk in chunks:
            target.write(chunk)


def chunks_of(stream: IO[bytes], size_bytes: int) -> Iterable[bytes]:
    """The next bytes of a stream, in pieces.

    Raises:
        ArtifactError: the stream ends before.
    """
    while size_bytes:
        chunk = stream.read(min(_CHUNK, size_bytes))
        if not chunk:
            raise ArtifactError("it is truncated")
        size_bytes -= len(chunk)
        yield chunk


def check_members(members: Sequence[zipfile.ZipInfo], comment: bytes) -> None:
    """Reject what a zip file may contain and an archive of Retort never does.

    Raises:
        ArtifactError: a comment, a name twice, or an encrypted, linked or compressed member.
    """
    if comment:
        raise ArtifactError(f"it has a zip comment of {counted(comment, 'byte')}")
    names: set[str] = set()
    for member in members:
        name = member.filename
        if name in names:
            raise ArtifactError(f"the members contain '{name[:80]}' twice")
        names.add(name)
        if stat.S_ISLNK(member.external_attr >> 16):
            raise ArtifactError(f"'{name[:80]}' is a symbolic link")
        if member.flag_bits & _ENCRYPTED:
            raise ArtifactError(f"'{name[:80]}' is encrypted")
        if member.compress_type != zipfile.ZIP_STORED:
            raise ArtifactError(f"'{name[:80]}' is compressed")


def check_layout(path: Path, members: Sequence[zipfile.ZipInfo]) -> dict[str, str]:
    """Compare every byte of the zip's own with what :func:`append` writes for these names and the contents found.

    One changed bit in a header, in the directory, or before, between or behind the members is found, and what the local
    headers say (TorchServe reads those) is what the directory says (which Python reads).

    Returns:
        The SHA-256 of each member's content, in hex.

    Raises:
        ArtifactError: the file differs from what Retort would have written.
    """
    hashes: dict[str, str] = {}
    with path.open("rb") as stream:
        expected = _Comparison(stream)
        with zipfile.ZipFile(expected, "w", zipfile.ZIP_STORED) as archive:
            for member in members:
                digest = hashlib.sha256()
                expected.place = f"the headers of '{member.filename[:80]}'"
                append(archive, member.filename, member.file_size, expected.contents(member.file_size, digest.update))
                hashes[member.filename] = digest.hexdigest()
            expected.place = "the entries of its directory"
        expected.finish()
    return hashes


class _Comparison(io.RawIOBase):
    """A file to write to that compares what it is given with the file that exists, and writes nothing."""

    def __init__(self, existing: BinaryIO) -> None:
        super().__init__()
        self.place = ""
        self._existing = existing
        self._position = 0
        self._content = False
        # a header is written twice at the same place, and only its final form counts
        self._wrong: dict[int, str] = {}

    def writable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def tell(self) -> int:
        """The place of the next byte."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Go to a place, from the start or from here."""
        self._position = offset if whence == os.SEEK_SET else self._position + offset
        return self._position

    def write(self, data: bytes, /) -> int:  # type: ignore[override]
        """Compare, and note the place if the file has other bytes there."""
        if not self._content:
            self._existing.seek(self._position)
            self._wrong.pop(self._position, None)
            if self._existing.read(len(data)) != data:
                self._wrong[self._position] = self.place
        self._position += len(data)
        return len(data)

    def contents(self, size_bytes: int, update: Callable[[bytes], object]) -> Iterable[bytes]:
        """The content that stands at this place."""
        self._existing.seek(self._position)
        for chunk in chunks_of(self._existing, size_bytes):
            update(chunk)
            self._content = True
            yield chunk
            self._content = False

    def finish(self) -> None:
        """Raise if anything differed, or more follows."""
        if self._wrong:
            raise ArtifactError(f"{self._wrong[min(self._wrong)]} were altered")
        extra = os.fstat(self._existing.fileno()).st_size - self._position
        if extra:
            raise ArtifactError(f"{counted(extra, 'byte')} behind its end")
