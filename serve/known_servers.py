"""The servers that `retort serve` started, which are noted in the cache; TorchServe itself does not tell its models."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import get_args

import psutil

from ..core.errors import RetortError, ServingError, StorageError
from ..core.system.atomic_files import write_atomically
from ..core.system.cache import cache_folder
from .address import Address, is_loopback
from .connection import Connections
from .signing.public_key import PublicKey
from .signing.trust import Mode, Trust

_TIMEOUT_S = 10.0
# the start of a process is counted from that of the machine, which moves when its clock is set
_SAME_START_S = 2.0


@dataclass(frozen=True)
class KnownServer:
    """What a server noted about itself.

    Attributes:
        url: address of its prediction interface.
        models: names of the models with which it was started.
        management_url: address of its management interface, a URL or ``unix:`` and a path.
        logs: folder of its logs, an absolute path; empty if it was not noted.
        p99_ms: latency goal from which its queues follow.
        store: folder from which it takes other versions of its models; empty if it takes none.
        archives: name, version and path of each archive that a restart loads; the first of a name is its default.
        pid: id of the process of `retort serve`.
        started: when that process began, in seconds since 1970.
        trusted: the public keys that it trusts, in hex.
        signatures: what it does with an archive that none of them has signed.
        signers: name and version of each archive, and who signed it, in words; without those that nobody signed.
        metrics_url: what Prometheus reads; empty if nothing is counted.
    """

    url: str
    models: tuple[str, ...]
    management_url: str
    logs: str = ""
    p99_ms: int = 500
    store: str = ""
    archives: tuple[tuple[str, str, str], ...] = ()
    pid: int = 0
    started: float = 0.0
    trusted: tuple[str, ...] = ()
    signatures: Mode = "off"
    signers: tuple[tuple[str, str, str], ...] = ()
    metrics_url: str = ""

    @property
    def trust(self) -> Trust:
        """What a further archive must be signed with."""
        return Trust(tuple(PublicKey(bytes.fromhex(key)) for key in self.trusted), self.signatures)

    @property
    def runs(self) -> bool:
        """Whether the process runs; another one that has its id by now does not count."""
        return self.process() is not None

    def process(self) -> psutil.Process | None:
        """The process, if it runs."""
        try:
            found = psutil.Process(self.pid)
            return found if abs(found.create_time() - self.started) < _SAME_START_S else None
        except (psutil.Error, ValueError):
            return None

    def save(self) -> None:
        """Write the note."""
        note = _note(Address.parse(self.url).port)
        with suppress(
            OSError, StorageError
        ):  # without a cache the server is complete, and only has to be asked by name
            note.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(note, json.dumps(asdict(self)).encode())

    def forget(self) -> None:
        """Delete the note."""
        with suppress(OSError):
            _note(Address.parse(self.url).port).unlink()


class Announcement:
    """The note of a server of this process, from its first start to its end."""

    def __init__(self) -> None:
        self.server: KnownServer | None = None

    def tell(self, server: KnownServer) -> None:
        """Note what runs now."""
        own = psutil.Process()
        self.server = replace(server, pid=own.pid, started=own.create_time())
        self.server.save()


@contextmanager
def announced(server: KnownServer | None = None) -> Iterator[Announcement]:
    """Note a server of this process in the cache, so that :func:`models_at` and :func:`known_servers` know it.

    The note is deleted when the server is stopped, and stays if it ended by an error.
    """
    note = Announcement()
    if server is not None:
        note.tell(server)
    try:
        yield note
    except RetortError:
        raise
    except BaseException:
        _forget(note)
        raise
    else:
        _forget(note)


def _forget(note: Announcement) -> None:
    if note.server is not None:
        note.server.forget()


def known_servers() -> list[KnownServer]:
    """All servers that are noted, by port, also those that were killed or ended by themselves."""
    folder = cache_folder("servers")
    notes = [path for path in folder.glob("*.json") if re.fullmatch(r"\d+", path.stem)] if folder.is_dir() else []
    found = [_parsed(path) for path in sorted(notes, key=lambda path: int(path.stem))]
    return [server for server in found if server is not None]


def current_archives(port: int) -> list[Path]:
    """The archives that the server of this process had last, also by swaps; the first of a name is its default.

    A version beside the default whose file is gone is left out.
    """
    note = _read(_note(port))
    if note is None or note.pid != psutil.Process().pid:
        return []
    defaults = {name: path for name, _, path in reversed(note.archives)}
    return [Path(path) for name, _, path in note.archives if path == defaults[name] or Path(path).is_file()]


def models_at(url: str, ca: Path | None = None) -> list[str]:
    """Names of the models of a server, sorted; empty if it does not tell.

    Raises:
        ServingError: nothing answers at the address.
        UserError: it is not an HTTP address.
    """
    address = Address.parse(url)
    note = _read(_note(address.port)) if is_loopback(address.host) else None
    if note is None:
        return _listed(address.server, address.prefix, ca)
    try:
        return _listed(note.management_url, "", None) or sorted(note.models)
    except ServingError:
        return sorted(note.models)


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


def _read(path: Path) -> KnownServer | None:
    """What a running server noted; a note of a process that was killed counts as none, also if its id is used again."""
    found = _parsed(path)
    return found if found is not None and found.runs else None


def _parsed(path: Path) -> KnownServer | None:
    """What a server noted, whether it runs or not; None if the file is damaged or is that of an earlier version."""
    try:
        raw = json.loads(path.read_text())
        texts = {key: str(raw[key]) for key in ("url", "management_url", "logs", "store")}
        names = tuple(str(name) for name in raw["models"])
        archives, signers = (
            tuple((str(name), str(version), str(what)) for name, version, what in raw[key])
            for key in ("archives", "signers")
        )
        (mode,) = (mode for mode in get_args(Mode) if mode == raw["signatures"])
        keys = tuple(str(key) for key in raw["trusted"])
        numbers = (int(raw["p99_ms"]), texts["store"], archives, int(raw["pid"]), float(raw["started"]))
        rest = (*numbers, keys, mode, signers, str(raw.get("metrics_url", "")))
        return KnownServer(texts["url"], names, texts["management_url"], texts["logs"], *rest)
    except (OSError, ValueError, LookupError, TypeError):
        return None
