"""The address of a served model, in the form that `retort serve` prints: server, model and version."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import quote, unquote, urlsplit

from ..core.errors import UserError

_PREDICTIONS = "/predictions/"
_REMEDY = "give an address such as http://127.0.0.1:8080/predictions/NAME"
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class Address:
    """Where a model is served.

    Attributes:
        secure: whether the connection uses TLS.
        host: name or address, without the brackets of IPv6.
        prefix: what a proxy puts before the paths of the server; empty, or it begins with a slash.
        name: name of the model; empty if the address names only a server.
        version: version of the model; empty for the server's default version.
    """

    secure: bool
    host: str
    port: int
    prefix: str = ""
    name: str = ""
    version: str = ""

    @staticmethod
    def parse(url: str) -> Address:
        """Read an address such as ``http://127.0.0.1:8080`` or ``https://host/vision/predictions/net/2.0``.

        Raises:
            UserError: it is not an HTTP address, or its path is not that of a prediction.
        """
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise UserError(f"'{url}' is not an http address: {error}", _REMEDY) from error
        if parts.scheme not in _PORTS or not host or parts.username is not None:
            raise UserError(f"'{url}' is not an http address", _REMEDY)
        prefix, found, model = parts.path.partition(_PREDICTIONS)
        name, _, version = model.rstrip("/").partition("/")
        if "/" in version or (found and not name) or parts.query or parts.fragment:
            raise UserError(f"'{url}' is not the address of a model", _REMEDY)
        secure, port = parts.scheme == "https", _PORTS[parts.scheme] if port is None else port
        return Address(secure, host, port, prefix.rstrip("/"), unquote(name), unquote(version))

    @property
    def where(self) -> str:
        """Host and port, for messages."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def server(self) -> str:
        """The address without the model."""
        return f"{self._origin}{self.prefix}"

    @property
    def path(self) -> str:
        """The path of the model's predictions."""
        version = f"/{quote(self.version, safe='')}" if self.version else ""
        return f"{self.prefix}{_PREDICTIONS}{quote(self.name, safe='')}{version}"

    @property
    def url(self) -> str:
        """The whole address of the model's predictions."""
        return f"{self._origin}{self.path}"

    @property
    def _origin(self) -> str:
        scheme = "https" if self.secure else "http"
        return f"{scheme}://{self.where.removesuffix(f':{_PORTS[scheme]}')}"


def is_loopback(host: str) -> bool:
    """Whether a name or an address is that of this machine alone."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
