"""The subcommand that writes the files around a server: deploy."""

from __future__ import annotations

import os
import secrets
import sys
from pathlib import Path
from typing import Annotated

import typer

from ...core.artifact import load_artifact
from ...core.system.atomic_files import storage_errors, write_atomically
from ...core.system.owned_folders import claim_file
from ..app import Debug, Json, app, console
from .servers import packed_last


@app.command("deploy")
def deploy(
    archives: Annotated[
        list[Path],
        typer.Argument(
            metavar="ARCHIVE…", help=".mar file written by `retort pack`, its folder, or the folder of a run."
        ),
    ],
    host: Annotated[str, typer.Option(help="Name of this machine in addresses and in the certificate.")],
    certificate: Annotated[Path, typer.Option(help="Certificate chain in PEM form, which nginx reads.")],
    key: Annotated[Path, typer.Option(help="Key of the certificate in PEM form.")],
    out: Annotated[Path, typer.Option(help="Folder for the files.")] = Path("deployment"),
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of nginx, for https.")] = 443,
    server_port: Annotated[int, typer.Option(min=1, max=65535, help="Port of TorchServe on 127.0.0.1.")] = 8080,
    metrics_port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the metrics on 127.0.0.1.")] = 8082,
    rate: Annotated[
        int, typer.Option(min=1, help="Requests per second of one address, and as many more at once; others get 429.")
    ] = 100,
    trust: Annotated[
        list[Path],
        typer.Option(
            help="File of a public key that must have signed the archives, now and at every start. Repeatable."
        ),
    ] = [],  # noqa: B006
    force: Annotated[
        bool, typer.Option("--force", help="Replace files of an earlier call. Tokens are always kept.")
    ] = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Write an nginx site with TLS, tokens and limits for archives, and a systemd unit that serves them behind it.

    A job for Prometheus and a dashboard for Grafana show how long requests take, which fail, and how full batches are.

    Example: `retort deploy model.mar --host models.example.org --certificate /etc/ssl/m.pem --key /etc/ssl/m.key`
    """
    from ...serve.signing.trust import Trust
    from ...serve.targets.dashboard import DASHBOARD, SCRAPE, dashboard, scrape_job
    from ...serve.targets.reverse_proxy import SITE, TOKENS, Site
    from ...serve.targets.system_service import UNIT, unit
    from ...serve.torchserve.archives.archive import open_mar
    from ...serve.torchserve.archives.contents import response_timeout_s

    screen, trusted = console(json), Trust.chosen(trust)
    mars = [open_mar(load_artifact(packed_last(archive)), trusted, screen) for archive in archives]
    folder, url = out.resolve(), f"https://{host}" + ("" if port == 443 else f":{port}")
    site = Site(
        host=host,
        port=port,
        upstream=server_port,
        models=[mar.name for mar in mars],
        certificate=str(certificate.resolve()),
        key=str(key.resolve()),
        tokens=str(folder / TOKENS),
        request_bytes=max(mar.settings.limits.request_bytes for mar in mars),
        timeout_s=max(response_timeout_s(mar.path) for mar in mars) + 5,
        rate=rate,
    )
    keys = [str(path.resolve()) for path in trust]
    served = [str(mar.path.resolve()) for mar in mars]
    service = unit(sys.executable, served, (server_port, metrics_port), url, keys)
    files = {SITE: site.text(), UNIT: service, SCRAPE: scrape_job(metrics_port), DASHBOARD: dashboard()}
    _write({folder / name: text for name, text in files.items()}, folder, force)
    tokens = folder / TOKENS
    token = _first_token(tokens)
    value = {"site": str(folder / SITE), "unit": str(folder / UNIT), "tokens": str(tokens), "token": token, "url": url}
    value |= {"scrape": str(folder / SCRAPE), "dashboard": str(folder / DASHBOARD)}
    told = f"{tokens} has its first token: {token}" if token else f"{tokens} is kept as it was"
    text = (
        f"wrote {folder / SITE}: copy or link it to /etc/nginx/conf.d/, then `nginx -t && nginx -s reload`\n"
        f"wrote {folder / UNIT}: copy it to /etc/systemd/system/, then `systemctl enable --now retort`\n"
        f"wrote {folder / SCRAPE}: merge it into prometheus.yml; Grafana imports {folder / DASHBOARD}\n"
        f"{told}\n"
        f"clients: retort predict {url}/predictions/{mars[0].name} --input x.npy --header 'Authorization: Bearer TOKEN'"
    )
    screen.result(value, text)


def _write(files: dict[Path, str], folder: Path, force: bool) -> None:
    with storage_errors(str(folder)):
        folder.mkdir(parents=True, exist_ok=True)
    for path in files:
        claim_file(path, force)
    for path, text in files.items():
        write_atomically(path, text.encode())


def _first_token(path: Path) -> str | None:
    """A token in a new file that only its owner can read; None if the file is there, which is kept."""
    from ...serve.targets.reverse_proxy import token_line

    if path.exists():
        return None
    token = secrets.token_urlsafe(32)
    with storage_errors(str(path)), open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(token_line(token, "first"))
    return token
