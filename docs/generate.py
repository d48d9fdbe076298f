"""Writes docs/reference from the code: `python -m retort.docs.generate`, or `--check` to fail when a page is stale."""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel

from ..core import errors
from ..core.artifact import Manifest
from ..core.data.augmentation.input_kinds import WORDS
from ..core.kinds import KINDS
from ..core.options.augment_options import TRANSFORMS
from ..core.options.data_options import SOURCES
from ..core.options.distill_losses import LOSSES, USER
from ..core.options.image_transforms import Transform
from ..core.options.recipe import Recipe
from ..core.options.stage_options import DataSpec, Gate, ModelSpec, Options, QatOptions, RecoverOptions, Target
from ..core.options.stage_table import STAGES
from ..core.tensors import TensorSpec
from .api_page import api
from .facts_page import facts, field_descriptions
from .markdown import as_markdown, default, sentence, shown, table, type_name
from .results_page import results

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = ROOT / "docs/reference"
NOTE = "<!-- written by docs/generate.py from the code: do not edit -->"
Flag = tuple[inspect.Parameter, Any, Any]


def options_table(model: type[BaseModel], but: type[BaseModel] | None = None) -> str:
    """The keys of an options class; with ``but``, only those that differ from that class."""
    rows = []
    for name, field in model.model_fields.items():
        same = but.model_fields.get(name) if but else None
        if same is not None and default(same) == default(field):
            continue
        description = field.description or (same.description if same is not None else "") or ""
        rows.append((f"`{name}`", type_name(field.annotation, field.metadata), default(field), sentence(description)))
    return table(("key", "type", "default", "what it does"), rows)


def filled(name: str, parts: Mapping[str, str]) -> str:
    """A page from its template, with each part in place of `<!-- its name -->`."""
    text = (REFERENCE / f"{name}.md.in").read_text()
    for key, part in {"note": NOTE, **parts}.items():
        text = text.replace(f"<!-- {key} -->", part)
    return text.rstrip() + "\n"


def recipe_page() -> str:
    """Every key of a recipe and of every stage."""
    stages = [_keys(f"Stage `{entry.name}`", entry.options, _stage_table(entry.options)) for entry in STAGES.values()]
    inner = [
        _keys(model.__name__, model, f"{options_table(model, base)}\n\nAll other keys are those of {link}.")
        for model, base, link in (
            (RecoverOptions, STAGES["train"].options, "[`train`](#stage-train)"),
            (QatOptions, RecoverOptions, "[RecoverOptions](#recoveroptions)"),
        )
    ]
    inner.append(_losses())
    parts = [_keys(model.__name__, model, options_table(model)) for model in (ModelSpec, DataSpec, Gate)]
    changes = [_transform(name, options) for name, options in TRANSFORMS.items()]
    sources = [f"### {kind}\n\n{options_table(model)}" for kind, model in SOURCES.items()]
    made = {"parts": parts, "sources": sources, "stages": stages, "inner": inner, "transforms": changes}
    return filled("recipe", {"recipe": options_table(Recipe), **{key: "\n\n".join(part) for key, part in made.items()}})


def _losses() -> str:
    """The losses of distillation with their options."""
    introduction = (
        "The losses of `distill`, and of `recover` and `qat`, which learn from the program before. A loss is written\n"
        "as its name (`dkd`), its name and weight (`kd: 0.7`), or its name and options (`features: {weight: 2}`);\n"
        "[the guide](../how-to/distill.md) says when to use which."
    )
    written = {name: "`module:function`" if name == USER else f"`{name}`" for name in LOSSES}
    purposes = [(written[name], sentence(model.__doc__ or "")) for name, model in LOSSES.items()]
    rows = [
        (written[name], f"`{key}`", type_name(field.annotation, field.metadata), default(field), sentence(text))
        for name, model in LOSSES.items()
        for key, field in model.model_fields.items()
        if key != "loss" and (text := field.description or "")
    ]
    header = ("loss", "key", "type", "default", "what it does")
    return "\n\n".join(["## Losses", introduction, table(("loss", "what it is"), purposes), table(header, rows)])


def _transform(name: str, options: type[Transform]) -> str:
    """A transform of `augment`: what it does, for which inputs, and its own keys."""
    kinds = ", ".join(WORDS[kind].removeprefix("an ").removeprefix("a ") for kind in options.kinds)
    alone = f" `{name}: VALUE` sets `{options.main}`." if options.main else ""
    text = f"{sentence(inspect.cleandoc(options.__doc__ or ''))} For: {kinds}.{alone}"
    return f"### {name}\n\n{textwrap.fill(text, 118)}\n\n{options_table(options, Transform)}"


def _keys(title: str, model: type[Options], keys: str) -> str:
    return f"## {title}\n\n{sentence(model.__doc__ or '')}\n\n{keys}"


def _stage_table(model: type[Options]) -> str:
    train = STAGES["train"].options
    if model is not train and issubclass(model, train):
        return f"{options_table(model, train)}\n\nAll other keys are those of [`train`](#stage-train)."
    return options_table(model) if model.model_fields else "It has no options."


def command_pages() -> Iterator[tuple[str, Callable[..., Any]]]:
    """Every subcommand in the order of `retort --help`, and those of groups such as `retort edge run` after them."""
    from ..__main__ import _app

    app = _app()
    for command in app.registered_commands:
        yield str(command.name), command.callback
    for group in app.registered_groups:
        for command in group.typer_instance.registered_commands:
            yield f"{group.name} {command.name}", command.callback


def cli_page() -> str:
    """Every command with its arguments and options."""
    commands = list(command_pages())
    links = [
        (f"[`{name}`](#retort-{name.replace(' ', '-')})", sentence((call.__doc__ or "").split("\n\n")[0]))
        for name, call in commands
    ]
    made = "\n\n".join(_command(name, call) for name, call in commands)
    return filled("cli", {"list": table(("command", "what it does"), links), "commands": made})


def _command(name: str, call: Callable[..., Any]) -> str:
    found = inspect.signature(call, eval_str=True).parameters.values()
    flags: list[Flag] = [(p, *get_args(p.annotation)[:2]) for p in found if p.name not in ("json", "debug")]
    arguments = [flag for flag in flags if _is_argument(flag[2])]
    words = [f"[{p.name.upper()}]" if p.default is not p.empty else p.name.upper() for p, _, _ in arguments]
    parts = [
        f"## retort {name}",
        as_markdown(call.__doc__ or ""),
        f"    {' '.join(['retort', name, *words, '[OPTIONS]'])}",
    ]
    for title, group in (("argument", arguments), ("option", [flag for flag in flags if flag not in arguments])):
        rows = [(_flag(*flag), _flag_type(flag[1]), _default(flag[0]), sentence(flag[2].help or "")) for flag in group]
        parts += [table((title, "type", "default", "what it does"), rows)] if rows else []
    return "\n\n".join(parts)


def _is_argument(info: Any) -> bool:
    return type(info).__name__ == "ArgumentInfo"


def _flag(parameter: inspect.Parameter, kind: Any, info: Any) -> str:
    if _is_argument(info) or info.param_decls:
        return f"`{parameter.name.upper() if _is_argument(info) else info.param_decls[0]}`"
    name = parameter.name.strip("_").replace("_", "-")
    return f"`--{name}`, `--no-{name}`" if bool in (kind, *get_args(kind)) else f"`--{name}`"


def _flag_type(kind: Any) -> str:
    parts = (
        [part for part in get_args(kind) if part is not type(None)]
        if get_origin(kind) in (Union, UnionType)
        else [kind]
    )
    name = " or ".join("flag" if part is bool else type_name(part) for part in parts)
    return f"{name.removeprefix('list of ')}, repeatable" if name.startswith("list of") else name


def _default(parameter: inspect.Parameter) -> str:
    if parameter.default is parameter.empty:
        return "required"
    return "–" if parameter.default in ([], None, False) else shown(parameter.default)


def errors_page() -> str:
    """Exit codes and error classes."""
    rows = [
        (
            f"`{error.__name__}`",
            str(error.exit_code),
            str(error.http_status),
            sentence((error.__doc__ or "").partition("\n\n")[0]),
        )
        for error in _tree(errors.RetortError)
    ]
    return filled("errors", {"errors": table(("error", "exit code", "HTTP status", "when"), rows)})


def _tree(error: type[errors.RetortError]) -> Iterator[type[errors.RetortError]]:
    yield error
    for child in error.__subclasses__():
        yield from _tree(child)


def artifacts_page() -> str:
    """Kinds of artifacts, their files and their manifests."""
    kinds = [
        (f"`{kind}`", f"`{entry.main_file}`", f"`{entry.suffix}`" if entry.suffix else "–")
        for kind, entry in KINDS.items()
    ]
    made = table(("kind", "main file", "a bare file of this kind"), kinds)
    parts = {"kinds": made, "manifest": _fields(Manifest), "tensor": _fields(TensorSpec), "facts": facts()}
    return filled("artifacts", parts)


def _fields(kind: Any) -> str:
    documented = field_descriptions(kind)
    rows = [(f"`{field.name}`", sentence(documented.get(field.name, ""))) for field in dataclasses.fields(kind)]
    return table(("field", "what it holds"), rows)


def api_page() -> str:
    """What `import retort` offers."""
    return filled("api", dict(api()))


def targets_page() -> str:
    """Targets and the lint rules of each."""
    from ..export import lint

    parts = {"targets": ", ".join(f"`{name}`" for name in get_args(Target))}
    for target in get_args(Target):
        found = dict(line for rule in lint.RULES[target] for line in _rule(rule))
        parts[f"rules:{target}"] = table(("rule", "what holds"), sorted(found.items()))
    return filled("targets", parts)


def _rule(rule: Callable[..., Any]) -> Iterator[tuple[str, str]]:
    numbers, _, meaning = sentence(rule.__doc__ or "").partition(": ")
    if re.match(r"[A-Z]\d\d", numbers):
        yield numbers, meaning[:1].upper() + meaning[1:]


def environment_page() -> str:
    """Environment variables."""
    return filled("environment", {})


def results_page() -> str:
    """Every field of a result and of what a device writes."""
    return filled("results", results())


PAGES: dict[str, Callable[[], str]] = {
    "cli.md": cli_page,
    "api.md": api_page,
    "recipe.md": recipe_page,
    "errors.md": errors_page,
    "artifacts.md": artifacts_page,
    "targets.md": targets_page,
    "environment.md": environment_page,
    "results.md": results_page,
}


def main(arguments: list[str]) -> int:
    """Write the pages, or with `--check` say which are stale."""
    made = {REFERENCE / name: page() for name, page in PAGES.items()}
    stale = [path for path, text in made.items() if not path.is_file() or path.read_text() != text]
    if "--check" in arguments:
        sys.stdout.write("".join(f"{path.relative_to(ROOT)} is stale: run `make docs`\n" for path in stale))
        return 1 if stale else 0
    for path in stale:
        path.write_text(made[path])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
