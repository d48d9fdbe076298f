"""The subcommands for recipes: init, check, schema and run."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ..core.errors import MissingFileError
from ..core.options.recipe import parse_recipe
from ..core.options.recipe import schema as recipe_schema
from ..core.options.stage_options import DataSpec, ModelSpec, Target, Task
from ..core.options.yaml_text import parse_yaml
from ..core.system.owned_folders import RUNS, claim_file
from . import completion, describe
from .app import Debug, Json, RecipeFile, Runs, app, console
from .questions import ask
from .recipe_template import GOALS, Answers, Goal, recipe_text

SchemaOf = Literal["recipe", "result", "device", "load", "peer"]


def _goals() -> str:
    return "; ".join(f"{name}, {words}" for name, words in GOALS.items())


@app.command("init")
def init(
    path: Annotated[Path, typer.Argument(help="Recipe file to write.")] = Path("recipe.yaml"),
    model: Annotated[str | None, typer.Option(help=ModelSpec.model_fields["source"].description)] = None,
    data: Annotated[str | None, typer.Option(help=DataSpec.model_fields["source"].description)] = None,
    task: Annotated[Task | None, typer.Option(help="What the model does.")] = None,
    target: Annotated[Target | None, typer.Option(help="Hardware that the model is made for.")] = None,
    goal: Annotated[Goal | None, typer.Option(help=f"What is to be done: {_goals()}.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Ask nothing; take placeholders and defaults.")] = False,
    force: Annotated[bool, typer.Option(help="Overwrite an existing file.")] = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Write a commented starter recipe. On a terminal, it asks for what was not given.

    Example: `retort init recipe.yaml --model my_net:build --data digits`
    """
    claim_file(path, force)
    if not path.parent.is_dir():
        raise MissingFileError(f"the folder {path.parent} does not exist", "create it, or choose another path")
    asked = {} if yes or json or not _on_terminal() else ask(model, data, task, target, goal)
    text = recipe_text(
        Answers(
            path.stem,
            asked.get("model") or model or "my_package.my_module:build",
            asked.get("data") or data or "my_package.my_data:splits",
            asked.get("task") or task or "classification",
            asked.get("target") or target or "cpu",
            asked.get("goal") or goal or "int8",
        )
    )
    parse_recipe(parse_yaml(text), text, "the starter recipe")
    path.write_text(text, encoding="utf-8")
    console(json).result({"recipe": str(path)}, f"wrote {path}; next: retort check {shlex.quote(str(path))}")


def _on_terminal() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty()


@app.command("check")
def check(
    recipe: RecipeFile,
    fast: Annotated[bool, typer.Option("--fast", help="Read only the recipe. Import and open nothing.")] = False,
    runs: Runs = RUNS,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """List everything at once that would keep a recipe from running, each fault with its line and its remedy.

    The model, the student and the data function are imported and run on two samples, files are opened, and packages,
    Java and the disk are looked at. `retort run` does the same before its first stage.

    Example: `retort check recipe.yaml`
    """
    from ..pipeline.preflight.preflight import check_recipe

    made = check_recipe(recipe, runs, fast)
    names = [stage.name for stage in made.stages]
    text = f"{recipe} is valid: {' → '.join(names)}; {len(made.gates)} gate{'' if len(made.gates) == 1 else 's'}"
    console(json).result({"recipe": made.model_dump(mode="json"), "stages": names, "faults": []}, text)


@app.command("schema")
def schema(
    of: Annotated[
        SchemaOf,
        typer.Option(
            help="recipe: the recipe of a run. result: what `retort bench` and `retort edge` write. device: the "
            "result.json that a device wrote, with its parts. load: what `retort bench load`, `cold`, `sweep` and "
            "`sustain` write. peer: what `retort bench import` writes."
        ),
    ] = "recipe",
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Print the JSON Schema of recipes, so that an editor can check and complete them, or that of results.

    Example: `retort schema > recipe.schema.json`; `retort schema --of result > result.schema.json`
    """
    typer.echo(describe.dump(recipe_schema() if of == "recipe" else _of_results(of)))


def _of_results(of: SchemaOf) -> dict[str, Any]:
    from ..benchmarks.peers.peer_result import peer_json_schema
    from ..benchmarks.result import json_schema
    from ..benchmarks.scenarios.load_result import load_json_schema
    from ..benchmarks.validation.device_schema import device_json_schema

    made = {"result": json_schema, "device": device_json_schema, "load": load_json_schema, "peer": peer_json_schema}
    return made[of]()


@app.command("run")
def run(
    recipe: Annotated[Path, typer.Argument(help="Recipe file.")],
    runs: Runs = RUNS,
    until: Annotated[str | None, typer.Option(help="Last stage to run.", autocompletion=completion.stages)] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Run nothing. Show what would be reused and made.")] = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Run all stages of a recipe. Stages that are already finished are reused.

    Example: `retort run examples/digits.yaml`; `retort run examples/digits.yaml --plan`
    """
    from ..pipeline import run as pipeline
    from ..pipeline.outcome import run_summary

    out = console(json)
    if plan:
        describe.print_plan(recipe, pipeline.plan(recipe, runs, until), out)
        return
    outcome = pipeline.run(recipe, runs, out, until)
    run_summary.show(outcome, out)
    out.result(run_summary.as_json(outcome))
