"""The subcommand that runs a served or a local model: predict."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from json import loads as json_values
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from ...core.artifact import load_artifact
from ...core.console import Console
from ...core.counts import counted
from ...core.data.model_inputs import fit_to
from ...core.data.splits import Splits
from ...core.errors import UserError
from ...core.options.stage_options import BenchOptions, Provider
from ...core.session import SessionOptions, model_faults
from ...core.signature import Signature
from ...core.system.atomic_files import write_atomically
from ...core.system.owned_folders import claim_file
from ...core.tensors import BATCH, Array, TensorSpec, raise_if_nan
from ...serve.client import Client, predict_split
from ...serve.requests.json_text import dump
from ..app import Data, DataArgs, Debug, ForceFile, Json, Seed, app, console, context_of
from ..serving.remote import Authority, Headers, ServedName, Timeout, asked, connect, is_remote
from .input_file import read_input
from .raw_predictions import local_predictions, raw_input, remote_predictions, told

if TYPE_CHECKING:
    from ...pipeline.local_models import LocalModel


@app.command("predict")
def predict(
    model: Annotated[
        str, typer.Argument(help="Model file, artifact folder, or an address such as `retort serve` prints it.")
    ],
    input: Annotated[
        Path | None,
        typer.Option(
            help="File with the inputs: arrays (.npy, .npz, .json), or an image, a recording or texts (.txt, one per "
            "line) for a model that was trained on them."
        ),
    ] = None,
    text: Annotated[list[str], typer.Option(help="Text to predict instead of --input. Repeatable.")] = [],  # noqa: B006
    data: Data = "",
    data_arg: DataArgs = [],  # noqa: B006
    name: ServedName = None,
    timeout: Timeout = 120.0,
    header: Headers = [],  # noqa: B006
    ca: Authority = None,
    top_k: Annotated[int, typer.Option(min=1, help="Number of labels for an image, a recording or a text.")] = 5,
    raw: Annotated[
        bool, typer.Option("--raw", help="Send the files and texts of --data, so that the server makes the inputs.")
    ] = False,
    output: Annotated[Path | None, typer.Option(help=".npz file for the outputs.")] = None,
    force: ForceFile = False,
    rows: Annotated[
        int | None, typer.Option(min=1, help="Number of samples of --data to run. The default is all.")
    ] = None,
    provider: Annotated[
        Provider,
        typer.Option(
            help="What must run an .onnx file: ONNX Runtime on the CPU, with CUDA or with TensorRT, or else OpenVINO."
        ),
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
    if sum(map(bool, (input, data, text))) != 1:
        raise UserError(
            "give one of --input, --text and --data, and not several", "for example: --input x.npy, or --data digits"
        )
    remote = is_remote(model)
    if raw and not (remote and data):
        raise UserError("--raw sends the files of --data to a server", "give both, or leave out --raw")
    if not remote:
        load_artifact(Path(model))  # a wrong path is told before the data are read
    samples = None if data else raw_input(input, text)
    if samples is not None:
        if remote:
            client = connect(model, name, timeout, header, ca)
            said = asked(
                client, partial(remote_predictions, samples=samples, top_k=top_k, arrays=output is not None), ca
            )
        else:
            said = local_predictions(model, samples, _settings(provider, axis), top_k, screen)
        _show_said(*said, output, screen)
        return
    given = input or context_of(data, data_arg, "classification", "cpu", seed, screen, "test").data
    if remote:
        client = connect(model, name, timeout, header, ca)
        found = asked(client, partial(_ask, given=given, rows=rows, screen=screen, raw=raw), ca)
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


def _ask(client: Client, given: Path | Splits, rows: int | None, screen: Console, raw: bool) -> Predicted:
    if isinstance(given, Path):
        outputs, names = client.classify(read_input(given, None))
        return Predicted(outputs, None, names)
    found = predict_split(client, given.test, console=screen, limit=rows, raw=raw)
    specs = [TensorSpec(name, str(array.dtype), (BATCH, *array.shape[1:])) for name, array in found.items()]
    named = Signature((), tuple(specs)).naming(given.classes)
    targets = given.test.read(range(len(next(iter(found.values())))))[1]
    return Predicted(found, targets, named.class_names(found))


def _settings(provider: Provider, axis: list[str]) -> SessionOptions:
    from ...benchmarks.sessions import session_options

    return replace(session_options(BenchOptions(provider=provider, axis=tuple(axis))), threads=0)


def _opened(model: str, settings: SessionOptions) -> LocalModel:
    from ...pipeline.local_models import open_local

    return open_local(load_artifact(Path(model)), settings)


def _run(model: str, path: Path, settings: SessionOptions) -> Predicted:
    opened = _opened(model, settings)
    session = opened.session
    feeds = read_input(path, session.signature)
    for name, array in feeds.items():
        if not opened.allow_nan:
            raise_if_nan(name, array)
    with model_faults(model):
        outputs = session.run(feeds)
    return Predicted(outputs, None, session.signature.class_names(outputs))


def _over_test(model: str, splits: Splits, rows: int | None, screen: Console, settings: SessionOptions) -> Predicted:
    from ...benchmarks.accuracy import predict as over

    session = _opened(model, settings).session
    done = over(session, fit_to(splits, session.signature).test, limit=rows, console=screen)
    names = session.signature.naming(splits.classes).class_names(done.outputs)
    return Predicted(dict(done.outputs), done.targets, names)


def _show_said(
    said: Sequence[Mapping[str, Any]], outputs: Mapping[str, Array], output: Path | None, screen: Console
) -> None:
    lines = told(said)
    if output is not None:
        content = io.BytesIO()
        np.savez(content, **dict(outputs))  # type: ignore[arg-type]
        write_atomically(output, content.getvalue())
        lines.append(f"wrote {output}")
    screen.result({"predictions": json_values(dump(list(said)))}, "\n".join(lines))


def _show_outputs(predicted: Predicted, output: Path | None, screen: Console) -> None:
    found, targets, names = predicted.outputs, predicted.targets, predicted.classes
    value: dict[str, Any] = {"outputs": {key: [str(array.dtype), list(array.shape)] for key, array in found.items()}}
    main = next(iter(found.values()))
    lines = [f"{key}: {array.dtype}{list(array.shape)}" for key, array in found.items()]
    if targets is not None and targets.dtype.kind in "iub":
        from ...benchmarks.accuracy import Predictions
        from ...benchmarks.compare_models import metric_of
        from ...core.metrics.task_metrics import metric_interval

        metric = metric_of(Predictions(found, targets))
        interval = metric_interval(metric, main, targets, 0.95)
        value[metric] = {"value": interval.value, "low": interval.low, "high": interval.high, "n": len(targets)}
        lines.append(
            f"{metric} {interval.value:.4f} [{interval.low:.4f}, {interval.high:.4f}] on {counted(targets, 'sample')}"
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
