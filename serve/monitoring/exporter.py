"""An HTTP server on loopback from which Prometheus reads the counts of all workers, and TorchServe's own."""

from __future__ import annotations

import threading
import time
from contextlib import closing, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from ...core.errors import MachineError, ServingError
from ..connection import Connections
from .exposition import CONTENT_TYPE, exposition
from .shared_counts import Unused, counts_in

PATH = "/metrics"
_TIMEOUT_S = 5.0
_KEPT_S = 600.0
"""How long the counts of a version stay that is no longer served; Prometheus reads more often."""


class Exporter:
    """It answers until it is closed.

    Args:
        host: a loopback address.
        port: a free port.
        folder: where the workers count.
        front: address of the metrics of TorchServe's front end, a URL or ``unix:`` and a path; empty for none.

    Raises:
        MachineError: the port is in use.
    """

    def __init__(self, host: str, port: int, folder: Path, front: str = "") -> None:
        self.folder = folder
        self.front = front
        self._unused = Unused(folder, _KEPT_S)
        self._lock = threading.Lock()
        try:
            self._http = ThreadingHTTPServer((host, port), _handler(self))
        except OSError as error:
            message = f"port {port} on {host} cannot be used for metrics: {error.strerror}"
            raise MachineError(message, "choose another one with --metrics-port (0 takes a free port)") from error
        self.url = f"http://{host}:{self._http.server_address[1]}{PATH}"
        self._thread = threading.Thread(
            target=self._http.serve_forever, args=(0.1,), name="retort-metrics", daemon=True
        )
        self._thread.start()

    def text(self) -> bytes:
        """What Prometheus reads now; without TorchServe's part while that does not answer."""
        with self._lock, suppress(ImportError):  # where files cannot be locked, there are none
            self._unused.remove(time.monotonic())
        return exposition(counts_in(self.folder)) + self._own_of_front()

    def _own_of_front(self) -> bytes:
        if not self.front:
            return b""
        try:
            with closing(Connections(self.front, _TIMEOUT_S)) as connections:
                status, _, body = connections.request("GET", PATH)
        except ServingError:
            return b""
        return body if status == 200 else b""

    def close(self) -> None:
        """Stop answering."""
        self._http.shutdown()
        self._http.server_close()
        self._thread.join(_TIMEOUT_S)


def _handler(exporter: Exporter) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = _TIMEOUT_S

        def do_GET(self) -> None:
            """Answer Prometheus."""
            if self.path.partition("?")[0] != PATH:
                self.send_error(404)
                return
            body = exporter.text()
            self.send_response(200)
            self.send_header("Content-Type", CONTENT_TYPE)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def version_string(self) -> str:
            """A name without versions."""
            return "retort"

        def log_message(self, *args: object) -> None:
            """Nothing: a scrape is no event."""

    return Handler
