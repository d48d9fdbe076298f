"""The subcommands for recipes: init, check, schema and run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..core.errors import MissingFileError, UserError
from ..core.options.recipe import schema as recipe_schema
from ..pipeline import run as pipeline
from ..pipeline import run_summary
from ..pipeline.dispatch import RUNS
from . import describe
from .app import Data, Debug, Json, RecipeFile, Runs, app, console
from .recipe_template import STARTER


@app.command("init")
def init(
    path: Annotated[Path, typer.Argument(help="Recipe file to write.")] = Path("recipe.yaml"),
    model: Annotated[str, typer.Option(help="package.module:factory, or a .pt2 file.")] = "my_package.my_module:build",
    data: Data = "my_package.my_data:splits",
    force: Annotated[bool, typer.Option(help="Overwrite an existing file.")] = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Write a commented starter recipe.

    Example: `retort init recipe.yaml --model my_net:build --data digits`
    """
    if path.exists() and not force:
        raise UserError(f"{path} already exists", "choose another name, or overwrite it with --force")
    if not path.parent.is_dir():
        raise MissingFileError(f"the folder {path.parent} does not exist", "create it, or choose another path")
    path.write_text(STARTER.format(name=path.stem, model=model, data=data))
    console(json).result({"recipe": str(path)}, f"wrote {path}; next: retort check {path}")


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
def schema(json: Json = False, debug: Debug = False) -> None:
    """Print the JSON Schema of recipes, so that an editor can check and complete them.

    Example: `retort schema > recipe.schema.json`
    """
    typer.echo(describe.dump(recipe_schema()))


@app.command("run")
def run(
    recipe: Annotated[Path, typer.Argument(help="Recipe file.")],
    runs: Runs = RUNS,
    until: Annotated[str | None, typer.Option(help="Last stage to run.")] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Run nothing. Show what would be reused and made.")] = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Run all stages of a recipe. Stages that are already finished are reused.

    Example: `retort run examples/digits.yaml`; `retort run examples/digits.yaml --plan`
    """
    out = console(json)
    if plan:
        describe.print_plan(recipe, pipeline.plan(recipe, runs, until), out)
        return
    outcome = pipeline.run(recipe, runs, out, until)
    run_summary.show(outcome, out)
    out.result(run_summary.as_json(outcome))
