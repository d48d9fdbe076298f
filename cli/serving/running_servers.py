"""The subcommands for servers that run: status, logs and stop."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Annotated

import psutil
import typer

from ...core.counts import counted
from ...core.errors import MissingFileError, ServingError, UserError
from ...serve.known_servers import KnownServer, known_servers
from ..app import Debug, Json, app, console

_STOP_S = 60.0
_LOGS = ("serve.log", "console.log", "server.log", "worker.log")
Which = Annotated[
    str | None, typer.Argument(metavar="[SERVER]", help="Port or address of the server, or the name of its model.")
]


@app.command("status")
def status(json: Json = False, debug: Debug = False) -> None:
    """Show the servers that `retort serve` started: their models, their workers, and what waits for them.

    Example: `retort status`
    """
    from ...serve.torchserve.live_status import live_status

    screen, found = console(json), [live_status(server) for server in known_servers()]
    rows = [
        (
            *(one.server.url, model.label, model.workers, str(model.waiting), f"{model.memory_bytes / 1e6:.0f} MB"),
            model.signer or "nobody",
        )
        for one in found
        for model in one.models
    ]
    if rows:
        screen.table("servers", ["address", "model", "workers", "waiting", "memory", "signed by"], rows)
    told = [f"{one.server.url}  {one.state}{_since(one.server)}; {_where(one.server)}" for one in found]
    text = "\n".join(told) or "no server runs; `retort serve ARCHIVE --detach` starts one"
    screen.result({"servers": [one.to_dict() for one in found]}, text)


def _since(server: KnownServer) -> str:
    return f" since {datetime.fromtimestamp(server.started):%Y-%m-%d %H:%M:%S}" if server.runs else ""


def _where(server: KnownServer) -> str:
    """Where its metrics and its logs are, in words."""
    metrics = f"metrics at {server.metrics_url}; " if server.metrics_url and server.runs else ""
    return f"{metrics}logs in {server.logs}"


@app.command("logs")
def logs(
    server: Which = None,
    lines: Annotated[int, typer.Option(min=0, help="Number of lines of each file.")] = 20,
    follow: Annotated[bool, typer.Option("--follow", help="Go on with new lines until Ctrl-C is pressed.")] = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Show the last lines of a server's logs; also those of one that ended.

    Example: `retort logs 8080 --lines 50`
    """
    screen, one = console(json), chosen(server, known_servers())
    paths = [path for name in _LOGS if (path := Path(one.logs) / name).is_file()]
    if not paths:
        raise MissingFileError(f"{one.logs or 'its folder'} contains no logs of {one.url}", "they were deleted")
    ends = {path: path.stat().st_size for path in paths}
    found = {path.name: _last(path, end, lines) for path, end in ends.items()}
    text = "\n".join("\n".join([f"==> {Path(one.logs) / name}", *last]) for name, last in found.items())
    screen.result({"logs": one.logs, "files": found}, text)
    if follow:
        try:
            for line in _new_lines(ends, one):
                screen.result({"line": line}, line)
        except KeyboardInterrupt:
            return


@app.command("stop")
def stop(
    server: Which = None,
    all_: Annotated[bool, typer.Option("--all", help="Stop all servers.")] = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Stop a server that `retort serve` started, with all its workers.

    Example: `retort stop 8080`
    """
    screen, known = console(json), known_servers()
    if all_ and server:
        raise UserError("give either a server or --all, and not both", f"retort stop {server}")
    wanted = known if all_ else [chosen(server, known)]
    stopped = []
    for one in wanted:
        ran = one.runs
        _end(one)
        stopped.append({"url": one.url, "models": list(one.models), "ran": ran})
        screen.say(f"{one.url} {'is stopped' if ran else 'had ended before'} ({', '.join(one.models)})")
    screen.result({"stopped": stopped}, "" if stopped else "no server runs")


def _end(server: KnownServer) -> None:
    process = server.process()
    if process is not None:
        try:
            process.terminate()
            process.wait(_STOP_S)
        except psutil.NoSuchProcess:
            pass
        except psutil.TimeoutExpired:  # it stands still; its watchdog ends the server when it is gone
            process.kill()
            process.wait(_STOP_S)
        except psutil.AccessDenied as error:
            raise UserError(f"the server at {server.url} belongs to another user", "stop it as that user") from error
    server.forget()


def chosen(text: str | None, known: list[KnownServer]) -> KnownServer:
    """The server that is meant.

    Raises:
        ServingError: there is none.
        UserError: several fit.
    """
    if not known:
        raise ServingError("no server of `retort serve` is known", "start one with `retort serve ARCHIVE --detach`")
    fitting = [server for server in known if text is None or _fits(server, text)]
    if text is None and len(running := [server for server in fitting if server.runs]) == 1:
        return running[0]
    if len(fitting) == 1:
        return fitting[0]
    choice = ", ".join(f"{server.url.rpartition(':')[2]} ({', '.join(server.models)})" for server in fitting or known)
    if not fitting:
        raise UserError(f"no server fits '{text}'", f"give the port of one of these: {choice}")
    raise UserError(f"{counted(fitting, 'server')} could be meant", f"give the port of one of these: {choice}")


def _fits(server: KnownServer, text: str) -> bool:
    port = server.url.rpartition(":")[2]
    return text in (port, server.url, *server.models) or text.startswith(f"{server.url}/")


def _last(path: Path, end: int, count: int) -> list[str]:
    """The last lines before a position."""
    with path.open("rb") as stream:
        lines = stream.read(end).decode("utf-8", "replace").splitlines()
    return lines[-count:] if count else []


def _new_lines(ends: dict[Path, int], server: KnownServer) -> Iterator[str]:
    """The lines after these positions, until the server ends."""
    while server.runs:
        for path, end in ends.items():
            size = path.stat().st_size if path.exists() else 0
            start = 0 if size < end else end  # it was rotated
            if size > start:
                with path.open("rb") as stream:
                    stream.seek(start)
                    content = stream.read(size - start)
                whole = content[: content.rfind(b"\n") + 1]
                ends[path] = start + len(whole)
                yield from (f"{path.name}: {line}" for line in whole.decode("utf-8", "replace").splitlines())
        time.sleep(0.5)
