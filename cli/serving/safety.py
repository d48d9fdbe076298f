"""The subcommands that check what is served: verify an archive, audit a server."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ...core.artifact import load_artifact, sha256_file
from ...core.counts import counted
from ...core.errors import MissingFileError, ServingError
from ...serve.known_servers import known_servers
from ..app import Debug, Json, app, console
from .running_servers import chosen
from .servers import packed_last


@app.command("verify")
def verify(
    archive: Annotated[
        Path, typer.Argument(help=".mar file written by `retort pack`, its folder, or the folder of a run.")
    ],
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Prove that an archive is whole, and that its model gives its golden outputs on this machine.

    `retort serve` and `retort swap` do the same before they take an archive.

    Example: `retort verify runs/digits/07-pack-…/model.mar`
    """
    from ...serve.torchserve.archives.archive import open_mar
    from ...serve.torchserve.archives.self_test import prove

    screen = console(json)
    mar = open_mar(load_artifact(packed_last(archive)))
    proof, digest = prove(mar), sha256_file(mar.path)
    value = {"path": str(mar.path), "model": mar.name, "version": mar.version, "sha256": digest, **asdict(proof)}
    code = "that of this Retort" if proof.same_runtime else "that of another version of Retort"
    text = (
        f"{mar.path} is whole: version {mar.version} of the model '{mar.name}' with {counted(mar.sums, 'file')}.\n"
        f"Its model gives its golden outputs here, with a relative error of {proof.golden_error:.3g}.\n"
        f"The code in it is {code}.\nsha256 {digest}"
    )
    screen.result(value, text)


@app.command("audit")
def audit(
    what: Annotated[
        str | None,
        typer.Argument(
            metavar="[SERVER|FILE]",
            help="Port or address of a running server, or a config.properties of TorchServe. The default is every "
            "server that `retort serve` started.",
        ),
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Look for unsafe settings of a server: open addresses, foreign models, open folders. It fails if there is one.

    `retort serve` does the same for its own configuration before every start.

    Example: `retort audit config.properties`
    """
    from ...serve.torchserve.audit import audit_properties, audit_server, failure

    screen = console(json)
    if what is not None and (Path(what).is_file() or what.endswith(".properties")):
        found = {what: audit_properties(_read(Path(what)))}
    else:
        running = [server for server in known_servers() if server.runs]
        if what is None and not running:
            raise ServingError("no server of `retort serve` runs", "give a config.properties of TorchServe")
        found = {one.url: audit_server(one) for one in (running if what is None else [chosen(what, running)])}
    findings = [(where, one) for where, several in found.items() for one in several]
    value = {"findings": [{"where": where, **asdict(one)} for where, one in findings]}
    if not findings:
        screen.result(value, f"{', '.join(found)}: no unsafe setting")
        return
    for where, one in findings:
        screen.say(f"{where}: {one.setting} is {one.found or 'empty'}, so {one.why}\n  → {one.remedy}")
    error = failure([one for _, one in findings], ", ".join(found))
    error.facts.update(value)
    raise error


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="latin-1")  # as Java reads properties
    except FileNotFoundError as error:
        raise MissingFileError(f"no such file: {path}", "check the path") from error
