"""A file of counts in a folder that the workers of a server share, and that one of them holds at a time.

A worker that starts takes over a file that no process holds, such as that of a killed one, and goes on from its counts,
so that sums over all files never fall and count nothing twice. Part of the runtime half: standard library only.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import struct
from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from .families import FAMILIES, Family

SUFFIX = ".counts"
_MAGIC = b"RTCOUNT1"
_LENGTH = struct.Struct("<8sI")
_MOST_FILES = 256
_MOST_BYTES = 1 << 22


@dataclass(frozen=True)
class Counts:
    """The counts of a model, of one process or of several that follow each other.

    Attributes:
        labels: name and version of the model.
        cells: the numbers of all series, in the order of the families.
    """

    labels: Mapping[str, str]
    families: tuple[Family, ...]
    cells: Sequence[float]


class CountsFile:
    """A file that this process holds until it ends.

    Args:
        folder: an existing folder.
        labels: name and version of the model.
    """

    def __init__(self, folder: Path, labels: Mapping[str, str]) -> None:
        head = _head(labels)
        self._start = len(head)
        self._file = _claimed(folder, head)
        stored = os.pread(self._file, 8 * cell_count(FAMILIES), self._start)
        self.cells = array("d", stored.ljust(8 * cell_count(FAMILIES), b"\0"))

    def save(self) -> None:
        """Write the counts; on a full disk, the next call tries again."""
        with suppress(OSError):
            os.pwrite(self._file, self.cells.tobytes(), self._start)

    def close(self) -> None:
        """Let another process go on with the file."""
        os.close(self._file)


def cell_count(families: tuple[Family, ...]) -> int:
    """Number of cells of all series."""
    return sum(family.cells * len(family.series) for family in families)


def _head(labels: Mapping[str, str]) -> bytes:
    described = {"labels": dict(labels), "families": [family.to_dict() for family in FAMILIES]}
    text = json.dumps(described, sort_keys=True).encode("ascii")
    return _LENGTH.pack(_MAGIC, len(text)) + text


def _claimed(folder: Path, head: bytes) -> int:
    """The descriptor of a file with this head that no other process holds.

    Raises:
        OSError: the folder cannot be written, or files cannot be locked here.
    """
    from fcntl import LOCK_EX, LOCK_NB, flock  # not on Windows

    stem = hashlib.sha256(head).hexdigest()[:16]
    for number in range(_MOST_FILES):
        file = os.open(folder / f"{stem}-{number}{SUFFIX}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            flock(file, LOCK_EX | LOCK_NB)
        except BlockingIOError:
            os.close(file)
            continue
        if os.fstat(file).st_nlink == 0:  # it was removed between the two calls
            os.close(file)
            continue
        try:
            if os.pread(file, len(head), 0) != head:  # new, or its first writer was killed in between
                os.pwrite(file, head, 0)
        except OSError:
            os.close(file)
            raise
        return file
    raise OSError(errno.EMFILE, "too many processes count in one folder")


class Unused:
    """The versions of models in a folder that no process serves any more, as after a swap; they go after some time.

    Args:
        kept_s: how long they stay, so that the last counts are still read.
    """

    def __init__(self, folder: Path, kept_s: float) -> None:
        self.folder = folder
        self.kept_s = kept_s
        self._since: dict[str, float] = {}

    def remove(self, now: float) -> None:
        """Remove the files of versions that no process has held for that long.

        Args:
            now: seconds of a clock that never goes back.
        """
        files: dict[str, list[Path]] = {}
        for path in self.folder.glob(f"*{SUFFIX}"):
            files.setdefault(path.name.partition("-")[0], []).append(path)
        for stem, paths in files.items():
            with ExitStack() as stack:
                if not all(_held_for_us(path, stack) for path in paths):
                    self._since.pop(stem, None)
                elif now - self._since.setdefault(stem, now) >= self.kept_s:
                    for path in paths:
                        path.unlink(missing_ok=True)


def _held_for_us(path: Path, stack: ExitStack) -> bool:
    """Whether this process could hold a file, which it then does until the stack is closed."""
    from fcntl import LOCK_EX, LOCK_NB, flock

    with suppress(OSError):
        file = stack.enter_context(path.open("rb"))
        flock(file, LOCK_EX | LOCK_NB)
        return True
    return False


def counts_in(folder: Path) -> Iterator[Counts]:
    """The counts of all files in a folder; a file that cannot be read is left out."""
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        with suppress(OSError, ValueError, LookupError, TypeError, AttributeError, struct.error):
            with path.open("rb") as file:
                content = file.read(_MOST_BYTES)
            yield _parsed(content)


def _parsed(content: bytes) -> Counts:
    magic, length = _LENGTH.unpack_from(content)
    if magic != _MAGIC:
        raise ValueError("it has no counts")
    start = _LENGTH.size + length
    head = json.loads(content[_LENGTH.size : start])
    families = tuple(Family.from_dict(value) for value in head["families"])
    cells = array("d", content[start:].ljust(8 * cell_count(families), b"\0")[: 8 * cell_count(families)])
    return Counts({str(key): str(value) for key, value in head["labels"].items()}, families, cells)
