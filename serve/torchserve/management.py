"""TorchServe's management interface: which models it has, in which versions, with which workers."""

from __future__ import annotations

import json
from contextlib import closing
from typing import Any
from urllib.parse import quote

from ...core.errors import ServingError
from ..connection import Connections

_TIMEOUT_S = 10.0


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

    def _request(self, method: str, path: str, timeout_s: float = _TIMEOUT_S) -> tuple[int, bytes]:
        with closing(Connections(self.url, timeout_s)) as connections:
            status, _, body = connections.request(method, path)
        return status, body


def _path(name: str, version: str) -> str:
    return f"/models/{quote(name, safe='')}" + (f"/{quote(version, safe='')}" if version else "")
