"""Faults of what a recipe names: functions that cannot be imported or called, and files that cannot be opened."""

from __future__ import annotations

import inspect
import json
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ...core.data.references import file_and_key, resolve
from ...core.errors import ArtifactError, MissingFileError, RetortError, UserError
from ...core.formats.program_file import read_signature
from ...core.formats.weight_files import require_model_file
from ...core.options.distill_losses import FunctionOptions
from ...core.options.metric_names import LOWER, MetricName, is_function
from ...core.options.named_inputs import (
    DEVICE,
    NAMES_FILE,
    NAMES_FUNCTION,
    NAMES_KEY,
    NAMES_METRIC,
    NAMES_PATH,
    option_tree,
)
from ...core.options.recipe import nearest
from ...core.options.recipe_faults import Fault
from ...core.options.stage_options import DataSpec, DistillOptions, ModelSpec, Options
from ...core.options.student_form import is_student_form, student_form
from ...core.system.user_paths import require_file
from ...serve.signing.private_key import read_private_key
from .subject import Subject, fault_of


def named_faults(subject: Subject) -> Iterator[Fault]:
    """Faults of the model, the student, the metric, the data function, and files and functions that options name."""
    try:
        _require_metric(subject.recipe.metric, subject.base)
    except RetortError as error:
        yield fault_of("metric", error)
    if "capture" in subject.made:
        yield from model_faults(subject.recipe.model, "model", subject.base)
    distill = subject.options("distill")
    if isinstance(distill, DistillOptions):
        yield from _student_faults(distill.student, subject.key("distill", "student"), subject.base)
    yield from data_faults(subject.recipe.data, subject.base)
    for stage in sorted(subject.made):
        yield from _option_faults(subject, stage)


def _student_faults(spec: ModelSpec, key: str, base: Path) -> Iterator[Fault]:
    """Faults of a student: of the model, or of the way in which it is made from its teacher."""
    if not is_student_form(spec.source):
        yield from model_faults(spec, key, base)
        return
    try:
        student_form(spec.source)
        if spec.args or spec.weights:
            raise UserError(
                f"student '{spec.source}' is made from its teacher, and takes no `args` and no `weights`",
                "leave them out",
            )
    except RetortError as error:
        yield fault_of(key, error)


def is_file_source(spec: ModelSpec, base: Path) -> bool:
    """Whether a model is given as a file or a directory instead of a factory."""
    return spec.source.endswith((".pt2", ".onnx")) or (base / spec.source / "config.json").is_file()


def _require_metric(metric: MetricName | None, base: Path) -> None:
    if metric is not None and is_function(metric):
        resolve(metric.removesuffix(LOWER), base)


def model_faults(spec: ModelSpec, key: str, base: Path) -> Iterator[Fault]:
    """Faults of a model: of its factory and the factory's arguments, or of its file; and of its weights."""
    path = base / spec.source
    try:
        if spec.source.endswith((".pt2", ".onnx")):
            _require_model(path, spec)
        elif not is_file_source(spec, base):
            require_model_file(path)
            if path.is_dir():
                raise UserError(f"{path} is a folder without a config.json", "give a `save_pretrained` directory")
            if ":" not in spec.source:
                raise UserError(
                    f"there is no model '{spec.source}'",
                    "give package.module:factory, a .pt2 or .onnx file, or a `save_pretrained` directory",
                )
            yield from function_faults(spec.source, spec.args, key, base)
    except (RetortError, OSError) as error:
        yield fault_of(f"{key}.source", error)
    if spec.weights:
        yield from _weight_faults(base / spec.weights, f"{key}.weights")


def _require_model(path: Path, spec: ModelSpec) -> None:
    require_file(path, "model", "check the path")
    if path.suffix == ".pt2":
        read_signature(path)
    if spec.weights:
        raise UserError(f"{path.name} contains its own weights", "remove `weights`, or give a factory")


def function_faults(reference: str, args: Mapping[str, Any], key: str, base: Path) -> Iterator[Fault]:
    """Faults of a function of the user: it cannot be imported, or does not take the arguments in ``args``."""
    try:
        function = resolve(reference, base)
    except RetortError as error:
        yield fault_of(f"{key}.source", error)
        return
    yield from _argument_faults(function, reference, args, key)


def _argument_faults(
    function: Callable[..., Any], reference: str, args: Mapping[str, Any], key: str
) -> Iterator[Fault]:
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # some functions of C have no signature
        return
    named = [name for name, item in parameters.items() if item.kind in (item.POSITIONAL_OR_KEYWORD, item.KEYWORD_ONLY)]
    takes = f"it takes {', '.join(named)}" if named else "it takes no arguments"
    if not any(item.kind is item.VAR_KEYWORD for item in parameters.values()):
        for name in args:
            if name not in named:
                text = f"'{reference}' has no parameter '{name}'{nearest(name, named)}"
                yield Fault(f"{key}.args.{name}", text, takes)
    for name, item in parameters.items():
        needed = item.default is item.empty and item.kind not in (item.VAR_POSITIONAL, item.VAR_KEYWORD)
        if needed and name not in args:
            yield Fault(f"{key}.args", f"'{reference}' needs the argument '{name}'", f"give it: `args: {{{name}: …}}`")


def _weight_faults(path: Path, key: str) -> Iterator[Fault]:
    file, _ = file_and_key(path)
    try:
        require_file(file, "file of weights", "check the path of `weights`")
        if file.suffix == ".safetensors":
            _require_safetensors(file)
        elif file.stat().st_size == 0:
            raise ArtifactError(f"{file} is empty", "copy or download the file again")
        elif zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                archive.namelist()
    except (RetortError, OSError, zipfile.BadZipFile) as error:
        yield fault_of(key, error)


def _require_safetensors(path: Path) -> None:
    """Fail if a file does not have the header of the format, or ends before its last tensor.

    Raises:
        ArtifactError: the file is truncated or is another file.
    """
    size = path.stat().st_size
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        try:
            header: Any = json.loads(stream.read(length) if 8 + length <= size else b"")
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        except (ValueError, AttributeError, TypeError, KeyError, IndexError):
            raise ArtifactError(f"{path} is not a complete safetensors file", "save or copy the file again") from None
    if 8 + length + max(ends, default=0) != size:
        raise ArtifactError(
            f"{path} is truncated: it has {size} bytes, and its header says {8 + length + max(ends, default=0)}",
            "save or copy the file again",
        )


def data_faults(spec: DataSpec, base: Path) -> Iterator[Fault]:
    """Faults of the function that data are given by; none for data in files."""
    if ":" in spec.source and not spec.source.endswith(".npz") and not (base / spec.source).exists():
        yield from function_faults(spec.source, spec.args, "data", base)


def _require_path(path: Path, name: str) -> None:
    """Fail if an option names a file or a folder that is not there."""
    if not path.exists():
        raise MissingFileError(f"no such {name}: {path}", f"check the path of `{name}`")


def _require_timer(name: str) -> None:
    """Fail if a device that times models cannot be reached or cannot measure."""
    from ...benchmarks.edge.device_timing import description_of, device_named

    description_of(device_named(name))


def _option_faults(subject: Subject, stage: str) -> Iterator[Fault]:
    options = subject.options(stage)
    if options is None:
        return
    for path, part in option_tree(options):
        yield from _part_faults(subject, stage, path, part)


def _require_function(options: Options, name: str, base: Path) -> None:
    """Fail if there is no such function or device, or if a loss does not take four arguments."""
    if isinstance(options, FunctionOptions):
        from ...compress.distillation.user_function import loss_function

        loss_function(name, base)
    elif name.startswith(DEVICE):
        _require_timer(name)
    else:
        resolve(name, base)


def _part_faults(subject: Subject, stage: str, path: str, options: Options) -> Iterator[Fault]:
    for name, item in type(options).model_fields.items():
        value, key = getattr(options, name), subject.key(stage, f"{path}.{name}" if path else name)
        try:
            if value is not None and NAMES_FILE in item.metadata:
                require_file(subject.base / value, f"file for `{name}`", f"check the path of `{name}`")
            elif value is not None and NAMES_KEY in item.metadata:
                read_private_key(subject.base / value)
            elif value is not None and NAMES_PATH in item.metadata and (item.default is None or value.endswith(".py")):
                _require_path(subject.base / value, name)
            elif value is not None and NAMES_METRIC in item.metadata:
                _require_metric(value, subject.base)
            elif value is not None and NAMES_FUNCTION in item.metadata:
                _require_function(options, value, subject.base)
        except RetortError as error:
            yield fault_of(key, error)
