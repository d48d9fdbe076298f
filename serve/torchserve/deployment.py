"""An archive as one server of this machine runs it: its number of workers, its queue, and its file in the store."""

from __future__ import annotations

import errno
import hashlib
import os
import zipfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ...core.console import Console
from ...core.counts import counted
from ...core.errors import UserError
from ...core.system.atomic_files import storage_errors
from ...core.system.memory import available_bytes
from ..integrity import compare
from ..thread_budget import usable_cores
from .archives.archive import Mar
from .archives.contents import CONFIG
from .archives.mar import BESIDE, STAND_IN, read_member
from .archives.zip_layout import append, chunks_of
from .queue_length import length_for

_BASE_BYTES, _TORCH_BYTES = 100 << 20, 130 << 20
_COPIES = 3
"""How often a worker may hold the model at once: its file, ONNX Runtime's tensors, and what is packed for kernels."""
_AUTOMATIC = 2


@dataclass(frozen=True)
class Deployment:
    """An archive with the settings that this server gives it.

    Attributes:
        mar: the archive; ``workers`` of its settings are those of this server.
        queue_length: number of requests that may wait; further ones are refused with 503.
    """

    mar: Mar
    queue_length: int

    @property
    def workers(self) -> int:
        """Number of worker processes."""
        return self.mar.settings.workers

    @property
    def file(self) -> str:
        """Name of the file in the server's store; neither names nor versions contain a tilde."""
        return f"{self.mar.name}~{self.mar.version}.mar"

    def write(self, store: Path) -> None:
        """Write the archive as TorchServe loads it: only its configuration has the settings of this server.

        Every file is compared with its checksum again, so that an archive that was exchanged after it was verified does
        not get there. Workers still compare every file that they load.

        Raises:
            ArtifactError: the archive was exchanged meanwhile.
            StorageError: the disk is full or not writable.
        """
        with (
            storage_errors(str(store), errno.ENOENT),  # a file system such as /proc
            zipfile.ZipFile(self.mar.path) as source,
            zipfile.ZipFile(store / self.file, "x", zipfile.ZIP_STORED) as target,
        ):
            for member in source.infolist():
                if member.filename == CONFIG:
                    content = self.configuration()
                    append(target, CONFIG, len(content), [content])
                    continue
                digest = hashlib.sha256()
                with source.open(member) as stream:
                    chunks = _noted(chunks_of(stream, member.file_size), digest.update)
                    append(target, member.filename, member.file_size, chunks)
                if member.filename not in BESIDE:
                    compare(member.filename, digest.hexdigest(), self.mar.sums)

    def configuration(self) -> bytes:
        """``model-config.yaml`` for this server: the archive's own, but for the workers and the queue.

        Raises:
            ArtifactError: the archive was exchanged after it was verified.
        """
        own = {"minWorkers": self.workers, "maxWorkers": self.workers}
        stored = read_member(self.mar.path, CONFIG)
        compare(CONFIG, hashlib.sha256(stored).hexdigest(), self.mar.sums)
        lines = [line for line in stored.decode().splitlines() if line.partition(":")[0] not in own]
        own["jobQueueSize"] = self.queue_length
        return "".join(f"{line}\n" for line in [*(f"{key}: {value}" for key, value in own.items()), *lines]).encode()


def _noted(chunks: Iterable[bytes], note: Callable[[bytes], object]) -> Iterable[bytes]:
    for chunk in chunks:
        note(chunk)
        yield chunk


def deployments(mars: Sequence[Mar], workers: int | None, p99_ms: int, console: Console) -> list[Deployment]:
    """How this server runs its archives.

    Args:
        workers: worker processes of each model; None leaves it to the archives and the machine.
        p99_ms: time within which 99 % of the accepted requests should be answered at overload.

    Raises:
        UserError: two archives have the same name and version.
    """
    _refuse_twins(mars)
    sized = [replace(mar, settings=replace(mar.settings, workers=n)) for mar, n in _sized(mars, workers, console)]
    return [Deployment(mar, length_for(mar, p99_ms, console)) for mar in sized]


def memory_bytes(mar: Mar) -> int:
    """An estimate of the memory of one worker: Python, ONNX Runtime, PyTorch if it is loaded, copies of the model."""
    torch = 0 if STAND_IN in mar.sums else _TORCH_BYTES
    return _BASE_BYTES + torch + _COPIES * os.path.getsize(mar.path)


def _refuse_twins(mars: Sequence[Mar]) -> None:
    seen: dict[tuple[str, str], Path] = {}
    for mar in mars:
        if (mar.name, mar.version) in seen:
            both = f"{seen[mar.name, mar.version]} and {mar.path}"
            raise UserError(
                f"{both} both contain version {mar.version} of the model '{mar.name}'",
                "pack one of them with another --name or --version",
            )
        seen[mar.name, mar.version] = mar.path


def _sized(mars: Sequence[Mar], workers: int | None, console: Console) -> Iterable[tuple[Mar, int]]:
    """Each archive with its number of workers: a second one answers while a killed one starts again (serve.md H11).

    A model on a GPU keeps its number, because the memory of the GPU is not known here.
    """
    cores, free_bytes = usable_cores(), available_bytes()
    if workers is None:
        threads = sum(_AUTOMATIC * mar.settings.threads if mar.settings.threads else cores + 1 for mar in mars)
        fits = threads <= cores and _AUTOMATIC * sum(map(memory_bytes, mars)) <= free_bytes
        least = _AUTOMATIC if fits else 1
        return [(mar, max(mar.settings.workers, 1 if mar.settings.needs_gpu else least)) for mar in mars]
    total = workers * len(mars)
    if total > cores:
        console.warn(f"{counted(total, 'worker')} share {counted(cores, 'core')}, so that requests wait for each other")
    if (needed := workers * sum(map(memory_bytes, mars))) > free_bytes:
        console.warn(
            f"{counted(total, 'worker')} may need {needed >> 20} MB of memory, but {free_bytes >> 20} MB are free; "
            "give a smaller --workers"
        )
    return [(mar, workers) for mar in mars]
