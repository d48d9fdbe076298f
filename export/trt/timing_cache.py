"""Timing caches on disk, so that TensorRT measures only once per device and version."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ...core.artifact import stable_hash
from ...core.errors import StorageError
from ...core.system.atomic_files import write_atomically

MAGIC = b"retort-timing-1\n"
"""A file starts with this line and the SHA-256 of the bytes, because TensorRT also accepts damaged bytes."""


@dataclass(frozen=True)
class CacheKey:
    """The device and version of a timing cache; for others it may be wrong or slow (NvInfer.h, ITimingCache)."""

    runtime: str
    version: str
    device: str
    compute_capability: str
    driver: str
    level: int

    @property
    def file_name(self) -> str:
        """Name of its file."""
        return f"{self.runtime}-{stable_hash(vars(self))[:16]}.timing"


def prepare_folder(folder: Path) -> Path:
    """Create the folder and check that it is writable.

    Raises:
        StorageError: the folder is not writable.
    """
    remedy = "give another folder with --timing-cache, or use --timing-cache off"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise StorageError(
            f"the folder of timing caches {folder} cannot be written: {error.strerror}", remedy
        ) from error
    return folder


def read_cache(path: Path) -> tuple[bytes, str]:
    """Read a cache: its bytes for TensorRT and a warning; both are empty if the file does not exist.

    Returns:
        The bytes of the cache, empty for a new start, and what is wrong with the file, if anything.
    """
    if not path.is_file():
        return b"", ""
    raw = path.read_bytes()
    body = raw[len(MAGIC) + 32 :]
    if not raw.startswith(MAGIC) or hashlib.sha256(body).digest() != raw[len(MAGIC) : len(MAGIC) + 32]:
        return b"", f"the timing cache {path} is damaged; it is written again"
    return body, ""


def write_cache(path: Path, body: bytes) -> None:
    """Write a cache after its hash, atomically."""
    write_atomically(path, MAGIC + hashlib.sha256(body).digest() + body)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Lock a cache file for this process, so that the results of two builds are merged and none is lost."""
    with (path.parent / f".{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
