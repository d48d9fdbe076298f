"""Which models a server has: TorchServe's prediction interface does not tell, so our servers are noted in the cache."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import psutil

from ..core.errors import ServingError
from ..core.system.cache import cache_folder
from .address import Address
from .connection import Connections

_TIMEOUT_S = 10.0
# the start of a process is counted from that of the machine, which moves when its clock is set
_SAME_START_S = 2.0


@contextmanager
def announced(url: str, name: str, management_url: str) -> Iterator[None]:
    """Note a server of this process in the cache while it runs, so that :func:`models_at` knows its models.

    Args:
        url: address of its prediction interface.
        management_url: address of its management interface, a URL or ``unix:`` and a path.
    """
    note = _note(Address.parse(url).port)
    own = psutil.Process()
    content = {"model": name, "management_url": management_url, "pid": own.pid, "started": own.create_time()}
    with suppress(OSError):  # without a cache the server is complete, and only has to be asked by name
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(json.dumps(content))
    try:
        yield
    finally:
        with suppress(OSError):
            note.unlink()


def models_at(url: str, ca: Path | None = None) -> list[str]:
    """Names of the models of a server, sorted; empty if it does not tell.

    Raises:
        ServingError: nothing answers at the address.
        UserError: it is not an HTTP address.
    """
    address = Address.parse(url)
    note = _read(_note(address.port)) if _is_loopback(address.host) else None
    if note is None:
        return _listed(address.server, address.prefix, ca)
    try:
        return _listed(str(note["management_url"]), "", None) or [str(note["model"])]
    except ServingError:
        return [str(note["model"])]


def belongs_to_a_server(note: Path) -> bool:
    """Whether a file among the notes is that of a server that runs."""
    return _read(note) is not None


def _listed(server: str, prefix: str, ca: Path | None) -> list[str]:
    with closing(Connections(server, _TIMEOUT_S, ca)) as connections:
        status, _, body = connections.request("GET", f"{prefix}/models")
    try:
        return sorted(str(model["modelName"]) for model in json.loads(body)["models"]) if status == 200 else []
    except (ValueError, LookupError, TypeError):
        return []


def _note(port: int) -> Path:
    return cache_folder("servers") / f"{port}.json"


def _read(path: Path) -> dict[str, Any] | None:
    """What a running server noted; a note of a process that was killed counts as none, also if its id is used again."""
    try:
        found: dict[str, Any] = json.loads(path.read_text())
        began = psutil.Process(int(found["pid"])).create_time()
        running = abs(began - float(found["started"])) < _SAME_START_S
        return found if running and {"model", "management_url"} <= set(found) else None
    except (OSError, ValueError, LookupError, TypeError, psutil.Error):
        return None


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
