"""A patch of a private part of TorchServe's worker, which is needed to bound what one request costs there.

Part of the runtime half: standard library only. ``tests/serve/torchserve/test_worker_messages.py`` runs TorchServe
without the patch and fails once it is no longer needed.
"""

from __future__ import annotations

import logging
import struct
import sys
from contextlib import suppress
from typing import Any, Protocol

PARTS_KEPT = 256
"""Most parts (form fields, multipart parts, query parameters) of one request that are kept."""
TOO_MANY_PARTS = "retort: too many parts"
"""Name of a part that stands for all parts behind those that are kept."""
_MODULE = "ts.protocol.otf_message_handler"
_REPLACED = ("_retrieve_buffer", "_retrieve_inference_msg")
_CHUNK = 1 << 18
_INT, _TWO = struct.Struct("!i"), struct.Struct("!ii")
_log = logging.getLogger("retort.serve")


class Receiver(Protocol):
    """What is needed of a socket."""

    def recv_into(self, buffer: memoryview, /) -> int:
        """Receive at most as many bytes as the buffer has, and return how many; 0 at the end."""


def bound_messages() -> bool:
    """Let the worker read messages through a buffer, and keep at most 256 parts of a request.

    Patched: ``_retrieve_buffer`` and ``_retrieve_inference_msg`` of ``ts.protocol.otf_message_handler``. Seen in
    TorchServe 0.12.0, the last version.

    Upstream: no upstream issue found; the project is archived.

    Without it: the worker receives every name, type and value of a form with a system call of its own and keeps all of
    them, before any handler is asked: a body of 5.75 MB with 600,000 fields blocked it for 33 s and took 320 MB.

    Returns:
        Whether the functions were replaced; there is nothing to replace outside a worker.
    """
    module = sys.modules.get(_MODULE)
    if module is None:
        return False
    if not all(callable(getattr(module, name, None)) for name in _REPLACED):
        _log.warning("retort: this TorchServe reads messages in another way, so the parts of a request are not bounded")
        return False
    readers: dict[int, Messages] = {}

    def _reader(connection: Receiver) -> Messages:
        # a worker has one connection; an object that follows another at the same address is another connection
        found = readers.get(id(connection))
        if found is None or found.connection is not connection:
            readers.clear()
            found = readers[id(connection)] = Messages(connection)
        return found

    for name, function in zip(
        _REPLACED, (lambda conn, length: _reader(conn).take(length), lambda conn: _reader(conn).requests()), strict=True
    ):
        setattr(module, name, function)
    return True


class Messages:
    """Reads the messages of TorchServe's front end from a connection.

    The layout is that of ``_retrieve_inference_msg``: all lengths are 4 bytes, big-endian, and -1 ends a list.
    """

    def __init__(self, connection: Receiver) -> None:
        self.connection = connection
        self._chunk = memoryview(bytearray(_CHUNK))
        self._start = self._end = 0

    def take(self, length: int) -> bytearray:
        """The next bytes.

        Raises:
            SystemExit: the front end has closed the connection, as TorchServe does it.
        """
        content = bytearray(length)
        target = memoryview(content)
        have = min(length, self._end - self._start)
        target[:have] = self._chunk[self._start : self._start + have]
        self._start += have
        while have < length:
            if length - have >= _CHUNK:
                have += self._receive(target[have:])
                continue
            self._start, self._end = 0, self._receive(self._chunk)
            more = min(length - have, self._end)
            target[have : have + more] = self._chunk[:more]
            self._start, have = more, have + more
        return content

    def requests(self) -> list[dict[str, Any]]:
        """The requests of a batch, in the form of ``_retrieve_inference_msg``."""
        found = []
        while (length := self._int()) != -1:
            request: dict[str, Any] = {"requestId": self.take(length), "headers": self._headers()}
            found.append({**request, "parameters": self._parts()})
        return found

    def _headers(self) -> list[dict[str, bytearray]]:
        headers = []
        while (length := self._int()) != -1:
            headers.append({"name": self.take(length), "value": self.take(self._int())})
        return headers

    def _parts(self) -> list[dict[str, object]]:
        parts: list[dict[str, object]] = []
        while (length := self._int()) != -1:
            if len(parts) == PARTS_KEPT:
                self._skip(length)
                parts.append({"name": TOO_MANY_PARTS, "contentType": "", "value": bytearray()})
                break
            name = self.take(length).decode("utf-8", "replace")
            kind = self.take(self._int()).decode("utf-8", "replace")
            parts.append({"name": name, "contentType": kind, "value": self.take(self._int())})
        return parts

    def _skip(self, length: int) -> None:
        """Drop the rest of a part of which the name's length was read, and all parts behind it."""
        while length != -1:
            for size in (length, None, None):
                self._drop(self._int() if size is None else size)
            self._skip_whole()
            length = self._int()

    def _skip_whole(self) -> None:
        """Drop the parts that are in the chunk as a whole, in few steps: a megabyte can have 100,000."""
        start, chunk = self._start, bytes(self._chunk[: self._end])
        end, one, two = len(chunk), _INT.unpack_from, _TWO.unpack_from
        with suppress(struct.error):  # the chunk ends within a length
            while True:
                (size,) = one(chunk, start)
                kind, value = two(chunk, start + 4 + size)
                if kind:
                    value = kind + one(chunk, start + 8 + size + kind)[0]
                following = start + 12 + size + value
                if size < 0 or following > end:
                    break
                start = following
        self._start = start

    def _drop(self, length: int) -> None:
        while length > 0:
            if self._start == self._end:
                self._start, self._end = 0, self._receive(self._chunk)
            dropped = min(length, self._end - self._start)
            self._start += dropped
            length -= dropped

    def _int(self) -> int:
        if self._end - self._start >= 4:
            self._start += 4
            return int(_INT.unpack_from(self._chunk, self._start - 4)[0])
        return int(_INT.unpack(self.take(4))[0])

    def _receive(self, target: memoryview) -> int:
        count = self.connection.recv_into(target)
        if count == 0:
            logging.info("Frontend disconnected.")
            sys.exit(0)
        return count
