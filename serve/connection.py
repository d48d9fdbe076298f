"""The HTTP connections of serving: they stay open, with timeouts, TLS and readable errors."""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
from contextlib import suppress
from pathlib import Path
from weakref import WeakSet

from ..core.errors import MissingFileError, ServingError, UserError
from .address import Address

UNIX = "unix:"
_STALE = (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError, http.client.CannotSendRequest)


class Connections:
    """Connections to one server, one per thread; they are opened again if the server has closed them.

    Args:
        url: such as ``http://127.0.0.1:8080``, of which only the server is used, or ``unix:`` and the path of a socket.
        timeout_s: longest wait for an answer.
        ca: file with the certificates to trust for https, in PEM form; by default those of the system.

    Raises:
        UserError: the address is not an HTTP address, or the file has no certificate.
        MissingFileError: there is no such file.
    """

    def __init__(self, url: str, timeout_s: float, ca: Path | None = None) -> None:
        self._socket = url.removeprefix(UNIX) if url.startswith(UNIX) else None
        self.address = Address.parse(url if self._socket is None else "http://localhost")
        self._where = self._socket or self.address.where
        self._tls = _trusting(ca) if self.address.secure else None
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
        plain = self._tls is None and self._socket is None
        reason, remedy = _cause(error, self._timeout_s, self._where, plain)
        return ServingError(f"no answer from {self._where}{reason}", remedy)

    def _connection(self, fresh: bool) -> tuple[http.client.HTTPConnection, bool]:
        current: http.client.HTTPConnection | None = getattr(self._local, "connection", None)
        if current is not None and current.sock is not None and not fresh:
            return current, True
        where = (self.address.host, self.address.port)
        if self._socket is not None:
            connection: http.client.HTTPConnection = _UnixConnection(self._socket, self._timeout_s)
        elif self._tls is None:
            connection = http.client.HTTPConnection(*where, timeout=self._timeout_s)
        else:
            connection = http.client.HTTPSConnection(*where, timeout=self._timeout_s, context=self._tls)
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


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path
        self._wait_s = timeout_s

    def connect(self) -> None:
        """Open the socket."""
        opened = socket.socket(socket.AF_UNIX)
        opened.settimeout(self._wait_s)
        try:
            opened.connect(self._path)
        except BaseException:
            opened.close()
            raise
        self.sock = opened


def _trusting(ca: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca)
    except FileNotFoundError as error:
        raise MissingFileError(f"no such file of certificates: {ca}", "check its path") from error
    except (ssl.SSLError, OSError) as error:
        raise UserError(f"{ca} has no certificate that can be read", "give a file in PEM form") from error


def _cause(error: Exception, timeout_s: float, where: str, plain: bool) -> tuple[str, str]:
    """What follows "no answer from the server", and the remedy.

    Args:
        plain: whether the connection is over TCP without TLS.
    """
    if isinstance(error, ConnectionRefusedError):
        return ": nothing listens there", "start it with `retort serve`, or check host and port"
    if isinstance(error, socket.gaierror):
        return ": the host is not known", "check the name of the host"
    if isinstance(error, TimeoutError):
        return f" within {timeout_s:g} s", "check that the server is not overloaded, or wait longer"
    if isinstance(error, ssl.SSLCertVerificationError):
        reason = f": its certificate is not trusted ({error.verify_message})"
        return reason, "give the certificate of its authority (`--ca FILE` of `retort predict`)"
    if isinstance(error, ssl.SSLError) and error.reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE"):
        return ": it does not speak TLS", f"use http://{where}"
    if isinstance(error, http.client.BadStatusLine) and not isinstance(error, http.client.RemoteDisconnected):
        return ": it does not speak HTTP", f"check the port, or use https://{where}"
    remedy = "check that the server is running, and look at its logs"
    if plain and isinstance(error, ConnectionResetError):  # also RemoteDisconnected: a port with TLS just closes
        remedy += f"; use https://{where} if it speaks TLS"
    return f": {error or type(error).__name__}", remedy


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
