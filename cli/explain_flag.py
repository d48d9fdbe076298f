"""The flag `--explain` of commands that can show what they would work on, and do nothing else."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import typer


def explainable(
    command: Callable[..., None], explain_command: Callable[[Mapping[str, Any]], None], help_text: str
) -> Callable[..., None]:
    """Add the flag to a command.

    Args:
        explain_command: is called instead of the command with the values of all arguments by name.
        help_text: description of the flag.
    """

    def with_explain(*, explain: bool = False, **values: Any) -> None:
        if explain:
            explain_command(values)
        else:
            command(**values)

    flag = Annotated[bool, typer.Option("--explain", help=help_text)]
    own = inspect.Parameter("explain", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=flag)
    parameters = [*inspect.signature(command).parameters.values(), own]
    with_explain.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    with_explain.__annotations__ = {item.name: item.annotation for item in parameters}
    with_explain.__doc__, with_explain.__name__ = command.__doc__, command.__name__
    return with_explain
