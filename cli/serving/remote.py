"""A served model as the argument of a command: which model of a server is meant, and how to reach it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from ...core.errors import InputError, UserError
from ...core.options.recipe import nearest
from ...serve.address import Address
from ...serve.client import Client
from ...serve.known_servers import models_at

T = TypeVar("T")
ServedName = Annotated[
    str | None, typer.Option(help="Name of the served model, if the address is that of a server with several.")
]
Timeout = Annotated[float, typer.Option(help="Seconds to wait for an answer of a server.", min=0.001)]
Headers = Annotated[
    list[str], typer.Option(help="HTTP header for a server, as 'Name: value', such as a token. Repeatable.")
]
Authority = Annotated[
    Path | None, typer.Option(help="PEM file of the certificates to trust for https. The default is the system's.")
]


def is_remote(model: str) -> bool:
    """Whether a command's model is an address instead of a path.

    Raises:
        UserError: it is an address of another kind.
    """
    scheme, separator, _ = model.partition("://")
    if separator and scheme not in {"http", "https"} and not Path(model).exists():
        remedy = "give http://HOST:PORT/predictions/NAME, as `retort serve` prints it"
        raise UserError(f"{model}: an address begins with http:// or https://, not with {scheme}://", remedy)
    return bool(separator) and scheme in {"http", "https"}


def connect(url: str, name: str | None, timeout_s: float, headers: Sequence[str], ca: Path | None) -> Client:
    """The client of a model; if only its server is given, the server's single model is taken.

    Args:
        name: name of the model, if the address has none.
        headers: as ``Name: value``.

    Raises:
        UserError: the server has several models or does not tell which, or a header has no colon.
        ServingError: nothing answers at the address.
    """
    address = Address.parse(url)
    name = name or address.name or _only_model(address, ca)
    return Client(url, name, timeout_s=timeout_s, headers=parse_headers(headers), ca=ca)


def _only_model(address: Address, ca: Path | None) -> str:
    found = models_at(address.server, ca)
    if len(found) == 1:
        return found[0]
    start = f"{address.server}/predictions"
    if not found:
        remedy = f"give the whole address, {start}/NAME, as `retort serve` prints it"
        raise UserError(f"{address.where} does not tell which models it has", remedy)
    listed = ", ".join(found)
    raise UserError(f"{address.where} has several models: {listed}", f"give one of them, such as {start}/{found[0]}")


def parse_headers(lines: Sequence[str]) -> dict[str, str]:
    """HTTP headers by name.

    Raises:
        UserError: a line has no colon, or characters that a header cannot have.
    """
    found = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name.strip() or not line.isascii() or not line.isprintable():
            raise UserError("--header has no name and value", "write --header 'Name: value'")
        found[name.strip()] = value.strip()
    return found


def asked(client: Client, ask: Callable[[Client], T], ca: Path | None) -> T:
    """What ``ask`` returns; where the server has no such model, the error names its models.

    Raises:
        InputError: as :meth:`retort.serve.client.Client.predict`.
    """
    try:
        return ask(client)
    except InputError as error:
        known = models_at(client.address.server, ca) if error.facts.get("status") == 404 else []
        if not known or client.address.name in known:
            raise
        name = client.address.name
        remedy = f"{client.address.server}/predictions/{known[0]}" if len(known) == 1 else f"one of {', '.join(known)}"
        raise InputError(f"the server has no model '{name}'{nearest(name, known)}", f"use {remedy}") from error
    finally:
        client.close()
