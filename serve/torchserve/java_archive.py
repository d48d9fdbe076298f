"""Java's own archive of TorchServe's classes, which halves the time and the CPU time in which the front end starts.

Java reads, checks and links a few thousand classes at each start. It can write what came of it to a file when it ends,
and map this file when it starts again: class data sharing (JEP 350), and since Java 25 the AOT cache (JEP 514). The
first server on a machine writes it to the cache folder when it is stopped. Java compares the file with its own version
and with the jars, and starts as always if they differ. It does not notice a damaged file, so its SHA-256 is beside it.
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ...core.errors import StorageError
from ...core.system.atomic_files import write_atomically
from ...core.system.cache import cache_folder
from ...core.system.java import Java

GRACE_S = 30.0
"""Seconds that Java may take to end while it writes the file; it takes one or two on an idle machine."""
_SINGLE_STEP = 25
"""Version of Java from which an AOT cache is written without a separate run."""
_STALE_S = 86_400.0
MOST = 4
"""Files that are kept, each of about 30 MB."""
VARIABLE = "RETORT_JAVA_ARCHIVE"
"""Environment variable; ``off`` neither reads nor writes the file."""


@dataclass(frozen=True)
class JavaArchive:
    """What a start of Java does with the file.

    Attributes:
        flags: options of Java.
        path: the file; None if there is none to read or to write.
        part: the file that Java writes when it ends; None if it reads ``path``.
    """

    flags: tuple[str, ...] = ()
    path: Path | None = None
    part: Path | None = None

    def settle(self, complete: bool) -> None:
        """Make what Java wrote the file for later starts, or delete it; call it when Java has ended.

        Args:
            complete: whether Java ended in its own way, so that what it wrote is whole.
        """
        if self.part is not None and self.path is not None:
            with suppress(OSError, StorageError):
                if complete and self.part.stat().st_size:
                    write_atomically(_sum_of(self.path), _sha256(self.part).encode())
                    os.replace(self.part, self.path)
                self.part.unlink(missing_ok=True)

    def discard(self) -> bool:
        """Delete a file with which Java did not start; False if none was read."""
        if self.path is None or self.part is not None:
            return False
        with suppress(OSError):
            self.path.unlink(missing_ok=True)
        return True


def java_archive(java: Java, jars: Sequence[Path], flags: Sequence[str]) -> JavaArchive:
    """The file for this Java, these jars and these options of Java, to be read or to be written.

    There is none where the cache folder cannot be written or other users can write to it, whose classes Java would run,
    or where this Java does not know such files.
    """
    if not java.hotspot or os.environ.get(VARIABLE, "").lower() == "off":
        return JavaArchive()
    folder, single = cache_folder("java"), java.version >= _SINGLE_STEP
    try:
        path = folder / f"{_key(java, jars, flags)}.{'aot' if single else 'jsa'}"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not _is_own(folder):
            return JavaArchive()
        if path.is_file() and _sum_of(path).is_file() and _sum_of(path).read_bytes() == _sha256(path).encode():
            read = f"-XX:AOTCache={path}" if single else f"-XX:SharedArchiveFile={path}"
            os.utime(path)
            return JavaArchive((read, _quiet(single)), path)
        _tidy(folder)
        if not os.access(folder, os.W_OK):
            return JavaArchive()
    except OSError:
        return JavaArchive()
    part = path.with_suffix(f".{os.getpid()}.part")
    write = f"-XX:AOTCacheOutput={part}" if single else f"-XX:ArchiveClassesAtExit={part}"
    return JavaArchive((write, _quiet(single)), path, part)


def _is_own(folder: Path) -> bool:
    """Whether a folder is of this user, and not every user can write to it."""
    found = folder.stat()
    return not hasattr(os, "getuid") or (found.st_uid == os.getuid() and not found.st_mode & stat.S_IWOTH)


def _quiet(single: bool) -> str:
    """Classes that cannot be in the file are no news to anybody."""
    return "-Xlog:aot*=off,cds*=off" if single else "-Xlog:cds*=off"


def _key(java: Java, jars: Sequence[Path], flags: Sequence[str]) -> str:
    """What the file depends on; the size of the heap has no influence."""
    program = java.path.resolve()
    files = [(str(path), found.st_size, found.st_mtime_ns) for path in (program, *jars) for found in (path.stat(),)]
    options = [flag for flag in flags if not flag.startswith(("-Xmx", "-Xms"))]
    return hashlib.sha256(repr((java.version, files, options)).encode()).hexdigest()[:32]


def _sum_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _tidy(folder: Path) -> None:
    """Delete what killed servers left, and files that were not read for longest, of environments that are gone."""
    for path in folder.glob("*.part*"):
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > _STALE_S:
                path.unlink()
    whole = [path for path in folder.iterdir() if path.suffix in (".aot", ".jsa")]
    for path in sorted(whole, key=lambda one: one.stat().st_mtime, reverse=True)[MOST - 1 :]:
        with suppress(OSError):
            path.unlink()
            _sum_of(path).unlink(missing_ok=True)
