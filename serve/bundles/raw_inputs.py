"""What a packed model reads besides arrays: images, texts and recordings, as its signature or the pack options say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ...core.console import SILENT, Console
from ...core.context import Context
from ...core.data.files.images import image_input
from ...core.data.files.sounds import sound_input
from ...core.data.hf_processor import read_processor
from ...core.errors import ArtifactError, MissingFileError, UserError
from ...core.options.serving_options import BundleOptions
from ...core.preprocessing.fitting import has_tokenizer, preprocessed
from ...core.preprocessing.sample_reader import SampleReader
from ...core.preprocessing.specs import A_SAMPLE, Preprocessing, TextInput
from ...core.signature import Signature
from ..requests.hook import load_hook
from .bundle import Parts


def with_raw_inputs(
    parts: Parts, options: BundleOptions, context: Context | None = None, console: Console = SILENT
) -> Parts:
    """The parts of a graph with what its server reads besides arrays.

    Args:
        context: of a recipe: the tokenizer of its data is taken if the model was trained with it, and relative paths
            begin at its folder.

    Raises:
        MissingFileError: there is no such processor.
        UserError: the options describe an input that the model does not have, or the handler needs another one.
        ArtifactError: the tokenizer is not the one with which the model was trained.
        MachineError: a package that the inputs need is not installed.
    """
    signature = parts.signature
    if options.handler.endswith(".py"):
        parts = replace(parts, hook=_hook((context.base if context is not None else Path()) / options.handler))
        options = options.model_copy(update={"handler": "auto"})
    if options.handler == "tensor":
        return replace(parts, signature=replace(signature, preprocessing=()))
    given, tokenizer = _given(options, signature, context.base if context is not None else Path())
    if given:
        told = preprocessed(replace(signature, preprocessing=()), given)
        _require_fit(given, told)
        signature = told
    if has_tokenizer(signature):
        data = context.data if context is not None else None
        tokenizer = tokenizer or parts.tokenizer or (data.tokenizer if data is not None else b"")
        if not tokenizer:
            signature = _without_texts(signature, console)
    kinds = [spec.kind for spec in signature.preprocessing]
    _require_handler(options, signature, kinds)
    SampleReader(signature, tokenizer)
    handler = options.handler if options.handler != "auto" else next(iter(kinds), "tensor")
    own = tokenizer if has_tokenizer(signature) else b""
    return replace(parts, signature=signature, tokenizer=own, handler=handler)


def _hook(path: Path) -> bytes:
    """The source of the user's functions, which is run once.

    Raises:
        MissingFileError: there is no such file.
        UserError: it cannot be run, or defines no function that is called.
    """
    if not path.is_file():
        raise MissingFileError(f"no such handler: {path}", "give auto, tensor, image, text, audio, or a Python file")
    source = path.read_bytes()
    try:
        load_hook(source, str(path))
    except ArtifactError as error:
        raise UserError(error.message, error.remedy) from error
    return source


def _require_handler(options: BundleOptions, signature: Signature, kinds: list[str]) -> None:
    if options.handler in ("auto", *kinds):
        return
    remedy = {
        "image": "say how an image becomes it: `--set pixels.size=224`, or --processor FOLDER",
        "text": "give --processor FOLDER with the tokenizer, or --vocabulary bytes",
        "audio": "say how a recording becomes it: `--set sound.sample_rate=16000`",
    }[options.handler]
    what = A_SAMPLE[options.handler]
    raise UserError(f"nothing says how {what} becomes the input {signature.describe_inputs()}", remedy)


def _given(options: BundleOptions, signature: Signature, base: Path) -> tuple[tuple[Preprocessing, ...], bytes]:
    """The descriptions that the options give, and the tokenizer among them."""
    found: list[Preprocessing] = []
    tokenizer = b""
    if options.processor is not None:
        path = base / options.processor
        if not path.exists():
            raise MissingFileError(f"no such processor: {path}", "give a Hugging Face folder, or a tokenizer.json")
        processor = read_processor(path)
        if not processor.preprocessing:
            raise UserError(
                f"{path} has no processor whose steps Retort can follow",
                "say the steps with `--set pixels.size=224` and so on, or send arrays (--handler tensor)",
            )
        tokenizer = processor.tokenizer
        known = [spec for spec in signature.preprocessing if isinstance(spec, TextInput)]
        same = [spec for spec in known if spec.sha256 and isinstance(processor.preprocessing[0], TextInput)]
        # the model knows the length and the inputs of its training; the folder has the file
        found += same or list(processor.preprocessing)
    if options.pixels is not None:
        found.append(image_input("image", options.pixels))
    if options.sound is not None:
        found.append(sound_input("audio", options.sound))
    if options.vocabulary is not None:
        found.append(TextInput(encoding=options.vocabulary))
    return tuple(found), tokenizer


def _require_fit(given: tuple[Preprocessing, ...], told: Signature) -> None:
    fitting = {spec.kind for spec in told.preprocessing}
    for spec in given:
        if spec.kind not in fitting:
            raise UserError(
                f"the model takes {told.describe_inputs()}, which is not {spec.describe()}",
                "make the description agree with the input of the model",
            )


def _without_texts(signature: Signature, console: Console) -> Signature:
    console.warn("requests must be tokens, because the tokenizer is not here; --processor FOLDER also serves texts")
    kept = tuple(s for s in signature.preprocessing if not (isinstance(s, TextInput) and s.encoding == "tokenizer"))
    return replace(signature, preprocessing=kept)
