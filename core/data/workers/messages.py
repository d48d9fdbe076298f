"""Messages between a process and its workers: pickled values whose arrays travel as raw bytes."""

from __future__ import annotations

import mmap
import os
import pickle
import struct
import sys
import tempfile
from io import BytesIO
from typing import IO, Any

import numpy as np

from ...tensors import Array

LARGE_BYTES = 1 << 20
"""Size of arrays of a data set that workers map into memory instead of holding copies."""


def send(stream: IO[bytes], value: Any) -> None:
    """Write one message."""
    buffers: list[pickle.PickleBuffer] = []
    head = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    parts: list[Any] = [head, *(buffer.raw() for buffer in buffers)]
    stream.write(struct.pack("<I", len(parts)) + b"".join(struct.pack("<Q", len(part)) for part in parts))
    for part in parts:
        stream.write(part)
    stream.flush()


def receive(stream: IO[bytes]) -> Any:
    """Read one message.

    Raises:
        EOFError: the other side has ended.
    """
    (count,) = struct.unpack("<I", _exactly(stream, 4))
    sizes = struct.unpack(f"<{count}Q", _exactly(stream, 8 * count))
    head, *buffers = [_exactly(stream, size) for size in sizes]
    return pickle.loads(head, buffers=buffers)  # noqa: S301 - both sides are processes of one training


def _exactly(stream: IO[bytes], size: int) -> bytearray:
    made = bytearray(size)
    view, done = memoryview(made), 0
    while done < size:
        count = stream.readinto(view[done:])  # type: ignore[attr-defined]
        if not count:
            raise EOFError("the other side of a pipe has ended")
        done += count
    return made


class Shared:
    """A value with large arrays as bytes, and the open files that hold those arrays for all workers.

    The files have no name, so that nothing is left behind however the processes end.
    """

    def __init__(self, value: Any) -> None:
        self.files: list[IO[bytes]] = []
        stream = BytesIO()
        pickler = pickle.Pickler(stream, protocol=5)
        pickler.persistent_id = self._place  # type: ignore[method-assign]
        try:
            pickler.dump(value)
        except BaseException:
            self.close()
            raise
        self.content = stream.getvalue()

    def close(self) -> None:
        """Close the files; workers keep what they have mapped."""
        for file in self.files:
            file.close()

    @property
    def descriptors(self) -> tuple[int, ...]:
        """Of the files, under which workers inherit them."""
        return tuple(file.fileno() for file in self.files)

    def _place(self, value: Any) -> tuple[Any, ...] | None:
        """Where workers find an array; None for all other values."""
        if not isinstance(value, np.ndarray) or value.dtype.hasobject or value.nbytes < LARGE_BYTES:
            return None
        base: Any = value.base
        if isinstance(value, np.memmap) and isinstance(base, mmap.mmap) and value.flags.c_contiguous:
            return str(value.filename), value.dtype.str, value.shape, value.offset
        if os.name != "posix":
            return None
        file = tempfile.TemporaryFile()  # noqa: SIM115
        self.files.append(file)
        np.ascontiguousarray(value).tofile(file)
        return file.fileno(), value.dtype.str, value.shape, 0


class _Mapping(pickle.Unpickler):
    def persistent_load(self, place: Any) -> Array:
        """The array at a place that :class:`Shared` has noted."""
        where, dtype, shape, offset = place
        if isinstance(where, str):
            return np.memmap(where, dtype=dtype, mode="r", shape=shape, offset=offset)
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return np.frombuffer(mmap.mmap(where, size, mmap.MAP_PRIVATE), dtype).reshape(shape)


def unshared(content: bytes) -> Any:
    """Inverse of :class:`Shared`, in a worker that has inherited the files."""
    return _Mapping(BytesIO(content)).load()


def quiet_streams() -> tuple[IO[bytes], IO[bytes]]:
    """The standard input and output for messages; what a user's code prints goes to the standard error instead."""
    given, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)
    sys.stdin, sys.stdout = open(0, closefd=False), sys.stderr  # noqa: SIM115
    return given, answers
