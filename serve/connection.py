"""The HTTP connections of serving: they stay open, with timeouts and readable errors."""

from __future__ import annotations

import http.client
import threading
from contextlib import suppress
from urllib.parse import urlsplit
from weakref import WeakSet

from ..core.errors import ServingError, UserError

_STALE = (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError, http.client.CannotSendRequest)


class Connections:
    """Connections to one server, one per thread; they are opened again if the server has closed them.

    Args:
        url: such as ``http://127.0.0.1:8080``.
        timeout_s: longest wait for an answer.

    Raises:
        UserError: the address is not an HTTP address.
    """

    def __init__(self, url: str, timeout_s: float) -> None:
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname:
            raise UserError(f"'{url}' is not an http address", "give an address such as http://127.0.0.1:8080")
        self._address = (parts.hostname, parts.port or 80)
        self._timeout_s = timeout_s
        self._local = threading.local()
        self._open: WeakSet[http.client.HTTPConnection] = WeakSet()

    def request(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        """Send one request; returns status, headers with lower-case names, and body of the answer.

        Raises:
            ServingError: the server cannot be reached or closed the connection without an answer.
        """
        for fresh in (False, True):
            connection, reused = self._connection(fresh)
            try:
                return _exchange(connection, method, path, body, headers or {})
            except _STALE as error:
                self._close_current()
                if reused:
                    continue  # the server had closed an idle connection, so it has not answered yet
                raise self._unreachable(error) from error
            except (OSError, http.client.HTTPException) as error:
                self._close_current()
                raise self._unreachable(error) from error
        raise self._unreachable(ConnectionError("closed twice"))

    def _unreachable(self, error: Exception) -> ServingError:
        host, port = self._address
        reason = str(error) or type(error).__name__
        return ServingError(
            f"no answer from {host}:{port}: {reason}", "check that the server is running, and look at its logs"
        )

    def _connection(self, fresh: bool) -> tuple[http.client.HTTPConnection, bool]:
        current: http.client.HTTPConnection | None = getattr(self._local, "connection", None)
        if current is not None and current.sock is not None and not fresh:
            return current, True
        connection = http.client.HTTPConnection(*self._address, timeout=self._timeout_s)
        self._local.connection = connection
        self._open.add(connection)
        return connection, False

    def _close_current(self) -> None:
        connection: http.client.HTTPConnection | None = getattr(self._local, "connection", None)
        if connection is not None:
            connection.close()

    def close(self) -> None:
        """Close all connections."""
        for connection in list(self._open):
            connection.close()
        self._open.clear()


def _exchange(
    connection: http.client.HTTPConnection, method: str, path: str, body: bytes | None, headers: dict[str, str]
) -> tuple[int, dict[str, str], bytes]:
    # a rejection can arrive while the body is still being sent, so always try to read an answer
    with suppress(BrokenPipeError, ConnectionResetError):
        connection.request(method, path, body, headers)
    response = connection.getresponse()
    found = {name.lower(): value for name, value in response.getheaders()}
    try:
        content = response.read()
    except (ConnectionResetError, http.client.IncompleteRead) as error:
        # TorchServe resets the connection after an error, sometimes before it has read the body
        if response.status < 400:
            raise
        content = getattr(error, "partial", b"")
    if response.status >= 400:
        connection.close()
    return response.status, found, content
