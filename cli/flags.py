"""Stage options as command-line flags: one flag per plain option, and `--set key=value` for nested options."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
import yaml
from pydantic import BaseModel, ValidationError

from ..core.errors import UserError
from ..core.options.distill_options import LOSS_NAME
from ..core.options.quantities import UNIT_TEXT
from ..core.options.recipe import option_faults
from ..core.options.stage_options import ModelSpec, Options
from ..core.options.yaml_text import parse_yaml

PLAIN = (int, float, str, bool)
_KINDS: dict[Any, Any] = {UNIT_TEXT: str, LOSS_NAME: list[str]}
"""What the command line reads for options with these marks."""


def flag_type(annotation: Any) -> Any:
    """The type that the command line reads for an option, or None if only `--set` can set it."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return str if UNIT_TEXT in args[1:] else flag_type(args[0])
    if origin in (Union, UnionType):
        inner = [flag_type(arg) for arg in args if arg is not type(None)]
        return inner[0] | None if len(inner) == 1 and inner[0] is not None else None
    if origin is tuple and len(args) == 2 and args[1] is ...:
        inner_type = flag_type(args[0])
        if get_origin(inner_type) is Literal:
            return list[str]  # typer does not support lists of choices; the options' own model checks them
        return None if inner_type is None else list[inner_type]  # type: ignore[valid-type]
    if annotation is ModelSpec:
        return str
    return annotation if annotation in PLAIN or origin is Literal else None


def stage_flags(options: type[Options]) -> dict[str, inspect.Parameter]:
    """One keyword parameter per plain option of a stage, in the form that typer reads."""
    flags = {}
    for name, field in options.model_fields.items():
        kind = _KINDS.get(next((mark for mark in field.metadata if mark in _KINDS), ""), flag_type(field.annotation))
        if kind is None:
            continue
        default = None if field.is_required() else field.get_default(call_default_factory=True)
        shown = list(default) if isinstance(default, tuple) else default
        optional = kind if get_origin(kind) is list or type(None) in get_args(kind) else kind | None
        option = typer.Option(
            help=field.description or name.replace("_", " "), rich_help_panel="Stage options", show_default=True
        )
        flags[name] = inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=shown, annotation=Annotated[optional, option]
        )
    return flags


def keys_without_flag(options: type[Options]) -> list[str]:
    """The keys of a stage that only `--set` and a recipe can set; of nested options, all their keys."""
    flags, found = stage_flags(options), []
    for name, field in options.model_fields.items():
        if name not in flags:
            inner = _nested(field.annotation)
            found += [f"{name}.{key}" for key in inner.model_fields] if inner is not None else [name]
    return found


def _nested(annotation: Any) -> type[BaseModel] | None:
    kinds = [annotation, *get_args(annotation)]
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)


def settings_flag(options: type[Options]) -> Any:
    """The option `--set` of a stage, whose help lists the keys that have no flag of their own."""
    keys = keys_without_flag(options)
    example = "recover.epochs=3" if "recover.epochs" in keys else f"{[*keys, *options.model_fields][0]}=…"
    text = f"Any option by its key, such as --set {example}. Repeatable."
    text += f" These have no flag: {', '.join(keys)}." if keys else ""
    return Annotated[list[str], typer.Option("--set", help=text)]


def with_flags(function: Callable[..., None], options: type[Options]) -> Callable[..., None]:
    """Return ``function`` with the flags of a stage instead of its ``**flags``."""
    own = [p for p in inspect.signature(function, eval_str=True).parameters.values() if p.kind is not p.VAR_KEYWORD]
    own = [p.replace(annotation=settings_flag(options)) if p.name == "set_" else p for p in own]

    def command(**values: Any) -> None:
        function(**values)

    taken = {parameter.name for parameter in own}
    parameters = [*own, *(flag for name, flag in stage_flags(options).items() if name not in taken)]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    command.__doc__ = function.__doc__
    command.__name__ = function.__name__
    return command


EXAMPLES = {"--set": "recover.epochs=3", "--data-arg": "target=kind"}


def build_options(
    options: type[Options], flags: Mapping[str, Any], settings: Sequence[str], option: str = "--set", under: str = ""
) -> Any:
    """Build the options of a stage from its flags and from `--set key=value` settings, which take precedence.

    Args:
        option: the option that the settings were given with.
        under: the key below which they are.

    Raises:
        UserError: a value is invalid or a key is unknown; the message lists all of them.
    """
    raw: dict[str, Any] = {key: value for key, value in flags.items() if value is not None}
    for setting in settings:
        _apply(raw, setting, option, under)
    try:
        return options.model_validate(raw)
    except ValidationError as error:
        faults = option_faults(options, error, partial(_written, stage_flags(options)))
        raise UserError("; ".join(faults), "`--help` shows every option with its default") from error


def _apply(raw: dict[str, Any], setting: str, option: str, under: str) -> None:
    key, separator, text = setting.partition("=")
    if not separator:
        raise UserError(
            f"{option} {setting} has no '='", f"write {option} key=value, such as {option} {EXAMPLES[option]}"
        )
    *path, last = (f"{under}.{key}" if under else key).split(".")
    for part in path:
        inner = raw.get(part)
        raw[part] = dict(inner) if isinstance(inner, Mapping) else {}
        raw = raw[part]
    try:
        raw[last] = parse_yaml(text)
    except yaml.YAMLError as error:
        raise UserError(f"{option} {setting}: the value is not valid YAML", "put the value in quotes") from error


def _written(flags: Collection[str], path: tuple[str, ...]) -> str:
    """How a user writes an option: as its own flag, or with `--set`."""
    own = path[0] in flags and all(part.isdigit() for part in path[1:])  # the number of a value in a list
    return f"--{path[0].replace('_', '-')}" if own else f"--set {'.'.join(path)}"
