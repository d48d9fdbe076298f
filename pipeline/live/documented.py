"""Functions with stage options: they are checked as in a recipe, and ``help`` shows defaults and descriptions."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, get_args, get_origin

from pydantic import ValidationError

from ...core.errors import UserError
from ...core.options.recipe import option_faults
from ...core.options.stage_options import Options

F = TypeVar("F", bound=Callable[..., Any])
O = TypeVar("O", bound=Options)  # noqa: E741
WIDTH = 112
HEADING = "Options:"


class _Bare(str):
    """Text that a signature shows without quotes."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def with_options(options: type[Options], leave_out: tuple[str, ...] = ()) -> Callable[[F], F]:
    """Show the fields of ``options`` as keyword arguments of a function, in its signature and in its docstring.

    Args:
        options: the class that checks the function's ``**options``.
        leave_out: fields that are parameters of the function itself.
    """

    def _decorate(function: F) -> F:
        own = [_shown(item) for item in inspect.signature(function).parameters.values() if item.kind is not _REST]
        names = [name for name in options.model_fields if name not in {*leave_out, *(item.name for item in own)}]
        signature = inspect.signature(function)
        fields = [inspect.Parameter(name, _KEYWORD, default=_default(options, name)) for name in names]
        function.__signature__ = signature.replace(  # type: ignore[attr-defined]
            parameters=[*own, *fields], return_annotation=_Bare(signature.return_annotation)
        )
        function.__doc__ = _with_section(inspect.getdoc(function) or "", options, names)
        return function

    return _decorate


_REST, _KEYWORD = inspect.Parameter.VAR_KEYWORD, inspect.Parameter.KEYWORD_ONLY


def _shown(item: inspect.Parameter) -> inspect.Parameter:
    return item.replace(annotation=_Bare(item.annotation)) if isinstance(item.annotation, str) else item


def _default(options: type[Options], name: str) -> Any:
    found = options.model_fields[name].get_default(call_default_factory=True)
    return _Bare(_value(found)) if isinstance(found, Options) else found


def _value(value: Any) -> str:
    """A default as it is written in Python; nested options as the name of their class."""
    return f"{type(value).__name__}()" if isinstance(value, Options) else repr(value)


def _inside(annotation: Any) -> str:
    """The fields of nested options, with their defaults."""
    kinds = [kind for kind in (annotation, *get_args(annotation)) if isinstance(kind, type)]
    found = next((kind for kind in kinds if issubclass(kind, Options)), None)
    if found is None:
        return ""
    listed = ", ".join(f"{name} {_value(_default(found, name))}" for name in found.model_fields)
    return f" A mapping; its options and their defaults: {listed}."


def _with_section(doc: str, options: type[Options], names: list[str]) -> str:
    """The docstring with a section about the options after the arguments."""
    lines = [HEADING]
    for name in names:
        field = options.model_fields[name]
        text = (
            f"{name}: {field.description or name.replace('_', ' ') + '.'} Default: {_value(_default(options, name))}."
        )
        text += _inside(field.annotation)
        lines += textwrap.wrap(text, WIDTH, initial_indent="    ", subsequent_indent="        ")
    head, found, tail = doc.partition("\n\nReturns:")
    return f"{head}\n\n" + "\n".join(lines) + found + tail


def _plain(options: type[Options], name: str, value: Any) -> Any:
    """Convert options to a mapping, and a single pattern to a list with one element."""
    if isinstance(value, Options):
        return value.model_dump()
    field = options.model_fields.get(name)
    alone = isinstance(value, str) and field is not None and get_origin(field.annotation) is tuple
    return (value,) if alone else value


def checked(stage: str, options: type[O], given: Mapping[str, Any]) -> O:
    """Options from keyword arguments.

    Args:
        stage: name of the function, for the messages.
        given: values; nested options are mappings or objects of their class.

    Raises:
        UserError: an option is unknown or has a wrong value; the message lists all faults.
    """
    plain = {key: _plain(options, key, value) for key, value in given.items()}
    try:
        return options.model_validate(plain)
    except ValidationError as error:
        faults = "; ".join(option_faults(options, error))
        raise UserError(f"{stage}: {faults}", f"`help(retort.{stage})` shows every option") from error
