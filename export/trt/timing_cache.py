"""Timing caches on disk: what TensorRT measured once it need not measure again, on the same device and version."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ...core.artifact import stable_hash, write_atomically
from ...core.errors import StorageError

MAGIC = b"retort-timing-1\n"
"""Before the bytes of TensorRT stands this line and their SHA-256: TensorRT takes damaged bytes for a cache."""


@dataclass(frozen=True)
class CacheKey:
    """What a timing cache holds for: anything else may be wrong or slow (NvInfer.h, ITimingCache)."""

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
    """Make the folder and try that it can be written.

    Raises:
        StorageError: it cannot.
    """
    remedy = "name another folder with --timing-cache, or none with --timing-cache off"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise StorageError(f"the timing cache's folder {folder} cannot be written: {error.strerror}", remedy) from error
    return folder


def read_cache(path: Path) -> tuple[bytes, str]:
    """The bytes for TensorRT and a warning: no bytes when the file is not there, and both empty when all is well.

    Returns:
        The cache's bytes, empty for a fresh start, and what is wrong with the file, if anything.
    """
    if not path.is_file():
        return b"", ""
    raw = path.read_bytes()
    body = raw[len(MAGIC) + 32 :]
    if not raw.startswith(MAGIC) or hashlib.sha256(body).digest() != raw[len(MAGIC) : len(MAGIC) + 32]:
        return b"", f"the timing cache {path} is damaged; it is written anew"
    return body, ""


def write_cache(path: Path, body: bytes) -> None:
    """Write a cache behind its hash, whole or not at all."""
    write_atomically(path, MAGIC + hashlib.sha256(body).digest() + body)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a cache file for this process, so that what two builds learnt is merged and none is lost."""
    with (path.parent / f".{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
