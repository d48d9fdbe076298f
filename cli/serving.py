"""The subcommands that run a served or a local model: serve and predict."""

from __future__ import annotations

import io
import json as json_module
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from ..core.artifact import load_artifact
from ..core.console import Console
from ..core.data.model_inputs import fit_to
from ..core.errors import InputError, MissingFileError, UserError
from ..core.options.stage_options import BenchOptions, Provider, ServeOptions
from ..core.session import SessionOptions, open_session
from ..core.system.owned_folders import claim_file
from ..core.tensors import Array, Signature
from .commands import Data, DataArgs, Debug, ForceFile, Json, Seed, Settings, app, console, context_of
from .flags import build_options, with_flags


def serve(
    archive: Annotated[Path, typer.Argument(help=".mar file written by `retort pack`, or its folder.")],
    logs: Annotated[Path, typer.Option(help="Folder for the logs of the server.")] = Path("logs"),
    set_: Settings = [],  # noqa: B006
    json: Json = False,
    debug: Debug = False,
    **flags: Any,
) -> None:
    """Serve an archive with TorchServe on the loopback address until Ctrl-C is pressed.

    Example: `retort serve runs/digits/07-pack-…/model.mar --port 8080`
    """
    from ..serve.torchserve.server import serve as running

    screen = console(json)
    options = build_options(ServeOptions, flags, set_)
    with running(options, load_artifact(archive), logs=logs, console=screen) as server:
        value = {"url": server.url, "model": server.name, "logs": str(logs), "startup_s": server.startup_s}
        screen.result(value, f"ready: {server.url}/predictions/{server.name}   (logs in {logs}; Ctrl-C stops it)")
        while server.process.alive():
            time.sleep(0.5)
    screen.say("stopped")


app.command("serve")(with_flags(serve, ServeOptions))


@app.command("predict")
def predict(
    model: Annotated[str, typer.Argument(help="Model file, artifact folder, or http://host:port.")],
    input: Annotated[Path | None, typer.Option(help="File with the inputs: .npy, .npz or .json.")] = None,
    data: Data = "",
    data_arg: DataArgs = [],  # noqa: B006
    name: Annotated[str, typer.Option(help="Name of the served model.")] = "model",
    output: Annotated[Path | None, typer.Option(help=".npz file for the outputs.")] = None,
    force: ForceFile = False,
    rows: Annotated[int | None, typer.Option(help="Number of samples of --data to run. The default is all.")] = None,
    provider: Annotated[
        Provider, typer.Option(help="Execution provider on which ONNX Runtime must run the model.")
    ] = "cpu",
    axis: Annotated[
        list[str], typer.Option(help="Range of a dynamic axis for the provider tensorrt, as name=min:opt:max.")
    ] = [],  # noqa: B006
    seed: Seed = 0,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Run a model file or call an endpoint, with an input file or with the test split of a data source.

    Example: `retort predict http://127.0.0.1:8080 --name digits --data digits`
    """
    screen = console(json)
    claim_file(output, force)
    if (input is None) == (not data):
        raise UserError("give either --input or --data, and not both", "for example: --input x.npy, or --data digits")
    remote = model.startswith(("http://", "https://"))
    settings = _settings(provider, axis)
    if input is not None:
        found, targets = _ask(model, name, input) if remote else _run(model, input, settings), None
    else:
        found, targets = _over_test(model, name if remote else None, data, data_arg, rows, seed, screen, settings)
    _show_outputs(found, targets, output, screen)


def _ask(url: str, name: str, path: Path) -> dict[str, Array]:
    from ..serve.client import predict as ask

    return ask(url, name, read_input(path, None))


def _settings(provider: Provider, axis: list[str]) -> SessionOptions:
    from ..benchmarks.sessions import session_options

    return replace(session_options(BenchOptions(provider=provider, axis=tuple(axis))), threads=0)


def _run(model: str, path: Path, settings: SessionOptions) -> dict[str, Array]:
    session = open_session(load_artifact(Path(model)).main, settings)
    return session.run(read_input(path, session.signature))


def _over_test(
    model: str,
    name: str | None,
    data: str,
    data_arg: list[str],
    rows: int | None,
    seed: int,
    screen: Console,
    settings: SessionOptions,
) -> tuple[dict[str, Array], Array | None]:
    splits = context_of(data, data_arg, "classification", "cpu", seed, screen).data
    if name is not None:
        from ..serve.client import Client, predict_split

        found = predict_split(Client(model, name), splits.test, console=screen, limit=rows)
        return found, splits.test.read(range(len(next(iter(found.values())))))[1]
    from ..benchmarks.accuracy import predict as over

    session = open_session(load_artifact(Path(model)).main, settings)
    done = over(session, fit_to(splits, session.signature).test, limit=rows, console=screen)
    return dict(done.outputs), done.targets


def read_input(path: Path, signature: Signature | None) -> dict[str, Array]:
    """Read inputs from a ``.npy`` (one input), a ``.npz`` or a ``.json`` (a list, or a mapping of names to lists).

    Raises:
        MissingFileError: there is no such file.
        InputError: the file cannot be read, or contains no arrays.
    """
    if not path.is_file():
        raise MissingFileError(f"no such input: {path}", "check the path of --input")
    try:
        loaded = json_module.loads(path.read_text()) if path.suffix == ".json" else _load(path)
    except (ValueError, OSError, EOFError) as error:
        raise InputError(
            f"{path} cannot be read: {error}", "write it with numpy.save, numpy.savez or json.dump"
        ) from error
    if isinstance(loaded, dict):
        return {key: np.asarray(value) for key, value in loaded.items()}
    only = signature.inputs[0].name if signature else "input"
    return {only: np.asarray(loaded)}


def _load(path: Path) -> Any:
    loaded = np.load(io.BytesIO(path.read_bytes()), allow_pickle=False)
    return {key: loaded[key] for key in loaded.files} if hasattr(loaded, "files") else loaded


def _show_outputs(found: dict[str, Array], targets: Array | None, output: Path | None, screen: Console) -> None:
    value: dict[str, Any] = {"outputs": {key: [str(array.dtype), list(array.shape)] for key, array in found.items()}}
    main = next(iter(found.values()))
    lines = [f"{key}: {array.dtype}{list(array.shape)}" for key, array in found.items()]
    if targets is not None and targets.dtype.kind in "iu":
        from ..core.metrics.task_metrics import metric_interval

        interval = metric_interval("accuracy", main, targets, 0.95)
        value["accuracy"] = {"value": interval.value, "low": interval.low, "high": interval.high, "n": len(targets)}
        lines.append(
            f"accuracy {interval.value:.4f} [{interval.low:.4f}, {interval.high:.4f}] on {len(targets)} samples"
        )
    if output is not None:
        arrays: dict[str, Any] = dict(found)
        np.savez(output, **arrays)
        lines.append(f"wrote {output}")
    elif main.size <= 64:
        value["values"] = {key: array.tolist() for key, array in found.items()}
        lines += [np.array2string(array, precision=5, suppress_small=True) for array in found.values()]
    screen.result(value, "\n".join(lines))
