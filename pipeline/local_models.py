"""A model in a file or a folder as the argument of a command: how it is run, and what reads its raw samples."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from ..core.artifact import Artifact
from ..core.errors import UserError
from ..core.postprocessing import Scores
from ..core.preprocessing.fitting import has_tokenizer, single_field
from ..core.preprocessing.sample_reader import SampleReader
from ..core.session import Session, SessionOptions, open_session
from ..core.signature import Signature
from ..serve.bundles.bundled import check_bundle
from ..serve.engine import SETTINGS, SIGNATURE, TOKENIZER
from ..serve.settings import Settings
from ..serve.targets.stage import bundle_of
from ..serve.torchserve.archives.archive import open_mar, open_model
from ..serve.torchserve.archives.mar import read_member


@dataclass(frozen=True)
class LocalModel:
    """An opened model.

    Attributes:
        name: its name in the archive or the bundle, or that of its file.
        allow_nan: whether its inputs may be NaN.
        scores: how its outputs become scores; None if nothing says it.
        hook: whether its server calls functions of its packer, which are not called here.
    """

    artifact: Artifact
    session: Session
    name: str
    allow_nan: bool = False
    scores: Scores | None = None
    hook: bool = False


def open_local(artifact: Artifact, options: SessionOptions) -> LocalModel:
    """Open a graph, a program or an engine, or the model in an archive, a bundle or a deployment.

    Raises:
        RetortError: it cannot be opened.
    """
    if artifact.kind == "archive":
        mar = open_mar(artifact)
        own = mar.settings
        session = open_model(mar, _own(options, own))
        return LocalModel(artifact, session, mar.name, own.allow_nan, own.scores, own.hook)
    folder = _bundle(artifact)
    if folder is None:
        return LocalModel(artifact, open_session(artifact.main, options), artifact.path.name)
    own = Settings.from_json((folder / SETTINGS).read_bytes())
    signature = Signature.from_json((folder / SIGNATURE).read_bytes())
    session = open_session(folder / own.model, _own(options, own), signature)
    return LocalModel(artifact, session, own.name, own.allow_nan, own.scores, own.hook)


def _own(options: SessionOptions, settings: Settings) -> SessionOptions:
    """The options, with the runtime for the CPU that serves a packed model if none was asked for."""
    if options.providers or settings.needs_gpu:
        return options
    given = dict.fromkeys(settings.providers, settings.provider_options)
    return replace(options, providers=settings.providers, provider_options=given)


def _bundle(artifact: Artifact) -> Path | None:
    """The verified folder of a bundle, or of the bundle in a deployment; None for other artifacts."""
    if artifact.kind not in ("bundle", "deployment"):
        return None
    folder = bundle_of(artifact)
    check_bundle(folder)
    return folder


def reader_of(model: str, artifact: Artifact, signature: Signature) -> tuple[str, SampleReader]:
    """The only field of a model, and what reads its raw samples.

    Raises:
        UserError: the model takes only arrays, or its tokenizer is not beside it.
    """
    field = single_field(signature)
    if field is None:
        remedy = f"give arrays (.npy, .npz, .json) for {signature.describe_inputs()}"
        raise UserError(f"nothing says how one file becomes the inputs of {model}", remedy)
    content = _tokenizer(artifact) if has_tokenizer(signature) else b""
    if has_tokenizer(signature) and not content:
        raise UserError(f"{model} is without its tokenizer", "give the archive that `retort pack` writes from it")
    return field, SampleReader(signature, content)


def _tokenizer(artifact: Artifact) -> bytes:
    """The file of the tokenizer in an archive, a bundle or a deployment; empty for other artifacts."""
    if artifact.kind == "archive":
        return read_member(open_mar(artifact).path, TOKENIZER)
    folder = _bundle(artifact)
    path = None if folder is None else folder / TOKENIZER
    return path.read_bytes() if path is not None and path.is_file() else b""
