"""The group of all commands, in which Ctrl-C is an error of Retort; typer ends the process without a word."""

from __future__ import annotations

from typing import Any

from typer.core import TyperGroup

from ..core.errors import Interrupted


class Interruptible(TyperGroup):
    """Hands on an interruption with what was noted on it (:mod:`retort.core.terminal.interruption`) as its cause."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command.

        Raises:
            Interrupted: Ctrl-C was pressed, or the process received a signal to stop.
        """
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stop:
            raise Interrupted("stopped") from stop
