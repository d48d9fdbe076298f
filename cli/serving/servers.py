"""The subcommand that starts a server for archives: serve."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...core.artifact import Artifact, is_finished, load_artifact
from ...core.console import Console
from ...core.errors import MissingFileError, ServingError
from ...core.options.stage_options import ServeOptions
from ...core.preprocessing.fitting import single_field
from ...serve.address import Address
from ...serve.known_servers import KnownServer, announced, current_archives
from ..app import Debug, Json, Settings, app, console
from ..flags import build_options, with_flags
from . import detached
from .remote import parse_headers

if TYPE_CHECKING:
    from ...serve.torchserve.served_model import Served
    from ...serve.torchserve.server import Server
    from ...serve.usage import Lines


def serve(
    archives: Annotated[
        list[Path],
        typer.Argument(
            metavar="ARCHIVE…",
            help=".mar file written by `retort pack`, its folder, or the folder of a run. Several have different names "
            "or versions; the first version of a name answers requests that name none.",
        ),
    ],
    logs: Annotated[
        Path,
        typer.Option(
            help="Folder for the logs of the server, and for an example request. Further servers there have a numbered "
            "folder in it."
        ),
    ] = Path("logs"),
    url: Annotated[
        str | None,
        typer.Option(help="Address under which a proxy publishes the server; only the printed lines use it."),
    ] = None,
    header: Annotated[
        list[str], typer.Option(help="Header that the proxy wants, as 'Name: value'; only the printed lines use it.")
    ] = [],  # noqa: B006
    detach: Annotated[
        bool,
        typer.Option(
            "--detach",
            help="Leave the server in the background, until `retort stop`.",
        ),
    ] = False,
    set_: Settings = [],  # noqa: B006
    json: Json = False,
    debug: Debug = False,
    **flags: Any,
) -> None:
    """Serve archives with TorchServe on the loopback address until Ctrl-C is pressed.

    When the models answer, lines are printed that ask them from a shell and from Python. With --detach the server goes
    on in the background: `retort status` shows it, and `retort stop` ends it.

    Example: `retort serve runs/digits/07-pack-…/model.mar --port 8080`
    """
    screen = console(json)
    options = build_options(ServeOptions, flags, set_)
    headers, base = parse_headers(header), Address.parse(url).server if url else ""
    artifacts = [load_artifact(packed_last(archive)) for archive in archives]
    if detach:
        given = [f"--logs={logs}", *([f"--url={url}"] if url else []), *(f"--header={line}" for line in header)]
        given += [f"--set={key}={dumps(value)}" for key, value in options.model_dump(exclude_defaults=True).items()]
        given += [name for name, wanted in (("--json", json), ("--debug", debug)) if wanted]
        raise typer.Exit(detached.start([*given, "--", *map(str, archives)]))
    _serve(options, artifacts, logs, base, headers, screen)


def _serve(
    options: ServeOptions,
    artifacts: list[Artifact],
    logs: Path,
    base: str,
    headers: Mapping[str, str],
    screen: Console,
) -> None:
    """Serve until the user stops it, and start again as often as the options say.

    Raises:
        ServingError: the server ended by itself.
    """
    from ...serve.torchserve.server import serve as running

    own = logs
    with announced() as note:
        for start in range(options.restarts + 1):
            if start:
                screen.warn(
                    f"TorchServe ended by itself, see {own}; it is started again ({start} of {options.restarts})"
                )
                # what was swapped in is served again
                artifacts = [load_artifact(path) for path in current_archives(options.port)] or artifacts
            with running(options, *artifacts, logs=logs, console=screen) as server:
                note.tell(_known(server, artifacts, options.p99_ms))
                own = logs if server.logs == logs.resolve() else server.logs  # another server may have the folder
                same = {"port": server.ports.inference, "metrics_port": server.ports.metrics}
                options = options.model_copy(update=same)
                try:
                    if start == 0:
                        _tell(server, base or server.url, own, headers, screen)
                    while server.process.alive():
                        time.sleep(0.5)
                except KeyboardInterrupt:
                    screen.say("stopped")
                    return
        remedy = "" if options.restarts else "; --restarts starts it again"
        raise ServingError("TorchServe ended by itself", f"see {own}{remedy}")


def _known(server: Server, artifacts: list[Artifact], p99_ms: int) -> KnownServer:
    names = tuple(dict.fromkeys(model.name for model in server.models))
    given = [str(artifact.main.resolve()) for artifact in artifacts]
    archives = tuple((m.name, m.version, path) for m, path in zip(server.models, given, strict=True))
    signers = tuple((m.name, m.version, m.signer.describe()) for m in server.models if m.signer is not None)
    return KnownServer(
        server.url,
        names,
        server.management_url,
        str(server.logs),
        p99_ms,
        server.store,
        archives,
        trusted=tuple(key.content.hex() for key in server.trust.keys),
        signatures=server.trust.mode,
        signers=signers,
        metrics_url=server.metrics_url,
    )


app.command("serve")(with_flags(serve, ServeOptions))


def packed_last(path: Path) -> Path:
    """The archive of the latest run in a folder; any other path as it is.

    Raises:
        MissingFileError: it is the folder of a run that has no archive.
    """
    from ...pipeline.runs.run_folders import artifacts_of, latest_of

    if not path.is_dir() or is_finished(path):
        return path
    packed = latest_of(path, "pack")
    if packed is None and artifacts_of(path):
        raise MissingFileError(
            f"{path} contains no archive",
            "run a recipe with a `pack` stage to its end, or give a .mar file",
        )
    return packed or path


@dataclass(frozen=True)
class _Shown:
    """A served model with its address and what sends it an example request."""

    model: Served
    address: str
    file: Path
    lines: Lines
    raw: str = ""

    def value(self) -> dict[str, Any]:
        """For ``--json``."""
        model = self.model
        facts = {"name": model.name, "version": model.version, "default": model.default, "address": self.address}
        facts |= {"workers": model.workers, "queue_length": model.queue_length, "request": str(self.file)}
        facts["signer"] = model.signer and asdict(model.signer)
        return {**facts, **asdict(self.lines)}

    def text(self) -> str:
        """For people."""
        ports = (self.model.signature.inputs, self.model.signature.outputs)
        takes, returns = (", ".join(spec.describe() for spec in specs) for specs in ports)
        lines = self.lines
        more = f"\n{self.raw}" if self.raw else ""
        return (
            f"It takes {takes} and returns {returns}.\n"
            f"One sample is in {self.file}; to send it, paste into another terminal:\n\n"
            f"{lines.curl}\n\n{lines.predict}\n\n"
            f"into a Python that has Retort:\n\n{lines.client}\n\n"
            f"or into any Python:\n\n{lines.python}\n{more}"
        )


def _tell(server: Server, base: str, logs: Path, headers: Mapping[str, str], screen: Console) -> None:
    """Store an example request of each model, and print the lines that send it."""
    shown = [_shown(server, model, base, headers) for model in server.models]
    value = {"url": server.url, "model": server.name, "logs": str(logs), "startup_s": server.startup_s}
    value |= {"grpc": server.grpc or None, "queue_length": server.models[0].queue_length}
    value |= {"metrics": server.metrics_url or None}
    value |= {"request": str(shown[0].file), **asdict(shown[0].lines), "models": [one.value() for one in shown]}
    screen.result(value, _ready(server, logs, shown))
    if detached.is_detached():
        detached.tell_ready(server.logs)


def _shown(server: Server, model: Served, base: str, headers: Mapping[str, str]) -> _Shown:
    from ...serve.usage import example_request, lines, raw_lines

    example = example_request(model.sample, model.limits)
    file = example.store(server.logs, model.name)
    path = f"/predictions/{model.name}" + ("" if model.default else f"/{model.version}")
    kind = model.signature.preprocessing[0].kind if single_field(model.signature) else ""
    raw = raw_lines(f"{base}{path}", kind, headers) if kind else ""
    return _Shown(model, f"{server.url}{path}", file, lines(f"{base}{path}", example, file, headers), raw)


def _ready(server: Server, logs: Path, shown: list[_Shown]) -> str:
    grpc = f"gRPC answers at {server.grpc}" if server.grpc else "gRPC is off; --grpc turns it on"
    (first, *others) = shown
    stop = f"`retort stop {server.ports.inference}`" if detached.is_detached() else "Ctrl-C"
    metrics = f"Metrics for Prometheus are at {server.metrics_url}.\n" if server.metrics_url else ""
    parts = [f"ready: {first.address}   (logs in {logs}; {stop} stops it)\n\n{grpc}.\n{metrics}{first.text()}"]
    parts += [f"ready: {one.address}\n\n{one.text()}" for one in others]
    return "\n".join(parts)
