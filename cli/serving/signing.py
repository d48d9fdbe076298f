"""The subcommands about who made a model: keys makes a key pair, sign signs an archive or a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ...core.artifact import load_artifact, raise_if_not
from ...core.errors import UserError
from ...core.system.atomic_files import storage_errors
from ..app import Debug, Json, app, console
from .safety import bundle_at
from .servers import packed_last


@app.command("keys")
def keys(
    out: Annotated[Path, typer.Option(help="Folder for both files.")] = Path("keys"),
    name: Annotated[str, typer.Option(help="Name of the files, without their endings.")] = "signing",
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Make a key pair: a private key that signs what you pack, and a public key for servers that trust you.

    The private key can be read by you alone, and is never replaced. Keep it off the servers.

    Example: `retort keys --out keys`
    """
    from ...serve.signing.private_key import make_pair

    if Path(name).name != name:
        raise UserError(f"--name {name} is no name of a file", "give a name such as signing, and the folder with --out")
    private, public, key = make_pair(out, name)
    value = {"private_key": str(private), "public_key": str(public), "key_id": key.key_id}
    text = (
        f"{private} is the private key: `retort pack … --sign {private}` signs with it. Keep it secret.\n"
        f"{public} is the public key: `retort serve … --trust {public}` takes only what it has signed.\n"
        f"key id {key.key_id}"
    )
    console(json).result(value, text)


@app.command("sign")
def sign(
    artifact: Annotated[
        Path, typer.Argument(help=".mar file written by `retort pack`, a bundle, a deployment, or the folder of a run.")
    ],
    key: Annotated[Path, typer.Option(help="Private key of `retort keys`.")],
    out: Annotated[
        Path | None,
        typer.Option(help="File for the signed archive. The default is signed.mar. A bundle is signed where it is."),
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Sign an archive or a bundle that exists, after a check that it is whole. Nothing is replaced.

    A signed copy of an archive is written; a bundle gets the file SHA256SUMS.sig.

    Example: `retort sign packed/model.mar --key keys/signing.key --out signed.mar`
    """
    from ...serve.bundles.bundled import sign_bundle
    from ...serve.signing.private_key import read_private_key
    from ...serve.signing.trust import Trust
    from ...serve.torchserve.archives.archive import open_mar
    from ...serve.torchserve.archives.mar import sign_mar

    screen = console(json)
    private, path = read_private_key(key, screen), packed_last(artifact)
    folder = bundle_at(path)
    if folder is not None:
        if out is not None:
            raise UserError("a bundle is signed where it is", "leave out --out, or sign a copy of the bundle")
        with storage_errors(str(folder)):
            written = sign_bundle(folder, private.sign)
    else:
        written = out or Path("signed.mar")
        given = load_artifact(path)
        raise_if_not(given, "archive", "bundle", "deployment")
        mar = open_mar(given, Trust())
        with storage_errors(str(written)):
            sign_mar(mar.path, written, mar.sums, private.sign)
    key_id = private.public.key_id
    screen.result({"path": str(written), "key_id": key_id}, f"{written} has the signature of the key {key_id}")
