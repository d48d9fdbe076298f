"""The subcommand that shows what a model looks at."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple, TypeAlias

import typer

from ...core.artifact import Artifact, load_artifact
from ...core.console import Console
from ...core.data.model_inputs import fit_to
from ...core.data.splits import Splits
from ...core.errors import UserError
from ...core.explanation.explanation import SMALLEST_BUDGET, Asked, Baseline, Choice, Method
from ...core.explanation.gallery import Gallery, strongest
from ...core.options.stage_options import Provider
from ...core.preprocessing.sample_reader import Raw
from ...core.session import PROVIDERS, SessionOptions
from ...core.system.owned_folders import claim_file
from ...serve.client import Client
from ..app import Data, DataArgs, Debug, ForceFile, Json, Seed, app, console, context_of
from ..serving.remote import Authority, Headers, ServedName, Timeout, asked, connect, is_remote
from .input_file import read_input
from .raw_predictions import raw_inputs

if TYPE_CHECKING:
    from ...pipeline.explaining import Subject
    from ...pipeline.raw_explaining import Prepare


class Part(NamedTuple):
    """The samples that are chosen: the number of the first, how many, and where they are from."""

    start: int
    rows: int
    source: str


Given: TypeAlias = Path | Splits | list[Raw] | None


@app.command("explain")
def explain(
    model: Annotated[
        str,
        typer.Argument(help="Model file, archive, artifact folder, or an address such as `retort serve` prints it."),
    ],
    input: Annotated[
        list[Path],
        typer.Option(
            help="File with the samples: arrays (.npy, .npz, .json), or an image, a recording or texts (.txt, one per "
            "line) for a model that reads them. Images and recordings are repeatable."
        ),
    ] = [],  # noqa: B006
    text: Annotated[list[str], typer.Option(help="Text to explain instead of --input. Repeatable.")] = [],  # noqa: B006
    data: Data = "",
    data_arg: DataArgs = [],  # noqa: B006
    rows: Annotated[
        int | None,
        typer.Option(
            min=1, help="Number of samples to explain. The default is 4, or all files and texts on this line."
        ),
    ] = None,
    start: Annotated[int, typer.Option(min=0, help="Number of the first sample; the first of all is 0.")] = 0,
    class_: Annotated[
        list[str],
        typer.Option(
            "--class", help="Name or index of a class to explain. Repeatable. The default is the predicted one."
        ),
    ] = [],  # noqa: B006
    output: Annotated[
        list[Path], typer.Option(help="File to write: .html is a page, .png a picture, .npz the arrays. Repeatable.")
    ] = [],  # noqa: B006
    force: ForceFile = False,
    method: Annotated[
        Method, typer.Option(help="How attributions are found; the last three look into a program (.pt2).")
    ] = "occlusion",
    baseline: Annotated[
        Baseline, typer.Option(help="What takes the place of parts. By default it follows from the kind of input.")
    ] = "auto",
    budget: Annotated[
        int, typer.Option(min=SMALLEST_BUDGET, help="Most samples that the model computes for one explanation.")
    ] = 256,
    target: Annotated[
        Choice,
        typer.Option(
            help="What is explained: a class, a value, or for embeddings the similarity to the whole sample. By "
            "default it follows from the output."
        ),
    ] = "auto",
    score: Annotated[
        str | None, typer.Option(help="Output with the score. The default is the first that has one.")
    ] = None,
    of: Annotated[list[str], typer.Option(help="Input to explain. Repeatable. The default is all that can be.")] = [],  # noqa: B006
    name: ServedName = None,
    timeout: Timeout = 120.0,
    header: Headers = [],  # noqa: B006
    ca: Authority = None,
    provider: Annotated[
        Provider,
        typer.Option(
            help="What must run an .onnx file: ONNX Runtime on the CPU, with CUDA or with TensorRT, or else OpenVINO."
        ),
    ] = "cpu",
    seed: Seed = 0,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Show which parts of a sample the score of a model rests on, and whether that is more than chance.

    Example: `retort explain flowers.mar --input photo.jpg --output page.html`
    """
    from ...benchmarks.report.explanation_page import require_form, write_gallery
    from ...pipeline import explaining

    screen = console(json)
    for path in output:
        require_form(path)
        claim_file(path, force)
    if sum(map(bool, (input, data, text))) != 1:
        remedy = "for example: --input photo.jpg, --text 'So good.', or --data digits"
        raise UserError("give one of --input, --text and --data, and not several", remedy)
    labels: list[str | None] = [*class_] or [None]
    wanted = [Asked(method, target, label, score, tuple(of), baseline, budget) for label in labels]
    artifact = None if is_remote(model) else load_artifact(Path(model))
    given: Given = raw_inputs(input, text)
    if given is None:
        given = context_of(data, data_arg, "classification", "cpu", seed, screen, "test").data if data else input[0]
    source = data or (str(input[0].name) if len(input) == 1 else "the command line")
    part = Part(start, rows or max(4, len(input), len(text)), source)
    with ExitStack() as stack:
        make = partial(_gallery, artifact=artifact, given=given, part=part, wanted=wanted, screen=screen)
        if artifact is None:
            client = connect(model, name, timeout, header, ca)
            gallery = asked(client, lambda reached: make(explaining.served(reached), client=reached), ca)
        else:
            settings = SessionOptions(threads=0, providers=PROVIDERS[provider])
            gallery = make(stack.enter_context(explaining.opened(artifact, settings)))
    for path in output:
        write_gallery(gallery, path)
    _show(gallery, output, screen)


def _gallery(
    subject: Subject,
    artifact: Artifact | None,
    given: Given,
    part: Part,
    wanted: list[Asked],
    screen: Console,
    client: Client | None = None,
) -> Gallery:
    from ...pipeline.explaining import gallery_of, samples_of_feeds, samples_of_split

    start, rows, source = part
    if isinstance(given, list):
        return _of_raw(_prepare(subject, artifact, client), given, part, wanted, screen)
    if isinstance(given, Splits):
        fitted = given if subject.signature is None else fit_to(given, subject.signature)
        samples = samples_of_split(fitted, start, rows, source)
        return gallery_of(subject, samples, wanted, fitted.describing, screen)
    assert given is not None
    samples = samples_of_feeds(read_input(given, subject.signature), start, rows, subject.signature, given.name)
    return gallery_of(subject, samples, wanted, lambda signature: signature, screen)


def _prepare(subject: Subject, artifact: Artifact | None, client: Client | None) -> Prepare:
    from ...pipeline.local_models import reader_of
    from ...pipeline.raw_explaining import as_read, as_sent

    if artifact is None:
        assert client is not None
        return as_sent(client)
    assert subject.signature is not None
    return as_read(subject, *reader_of(str(artifact.path), artifact, subject.signature))


def _of_raw(prepare: Prepare, given: list[Raw], part: Part, wanted: list[Asked], screen: Console) -> Gallery:
    from ...pipeline.raw_explaining import raw_gallery

    rows = range(len(given))[part.start : part.start + part.rows]
    return raw_gallery(given, rows, prepare, wanted, part.source, screen)


def _show(gallery: Gallery, output: list[Path], screen: Console) -> None:
    from ...benchmarks.report.explanation_page import facts_of, title_of

    known = any(item.truth for item in gallery.items)
    columns = ["sample", *(["is"] if known else []), "explained", "strongest part", "evidence", "evaluations"]
    rows = [
        (
            str(item.row),
            *([item.truth] if known else []),
            title_of(item.explanation),
            strongest(item, gallery.signature),
            "yes" if item.explanation.evidence else f"no: {item.explanation.reason}",
            f"{item.explanation.used:,}",
        )
        for item in gallery.items
    ]
    screen.table(f"what {gallery.model} looks at", columns, rows, words=True)
    files = [str(path) for path in output]
    told = "\n".join(f"wrote {path}" for path in files) or "--output page.html shows it as a page"
    screen.result({"model": gallery.model, "explanations": facts_of(gallery), "files": files}, told)
