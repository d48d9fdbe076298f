"""The subcommands that check what is served: verify an archive, audit a server."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ...core.artifact import is_finished, load_artifact, raise_if_not, sha256_file
from ...core.counts import counted
from ...core.errors import MissingFileError, ServingError
from ...serve.known_servers import known_servers
from ..app import Debug, Json, app, console
from .running_servers import chosen
from .servers import packed_last

if TYPE_CHECKING:
    from ...serve.signing.trust import Signer


@app.command("verify")
def verify(
    archive: Annotated[
        Path, typer.Argument(help=".mar file written by `retort pack`, a bundle, a deployment, or the folder of a run.")
    ],
    trust: Annotated[
        list[Path],
        typer.Option(help="File of a public key that must have signed it. Repeatable. The default is RETORT_TRUST."),
    ] = [],  # noqa: B006
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Prove that an archive or a bundle is whole, and that its model gives its golden outputs on this machine.

    With --trust it must also be signed with one of the keys. `retort serve` and `retort swap` do the same before they
    take an archive; do it for a bundle before a server runs the code in it.

    Example: `retort verify runs/digits/07-pack-…/model.mar`
    """
    from ...serve.signing.trust import Trust
    from ...serve.torchserve.archives.archive import open_mar
    from ...serve.torchserve.archives.self_test import prove, prove_bundle

    screen, trusted, path = console(json), Trust.chosen(trust), packed_last(archive)
    folder = bundle_at(path)
    if folder is not None:
        proof, path, digest = prove_bundle(folder, trusted), folder, sha256_file(folder / "SHA256SUMS")
    else:
        given = load_artifact(path)
        raise_if_not(given, "archive", "bundle", "deployment")
        mar = open_mar(given, trusted, screen)
        proof, path, digest = prove(mar), mar.path, sha256_file(mar.path)
    value = {"path": str(path), "sha256": digest, **asdict(proof)}
    code = "that of this Retort" if proof.same_runtime else "that of another version of Retort"
    of = "" if folder is None else " of its SHA256SUMS"
    text = (
        f"{path} is whole: version {proof.version} of the model '{proof.model}' with {counted(proof.files, 'file')}.\n"
        f"{_signed(proof.signer)}\n"
        f"Its model gives its golden outputs here, with a relative error of {proof.golden_error:.3g}.\n"
        f"The code in it is {code}.\nsha256{of} {digest}"
    )
    screen.result(value, text)


def bundle_at(path: Path) -> Path | None:
    """The folder of a bundle, or of the bundle in a deployment; None for anything else."""
    from ...serve.targets.stage import bundle_of

    if is_finished(path):
        artifact = load_artifact(path)
        return bundle_of(artifact) if artifact.kind in ("bundle", "deployment") else None
    return path if (path / "SHA256SUMS").is_file() else None


def _signed(signer: Signer | None) -> str:
    if signer is None:
        return "Nobody signed it."
    if signer.verified:
        return f"It is signed with the key {signer.key_id}, which you trust."
    return f"It says that the key {signer.key_id} signed it; --trust PUBLIC_KEY verifies that."


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
    notes: list[str] = []
    if what is not None and (Path(what).is_file() or what.endswith(".properties")):
        found = {what: audit_properties(_read(Path(what)))}
    else:
        running = [server for server in known_servers() if server.runs]
        if what is None and not running:
            raise ServingError("no server of `retort serve` runs", "give a config.properties of TorchServe")
        servers = running if what is None else [chosen(what, running)]
        found = {one.url: audit_server(one) for one in servers}
        notes = [
            f"{one.url} takes archives that nobody signed; --trust changes that"
            for one in servers
            if one.signatures != "require"
        ]
    findings = [(where, one) for where, several in found.items() for one in several]
    value = {"findings": [{"where": where, **asdict(one)} for where, one in findings], "notes": notes}
    if not findings:
        screen.result(value, "\n".join([f"{', '.join(found)}: no unsafe setting", *notes]))
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
