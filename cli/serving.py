"""The subcommands that run a served or a local model: serve and predict."""

from __future__ import annotations

import io
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from ..core.artifact import is_finished, load_artifact
from ..core.console import Console
from ..core.counts import counted
from ..core.data.model_inputs import fit_to
from ..core.data.splits import Splits
from ..core.errors import MissingFileError, ServingError, UserError
from ..core.options.stage_options import BenchOptions, Provider, ServeOptions
from ..core.session import Session, SessionOptions, model_faults, open_session
from ..core.system.atomic_files import write_atomically
from ..core.system.owned_folders import claim_file
from ..core.tensors import BATCH, Array, Signature, TensorSpec, raise_if_nan
from ..serve.address import Address
from ..serve.client import Client, predict_split
from .app import Data, DataArgs, Debug, ForceFile, Json, Seed, Settings, app, console, context_of
from .flags import build_options, with_flags
from .input_file import read_input
from .remote import asked, connect, is_remote, parse_headers

if TYPE_CHECKING:
    from ..serve.torchserve.server import Server
    from ..serve.usage import Lines


def serve(
    archive: Annotated[
        Path, typer.Argument(help=".mar file written by `retort pack`, its folder, or the folder of a run.")
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
    set_: Settings = [],  # noqa: B006
    json: Json = False,
    debug: Debug = False,
    **flags: Any,
) -> None:
    """Serve an archive with TorchServe on the loopback address until Ctrl-C is pressed.

    When the model answers, lines are printed that ask it from a shell and from Python.

    Example: `retort serve runs/digits/07-pack-…/model.mar --port 8080`
    """
    from ..serve.known_servers import announced
    from ..serve.torchserve.server import serve as running

    screen = console(json)
    options = build_options(ServeOptions, flags, set_)
    headers, base = parse_headers(header), Address.parse(url).server if url else ""
    artifact = load_artifact(packed_last(archive))
    own = logs
    for start in range(options.restarts + 1):
        if start:
            screen.warn(f"TorchServe ended by itself, see {own}; it is started again ({start} of {options.restarts})")
        with ExitStack() as stack:
            server = stack.enter_context(running(options, artifact, logs=logs, console=screen))
            stack.enter_context(announced(server.url, server.name, server.management_url))
            own = logs if server.logs == logs.resolve() else server.logs  # another server may have the folder
            options = options.model_copy(update={"port": server.ports.inference})
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


def _tell(server: Server, base: str, logs: Path, headers: Mapping[str, str], screen: Console) -> None:
    """Store an example request, and print the lines that send it."""
    from ..serve.usage import example_request, lines

    example = example_request(server.sample, server.limits)
    file = example.store(server.logs, server.name)
    shown = lines(f"{base}/predictions/{server.name}", example, file, headers)
    value = {"url": server.url, "model": server.name, "logs": str(logs), "startup_s": server.startup_s}
    value |= {"grpc": server.grpc or None, "queue_length": server.queue_length}
    screen.result({**value, "request": str(file), **asdict(shown)}, _ready(server, logs, shown, file))


app.command("serve")(with_flags(serve, ServeOptions))


def packed_last(path: Path) -> Path:
    """The archive of the latest run in a folder; any other path as it is.

    Raises:
        MissingFileError: it is the folder of a run that has no archive.
    """
    from ..pipeline.runs.run_folders import artifacts_of, latest_of

    if not path.is_dir() or is_finished(path):
        return path
    packed = latest_of(path, "pack")
    if packed is None and artifacts_of(path):
        raise MissingFileError(
            f"{path} contains no archive",
            "run a recipe with a `pack` stage to its end, or give a .mar file",
        )
    return packed or path


def _ready(server: Server, logs: Path, lines: Lines, file: Path) -> str:
    ports = [
        ", ".join(spec.describe() for spec in specs) for specs in (server.signature.inputs, server.signature.outputs)
    ]
    grpc = f"gRPC answers at {server.grpc}" if server.grpc else "gRPC is off; --grpc turns it on"
    return (
        f"ready: {server.url}/predictions/{server.name}   (logs in {logs}; Ctrl-C stops it)\n\n"
        f"It takes {ports[0]} and returns {ports[1]}.\n"
        f"{grpc}.\n"
        f"One sample is in {file}; to send it, paste into another terminal:\n\n"
        f"{lines.curl}\n\n{lines.predict}\n\n"
        f"into a Python that has Retort:\n\n{lines.client}\n\n"
        f"or into any Python:\n\n{lines.python}\n"
    )


@app.command("predict")
def predict(
    model: Annotated[
        str, typer.Argument(help="Model file, artifact folder, or an address such as `retort serve` prints it.")
    ],
    input: Annotated[Path | None, typer.Option(help="File with the inputs: .npy, .npz or .json.")] = None,
    data: Data = "",
    data_arg: DataArgs = [],  # noqa: B006
    name: Annotated[
        str | None, typer.Option(help="Name of the served model, if the address is that of a server with several.")
    ] = None,
    timeout: Annotated[float, typer.Option(help="Seconds to wait for an answer of a server.", min=0.001)] = 120.0,
    header: Annotated[
        list[str], typer.Option(help="HTTP header for a server, as 'Name: value', such as a token. Repeatable.")
    ] = [],  # noqa: B006
    ca: Annotated[
        Path | None, typer.Option(help="PEM file of the certificates to trust for https. The default is the system's.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help=".npz file for the outputs.")] = None,
    force: ForceFile = False,
    rows: Annotated[
        int | None, typer.Option(min=1, help="Number of samples of --data to run. The default is all.")
    ] = None,
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

    Example: `retort predict http://127.0.0.1:8080/predictions/digits --data digits`
    """
    screen = console(json)
    if output is not None and output.suffix != ".npz":
        raise UserError(f"{output} does not end in .npz, the form of the outputs", f"--output {output}.npz")
    claim_file(output, force)
    if (input is None) == (not data):
        raise UserError("give either --input or --data, and not both", "for example: --input x.npy, or --data digits")
    remote = is_remote(model)
    if not remote:
        load_artifact(Path(model))  # a wrong path is told before the data are read
    given = input or context_of(data, data_arg, "classification", "cpu", seed, screen, "test").data
    if remote:
        client = connect(model, name, timeout, header, ca)
        found = asked(client, partial(_ask, given=given, rows=rows, screen=screen), ca)
    elif isinstance(given, Path):
        found = _run(model, given, _settings(provider, axis))
    else:
        found = _over_test(model, given, rows, screen, _settings(provider, axis))
    _show_outputs(found, output, screen)


@dataclass(frozen=True)
class Predicted:
    """Outputs of a model by name, the targets of their samples, and the name of the class of each row, if known."""

    outputs: dict[str, Array]
    targets: Array | None = None
    classes: list[str | None] | None = None


def _ask(client: Client, given: Path | Splits, rows: int | None, screen: Console) -> Predicted:
    if isinstance(given, Path):
        outputs, names = client.classify(read_input(given, None))
        return Predicted(outputs, None, names)
    found = predict_split(client, given.test, console=screen, limit=rows)
    specs = [TensorSpec(name, str(array.dtype), (BATCH, *array.shape[1:])) for name, array in found.items()]
    named = Signature((), tuple(specs)).naming(given.classes)
    targets = given.test.read(range(len(next(iter(found.values())))))[1]
    return Predicted(found, targets, named.class_names(found))


def _settings(provider: Provider, axis: list[str]) -> SessionOptions:
    from ..benchmarks.sessions import session_options

    return replace(session_options(BenchOptions(provider=provider, axis=tuple(axis))), threads=0)


def _run(model: str, path: Path, settings: SessionOptions) -> Predicted:
    session, allow_nan = _open(model, settings)
    feeds = read_input(path, session.signature)
    for name, array in feeds.items():
        if not allow_nan:
            raise_if_nan(name, array)
    with model_faults(model):
        outputs = session.run(feeds)
    return Predicted(outputs, None, session.signature.class_names(outputs))


def _open(model: str, settings: SessionOptions) -> tuple[Session, bool]:
    """A session of a model file, of an artifact, or of the model in an archive, and whether its inputs may be NaN."""
    artifact = load_artifact(Path(model))
    if artifact.kind != "archive":
        return open_session(artifact.main, settings), False
    from ..serve.torchserve.archive import open_mar, open_model

    mar = open_mar(artifact)
    return open_model(mar, settings), mar.settings.allow_nan


def _over_test(model: str, splits: Splits, rows: int | None, screen: Console, settings: SessionOptions) -> Predicted:
    from ..benchmarks.accuracy import predict as over

    session, _ = _open(model, settings)
    done = over(session, fit_to(splits, session.signature).test, limit=rows, console=screen)
    names = session.signature.naming(splits.classes).class_names(done.outputs)
    return Predicted(dict(done.outputs), done.targets, names)


def _show_outputs(predicted: Predicted, output: Path | None, screen: Console) -> None:
    found, targets, names = predicted.outputs, predicted.targets, predicted.classes
    value: dict[str, Any] = {"outputs": {key: [str(array.dtype), list(array.shape)] for key, array in found.items()}}
    main = next(iter(found.values()))
    lines = [f"{key}: {array.dtype}{list(array.shape)}" for key, array in found.items()]
    if targets is not None and targets.dtype.kind in "iu":
        from ..core.metrics.task_metrics import metric_interval

        interval = metric_interval("accuracy", main, targets, 0.95)
        value["accuracy"] = {"value": interval.value, "low": interval.low, "high": interval.high, "n": len(targets)}
        lines.append(
            f"accuracy {interval.value:.4f} [{interval.low:.4f}, {interval.high:.4f}] on {counted(targets, 'sample')}"
        )
    if names is not None:
        value["predicted"] = counts = dict(Counter(name for name in names if name is not None).most_common())
        told = [f"{name!r} {count}×" for name, count in counts.items()]
        undefined = names.count(None)
        lines.append("predicted: " + ", ".join([*told, *([f"no class {undefined}× (NaN)"] if undefined else [])]))
    if output is not None:
        arrays: dict[str, Any] = found if names is None else {"classes": np.array([n or "" for n in names]), **found}
        content = io.BytesIO()
        np.savez(content, **arrays)
        write_atomically(output, content.getvalue())
        lines.append(f"wrote {output}")
    elif main.size <= 64:
        value["values"] = {key: array.tolist() for key, array in found.items()}
        lines += [np.array2string(array, precision=5, suppress_small=True) for array in found.values()]
        if names is not None:
            value["classes"] = names
            lines.append(f"classes: {', '.join(name or 'none (NaN)' for name in names)}")
    screen.result(value, "\n".join(lines))
