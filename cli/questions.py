"""The few questions of `retort init` on a terminal; each has an answer that Enter takes."""

from __future__ import annotations

from typing import Any, get_args

import typer

from ..core.options.stage_options import Target, Task
from .recipe_template import GOALS, Goal


def ask(
    model: str | None, data: str | None, task: Task | None, target: Target | None, goal: Goal | None
) -> dict[str, Any]:
    """The answers to the questions whose answer was not given as an option, by name."""
    found: dict[str, Any] = {}
    if model is None:
        found["model"] = _text("Model (package.module:factory, a .pt2 or .onnx file)", "my_package.my_module:build")
    if data is None:
        found["data"] = _text("Data (package.module:function, a file, a folder of images, or digits)", "digits")
    if task is None:
        found["task"] = _choice("What the model does", get_args(Task))
    if target is None:
        found["target"] = _choice("What it is made for", get_args(Target))
    if goal is None:
        for name, words in GOALS.items():
            typer.echo(f"  {name:8} {words}")
        found["goal"] = _choice("What is to be done", tuple(GOALS))
    return found


def _text(question: str, default: str) -> str:
    return str(typer.prompt(question, default=default)).strip()


def _choice(question: str, known: tuple[str, ...]) -> str:
    """One of the known words; a beginning of one is enough. Another answer is asked again."""
    while True:
        answer = str(typer.prompt(f"{question} ({', '.join(known)})", default=known[0])).strip().lower()
        matches = [word for word in known if word.startswith(answer)] if answer else []
        if answer in known or len(matches) == 1:
            return answer if answer in known else matches[0]
        typer.echo(f"Answer with one of {', '.join(known)}.")
