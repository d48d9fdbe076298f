"""The key of an artifact: a hash of everything that determines its content, for recipes and single commands."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from ..core.artifact import Artifact, stable_hash
from ..core.context import Context
from ..core.data.references import source_identity
from ..core.options.metric_names import MetricName, is_function
from ..core.options.named_inputs import (
    DEVICE,
    NAMES_FILE,
    NAMES_FUNCTION,
    NAMES_KEY,
    NAMES_METRIC,
    NAMES_PATH,
    option_tree,
)
from ..core.options.stage_options import ModelSpec, Options
from ..core.options.stage_table import STAGES, Factor
from ..core.system.installation import PACKAGES
from ..serve.signing.private_key import read_private_key
from . import stages
from .import_graph import Reached, reach

ROOT = Path(__file__).parents[1]
_SMALL = (".json", ".txt", ".model")
"""Endings of the files of a processor or a tokenizer, which lie beside weights."""
MEASUREMENT: tuple[Factor, ...] = ("data", "seed", "task")


@dataclass(frozen=True)
class Identity:
    """The key of an artifact, and a short hash of each input that is part of it.

    Attributes:
        inputs: by which :mod:`retort.pipeline.runs.forecast` finds the input that has changed.
    """

    key: str
    inputs: dict[str, str]


def key_of(stage: str, options: Options, parents: Sequence[Artifact | ModelSpec], context: Context) -> str:
    """The key of a stage's artifact, for recipes and single commands; see :func:`identity_of`."""
    return identity_of(stage, options, parents, context).key


def identity_of(stage: str, options: Options, parents: Sequence[Artifact | ModelSpec], context: Context) -> Identity:
    """The identity of a stage's artifact, for recipes and single commands.

    Args:
        parents: its inputs; a model of the user is represented by its source file and its weights.
        context: only the parts that the stage depends on according to the table are used.
    """
    depends_on = STAGES[stage].depends_on
    return _identity(stage, options, parents, context, depends_on, code_version(getattr(stages, stage)))


def identity_of_measurement(
    name: str,
    options: Options,
    parents: Sequence[Artifact],
    context: Context,
    make: Callable[..., object],
    extra: Mapping[str, object] | None = None,
) -> Identity:
    """The identity of a measurement or a report of a run.

    Args:
        make: the function that measures; its code is part of the key.
        extra: further values that determine the content, by name.
    """
    code = stable_hash([code_version(make), extra or {}])
    return _identity(name, options, parents, context, MEASUREMENT, code)


def _identity(
    name: str,
    options: Options,
    parents: Sequence[Artifact | ModelSpec],
    context: Context,
    depends_on: Sequence[Factor],
    code: str,
) -> Identity:
    factors: dict[str, object] = {factor: _factor(factor, options, context) for factor in depends_on}
    named, made_from = named_in(options, context.base), [parent_identity(parent, context.base) for parent in parents]
    given = options.model_dump(mode="json")
    inputs = {"options": given, "named": named, "parents": made_from, "code": code, **factors}
    return Identity(stable_hash({"stage": name, **inputs}), {key: stable_hash(it)[:12] for key, it in inputs.items()})


def parent_identity(parent: Artifact | ModelSpec, base: Path) -> object:
    """The key of an artifact, or the current identity of a model's source and weights."""
    if isinstance(parent, Artifact):
        return parent.key
    weights = parent.weights and source_identity(parent.weights, base)
    return {**parent.model_dump(mode="json"), "content": [source_identity(parent.source, base), weights]}


def named_in(options: Options, base: Path) -> list[object]:
    """Identities of the files, functions and models that options name, because an edit makes them another input."""
    found: list[object] = []
    for _, part in option_tree(options):
        found += _named_directly(part, base)
    return found


def _named_directly(options: Options, base: Path) -> list[object]:
    found: list[object] = []
    for name, field in type(options).model_fields.items():
        value = getattr(options, name)
        if isinstance(value, ModelSpec):
            found.append(parent_identity(value, base))
        elif value is not None and NAMES_FILE in field.metadata and (base / value).is_file():
            found.append(hashlib.sha256((base / value).read_bytes()).hexdigest())
        elif value is not None and NAMES_KEY in field.metadata and (base / value).is_file():
            found.append(read_private_key(base / value).public.key_id)
        elif value is not None and NAMES_PATH in field.metadata:
            found.append(_contents(base / value))
        elif value is not None and NAMES_METRIC in field.metadata:
            found.append(metric_identity(value, base))
        elif value is not None and NAMES_FUNCTION in field.metadata:
            found.append(value if value.startswith(DEVICE) else source_identity(value, base))
    return found


def metric_identity(metric: MetricName | None, base: Path) -> str | None:
    """A metric's name, with the identity of its source if it is a function of the user."""
    return source_identity(metric, base) if metric is not None and is_function(metric) else metric


def _contents(path: Path) -> list[list[str]]:
    """Names and hashes of a file, or of the small files of a folder; empty for a word that is no path."""
    files = [path] if path.is_file() else [p for p in sorted(path.glob("*")) if p.is_file() and p.suffix in _SMALL]
    return [[file.name, hashlib.sha256(file.read_bytes()).hexdigest()] for file in files]


def _factor(factor: Factor, options: Options, context: Context) -> object:
    if factor == "data":
        return context.data.fingerprint() if context.data is not None else ""
    if factor == "target":
        return getattr(options, "target", None) or context.target
    if factor == "tensorrt":
        return engine_identity()
    if factor == "metric":
        return metric_identity(context.metric, context.base)
    return context.seed if factor == "seed" else context.task


def engine_identity() -> dict[str, Any]:
    """What a plan depends on in addition to its graph: the TensorRT version and the GPU."""
    from ..core.backends.cuda import find_device
    from ..core.backends.trt_versions import installed

    device = find_device()
    return {"tensorrt": installed(), "device": device and [device.name, device.compute_capability, device.driver]}


def code_version(function: Callable[..., object]) -> str:
    """Hash of the source that a function runs, and of the versions of the packages that it uses.

    A nested function is represented by its outer function. See :func:`retort.pipeline.import_graph.reach`.
    """
    module = function.__module__.partition(".")[2].replace(".", "/")
    return code_hash(ROOT, f"{module}.py:{function.__qualname__.partition('.')[0]}")


@cache
def code_hash(root: Path, entry: str) -> str:
    """As :func:`code_version`, for a package in ``root`` and an entry such as ``stages.py:prune``."""
    reached = reach(root, entry)
    digest = hashlib.sha256(reached.source.encode())
    for file in reached.files:
        digest.update(file.encode() + (root / file).read_bytes())
    digest.update(repr(sorted(versions(reached).items())).encode())
    return digest.hexdigest()


def versions(reached: Reached) -> dict[str, str]:
    """Versions of the packages that the code imports and that are installed."""
    found = {}
    for name in reached.foreign:
        try:
            found[name] = metadata.version(PACKAGES.get(name, name))
        except (metadata.PackageNotFoundError, ValueError):
            continue  # part of the standard library, or not installed
    return found
