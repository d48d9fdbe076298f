"""The option `--version` of `retort` itself."""

from __future__ import annotations

from typing import Annotated

import typer

from ..core.system.installation import version as installed_version
from .app import app


def _show(asked: bool) -> None:
    if asked:
        typer.echo(f"retort {installed_version()}")
        raise typer.Exit


@app.callback()
def start(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", is_eager=True, callback=_show)
    ] = False,
) -> None:
    """Distil, prune, quantize, export and serve a trained PyTorch model, and measure what it costs and gains."""
