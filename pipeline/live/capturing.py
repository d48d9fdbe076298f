"""Capture of a model as a live program: a module with an example, a file, a folder, or the name of a factory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from inspect import signature
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from ...core.artifact import Artifact
from ...core.context import Context
from ...core.data.splits import Splits
from ...core.errors import CaptureError, DataError, MissingFileError, ModelError, UserError
from ...core.options.stage_options import CaptureOptions, ModelSpec
from ...core.preprocessing.fitting import completed
from ...core.signature import Signature
from .. import stages
from ..cache_key import key_of
from .data.adapters import as_splits, names_of_classes, names_splits
from .data.feeds import as_numpy, example_feeds, is_array
from .objects.programs import Program
from .workspace import ScriptConsole, Workspace, finished

if TYPE_CHECKING:
    from torch import nn

    from ...compress.program import Program as Captured

ROWS = 4


class CaptureRequest(CaptureOptions):
    """The options of ``retort.capture``."""

    output_names: tuple[str, ...] | None = Field(
        default=None,
        description="One name per output of an nn.Module. The default is `output`, or the model's own names.",
    )
    weights: str | None = Field(default=None, description=ModelSpec.model_fields["weights"].description)
    weights_fit: Literal["all", "matching"] = Field(
        default="all", description=ModelSpec.model_fields["weights_fit"].description
    )
    weights_names: dict[str, str] = Field(
        default_factory=dict, description=ModelSpec.model_fields["weights_names"].description
    )
    args: dict[str, Any] = Field(default_factory=dict, description=ModelSpec.model_fields["args"].description)


def capture_module(model: nn.Module, example: Any, request: CaptureRequest, workspace: Workspace) -> Program:
    """Capture a module in memory, which is not changed.

    Raises:
        CaptureError: it cannot be captured; the message states where and why.
        DataError: the example does not fit its forward.
        ModelError: it does not run on the example.
    """
    if request.weights or request.args:
        raise UserError("`weights` and `args` are only for a factory that is given by name", "load the weights first")
    if _is_pretrained(model) and getattr(model.config, "is_encoder_decoder", False):
        what = f"{type(model).__name__} has an encoder and a decoder, which run in a loop and cannot be one program"
        raise ModelError(what, "capture only its encoder: retort.capture(model.get_encoder(), example)")
    if isinstance(example, str | Path):
        example = as_splits(example, Signature((), ()), "calibrate")
    from ...compress.capture.flat_module import ready

    model = ready(model)
    feeds = _feeds(model, example)
    names = list(request.output_names) if request.output_names else None
    with _without_cache(model):
        if isinstance(example, Splits):
            from ...compress.graph.rows import moved_samples

            feeds = moved_samples(feeds, request.batch_axis)
        captured = _captured(model, feeds, request, names)
    from ...compress.program import NOTES
    from ...compress.sources.huggingface import class_names

    if request.classes is not None:
        from ...compress.sources.new_head import replace_head

        replace_head(captured, request.classes)
    captured.signature = captured.signature.naming(class_names(model) or names_of_classes(example))
    if isinstance(example, Splits):
        captured.signature = completed(captured.signature, example)

    console = ScriptConsole()
    for note in captured.meta.get(NOTES, ()):
        console.warn(note)
    return Program(workspace, captured=captured, notes=console.notes)


def _captured(model: nn.Module, feeds: Mapping[str, Any], request: CaptureRequest, names: list[str] | None) -> Captured:
    """Capture with dynamic text lengths for models of transformers, unless their length is fixed."""
    from ...compress.capture.capture_program import capture
    from ...compress.sources.huggingface import free_axes

    dynamic, batch = request.dynamic, request.batch_axis or None
    axes = dynamic or (free_axes(feeds) if _is_pretrained(model) else {})
    try:
        return capture(model, feeds, dynamic=axes or None, output_names=names, batch=batch)
    except CaptureError as error:
        if dynamic or error.facts.get("axis") != "sequence":
            raise
        return capture(model, feeds, output_names=names, batch=batch)


def _is_pretrained(model: nn.Module) -> bool:
    return hasattr(model, "config") and hasattr(model, "main_input_name")


@contextmanager
def _without_cache(model: nn.Module) -> Iterator[None]:
    """Disable the cache of past keys of a decoder of transformers within this context, because it is not a tensor."""
    config = getattr(model, "config", None) if _is_pretrained(model) else None
    before = getattr(config, "use_cache", None)
    if before is None:
        yield
        return
    config.use_cache = False  # type: ignore[union-attr]
    try:
        yield
    finally:
        config.use_cache = before  # type: ignore[union-attr]


def _feeds(model: nn.Module, example: Any) -> dict[str, Any]:
    if example is None:
        if not _is_pretrained(model):
            raise DataError("capture needs an example of the inputs", "retort.capture(net, x) with a tensor [N, …]")
        from ...compress.sources.huggingface import example_of

        return dict(example_of(model))
    if isinstance(example, Splits):
        batch, is_batch = _rows_of_source(model, example), False
    else:
        batch, is_batch = first_batch(example)
    feeds = example_feeds(model.forward, batch, is_batch)
    return {name: value if is_array(value) else as_numpy(value) for name, value in feeds.items()}


def _rows_of_source(model: nn.Module, source: Splits) -> Any:
    """A few rows of named data: by name if the forward has those names, else by position."""
    rows = source.example(ROWS)
    return rows if set(rows) <= set(signature(model.forward).parameters) else tuple(rows.values())


def first_batch(example: Any) -> tuple[Any, bool]:
    """A batch of the given example, and whether it may contain targets because a loader or dataset returned it.

    Raises:
        DataError: there is none.
    """
    if hasattr(example, "dataset") and hasattr(example, "collate_fn"):
        return _first(example), True
    if isinstance(example, Mapping) and names_splits(example):
        return first_batch(next(value for name, value in example.items() if name != "classes"))
    if is_array(example) or isinstance(example, Mapping | tuple | list):
        return example, isinstance(example, list)  # loaders convert the tuples of a dataset to lists
    if hasattr(example, "__getitem__") and hasattr(example, "__len__"):
        from torch.utils.data import default_collate

        return default_collate([example[index] for index in range(min(ROWS, len(example)))]), True
    if hasattr(example, "__iter__"):
        return _first(example), True
    raise DataError(
        f"the example is of type {type(example).__name__}",
        "give a tensor, a tuple, a mapping or a DataLoader",
    )


def _first(batches: Any) -> Any:
    found = list(islice(iter(batches), 1))
    if not found:
        raise DataError("the loader returned no batch", "check its dataset, and `drop_last`")
    return found[0]


def capture_source(
    source: str, request: CaptureRequest, data: Splits | None, seed: int, workspace: Workspace, console: ScriptConsole
) -> Program:
    """Capture the model of a path or a reference: an ONNX file, a folder of ``save_pretrained``, a factory.

    Raises:
        MissingFileError: the path does not exist.
        CaptureError: it cannot be captured, or the imported program differs from ONNX Runtime.
        UserError: data are needed, but were not given.
    """
    if (source.endswith((".onnx", ".pt2")) or "/" in source) and ":" not in source and not Path(source).exists():
        raise MissingFileError(f"no such model: {source}", "check the path")
    if data is None and ":" in source:
        raise DataError(f"{source} needs data, because capture needs example inputs", "capture(source, data='digits')")
    given = {name: getattr(request, name) for name in ModelSpec.model_fields if name != "source"}
    spec = ModelSpec(source=source, **given)
    options = CaptureOptions(**{name: getattr(request, name) for name in CaptureOptions.model_fields})
    context = Context(data, seed=seed, console=console)  # type: ignore[arg-type]  # a folder needs no data
    place = workspace.place("capture", key_of("capture", options, [spec], context))
    made: Artifact = finished(place, console) or stages.capture(options, spec, place, context)
    return Program(workspace, made, data=data, notes=console.notes)


def require_model(model: object) -> None:
    """Reject a class, and what has no forward.

    Raises:
        UserError: it is not a module.
    """
    if hasattr(model, "forward") and not isinstance(model, type):
        return
    what = f"the class {model.__name__}" if isinstance(model, type) else f"something of type {type(model).__name__}"
    raise UserError(f"{what} is not a model", "give an nn.Module object, a file, or package.module:factory")
