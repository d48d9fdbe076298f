"""What is unsafe in a TorchServe configuration: settings, those left to defaults as well, and open folders."""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from ...core.counts import counted
from ...core.errors import VerificationError
from ..address import is_loopback
from ..connection import UNIX
from ..known_servers import KnownServer
from . import config

DEFAULTS: Mapping[str, str] = {
    "inference_address": "http://127.0.0.1:8080",
    "management_address": "http://127.0.0.1:8081",
    "metrics_address": "http://127.0.0.1:8082",
    "grpc_inference_address": "127.0.0.1",
    "grpc_management_address": "127.0.0.1",
    "allowed_urls": "file://.*|http(s)?://.*",
    "use_env_allowed_urls": "false",
    "enable_model_api": "false",
    "install_py_dep_per_model": "false",
    "enable_envvars_config": "false",
    "decode_input_request": "true",
    "load_models": "",
    "cors_allowed_origin": "",
}
"""What TorchServe 0.12.0 does where a configuration says nothing."""
NO_URL = "(?!)"
"""The pattern that nothing matches."""
_ADDRESSES = ("inference_address", "management_address", "metrics_address")
_GRPC = ("grpc_inference_address", "grpc_management_address")
_MUST = {
    "install_py_dep_per_model": ("false", "an archive could install any package as it is loaded"),
    "enable_envvars_config": ("false", "variables of the environment could change every setting"),
    "use_env_allowed_urls": ("false", "a variable of the environment could allow any address"),
    "decode_input_request": ("false", "the worker would read JSON of any size and depth before its limits apply"),
}
_SEPARATOR = re.compile(r"(?<!\\)[=: \t]")
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|.)")
_PLAIN = {"t": "\t", "n": "\n", "r": "\r", "f": "\f"}


@dataclass(frozen=True)
class Finding:
    """An unsafe setting.

    Attributes:
        setting: a key of ``config.properties``, or a path or an address.
        found: what it is; shortened.
        why: what could happen.
        remedy: what to write or do instead.
    """

    setting: str
    found: str
    why: str
    remedy: str


def audit_properties(text: str) -> list[Finding]:
    """What is unsafe in the text of a ``config.properties``."""
    values = {**DEFAULTS, **parse_properties(text)}
    return [*_addresses(values), *_settings(values), *_folders(values)]


def audit_server(server: KnownServer) -> list[Finding]:
    """What is unsafe in a running server: its configuration, and what it really listens on.

    Raises:
        VerificationError: its configuration cannot be read.
    """
    scratch = Path(server.management_url.removeprefix(UNIX)).parent
    try:
        text = (scratch / "config.properties").read_text(encoding="latin-1")
    except OSError as error:
        message = f"the configuration of {server.url} cannot be read: {error.strerror}"
        raise VerificationError(message, "look at the server with `retort status`") from error
    return [*audit_properties(text), *_listeners(server)]


def raise_if_unsafe(text: str) -> None:
    """Refuse a configuration before a server starts with it.

    Raises:
        VerificationError: it has an unsafe setting; the message names the first.
    """
    if found := audit_properties(text):
        raise failure(found, "the configuration of the server")


def failure(found: list[Finding], what: str) -> VerificationError:
    """The error of unsafe settings."""
    first = found[0]
    message = (
        f"{what} has {counted(found, 'unsafe setting')}: {first.setting} is {first.found or 'empty'}, so {first.why}"
    )
    return VerificationError(message, first.remedy)


def parse_properties(text: str) -> dict[str, str]:
    """The keys and values of Java properties; the last of equal keys counts, as in Java."""
    found: dict[str, str] = {}
    for line in _logical_lines(text):
        key, _, rest = _split(line)
        found[_unescaped(key)] = _unescaped(rest)
    return found


def _logical_lines(text: str) -> Iterator[str]:
    joined = ""
    for raw in text.splitlines():
        line = raw.lstrip(" \t\f")
        if not joined and (not line or line[0] in "#!"):
            continue
        joined += line
        if (len(joined) - len(joined.rstrip("\\"))) % 2:
            joined = joined[:-1]
            continue
        yield joined
        joined = ""
    if joined:
        yield joined


def _split(line: str) -> tuple[str, str, str]:
    match = _SEPARATOR.search(line)
    if match is None:
        return line, "", ""
    rest = line[match.start() :].lstrip(" \t")
    return line[: match.start()], "=", (rest[1:] if rest[:1] in ("=", ":") else rest).lstrip(" \t")


def _unescaped(text: str) -> str:
    def _one(match: re.Match[str]) -> str:
        code = match[1]
        return chr(int(code[1:], 16)) if len(code) == 5 else _PLAIN.get(code, code)

    return _ESCAPE.sub(_one, text)


def _addresses(values: Mapping[str, str]) -> Iterator[Finding]:
    for key in _ADDRESSES:
        value = values[key]
        if value.startswith(UNIX):
            continue
        if not is_loopback(urlsplit(value).hostname or ""):
            why = "every machine that reaches this one can use it, and TorchServe's HTTP has open faults"
            yield Finding(key, value, why, f"{key}=http://127.0.0.1:PORT, behind a proxy")
        elif key == "management_address" and (config.unix_sockets() or values["enable_model_api"].lower() == "true"):
            why = "every user of this machine can stop its models"
            yield Finding(key, value, why, f"{key}=unix:/FOLDER/OF/ONE/USER/management")
    for key in _GRPC:
        host = values[key]
        if not (is_loopback(host) or _is_unreachable(host)):
            yield Finding(key, host, "every machine that reaches this one can use it", f"{key}=127.0.0.1")
        elif key == "grpc_management_address" and config.hides_grpc() and not _is_unreachable(host):
            why = "every user of this machine can stop its models over gRPC"
            yield Finding(key, host, why, f"{key}=224.0.0.0, to which nothing can connect")


def _settings(values: Mapping[str, str]) -> Iterator[Finding]:
    for key, (safe, why) in _MUST.items():
        if values[key].strip().lower() != safe:
            yield Finding(key, values[key], why, f"{key}={safe}")
    if values["allowed_urls"].strip() != NO_URL:
        why = "models, which are code, can be loaded from other machines or folders"
        yield Finding("allowed_urls", values["allowed_urls"], why, f"allowed_urls={NO_URL}")
    if values["load_models"].strip().lower() == "all":
        why = "every file that lies in the store is loaded"
        yield Finding("load_models", values["load_models"], why, "load_models=NAME=FILE.mar")
    if values["cors_allowed_origin"].strip() == "*":
        why = "any page in a browser on this machine can use the model"
        yield Finding("cors_allowed_origin", "*", why, "name the origins")


def _folders(values: Mapping[str, str]) -> Iterator[Finding]:
    management = values["management_address"]
    folders = {"model_store": values.get("model_store", "")}
    if management.startswith(UNIX):
        folder = Path(management.removeprefix(UNIX)).parent
        mode = _mode(folder)
        # the socket itself has the mode of the umask, so the folder must close it
        if mode is not None and mode & 0o077:
            yield Finding(str(folder), f"{mode:o}", "others can reach the socket in it", f"chmod 700 {folder}")
    for key, name in folders.items():
        mode = _mode(Path(name)) if name else None
        if mode is not None and mode & 0o022 and not mode & stat.S_ISVTX:
            why = "others can put models, which are code, into it"
            yield Finding(key, f"{name} with mode {mode:o}", why, f"chmod go-w {name}")


def _listeners(server: KnownServer) -> Iterator[Finding]:
    process = server.process()
    for one in [process, *process.children(recursive=True)] if process is not None else []:
        try:
            connections = one.net_connections("tcp")
        except psutil.Error:  # it has ended since
            continue
        for connection in connections:
            host, port = connection.laddr[:2] if connection.laddr else ("", 0)
            host = str(host).removeprefix("::ffff:")
            if connection.status == psutil.CONN_LISTEN and not (is_loopback(host) or _is_unreachable(host)):
                why = "every machine that reaches this one can connect to it"
                yield Finding(f"port {port}", f"open on {host}", why, "stop it and start it with `retort serve`")


def _mode(path: Path) -> int | None:
    try:
        return stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return None


def _is_unreachable(host: str) -> bool:
    try:
        return ip_address(host).is_multicast
    except ValueError:
        return False
