"""The subcommands that exchange the model of a server that runs: swap and rollback."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ...core.artifact import load_artifact
from ...serve.known_servers import known_servers
from ..app import Debug, Json, app, console
from .running_servers import chosen
from .servers import packed_last

Server = Annotated[
    str | None,
    typer.Option(help="Port or address of the server. It can be left out if only one runs, or only one has the model."),
]


@app.command("swap")
def swap_command(
    archive: Annotated[Path, typer.Argument(help=".mar file of the new version, its folder, or the folder of a run.")],
    server: Server = None,
    keep: Annotated[
        bool, typer.Option(help="Leave the old version in memory, so that `retort rollback` goes back at once.")
    ] = True,
    force: Annotated[
        bool, typer.Option("--force", help="Also take a model with other inputs, outputs or names of classes.")
    ] = False,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds in which the new version must be ready.")] = 120.0,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Exchange the model of a running server for another version, without a lost request.

    The new version is verified and loaded beside the old one, and must give its golden answers before it takes over;
    the old one then ends the requests that it has. The server must have been started with --swaps.

    Example: `retort swap runs/digits/07-pack-…/model.mar`
    """
    from ...serve.torchserve.swap import swap

    screen, artifact = console(json), load_artifact(packed_last(archive))
    done = swap(chosen(server, known_servers()), artifact, screen, force=force, keep=keep, timeout_s=timeout)
    back = "; `retort rollback` goes back" if done.kept else ""
    text = f"{done.name} {done.version} answers in place of {done.previous} ({done.seconds:.1f} s){back}"
    screen.result(asdict(done), text)


@app.command("rollback")
def rollback_command(
    model: Annotated[str | None, typer.Argument(help="Name of the model, if several were swapped.")] = None,
    server: Server = None,
    to: Annotated[
        str | None, typer.Option(help="Version to go back to. The default is the one before the last swap.")
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Go back at once to the version that a server had before the last `retort swap`; once more goes forward again.

    Example: `retort rollback`
    """
    from ...serve.torchserve.swap import rollback

    screen = console(json)
    done = rollback(chosen(server, known_servers()), model, to)
    screen.result(
        asdict(done), f"{done.name} {done.version} answers in place of {done.previous} ({done.seconds:.1f} s)"
    )
