"""TorchServe's management interface: which models it has, in which versions, with which workers."""

from __future__ import annotations

import json
from contextlib import closing
from typing import Any
from urllib.parse import quote, urlencode

from ...core.errors import ServingError
from ..connection import Connections

_TIMEOUT_S = 10.0
_CHANGE_S = 120.0


class Management:
    """The management interface of one server.

    Args:
        url: its address, ``unix:`` and the path of a socket, or a URL.
    """

    def __init__(self, url: str) -> None:
        self.url = url

    def describe(self, name: str, version: str = "", *, customized: bool = False) -> dict[str, Any]:
        """TorchServe's description of a version of a model and of its workers; without a version, of its default one.

        Args:
            customized: whether the handler's own description is wanted as well.

        Raises:
            ServingError: the server does not answer, or does not have it.
        """
        path = f"{_path(name, version)}{'?customized=true' if customized else ''}"
        status, body = self._request("GET", path)
        try:
            found: dict[str, Any] = json.loads(body)[0]
        except (ValueError, LookupError) as error:
            reason = f"{self.url} does not describe '{name}' (status {status})"
            raise ServingError(reason, "check that the server is running, and look at its logs") from error
        return found

    def workers(self, name: str, version: str) -> list[dict[str, Any]]:
        """TorchServe's descriptions of the workers of a version of a model.

        Raises:
            ServingError: as :meth:`describe`.
        """
        found: list[dict[str, Any]] = self.describe(name, version)["workers"]
        return found

    def versions(self, name: str) -> list[dict[str, Any]]:
        """TorchServe's descriptions of all versions of a model, each with whether it is the ``default``.

        Raises:
            ServingError: as :meth:`describe`.
        """
        default = self.describe(name)["modelVersion"]
        status, body = self._request("GET", f"{_path(name, 'all')}")
        try:
            found = json.loads(body)
            return [{**one, "default": one["modelVersion"] == default} for one in found]
        except (ValueError, LookupError, TypeError) as error:
            reason = f"{self.url} does not describe '{name}' (status {status})"
            raise ServingError(reason, "check that the server is running, and look at its logs") from error

    def register(self, file: str, name: str, workers: int) -> None:
        """Let the server load a version of a model from a file of its store; workers start one after another.

        Raises:
            ServingError: it refuses.
        """
        query = {"url": file, "model_name": name, "initial_workers": workers, "synchronous": "false"}
        self._change("POST", f"/models?{urlencode(query)}")

    def set_default(self, name: str, version: str) -> None:
        """Let a version answer the requests that name none, at once.

        Raises:
            ServingError: it is not there.
        """
        self._change("PUT", f"{_path(name, version)}/set-default")

    def unregister(self, name: str, version: str) -> None:
        """End a version with its workers; one that is not there is passed over.

        Raises:
            ServingError: it is the default version.
        """
        self._change("DELETE", _path(name, version), 404)

    def _change(self, method: str, path: str, *accepted: int) -> None:
        status, body = self._request(method, path, _CHANGE_S)
        if status >= 300 and status not in accepted:
            told = body.decode("utf-8", "replace").strip()[:300]
            raise ServingError(f"TorchServe refused {method} {path} ({status}): {told}", "look at the server's logs")

    def _request(self, method: str, path: str, timeout_s: float = _TIMEOUT_S) -> tuple[int, bytes]:
        with closing(Connections(self.url, timeout_s)) as connections:
            status, _, body = connections.request(method, path)
        return status, body


def _path(name: str, version: str) -> str:
    return f"/models/{quote(name, safe='')}" + (f"/{quote(version, safe='')}" if version else "")
